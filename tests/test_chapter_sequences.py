"""Chapter 7: one weight against slow twins, its small runs, its claims and its figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_chapter_claims import judged, made
from test_figures import check, check_moves

from hilbertlib.experiments import hcgd_sequences as sequences
from hilbertlib.experiments import recurrence
from hilbertlib.experiments.recurrence import POSTS, OneWeight
from hilbertlib.figures import sequences as draw
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.records import Record

TINY = replace(
    sequences.LIVE, epochs=4, tail=1, images=60, batch_size=30, validation_size=10, hidden=8,
    corrections=(1, 5),
)  # fmt: skip


@pytest.fixture(scope="module")
def read():
    config = replace(TINY, pool=1)
    return {k: [recurrence.walk("", s, config, portion=k) for s in (0, 1)] for k in (64, 8)}


@pytest.fixture(scope="module")
def ruled():
    return recurrence.rules([0, 1], replace(TINY, epochs=1), jobs=1)


@pytest.fixture(scope="module")
def race() -> Record:
    record = sequences.run(TINY, [0, 1])
    return recurrence.with_rates(record, TINY, [2], jobs=1)


# --- one weight


def test_states_are_the_sum_over_what_was_read():
    x = np.array([1.0, 2.0, -1.0])
    assert recurrence.states(0.5, x) == pytest.approx([1.0, 2.5, 0.25])


@pytest.mark.parametrize("w", [0.0, 0.7, 1.0, 1.1])
def test_the_rate_of_a_repeated_weight_is_that_of_sampled_memories(w):
    x = np.random.RandomState(0).standard_normal((20_000, 12))
    a, b = (np.array([recurrence.states(v, row) for row in x]) for v in (w, w + 1e-5))
    sampled = np.sqrt(np.mean((b - a) ** 2, 0)) / 1e-5
    np.testing.assert_allclose(recurrence.tied_rates(w, 12), sampled, rtol=0.03, atol=1e-9)


@pytest.mark.parametrize("w", [0.0, 0.7, 1.0, 1.1])
def test_a_nudge_moves_the_function_as_far_as_sampled_memories_part(w):
    x = np.random.RandomState(0).standard_normal((20_000, 12))
    a, b = (np.array([recurrence.states(v, row) for row in x]) for v in (w, w + 0.1))
    sampled = np.sqrt(np.mean((b - a) ** 2, 0))
    np.testing.assert_allclose(recurrence.nudged(w, 0.1, 12), sampled, rtol=0.03, atol=1e-9)
    short = recurrence.nudged(w, 1e-7, 12) / 1e-7
    np.testing.assert_allclose(short, recurrence.tied_rates(w, 12), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("w", [0.0, 0.7, 1.0, 1.1])
def test_the_rate_of_a_chain_is_the_mean_over_directions_of_its_jacobian(w):
    steps = 5
    weights = torch.full((steps,), w, dtype=torch.float64, requires_grad=True)
    # h is linear in the inputs: its mean square is the sum over one-hot inputs.
    total = 0.0
    for x in torch.eye(steps, dtype=torch.float64):
        h = torch.zeros((), dtype=torch.float64)
        for weight, now in zip(weights, x, strict=True):
            h = weight * h + now
        (g,) = torch.autograd.grad(h, weights)
        total += float(g.square().sum()) / steps
    assert recurrence.untied_rates(w, steps)[-1] == pytest.approx(np.sqrt(total))


def test_the_rate_grows_as_the_text_says():
    one = recurrence.tied_rates(1.0, 4000)
    assert one[-1] == pytest.approx(np.sqrt(4000**3 / 3), rel=1e-3)
    assert recurrence.untied_rates(1.0, 400)[-1] == pytest.approx(np.sqrt(200), rel=0.01)
    w = 0.8
    limit = np.sqrt((1 + w**2) / (1 - w**2) ** 3)
    assert recurrence.tied_rates(w, 400)[-1] == pytest.approx(limit)


def test_one_weights_gradient_is_the_derivative_of_its_cost():
    problem = OneWeight()
    for w in (0.3, 0.9, 1.05):
        cost = [0.5 * problem.distance(w + h, problem.target) ** 2 for h in (-1e-6, 1e-6)]
        assert problem.gradient(w) == pytest.approx((cost[1] - cost[0]) / 2e-6, abs=1e-4)
        apart = [problem.distance(w + h, 0.5) for h in (-1e-6, 1e-6)]
        assert problem.slope(w, 0.5) == pytest.approx((apart[1] - apart[0]) / 2e-6, rel=1e-4)
    assert problem.slope(0.7, 0.7) == 0


@pytest.mark.parametrize("clipped", [False, True])
def test_a_step_is_the_librarys(clipped):
    """The same memory as a torch function, with the inputs' distribution as one-hot examples."""
    problem = OneWeight()
    k = torch.arange(problem.steps, dtype=torch.float64)
    w = torch.nn.Parameter(torch.tensor(0.97, dtype=torch.float64))
    scale = problem.steps**0.5  # the library averages over examples, the memory sums over k

    def outputs() -> torch.Tensor:
        return (scale * w**k)[:, None]

    wanted = scale * problem.target**k
    loss = 0.5 * (outputs()[:, 0] - wanted).square().mean()
    loss.backward()
    if clipped:
        torch.nn.utils.clip_grad_norm_([w], problem.clip)
    sgd = torch.optim.SGD([w], lr=problem.lr)
    HilbertConstrained(sgd, lam=1.0, inner_lr=problem.lam_eta).step(outputs)
    assert problem.step(0.97, clipped, leashed=True) == pytest.approx(float(w.detach()), rel=1e-6)


def test_what_leaves_all_range_is_infinite():
    assert OneWeight(steps=60).moved(1.3, leashed=True) == np.inf
    assert np.isfinite(OneWeight(steps=60).moved(1.3, clipped=True))


# --- the runs


def test_portions_are_the_same_pixels_in_the_same_order():
    data = sequences.sequences(replace(TINY, pool=1), 0)
    told = recurrence.in_portions(data, 4)
    assert told.x_train.shape == (60, 4, 16)
    flat = data.x_train[0].flatten()
    assert torch.equal(told.x_train[0].T.flatten(), flat)
    assert torch.equal(told.x_train[0, :, 3], flat[12:16])
    with pytest.raises(ValueError, match="expected a divisor of 64 pixels as portion, got 5"):
        recurrence.in_portions(data, 5)


def test_a_walk_tells_of_every_update(read):
    walk = read[8][0]
    assert walk.l2.shape == walk.ell2.shape == (4 * 2,)
    assert walk.accuracy.shape == (4,)
    assert walk.late_rate == pytest.approx(np.median((walk.l2 / walk.ell2)[-2:]))
    assert walk.spread == pytest.approx(np.std(np.log(walk.l2 / walk.ell2)))
    assert walk.final == walk.accuracy[-1]


def test_the_rules_differ_in_what_they_say(ruled):
    assert set(ruled) == {"SGD, clipped", "SGD, not clipped", "SGD+HC, not clipped"}
    assert [w.seed for w in ruled["SGD, clipped"]] == [0, 1]
    tight = recurrence.rules([0], replace(TINY, epochs=1, lr=100.0), jobs=1)
    longest = {name: walks[0].ell2.max() for name, walks in tight.items()}
    assert longest["SGD, clipped"] < longest["SGD, not clipped"]


def test_more_rates_stand_beside_the_record(race):
    arms = race["runs"].unique("arm")
    assert arms[-1] == "SGD at ε + 2η"
    assert race["runs"].where(arm="SGD at ε + 2η")["seed"] == [0, 1]
    alone = sequences.measure(TINY, "SGD at ε + 2η", 1)["runs"][0]["final"]
    assert race["runs"].where(arm="SGD at ε + 2η", seed=1)["final"] == [pytest.approx(alone)]


def test_without_a_leash_nothing_is_held():
    more = replace(TINY, images=120)
    assert recurrence.held(0, more, lam_eta=0.0, steps=2) == dict.fromkeys(POSTS, 1.0)
    assert recurrence.held(0, more, steps=2)[POSTS[0]] != 1.0


# --- the claims

PORTIONS = {64: (0.4, 0.7, 0.9), 8: (0.8, 1.0, 0.8)}  # rate, spread, final
LONGEST = {"SGD, clipped": 1.0, "SGD+HC, not clipped": 3.0}
HELD = {POSTS[0]: 0.85, POSTS[1]: 0.9, POSTS[2]: 0.95}


def words(portions: dict | None = None, longest: dict | None = None, held: dict | None = None):
    portions, longest, held = (
        {**given, **(new or {})}
        for given, new in ((PORTIONS, portions), (LONGEST, longest), (HELD, held))
    )
    record = made(
        "recurrence",
        portions={
            "portion": [k for k in portions for _ in (0, 1)],
            "seed": [0, 1] * len(portions),
            "rate": [v[0] for v in portions.values() for _ in (0, 1)],
            "spread": [v[1] for v in portions.values() for _ in (0, 1)],
        },
        rules={
            "arm": [a for a in longest for _ in (0, 1)],
            "seed": [0, 1] * len(longest),
            "longest": [v for v in longest.values() for _ in (0, 1)],
        },
        posts={
            "post": [p for p in held for _ in (0, 1)],
            "seed": [0, 1] * len(held),
            "ratio": [v for v in held.values() for _ in (0, 1)],
        },
    )
    return judged(recurrence.CLAIMS, record)


def test_the_claims_hold_where_they_should():
    assert set(words().values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        ("guess-seq-dearer", {"portions": {8: (0.5, 1.0, 0.8)}}),
        ("guess-seq-proxy", {"portions": {8: (0.8, 0.75, 0.8)}}),
        ("guess-seq-clip", {"longest": {"SGD+HC, not clipped": 1.1}}),
        ("guess-seq-order", {"held": {POSTS[1]: 0.86}}),
        ("guess-seq-black", {"held": {POSTS[2]: 0.8}}),
    ],
)
def test_each_claim_can_fail(claim, changed):
    assert words(**changed)[claim] == "inconclusive"


# --- the figures


def test_the_figures_keep_their_traces(read, ruled, race):
    check_moves([draw.memory(w) for w in (0.5, 1.0, 1.05)])
    check_moves([draw.portions(read, k) for k in read])
    grid = np.linspace(0.5, 1.15, 5)
    check_moves([draw.cliff(OneWeight(), float(w), grid) for w in grid])
    for figure, text in (draw.race(race), draw.control(race)):
        check(figure)
        assert text.endswith(".")
    check(draw.rules(ruled))
    posts = {s: dict.fromkeys(POSTS, 0.9 + 0.01 * s) for s in (0, 1)}
    record = recurrence.record(read, ruled, posts)
    check(draw.posts(record))
    assert set(judged(recurrence.CLAIMS, record)) == {c.id for c in recurrence.CLAIMS}


def test_records_of_both_scales_draw_as_many_traces(race):
    """The paper's has ten corrections, which the live one lacks; it may lack arms still."""
    begun = sequences.run(replace(TINY, epochs=1, corrections=(1, 5, 10)), [0], arms=["SGD"])
    for figure in (draw.race, draw.control):
        assert len(figure(race)[0].data) == len(figure(begun)[0].data)


def test_what_an_arm_costs_and_amounts_to(race):
    assert [draw.corrections(a) for a in ("Adam", "Adam+HC", "SGD+HC, n = 5")] == [0, 1, 5]
    assert draw.price(race, "SGD at ε + 4η") == 1
    assert draw.price(race, "SGD+HC, n = 5") == pytest.approx((3 + 4 * 5 * 10 / 30) / 3)
    rates = [draw.effective_rate(race, a) for a in ("SGD", "SGD+HC, n = 5", "SGD at ε + 4η")]
    assert rates == pytest.approx([0.1, 0.18, 0.18])
