"""Chapter 8: a leash in two parameters, a network's distances, second order's reach, figures."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_chapter_claims import judged, made
from test_figures import check, check_moves

from hilbertlib.data import load
from hilbertlib.distance import kl_divergence, l2_distance
from hilbertlib.experiments import kl_geometry as geometry
from hilbertlib.experiments import natural_gradient as natural
from hilbertlib.experiments import second_order as second
from hilbertlib.figures import kl_geometry as draw
from hilbertlib.natural_gradient import natural_update
from hilbertlib.records import Record

X, Y = np.array([0.0, 0.2, 0.5, 0.9, 1.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
TINY = geometry.TwoParameters(X, Y)
places = st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(np.array)


def outputs(theta: torch.Tensor) -> torch.Tensor:
    """The classifier once more, by torch: log-probabilities of both classes."""
    z = theta[0] * torch.tensor(X) + theta[1]
    return torch.stack([torch.zeros_like(z), z], dim=1).log_softmax(1)


@given(places, places)
def test_two_parameters_are_as_automatic_differentiation_has_them(theta, other):
    at, there = torch.tensor(theta), torch.tensor(other)

    def cost(t):
        return torch.nn.functional.nll_loss(outputs(t), torch.tensor(Y).long())

    def divergence(t):
        return kl_divergence(outputs(t), outputs(at), log=True)

    assert TINY.p(theta) == pytest.approx(outputs(at)[:, 1].exp().numpy())
    assert TINY.cost(theta) == pytest.approx(cost(at).item())
    assert TINY.gradient(theta) == pytest.approx(torch.func.grad(cost)(at).numpy(), abs=1e-12)
    assert TINY.fisher(theta) == pytest.approx(
        torch.func.hessian(divergence)(at).numpy(), abs=1e-12
    )
    assert TINY.kl(other, theta) == pytest.approx(divergence(there).item(), abs=1e-12)


def test_points_of_any_shape_and_size():
    many = np.random.default_rng(0).normal(size=(3, 4, 2))
    assert TINY.p(many).shape == (3, 4, 5)
    assert TINY.cost(many)[1, 2] == pytest.approx(TINY.cost(many[1, 2]))
    far = np.array([1e4, -1e4])  # an overflow would be a warning, and that an error
    assert np.isfinite(TINY.cost(far))
    assert np.isfinite(TINY.kl(far, -far))


@given(places, st.floats(0.5, 20))
def test_two_steps_of_one_length_and_the_leash_around_them(theta, lam):
    steps = geometry.steps(TINY, theta, lam)
    j, f = TINY.gradient(theta), TINY.fisher(theta)
    assert lam * f @ steps.natural == pytest.approx(-j, rel=1e-6, abs=1e-12)
    for step in (steps.natural, steps.gradient):
        assert step @ f @ step / 2 == pytest.approx(steps.radius, rel=1e-6)
    assert np.cross([*steps.gradient, 0], [*j, 0])[2] == pytest.approx(0, abs=1e-9)
    assert j @ steps.natural <= j @ steps.gradient * (1 - 1e-9) <= 0
    rays = steps.ellipse - theta
    assert np.einsum("ka,ab,kb->k", rays, f, rays) / 2 == pytest.approx(steps.radius, rel=1e-6)
    # No step on the ellipse goes further downhill than the natural one.
    assert (rays @ j).min() >= j @ steps.natural * (1 + 1e-9)


def test_the_exact_leash_is_where_the_divergence_is_the_radius():
    theta = np.array([2.0, -1.0])
    ball = TINY.ball(theta, 0.05)
    assert TINY.kl(ball, theta) == pytest.approx(0.05)
    assert ball[0] == pytest.approx(ball[-1])  # closed
    # Of all probabilities one or zero nothing more than their old logarithm can be lost.
    capped = TINY.ball(theta, 50.0, most=2.0) - theta
    assert capped == pytest.approx(2 * (TINY.ellipse(theta, 50.0) - theta))


def test_the_ink_is_in_the_middle():
    data = load("digits")
    tiny = geometry.ink_in_the_middle(data, classes=(3, 8))
    kept = [(x, y) for x, y in zip(data.x_train, data.y_train, strict=True) if y in (3, 8)]
    assert tiny.y.tolist() == [float(y == 8) for _, y in kept]
    slow = [float(sum(x.squeeze()[i, j] for i in (3, 4) for j in (3, 4)) / 4) for x, _ in kept]
    assert tiny.x == pytest.approx(slow)


@pytest.fixture(scope="module")
def stage():
    return geometry.stage(load("digits"), hidden=3, epoch=1, n=24)


@pytest.fixture(scope="module")
def step(stage):
    return natural_update(stage.fisher, stage.gradient, damping=0.1)


def moved(stage, delta):
    """The network after a step, by adding to a copy's parameters."""
    model = copy.deepcopy(stage.model)
    with torch.no_grad():
        for p, part in zip(model.parameters(), stage.fisher.unflatten(delta), strict=True):
            p.add_(part)
        return model(stage.x)


def test_a_network_as_a_function_of_the_change_of_its_parameters(stage, step):
    before = stage.model(stage.x)
    logits = geometry.logits_of(stage)
    torch.testing.assert_close(logits(torch.zeros_like(step)), before)
    torch.testing.assert_close(logits(step), moved(stage, step))
    torch.testing.assert_close(stage.model(stage.x), before)
    assert len(stage.x) == 24
    assert stage.epoch == 1


def test_measures_along_a_line(stage, step):
    found = geometry.along(stage, step, [0.0, 0.5, -1.0])
    old = stage.model(stage.x).detach().log_softmax(1)
    for i, t in enumerate([0.0, 0.5, -1.0]):
        new = moved(stage, t * step).log_softmax(1)
        norm = float(l2_distance(new.exp(), old.exp()))
        expected = {
            "new || old": float(kl_divergence(new, old, log=True)),
            "old || new": float(kl_divergence(old, new, log=True)),
            "second order": float(stage.fisher.kl(step)) * t**2,
            "half squared": norm**2 / 2,
            "norm": norm,
        }
        assert {name: values[i] for name, values in found.items()} == pytest.approx(expected)


def test_a_price_and_what_it_buys(stage):
    lams = [1.0, 4.0]
    table = geometry.leashes(stage, lams, damping=0.1)
    assert table["predicted"][0] == pytest.approx(16 * table["predicted"][1])
    assert table["start"] == pytest.approx(
        torch.nn.functional.cross_entropy(stage.model(stage.x), stage.y).item()
    )
    promised = table["start"] - table["linear"]
    assert promised[0] == pytest.approx(4 * promised[1])
    # Jᵀ Δθ = −λ Δθᵀ (F + damping) Δθ, which is more than without the damping.
    assert (promised > 2 * np.array(lams) * table["predicted"]).all()
    update = natural_update(stage.fisher, stage.gradient, damping=0.1, tol=1e-9)
    after = moved(stage, update / 4)
    assert table["cost"][1] == pytest.approx(
        torch.nn.functional.cross_entropy(after, stage.y).item()
    )


# --- second order ----------------------------------------------------------------------------


def test_the_divergence_image_by_image(stage, step):
    predicted, real = second.by_image(stage, step, radius=0.02)
    assert predicted.mean().item() == pytest.approx(0.02)
    scaled = step * float((0.02 / stage.fisher.kl(step)).sqrt())
    new, old = moved(stage, scaled).log_softmax(1), stage.model(stage.x).log_softmax(1)
    each = [kl_divergence(a[None], b[None], log=True) for a, b in zip(new, old, strict=True)]
    torch.testing.assert_close(real, torch.stack(each).detach())
    short, exact = second.by_image(stage, step, radius=1e-10)
    torch.testing.assert_close(short, exact, rtol=1e-3, atol=1e-15)


@pytest.fixture(scope="module")
def reached() -> Record:
    return second.reach(load("digits"), [0, 1], epochs=(0, second.SURE), hidden=4)


def test_reach_measures_every_seed_epoch_and_length(reached):
    table = reached["reach"]
    assert len(table) == 2 * 2 * len(second.RADII)
    assert pytest.approx([second.SHORT, second.LONG]) == [1e-6, 1e-2]
    assert table.where(radius=second.SHORT)["ratio"] == pytest.approx([1] * 4, abs=0.1)
    for epoch in (0, second.SURE):
        images = reached["images"].where(epoch=epoch)
        row = table.where(epoch=epoch, radius=second.LONG, seed=0).rows()[0]
        wrong = images.where(wrong=True)
        assert len(wrong) == row["wrong"]
        assert sum(wrong["real"]) / len(images) == pytest.approx(row["real"], rel=1e-4)
        added = sum(wrong["predicted"]) / len(images)
        assert added == pytest.approx(row["predicted"], rel=1e-4)
        assert np.mean(images["real"]) / second.LONG == pytest.approx(row["ratio"], rel=1e-4)
    few, many = (table.where(epoch=e)["wrong"] for e in (second.SURE, 0))
    assert max(few) < min(many)


def by_hand(short: float = 1.0, late: float = 2.0, wrong: float = 2.0, right: float = 1.0):
    """A record of two seeds: real over predicted, over all images and on those wrong and right."""
    rows: Mapping[str, list] = {
        "seed": [0, 1] * 4,
        "epoch": [second.SURE] * 4 + [30] * 4,
        "radius": ([second.SHORT] * 2 + [second.LONG] * 2) * 2,
        "ratio": [short, short, *[(wrong + right) / 2] * 2, short, short, late, late],
        "wrong": [3] * 8,
        "predicted": [second.LONG / 2] * 8,
        "real": [wrong * second.LONG / 2] * 8,
    }
    return made("second_order", reach=rows)


def test_the_claims_can_hold():
    assert second.on_right(by_hand(right=0.7), second.SURE, second.LONG) == pytest.approx([0.7] * 2)
    assert second.wrong_against_right(by_hand(), second.SURE, second.LONG) == pytest.approx([1, 1])
    assert set(judged(second.CLAIMS, by_hand()).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        ("book-second-order-short", {"short": 1.2}),
        ("book-second-order-short", {"short": 0.8}),
        ("book-second-order-late", {"late": 1.3}),
        ("book-second-order-wrong", {"wrong": 1.0}),
        ("book-second-order-wrong", {"right": 2.0}),
    ],
)
def test_each_claim_can_fail(claim, changed):
    words = judged(second.CLAIMS, by_hand(**changed))
    assert words.pop(claim) != "reproduced"
    assert set(words.values()) == {"reproduced"}


def test_a_network_that_has_nothing_wrong_says_nothing_of_wrong_images():
    record = by_hand()
    rows = [{**row, "wrong": row["seed"]} for row in record["reach"].rows()]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    found = second.wrong_against_right(made("x", reach=columns), second.SURE, second.LONG)
    assert found == pytest.approx([1.0])


# --- figures ---------------------------------------------------------------------------------


def legend(figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend]


def test_the_opening_figure():
    drawn = [
        draw.leash(TINY, geometry.steps(TINY, place, lam))
        for place in ((2.0, 2.0), (4.0, -3.0))
        for lam in (3.0, 8.0)
    ]
    check_moves(drawn)
    assert sorted(legend(drawn[0][0])) == sorted(
        ["leash, quadratic", "leash, exact", "gradient", "natural step", "before"]
    )
    steps = geometry.steps(TINY, (2.0, 2.0), 3.0)
    (arrow,) = (t for t in drawn[0][0].data if t.name == "natural step" and t.mode[-1] == "s"
                and t.xaxis == "x")  # fmt: skip
    assert arrow.x[-1] == pytest.approx(2.0 + steps.natural[0])


def test_figures_of_one_network(stage, step):
    t = np.linspace(-1, 1, 21)
    near = geometry.along(stage, step, t)
    check_moves([draw.zoom(near, t, window) for window in (1.0, 0.5)])
    window = draw.zoom(near, t, 0.5)[0]
    assert max(max(trace.y) for trace in window.data) == pytest.approx(1.0)
    assert len(window.data[0].x) == 11
    check(draw.directions(geometry.along(stage, step, [0.1, 0.5, 1.0]), np.array([0.1, 0.5, 1.0])))
    lams = [1.0, 4.0, 16.0]
    table = geometry.leashes(stage, lams, damping=0.1)
    check_moves([draw.price(table, lams, lam) for lam in lams])


def test_figures_of_many_networks(reached):
    drawn = [draw.reach(reached, epoch) for epoch in (0, second.SURE)]
    check_moves(drawn)
    assert legend(drawn[0][0]) == ["network right", "network wrong"]
    right, wrong = (t for t in drawn[1][0].data if t.name in legend(drawn[1][0]))
    assert len(right.x) + len(wrong.x) == 128
    row = reached["reach"].where(epoch=second.SURE, radius=second.LONG).rows()[0]
    assert len(wrong.x) == row["wrong"]
    assert f"{row['real'] / (row['ratio'] * second.LONG):.0%} of the real one" in drawn[1][1]


def test_the_record_is_drawn_at_either_scale():
    quick = {"hidden": (4,), "stages": (0, 1, 2), "dampings": (0.1,), "grid": (0, 1)}
    live = natural.run(replace(natural.LIVE, **quick, few=1), [0], arms=["exact"])
    figure, text = draw.divergences(live)
    check(figure)
    assert legend(figure) == ["untrained", "1 epoch", "2 epochs"]
    rows = live["divergence"].where(epoch=2)
    assert figure.data[2].y == pytest.approx(np.array(rows["new_old"]) / rows["predicted"])
    assert "λ = 10" in text
    assert [note.text for note in figure.layout.annotations] == ["λ = 1", "λ = 10"]
    assert [shape.y0 for shape in figure.layout.shapes] == [1]  # where they would be equal


def test_a_record_with_several_dampings_is_drawn_at_the_one_that_the_figure_names():
    table = {"epoch": [0, 0], "damping": [0.1, 0.01], "lam": [10.0] * 2, "seed": [0] * 2}
    record = made("natural_gradient", divergence={**table, "predicted": [1, 1], "new_old": [2, 9]})
    figure, text = draw.divergences(record)
    assert list(figure.data[0].y) == [2]
    assert text.endswith("untrained 2.00.")
