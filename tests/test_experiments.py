"""What the chapters run, on exact small cases and very short trainings."""

import numpy as np
import pytest
import torch

from hilbertlib.data import load
from hilbertlib.experiments import estimator, initializations, leash, same_function
from hilbertlib.records import Record, judge
from hilbertlib.training import probabilities


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def network(digits):
    return same_function.trained_network(digits, seed=0, epochs=15)


# --- chapter 1 -------------------------------------------------------------------------------


def test_a_walk_to_the_twin_starts_and_ends_at_the_same_function(digits, network):
    twin = same_function.shuffled_twin(network, seed=1)
    walk = same_function.walk(network, twin, digits, steps=5)
    assert walk.l2[0] == 0
    assert walk.l2[-1] < 1e-5
    assert walk.ell2[0] == 0
    np.testing.assert_allclose(walk.ell2, walk.t * walk.ell2[-1], rtol=1e-4)  # a straight line
    assert walk.accuracy[0] == walk.accuracy[-1]
    assert walk.stray[0] == 0
    assert walk.stray.max() > 0.05
    np.testing.assert_allclose(walk.answers.sum(1), 1, rtol=1e-5)


def test_steps_have_the_length_they_say(digits, network):
    directions = (
        same_function.random_direction(network, 0),
        same_function.gradient_direction(network, digits),
        same_function.rescaling_direction(network, 0),
    )
    for direction in directions:
        there = same_function.moved(network, direction, 0.3)
        distance = same_function.parameter_distance(network, there)
        assert float(distance) == pytest.approx(0.3, rel=1e-4)


def test_rescaling_moves_the_function_to_second_order_only(digits, network):
    fan = same_function.fan(network, digits, [0.1, 0.2])
    growth = {n: same_function.growth_per_doubling([0.1, 0.2], y) for n, y in fan.items()}
    assert growth["at random"] == pytest.approx(2, rel=0.1)
    assert growth["rescaling units"] == pytest.approx(4, rel=0.1)


def test_weights_on_dark_pixels_do_not_matter_on_digits(digits, network):
    changed, dark = same_function.change_dark_pixels(network, digits, scale=5.0)
    assert dark > 0
    x = digits.x_test
    assert torch.equal(probabilities(changed, x), probabilities(network, x))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    assert same_function.function_distance(network, changed, noise) > 0.1


def test_the_record_of_chapter_1_and_its_claims(digits):
    record = same_function.run(digits, [0, 1], same_function.Config(epochs=3))
    assert isinstance(record, Record)
    assert record.seeds == [0, 1]
    assert len(record["pairs"]) == 2 * len(same_function.PAIRS)
    assert len(record["walks"]) == 2 * 4 * 21
    assert max(same_function.peaks(record, "shuffled twin, matched")) < 1e-4
    ids = [claim.id for claim in same_function.CLAIMS]
    assert len(set(ids)) == len(ids)
    words = {claim.id: judge(claim, record).word for claim in same_function.CLAIMS}
    assert words["book-twins"] == words["book-match-twin"] == "reproduced"
    ratio = same_function.ratios(
        record, (same_function.TWINS, "ell2"), (same_function.STRANGERS, "ell2")
    )
    twins = record["pairs"].where(pair=same_function.TWINS)["ell2"]
    strangers = record["pairs"].where(pair=same_function.STRANGERS)["ell2"]
    assert ratio == [a / b for a, b in zip(twins, strangers, strict=True)]


# --- chapter 2 -------------------------------------------------------------------------------


def made_pair(share: float, n: int = 1000) -> estimator.Pair:
    """Two classifiers that agree but for a share of the images, where they are certain."""
    before = torch.eye(2)[torch.zeros(n, dtype=torch.long)]
    after = before.clone()
    after[: round(share * n)] = torch.tensor([0.0, 1.0])
    return estimator.Pair("made", 1, before, after)


def test_the_exercises_formula():
    e = estimator.estimate(made_pair(0.1))
    assert e.distance == pytest.approx((2 * 0.1) ** 0.5)
    assert e.std / e.distance == pytest.approx(0.5 * (0.9 / 0.1) ** 0.5, rel=1e-3)


def test_concentration_by_hand():
    shares = estimator.concentration(made_pair(0.1), [0.05, 0.1, 1.0])
    np.testing.assert_allclose(shares, [0.5, 1.0, 1.0])


def test_samples_surround_the_truth_and_rare_images_break_the_interval():
    common, rare = made_pair(0.5), made_pair(0.01)
    found, held = estimator.sample_distances(common, 100, 300)
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    assert held > 0.9
    assert estimator.sample_distances(rare, 20, 300)[1] < 0.4
    assert estimator.coverage({"a": common}, [100], 300)["a"] == [held]


def test_the_record_of_chapter_2(digits):
    config = estimator.Config(epochs=4)
    record = estimator.run(digits, [0, 1], config)
    assert len(record["pairs"]) == 2 * 4 * 3
    table = record["pairs"].where(seed=0, scale=estimator.SCALES[0])
    row = table.rows()[0]
    expected = (1.959964 * row["std"] / (0.05 * row["distance"])) ** 2
    assert row["needed"] == pytest.approx(expected, rel=1e-4)
    for scale in estimator.SCALES:
        assert len(estimator.slopes(record, scale)) == 2
        assert min(estimator.median_needed(record, scale)) > 0
        assert min(estimator.early_over_late(record, scale)) > 0
    pairs = estimator.snapshots(digits, 0, config)
    assert torch.equal(pairs[0].after, pairs[2].after)  # one epoch, three scales
    assert torch.equal(pairs[1].after, pairs[4].before)  # between epochs: end to end
    assert torch.equal(pairs[2].before, pairs[-1].before)  # the initialization
    for claim in estimator.CLAIMS:
        judge(claim, record)


# --- chapter 6 -------------------------------------------------------------------------------

SHORT = {"epochs": 2}


def test_a_run_by_its_numbers(digits):
    run = leash.run(digits, 0, leash.Setting(**SHORT))
    steps = 2 * -(-len(digits.x_train) // 64)
    assert run.l2.shape == run.ell2.shape == (steps,)
    np.testing.assert_allclose(run.cumulative, np.cumsum(run.l2**2))
    np.testing.assert_allclose(run.cumulative_parameters[-1], (run.ell2**2).sum())
    assert run.outputs.shape == (3, len(digits.x_test), 10)
    assert run.lowest_late_accuracy == min(run.history.test_accuracy[1:])


def test_all_arms_of_a_seed_begin_alike_and_repeat_exactly(digits):
    arms = {"SGD": leash.Setting(lam=0.0, **SHORT), "HCGD": leash.Setting(**SHORT)}
    runs = leash.run_all(digits, arms, [0, 1], jobs=1)
    assert [r.seed for r in runs["SGD"]] == [0, 1]
    assert torch.equal(runs["SGD"][0].outputs[0], runs["HCGD"][0].outputs[0])
    assert not torch.equal(runs["SGD"][0].outputs[1], runs["HCGD"][0].outputs[1])
    assert torch.equal(leash.run(digits, 1, arms["HCGD"]).outputs, runs["HCGD"][1].outputs)


def test_the_controls_of_the_leash_differ_from_it_only_where_they_say(digits):
    free = leash.run(digits, 0, leash.Setting(lam=0.0, **SHORT))
    black = leash.run(digits, 0, leash.Setting(lam=0.0, x_v="black", **SHORT))
    assert torch.equal(free.outputs, black.outputs)  # no leash, wherever it is tied
    held = leash.run(digits, 0, leash.Setting(**SHORT))
    for other in ({"x_v": "noise"}, {"x_v": "black"}, {"pull": "random"}):
        run = leash.run(digits, 0, leash.Setting(**SHORT, **other))
        assert not torch.equal(run.outputs, held.outputs)


def test_one_map_holds_all_runs(digits):
    runs = [leash.run(digits, s, leash.Setting(**SHORT)) for s in (0, 1)]
    maps, stress = leash.map_of_runs([*runs, runs[0]])
    assert [m.shape for m in maps] == [(3, 2)] * 3
    np.testing.assert_allclose(maps[0], maps[2], atol=1e-8)  # one function, one place
    assert 0 <= stress < 0.5


def test_without_a_leash_a_correction_changes_nothing(digits):
    model = leash.ready_network(digits, seed=0, epochs=1)
    ratio = leash.overshoot(model, digits, [0.01, 0.1], lam_eta=0.0, steps=2)
    np.testing.assert_array_equal(ratio, np.ones((2, 2)))
    tight = leash.overshoot(model, digits, [1e-4], lam_eta=0.1, steps=2)
    assert (tight > 1).all()
    squared = leash.overshoot(model, digits, [1e-4], lam_eta=0.1, steps=2, norm="squared")
    assert (squared < 1).all()


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_passes_of_a_step(n):
    assert leash.count_passes(n) == (1 + 2 * n, 1 + n)  # 2 + 3n in all: section 3.2.1
    assert leash.count_passes(1, reuse=True)[1] == 2


def test_the_record_of_chapter_6():
    names = (
        "SGD", "HCGD", "SGD, shuffled", "HCGD, shuffled", "HCGD, not absorbed", "on noise",
        "on a black image", "random pull", "SGD at ε", "SGD at ε + 4η", "n = 1", "n = 5",
    )  # fmt: skip
    digits = load("digits").subset(400, seed=0)
    arms = leash.run_all(digits, {n: leash.Setting(epochs=4) for n in names}, [3, 4], jobs=1)
    record = leash.record(digits, arms, {"rms": np.array([3.0, 5.0]), "squared": np.ones(2)})
    assert record.seeds == [3, 4]
    assert leash.compare(record, "HCGD", "SGD", "path") == [1.0, 1.0]  # the arms are equal here
    assert leash.compare(record, "HCGD", "SGD", "accuracy", "difference") == [0.0, 0.0]
    words = {claim.id: judge(claim, record).word for claim in leash.CLAIMS}
    assert words["hcgd-one-correction"] == "reproduced"
    assert words["hcgd-path"] != "reproduced"


def test_the_late_share():
    assert leash.late_share(np.arange(1, 10)) == pytest.approx(1 / 3)
    assert leash.late_share(np.array([1.0, 1, 1])) == 0


def test_initializations_share_their_start_in_function_space(digits):
    runs = initializations.run(digits, seeds=(0, 1), epochs=4, every=10)
    assert all(torch.equal(r.steps, runs[0].steps) for r in runs)
    maps = initializations.maps(runs)
    (f0, f1), stress = maps["functions"]
    assert f0.shape == f1.shape == (len(runs[0]), 2)
    assert 0 <= stress < 1
    start, whole = np.linalg.norm(f0[0] - f1[0]), np.linalg.norm(f0[-1] - f0[0])
    assert start < 0.5 * whole
    p0, p1 = maps["parameters"][0]
    assert np.linalg.norm(p0[0] - p1[0]) > np.linalg.norm(p0[-1] - p0[0])
