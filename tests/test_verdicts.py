"""The rule: intervals against scipy, a verdict for each case of it, and what must never happen."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from hilbertlib.records import Provenance, Record, Table
from hilbertlib.verdicts import Claim, Interval, judge, seed_interval

values = st.lists(st.floats(-100, 100), min_size=1, max_size=8)
RANK = ["not reproduced", "inconclusive", "partly", "reproduced"]


def record(seeds=8, scale="paper", reduced=False):
    origin = Provenance(
        config={},
        seeds=range(seeds),
        dataset="digits",
        dataset_checksum="",
        device="cpu",
        versions={},
        seconds=1,
        departures=["smaller"],
        reduced=reduced,
    )
    return Record("experiment", scale, {"t": Table({"a": [1]})}, origin)


def claim(effects, margin=0.0, direction="above"):
    return Claim(
        "id", "Fig. 1", "It holds.", "The effect is above 0.", "experiment",
        lambda _: effects, margin, direction,
    )  # fmt: skip


def word(effects, margin=0.0, direction="above", **setting):
    return judge(claim(effects, margin, direction), record(**setting)).word


# --- intervals --------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9), st.floats(0.5, 0.999))
def test_the_interval_is_students(numbers, level):
    assume(np.std(numbers) > 1e-6)
    found = seed_interval(numbers, level)
    low, high = stats.t.interval(
        level, len(numbers) - 1, loc=np.mean(numbers), scale=stats.sem(numbers)
    )
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    assert found.mean == pytest.approx(np.mean(numbers), abs=1e-9)
    assert (found.n, found.level) == (len(numbers), level)


def test_it_covers_the_truth_as_often_as_it_says():
    random = np.random.RandomState(0)
    samples = random.normal(3, 2, size=(4000, 5))
    covered = np.mean([i.low < 3 < i.high for i in map(seed_interval, samples)])
    assert covered == pytest.approx(0.95, abs=0.015)  # four standard errors


@given(values, st.floats(-50, 50), st.floats(0.5, 0.98))
def test_it_moves_with_the_values_and_widens_with_the_level(numbers, shift, level):
    interval, moved = (
        seed_interval(numbers, level),
        seed_interval([v + shift for v in numbers], level),
    )
    for a, b in ((interval.low, moved.low), (interval.high, moved.high)):
        assert b == pytest.approx(a + shift, abs=1e-6)
    wider = seed_interval(numbers, level + 0.01)
    assert wider.low <= interval.low <= interval.mean <= interval.high <= wider.high


def test_one_seed_gives_no_interval():
    assert seed_interval([0.7]) == Interval(0.7, -math.inf, math.inf, 1, 0.95)
    assert str(seed_interval([0.7])) == "0.7 (1 seed: no interval)"
    assert str(seed_interval([1, 1])) == "1 [1, 1] (2 seeds)"


@given(st.floats(-1e6, 1e6), st.integers(2, 9))
def test_equal_values_give_an_interval_of_no_width(value, n):
    interval = seed_interval([value] * n)
    assert interval.low == interval.mean == interval.high == value


@pytest.mark.parametrize(
    ("numbers", "level", "message"),
    [
        ([], 0.95, "one value a seed, got none"),
        ([1, math.nan], 0.95, "finite values"),
        ([1, math.inf], 0.95, "finite values"),
        ([1, 2], 0, "level between 0 and 1"),
        ([1, 2], 1, "level between 0 and 1"),
    ],
)
def test_impossible_intervals_are_refused(numbers, level, message):
    with pytest.raises(ValueError, match=message):
        seed_interval(numbers, level)


# --- each case of the rule --------------------------------------------------------------------

YES, NO, PERHAPS = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [-1.0, 1.0, 0.1]


@pytest.mark.parametrize(
    ("effects", "full", "reduced"),
    [
        (YES, "reproduced", "reproduced"),
        (NO, "not reproduced", "inconclusive"),
        (PERHAPS, "inconclusive", "inconclusive"),
        ([5.0], "inconclusive", "inconclusive"),
        ({"a": YES, "b": YES}, "reproduced", "reproduced"),
        ({"a": YES, "b": NO}, "partly", "partly"),
        ({"a": YES, "b": PERHAPS}, "partly", "partly"),
        ({"a": NO, "b": NO}, "not reproduced", "inconclusive"),
        ({"a": NO, "b": PERHAPS}, "inconclusive", "inconclusive"),
        ({"a": PERHAPS, "b": PERHAPS}, "inconclusive", "inconclusive"),
    ],
)
def test_the_rule(effects, full, reduced):
    assert word(effects) == full
    assert word(effects, reduced=True) == word(effects, scale="live") == reduced


def test_arms_that_are_smaller_than_the_papers_refute_nothing():
    smaller = replace(claim(NO), departs=True)
    assert str(judge(smaller, record())) == "inconclusive (the reduced setting speaks against it)"
    origin = replace(record().provenance, departures=[])  # the arms were run in full
    assert str(judge(smaller, replace(record(), provenance=origin))) == "not reproduced"


@pytest.mark.parametrize(
    ("effects", "margin", "direction", "expected"),
    [
        ([0.5, 0.5], 0.5, "above", "not reproduced"),  # not beyond the margin: on it
        ([0.5, 0.5], 0.5, "below", "not reproduced"),
        ([0.51, 0.51], 0.5, "above", "reproduced"),
        (YES, 2.0, "above", "not reproduced"),  # the right sign, but not enough of it
        (YES, 2.0, "below", "reproduced"),
        (NO, -2.0, "below", "not reproduced"),
        (PERHAPS, 0.0, "below", "inconclusive"),
        (YES, (0.5, 1.5), "within", "reproduced"),
        (YES, (0.95, 1.05), "within", "inconclusive"),
        (YES, (1.0, 5.0), "within", "inconclusive"),
        (YES, (2.0, 5.0), "within", "not reproduced"),
        (YES, (-5.0, 0.0), "within", "not reproduced"),
        ([1.0, 1.0], (1.0, 2.0), "within", "not reproduced"),
    ],
)
def test_margins_and_directions(effects, margin, direction, expected):
    assert word(effects, margin, direction) == expected


def test_no_record_is_not_tested():
    assert judge(claim(YES), None).word == "not tested"


def test_a_part_without_values_was_not_tested():
    assert judge(claim([]), record()).word == "not tested"
    half = judge(claim({"early": YES, "late": []}), record())
    assert (half.word, half.parts["late"].word) == ("partly", "not tested")
    assert str(half.parts["late"].interval) == "not measured"
    assert judge(claim({"early": NO, "late": []}), record()).word == "inconclusive"


def test_a_verdict_says_why_and_in_what_setting():
    verdict = judge(claim({"early": YES, "late": NO}), record(reduced=True))
    assert str(verdict) == "partly (reduced setting)"
    assert verdict.reason == "it holds for 1 of 2 parts of its range"
    assert {name: part.word for name, part in verdict.parts.items()} == {
        "early": "reproduced",
        "late": "not reproduced",
    }
    assert verdict.parts["late"].interval == seed_interval(NO)
    assert "one seed" in judge(claim([2.0]), record()).reason
    assert "across the margin" in judge(claim(PERHAPS), record()).reason
    refused = judge(claim(NO), record(reduced=True))
    assert str(refused) == "inconclusive (the reduced setting speaks against it)"
    undecided = judge(claim(PERHAPS), record(reduced=True))
    assert str(undecided) == "inconclusive (reduced setting)"
    assert [v.contradicted for v in (verdict, refused, undecided)] == [False, True, False]
    words = [v.of_guess for v in (verdict, refused, undecided)]
    assert words == ["holds in part", "does not hold", "undecided"]  # it can refute a guess of ours
    assert judge(claim(YES), record(reduced=True)).of_guess == "holds"
    assert judge(claim(YES), None).of_guess == "waits"
    assert "does not refute" in refused.reason
    assert str(judge(claim(YES), record())) == "reproduced"


def test_the_level_is_the_callers():
    effects = [0.1, 0.5, 0.9]
    assert judge(claim(effects), record(), level=0.5).word == "reproduced"
    assert judge(claim(effects), record(), level=0.999).word == "inconclusive"


# --- laws -------------------------------------------------------------------------------------

effects_of_a_range = st.dictionaries(st.sampled_from("abcd"), values, min_size=1)


@given(effects_of_a_range, st.floats(0, 50), st.floats(-20, 20), st.booleans())
def test_more_of_the_effect_never_lowers_the_verdict(effects, more, margin, reduced):
    raised = {name: [v + more for v in numbers] for name, numbers in effects.items()}
    before, after = (word(e, margin, reduced=reduced) for e in (effects, raised))
    assert RANK.index(before) <= RANK.index(after)


@given(values, st.floats(-20, 20), st.floats(0, 20))
def test_a_stricter_margin_never_raises_the_verdict(effects, margin, stricter):
    assert RANK.index(word(effects, margin + stricter)) <= RANK.index(word(effects, margin))


@given(effects_of_a_range, st.floats(-20, 20))
def test_below_is_above_mirrored(effects, margin):
    mirrored = {name: [-v for v in numbers] for name, numbers in effects.items()}
    assert word(effects, margin, "above") == word(mirrored, -margin, "below")


@given(effects_of_a_range, st.floats(-20, 20))
def test_a_reduced_setting_never_refutes_and_else_says_the_same(effects, margin):
    full, reduced = word(effects, margin), word(effects, margin, reduced=True)
    assert reduced != "not reproduced"
    assert reduced == full or (full, reduced) == ("not reproduced", "inconclusive")


@given(values, st.floats(-20, 20))
def test_a_wider_interval_never_turns_a_verdict_around(effects, margin):
    narrow, wide = (
        judge(claim(effects, margin), record(), level=level).word for level in (0.8, 0.99)
    )
    assert wide in (narrow, "inconclusive")


@given(values, st.floats(-20, 20), st.floats(0.1, 20))
def test_holding_and_excluding_are_never_both(effects, low, width):
    interval = seed_interval(effects)
    for made in (
        claim(effects, low, "above"),
        claim(effects, low, "below"),
        claim(effects, (low, low + width), "within"),
    ):
        assert not (made.holds(interval) and made.excludes(interval))


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "a text for id"),
        ({"where": " "}, "a text for where"),
        ({"reading": ""}, "a text for reading"),
        ({"direction": "up"}, "'above', 'below' or 'within', got 'up'"),
        ({"margin": (0.0, 1.0)}, "1 finite margin"),
        ({"margin": math.nan}, "1 finite margin"),
        ({"direction": "within"}, "2 finite margin"),
        ({"direction": "within", "margin": (1.0, 1.0)}, r"\(low, high\) as margin"),
    ],
)
def test_impossible_claims_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(claim(YES), **changes)


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        ([0.0] * 9, "at most 8 effects, one a seed, got 9"),  # epochs passed off as seeds
        ({"late": [0.0] * 9}, r"claim id \(late\): expected at most 8"),
        ({}, "at least one part"),
        ([math.nan], "claim id: expected finite values"),
    ],
)
def test_impossible_effects_are_refused(effects, message):
    with pytest.raises(ValueError, match=message):
        judge(claim(effects), record())


def test_another_experiments_record_is_refused():
    with pytest.raises(ValueError, match="a record of experiment, got other"):
        judge(claim(YES), replace(record(), experiment="other"))
