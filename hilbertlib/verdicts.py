"""From effects over seeds to a verdict on a claim, by one rule that is fixed before the run.

*Reproduced*: the 95% interval over seeds lies beyond the margin. *Not reproduced*: the interval
excludes the claimed effect. *Partly*: it holds for part of the stated range. *Inconclusive*:
anything else. *Not tested*: there is no record, or it holds nothing about the claim. A reduced
setting cannot refute the paper's: what would be "not reproduced" is inconclusive there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from .records import Record

Word = Literal["reproduced", "partly", "not reproduced", "inconclusive", "not tested"]
Direction = Literal["above", "below", "within"]
Effects = Sequence[float] | Mapping[str, Sequence[float]]


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def printed(value: float, digits: int = 3) -> str:
    """A number as the pages have it: few digits, a minus and no hyphen, powers of ten as powers.

    >>> printed(-2.5e-7), printed(12345.6)
    ('−2.5 · 10⁻⁷', '12,346')
    """
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    if exponent:
        mantissa += f" · 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return mantissa.replace("-", "−")


def seeds_said(n: int) -> str:
    """A number of seeds in words.

    >>> seeds_said(1), seeds_said(3)
    ('1 seed', '3 seeds')
    """
    return f"{n} seed{'s' * (n != 1)}"


class MissingTableError(KeyError):
    """A record has no table of the name: nothing was measured of what it would hold."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval for a mean over ``n`` seeds; infinite for a single one or none."""

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def __str__(self) -> str:
        if self.n == 0:
            return "not measured"
        if self.n == 1:
            return f"{self.mean:.3g} ({seeds_said(1)}: no interval)"
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}] ({seeds_said(self.n)})"


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval for the mean of one value a seed: mean ± t · s / √n, n − 1 degrees.

    Seeds are taken as independent and their values as about normal. One seed gives no interval:
    its bounds are infinite.

    Raises:
        ValueError: If there is no value, one is not finite, or ``level`` is not between 0 and 1.

    >>> print(seed_interval([0.4, 0.5, 0.6]))
    0.5 [0.252, 0.748] (3 seeds)
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("expected one value a seed, got none")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected finite values, one a seed, got {numbers}")
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")
    n = len(numbers)
    # Rounding may push the mean of equal values off them, and a margin may lie exactly there.
    mean = min(max(math.fsum(numbers) / n, min(numbers)), max(numbers))
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1, level)
    from scipy.stats import t

    variance = math.fsum((value - mean) ** 2 for value in numbers) / (n - 1)
    half = float(t.ppf((1 + level) / 2, n - 1)) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n, level)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper as a test on a record. Written down before the run.

    Attributes:
        id: Its name, such as ``"forget-l2-retrain"``.
        where: Where it stands in the paper: ``"Fig. 4"``.
        sentence: The claim in our words.
        reading: What exactly is tested, where the sentence is vague; what the effect is.
        experiment: The name of the experiment whose record it is judged on.
        effects: From a record to the effect of each seed. A claim about a range gives a mapping
            from each part of the range to its effects.
        margin: What the effect must lie beyond: a number, or for ``"within"`` a pair of them.
        direction: ``"above"`` or ``"below"`` the margin, or ``"within"`` the pair.
        unit: The unit of the effect, for print.
        departs: Whether it is judged on arms that are smaller than the paper's where the record
            names departures, though the record as a whole is not: then it cannot be refuted.

    Raises:
        ValueError: If direction and margin do not go together or a text is missing.
    """

    id: str
    where: str
    sentence: str
    reading: str
    experiment: str
    effects: Callable[["Record"], Effects]
    margin: float | tuple[float, float]
    direction: Direction = "above"
    unit: str = ""
    departs: bool = False

    def __post_init__(self) -> None:
        for name in ("id", "where", "sentence", "reading", "experiment"):
            if not getattr(self, name).strip():
                raise ValueError(f"claim {self.id!r}: expected a text for {name}, got none")
        if self.direction not in get_args(Direction):
            raise ValueError(
                f"claim {self.id}: expected direction 'above', 'below' or 'within', "
                f"got {self.direction!r}"
            )
        bounds = self.margin if isinstance(self.margin, tuple) else (self.margin,)
        expected = 2 if self.direction == "within" else 1
        if len(bounds) != expected or not all(map(math.isfinite, bounds)):
            raise ValueError(
                f"claim {self.id}: expected {expected} finite margin(s) for direction "
                f"{self.direction!r}, got {self.margin}"
            )
        if expected == 2 and bounds[0] >= bounds[-1]:
            raise ValueError(f"claim {self.id}: expected (low, high) as margin, got {self.margin}")

    def holds(self, interval: Interval) -> bool:
        """Whether the whole interval lies beyond the margin."""
        if self.direction == "within":
            low, high = self._pair()
            return low < interval.low and interval.high < high
        if self.direction == "above":
            return interval.low > self._number()
        return interval.high < self._number()

    def excludes(self, interval: Interval) -> bool:
        """Whether no value in the interval lies beyond the margin."""
        if self.direction == "within":
            low, high = self._pair()
            return interval.high <= low or high <= interval.low
        if self.direction == "above":
            return interval.high <= self._number()
        return interval.low >= self._number()

    def _pair(self) -> tuple[float, float]:
        assert isinstance(self.margin, tuple)
        return self.margin

    def _number(self) -> float:
        assert not isinstance(self.margin, tuple)
        return self.margin


@dataclass(frozen=True)
class Part:
    """The interval for one part of a claim's range and what it says there."""

    interval: Interval
    word: Word


@dataclass(frozen=True)
class Verdict:
    """What the record says about a claim.

    Attributes:
        claim: The claim's id.
        word: The verdict: one of five.
        parts: Interval and word for each part of the claim's range; one part, named ``""``, for a
            claim about no range.
        reduced: Whether the record departs from the paper's setting so that it cannot refute.
        reason: One sentence on why.
    """

    claim: str
    word: Word
    parts: Mapping[str, Part] = field(default_factory=dict)
    reduced: bool = False
    reason: str = ""

    @property
    def contradicted(self) -> bool:
        """Whether the interval excludes the claimed effect, in every part of the range."""
        return {part.word for part in self.parts.values()} == {"not reproduced"}

    @property
    def of_guess(self) -> str:
        """The word where the claim is the book's own, which a reduced setting can refute.

        >>> Verdict("example", "reproduced").of_guess, Verdict("example", "inconclusive").of_guess
        ('holds', 'undecided')
        """
        if self.contradicted:
            return "does not hold"
        named = {"reproduced": "holds", "partly": "holds in part", "not tested": "waits"}
        return named.get(self.word, "undecided")

    def __str__(self) -> str:
        if not self.reduced:
            return self.word
        speaks = "the reduced setting speaks against it"
        return f"{self.word} ({speaks if self.contradicted else 'reduced setting'})"


def judge(claim: Claim, record: "Record | None", level: float = 0.95) -> Verdict:
    """Judge a claim on a record by the rule of this module.

    Args:
        claim: The claim, with its margin.
        record: The record of the claim's experiment; None where there is none.
        level: Confidence level of the intervals.

    Raises:
        ValueError: If the record is another experiment's, or the effects are not finite numbers,
            at most one a seed of the record.

    >>> claim = Claim(
    ...     id="example", where="this page", sentence="The loss falls.",
    ...     reading="The last loss over the first.", experiment="example",
    ...     effects=lambda record: record["runs"]["ratio"], margin=1.0, direction="below",
    ... )
    >>> print(judge(claim, None))
    not tested
    """
    if record is None:
        return Verdict(claim.id, "not tested", reason="there is no record")
    if record.experiment != claim.experiment:
        raise ValueError(
            f"claim {claim.id}: expected a record of {claim.experiment}, got {record.experiment}"
        )
    try:
        effects = _effects(claim, record)
    except MissingTableError:
        effects = {"": ()}
    parts = {
        name: _part(claim, name, values, len(record.seeds), level)
        for name, values in effects.items()
    }
    words = [part.word for part in parts.values()]
    reduced = record.reduced or (claim.departs and bool(record.provenance.departures))
    if reduced and all(word == "not reproduced" for word in words):
        return Verdict(
            claim.id, "inconclusive", parts, True,
            "the reduced setting speaks against it, which does not refute it at the paper's",
        )  # fmt: skip
    word, reason = _combine(words, [part.interval.n for part in parts.values()])
    return Verdict(claim.id, word, parts, reduced, reason)


def _effects(claim: Claim, record: "Record") -> Mapping[str, Sequence[float]]:
    effects = claim.effects(record)
    if not isinstance(effects, Mapping):
        effects = {"": effects}
    if not effects:
        raise ValueError(f"claim {claim.id}: expected effects for at least one part, got none")
    return effects


def _part(claim: Claim, name: str, values: Sequence[float], seeds: int, level: float) -> Part:
    where = f"claim {claim.id}" + (f" ({name})" if name else "")
    # Epochs or batches of one run are not seeds: more values than seeds would narrow the interval.
    if len(values) > seeds:
        raise ValueError(
            f"{where}: expected at most {seeds} effects, one a seed, got {len(values)}"
        )
    if len(values) == 0:
        return Part(Interval(math.nan, -math.inf, math.inf, 0, level), "not tested")
    try:
        interval = seed_interval(values, level)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if claim.holds(interval):
        return Part(interval, "reproduced")
    return Part(interval, "not reproduced" if claim.excludes(interval) else "inconclusive")


def _combine(words: Sequence[Word], seeds: Sequence[int]) -> tuple[Word, str]:
    if all(word == "reproduced" for word in words):
        return "reproduced", "the whole interval lies beyond the margin"
    if "reproduced" in words:
        held = words.count("reproduced")
        return "partly", f"it holds for {held} of {len(words)} parts of its range"
    if all(word == "not reproduced" for word in words):
        return "not reproduced", "the interval excludes the claimed effect"
    if all(word == "not tested" for word in words):
        return "not tested", "the record holds nothing about it"
    if max(seeds) == 1:
        return "inconclusive", "one seed gives no interval"
    return "inconclusive", "the interval reaches across the margin"
