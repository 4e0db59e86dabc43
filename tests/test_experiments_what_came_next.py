"""Chapter 11's comparison: its methods against slow twins, its tuning, its claims."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from test_chapter_claims import judged, made
from test_figures import check, check_moves
from torch import nn
from torch.nn.functional import cross_entropy

from hilbertlib.data import load
from hilbertlib.experiments import contenders, contest, contest_tuning
from hilbertlib.experiments import what_came_next as came
from hilbertlib.experiments.contenders import METHODS, SAM, cost
from hilbertlib.experiments.contest import COMPUTE, EPOCHS, LIVE, READINGS
from hilbertlib.figures import what_came_next as draw
from hilbertlib.models import mlp, seeded
from hilbertlib.natural_gradient import Fisher
from hilbertlib.records import Record
from hilbertlib.training import train

TINY = replace(LIVE, epochs=1, hidden=(6,), products=2)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 5, generator=generator)
    return x, torch.arange(8) % 3, torch.rand(8, 5, generator=generator)


def small() -> nn.Module:
    return seeded(lambda: mlp((5, 4, 3), "tanh"), 0)  # no unit is silent


def stepped(method: str, lr: float = 0.1, **changed: float) -> tuple[nn.Module, list]:
    """A network after one step, and how each of its parameters moved."""
    model, before = small(), list(small().parameters())
    contenders.stepper(method, model, lr, replace(LIVE, **changed))(*batch())
    return model, [p.detach() - b.detach() for p, b in zip(model.parameters(), before, strict=True)]


# --- the methods -----------------------------------------------------------------------------


def test_sam_takes_the_gradient_from_uphill():
    """On a x² / 2 it is a (x + ρ) for x > 0."""
    x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)

    def closure():
        x.grad = None
        (3 * x.square() / 2).sum().backward()

    SAM(torch.optim.SGD([x], lr=0.1), rho=0.5).step(closure)
    assert x.item() == pytest.approx(2 - 0.1 * 3 * 2.5)


def test_sam_agrees_with_its_twin():
    moved = stepped("SAM", rho=0.3)[1]
    twin, (x, y, _) = small(), batch()
    gradients = torch.autograd.grad(cross_entropy(twin(x), y), list(twin.parameters()))
    length = sum(float(g.square().sum()) for g in gradients) ** 0.5
    with torch.no_grad():
        for p, g in zip(twin.parameters(), gradients, strict=True):
            p += 0.3 * g / length
    uphill = torch.autograd.grad(cross_entropy(twin(x), y), list(twin.parameters()))
    for delta, g in zip(moved, uphill, strict=True):
        torch.testing.assert_close(delta, -0.1 * g, atol=1e-6, rtol=1e-4)


def test_without_their_second_knob_they_are_sgd():
    plain = stepped("SGD")[1]
    for method, knob in (("SAM", {"rho": 0.0}), ("HCGD", {"lam": 0.0})):
        for a, b in zip(stepped(method, **knob)[1], plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-7, rtol=0)
    adam, constrained = stepped("Adam")[1], stepped("Adam+HC", lam=0.0)[1]
    assert all(torch.equal(a, b) for a, b in zip(adam, constrained, strict=True))


def test_the_leash_is_felt():
    for method, base in (("HCGD", "SGD"), ("Adam+HC", "Adam")):
        pairs = zip(stepped(method)[1], stepped(base)[1], strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)


def test_sam_refuses_a_negative_radius():
    with pytest.raises(ValueError, match="expected rho of at least 0, got -1"):
        SAM(torch.optim.SGD(small().parameters(), lr=0.1), rho=-1)


def test_muon_makes_a_step_of_equal_singular_values_and_leaves_the_rest_to_adam():
    weight, *rest = stepped("Muon", lr=0.01)[1]
    values = torch.linalg.svdvals(weight)
    assert values.max() < 2 * values.min()  # five Newton-Schulz iterations are rough
    gradient = stepped("SGD", lr=1.0)[1][0]
    assert torch.linalg.svdvals(gradient).max() > 3 * torch.linalg.svdvals(gradient).min()
    for delta in rest:  # Adam's first step is ε in every entry with a gradient
        assert delta[delta != 0].abs().min() > 0.0099


def test_muon_says_which_torch_it_needs(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RuntimeError, match="Muon comes with torch"):
        contenders.muon(small(), 0.1)


def test_the_natural_step_solves_its_system():
    model, (x, y, _) = small().double(), batch()
    x = x.double()
    fisher = Fisher(model, x)
    dense = torch.stack([fisher @ e for e in torch.eye(fisher.size, dtype=torch.float64)], dim=1)
    cross_entropy(model(x), y).backward()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    j = torch.cat([p.grad.flatten() for p in model.parameters()])
    contenders.natural_step(model, x, lr=0.3, damping=0.1, products=60)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    exact = torch.linalg.solve(dense + 0.1 * torch.eye(len(j), dtype=torch.float64), -0.3 * j)
    torch.testing.assert_close(moved, exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_cost_is_what_a_step_runs(method, monkeypatch):
    model, counts = small(), {"forward": 0, "backward": 0, "products": 0}

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    model.register_forward_hook(count("forward"))
    list(model.parameters())[-1].register_hook(count("backward"))
    product = Fisher.__matmul__

    def counted(self, v):
        counts["products"] += 1
        return product(self, v)

    monkeypatch.setattr(Fisher, "__matmul__", counted)
    knobs = replace(LIVE, batch_size=8, validation_size=8, products=3)
    step = contenders.stepper(method, model, 0.1, knobs)
    step(*batch())
    units = counts["forward"] + 2 * counts["backward"] + 3 * counts["products"]
    assert cost(method, knobs) == pytest.approx(units / 3)


def test_a_step_that_diverges_says_so():
    model = small()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    step = contenders.stepper("SGD", model, 0.1, LIVE)
    with pytest.raises(FloatingPointError, match=r"SGD at ε = .*: the training loss is"):
        step(*batch())
    with pytest.raises(ValueError, match=r"expected a method of SGD, Adam, .*; got 'sgd'"):
        contenders.stepper("sgd", model, 0.1, LIVE)


# --- one run ---------------------------------------------------------------------------------


def test_a_run_is_that_of_the_library():
    config = replace(LIVE, epochs=2, hidden=(16,))
    data = contest.split(load("digits"), config, tuning=False)
    full = contest.steps(config, data, "SGD", EPOCHS)
    ours = contest.run(data, "SGD", 0.1, 3, config, full)
    model = contest.network(config, data, 3)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = train(model, data, sgd, epochs=2, batch_size=config.batch_size, seed=3)
    ends = [ours.accuracy_at(k) for k in (full // 2, full)]
    assert ends == pytest.approx(history.test_accuracy)
    assert len(ours.l2) == len(ours.ell2) == full


def test_what_is_tuned_on_is_neither_trained_nor_tested_on():
    data = load("digits")
    tuning, judging = (contest.split(data, LIVE, tuning=t) for t in (True, False))
    assert torch.equal(tuning.x_train, judging.x_train)
    assert len(tuning.y_test) == LIVE.aside
    assert len(tuning.y_train) + len(tuning.y_test) == len(data.y_train)
    assert torch.equal(judging.x_test, data.x_test)


def test_everybody_pays_the_same():
    data = contest.split(load("digits"), LIVE, tuning=False)
    budget = contest.steps(LIVE, data, "SGD", EPOCHS)
    for method in METHODS:
        assert contest.steps(LIVE, data, method, EPOCHS) == budget
        paid = contest.steps(LIVE, data, method, COMPUTE) * cost(method, LIVE)
        assert budget - cost(method, LIVE) < paid <= budget


# --- the tuning ------------------------------------------------------------------------------


def test_the_stored_tuning_is_what_tuning_finds():
    rate = 0.03
    again = contest_tuning.tune("SGD", load("digits"), [rate], seeds=[1])[rate]
    stored = contest_tuning.TUNING["SGD"][rate]
    assert again.epochs[0] == pytest.approx(stored.epochs[1], abs=3)  # of 300
    assert again.path[0] == pytest.approx(stored.path[1], rel=0.2)


def test_everybody_has_the_same_budget_and_no_best_rate_lies_at_an_end():
    assert set(contest_tuning.TUNING) == set(METHODS) == set(contest_tuning.GRID)
    for method, tried in contest_tuning.TUNING.items():
        rates = list(contest_tuning.GRID[method])
        assert list(tried) == rates
        assert len(rates) == 5
        assert all(len(t.epochs) == len(contest_tuning.SEEDS) for t in tried.values())
        for reading in READINGS:
            assert contest_tuning.best(tried, reading) in rates[1:-1]
    assert not set(contest_tuning.SEEDS) & set(came.SEEDS)


def test_of_two_equal_rates_the_smaller_is_taken():
    even = contest_tuning.Tried((9, 9), (8, 8), (1.0, 1.0))
    better = contest_tuning.Tried((8, 8), (8, 9), (1.0, 1.0))
    tried = {0.3: even, 0.1: even, 1.0: better}
    assert contest_tuning.best(tried, EPOCHS) == 0.1
    assert contest_tuning.best(tried, COMPUTE) == 1.0


# --- the record and its claims ---------------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> Record:
    return came.compare(TINY, seeds=[10, 11])


def test_the_tables_are_as_documented(record):
    assert record["runs"].unique("arm") == came.arms()
    assert len(record["runs"]) == 2 * len(came.arms())
    for arm in came.arms():
        curve = record["curve"].where(arm=arm, seed=10)
        row = record["runs"].where(arm=arm, seed=10).rows()[0]
        assert curve["path"][-1] == pytest.approx(row["path"], rel=1e-5)
        assert 1 - curve["wrong"][-1] == pytest.approx(row["accuracy"])
        assert curve["evaluations"][-1] == pytest.approx(
            curve["step"][-1] * cost(came.plan(arm, 0)[0], TINY), rel=1e-5
        )
    sgd = record["runs"].where(arm="SGD")
    assert sgd["accuracy"] == sgd["accuracy_compute"]  # its epochs are the budget


def test_a_seed_repeats_exactly(record):
    again = came.compare(TINY, seeds=[11])
    for name in ("runs", "curve"):
        assert again[name].rows() == record[name].where(seed=11).rows()


def test_the_controls_run_what_they_say():
    method, seed, rates = came.plan(came.AGAIN, 3)
    assert (method, seed, rates) == ("SGD", 103, came.plan("SGD", 3)[2])
    slower, usual = (came.plan(arm, 3)[2][EPOCHS] for arm in ("HCGD, slower", "HCGD"))
    assert log(usual / slower) == pytest.approx(log(3.2), rel=0.1)


USUAL = {"accuracy": 0.95, "accuracy_compute": 0.95, "path": 2.0, "start": 0.9}
ARMS = {
    "natural gradient": {"path": 0.3, "accuracy_compute": 0.9, "accuracy": 0.955},
    "Muon": {"path": 0.1, "accuracy": 0.96},
    "HCGD": {"path": 1.4},
    "Adam+HC": {"path": 1.5},
    "SAM": {"path": 1.5, "accuracy": 0.954},
    "SGD, slower": {"path": 0.5},
    "HCGD, slower": {"path": 0.1},
}


def words(arm: str = "", **changed: float) -> dict[str, str]:
    arms = {name: {**USUAL, **ARMS.get(name, {})} for name in came.arms()}
    if arm:
        arms[arm] |= changed
    columns: dict[str, list] = {
        "arm": [name for name in arms for _ in (0, 1)],
        "seed": [0, 1] * len(arms),
    }
    columns |= {key: [row[key] for row in arms.values() for _ in (0, 1)] for key in USUAL}
    return judged(came.CLAIMS, made("what_came_next", runs=columns))


def test_the_claims_can_hold():
    assert set(words().values()) == {"reproduced"}


FAIL = [
    ("guess-accuracy", "Adam", {"accuracy": 0.91}),
    ("ch11-start", "Adam", {"start": 0.8}),
    ("ch11-natural-path", "natural gradient", {"path": 0.8}),
    ("ch11-muon-path", "Muon", {"path": 0.45}),
    ("ch11-muon-not-slow", "SGD, slower", {"path": 0.12}),
    ("ch11-slow-leash", "HCGD, slower", {"path": 0.4}),
    ("guess-natural-compute", "natural gradient", {"accuracy_compute": 0.945}),
    ("guess-again-accuracy", came.AGAIN, {"accuracy": 0.98}),
    ("ch11-again-path", came.AGAIN, {"path": 6.0}),
    ("guess-hc-path", "HCGD", {"path": 1.9}),
    ("guess-adam-hc-path", "Adam+HC", {"path": 1.9}),
    ("guess-sam-path", "SAM", {"path": 1.9}),
    ("guess-sam-accuracy", "SAM", {"accuracy": 0.94}),
    ("guess-short-is-better", "Muon", {"accuracy": 0.93}),
]


@pytest.mark.parametrize(("claim", "arm", "changed"), FAIL, ids=[f[0] for f in FAIL])
def test_each_claim_can_fail(claim, arm, changed):
    assert words(arm, **changed)[claim] != "reproduced"


def test_no_claim_is_left_untried():
    assert [c.id for c in came.CLAIMS] == [f[0] for f in FAIL]


# --- the figures -----------------------------------------------------------------------------


def test_the_figures_keep_their_traces(record):
    check_moves([draw.race(record, counted) for counted in draw.COUNTED])
    check_moves([draw.grid(place) for place in draw.PLACES])
    check_moves([draw.plane(pair) for pair in draw.PAIRS])
    check_moves([draw.results(record, reading) for reading in READINGS])
    check(draw.quantities(record))


def test_the_plane_names_the_two_that_it_picks_out():
    for pair, picked in draw.PAIRS.items():
        named = {trace.name for trace in draw.plane(pair)[0].data if trace.showlegend}
        assert named == set(picked)


def test_differences_are_drawn_in_points(record):
    figure = draw.results(record, READINGS[0])[0]
    muon = came.versus(record, "Muon", "SGD", "accuracy", "difference")
    at = list(figure.data[0].y).index("Muon")
    assert figure.data[0].x[at] == pytest.approx(100 * np.mean(muon))


def test_how_far_the_methods_lie_apart(record):
    means = [np.mean(record["runs"].where(arm=m)["path"]) for m in METHODS]
    assert draw.spread(record)["path"] == pytest.approx(max(means) / min(means))


def test_every_method_has_a_colour_of_its_own():
    assert len({draw.COLOUR[method] for method in METHODS}) == len(METHODS)


def test_what_was_used_until_few_are_wrong():
    rows = {"arm": ["SGD"] * 8, "seed": [0] * 4 + [1] * 4, "epochs": [0.0, 1.0, 2.0, 3.0] * 2}
    rows["wrong"] = [0.9, 0.5, 0.1, 0.08, 0.9, 0.5, 0.12, 0.1]
    made_up = made("what_came_next", curve=rows)
    assert draw.reached(made_up, "SGD", "epochs") == 3.0  # the mean of 0.1 and 0.12 is above
    assert draw.reached(made_up, "SGD", "epochs", wrong=0.01) == float("inf")


def test_the_winner_is_the_one_with_the_most_right():
    assert "each method at its best rate: muon comes first" in draw.grid(draw.PLACES[-1])[1].lower()
    assert "Adam comes first" in draw.grid("lowest")[1]
