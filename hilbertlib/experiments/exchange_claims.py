"""What the paper says of the walk through both spaces (section 2.2, appendices A and B), as tests.

Everything is judged on a record of :mod:`hilbertlib.experiments.exchange_rate`. "Early" and "late"
are the first and the last quarter of the epochs throughout.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from ..records import Claim, Record, Table
from ..verdicts import Direction, Effects
from .estimator import FIG_2, FIG_B6
from .exchange_rate import FIG_A4, FIG_A5

Measure = Callable[["Walk"], float]
SCALES = ("updates", "epoch", "start")
_GUESSING = 0.1  # of ten classes
_NAMES = {"updates": "between updates", "epoch": "between epochs", "start": "from initialization"}


class Walk:
    """One run of one arm, or its epochs up to ``last``: arrays with an entry an epoch, read from
    the tables of the record."""

    def __init__(self, updates: Table, epochs: Table, last: float = np.inf) -> None:
        def column(table: Table, name: str) -> np.ndarray:
            return np.array(table[name])[np.array(table["epoch"]) <= last]

        self.at = at = column(updates, "epoch")
        self.epochs = column(epochs, "epoch")
        self.l2 = {s: column(epochs, f"l2_{s}") for s in ("epoch", "start")}
        self.parameters = {s: column(epochs, f"parameters_{s}") for s in ("epoch", "start")}
        self.every = {s: column(updates, s) for s in ("l2", "parameters")}
        for space, name in ((self.l2, "l2"), (self.parameters, "parameters")):
            space["updates"] = np.array([self.every[name][at == e].mean() for e in self.epochs])
        self.error = column(epochs, "test_error")
        self.path = column(epochs, "path")

    def ratio(self, scale: str) -> np.ndarray:
        """L2 over ℓ2 distance at a scale, an entry an epoch."""
        return self.l2[scale] / self.parameters[scale]


def quarter(values: np.ndarray, which: int) -> np.ndarray:
    """The first (0) to last (3) quarter of a run."""
    return np.array_split(values, 4)[which]


def late_over_early(values: np.ndarray) -> float:
    """Mean over the last quarter of the epochs over that in the first."""
    return float(quarter(values, 3).mean() / quarter(values, 0).mean())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one of the two does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def walks(record: Record, arm: str, last: float = np.inf) -> dict[int, Walk]:
    """The runs of an arm by seed that came to their end and learned something; perhaps none.

    How the distances of a run change while it learns cannot be asked of one that diverged, or that
    knows at its end less than twice what guessing does.
    """
    updates, epochs = (record[name].where(arm=arm) for name in ("updates", "epochs"))
    runs = {seed: epochs.where(seed=seed) for seed in epochs.unique("seed")}
    whole = max((len(run["epoch"]) for run in runs.values()), default=0)
    return {
        seed: Walk(updates.where(seed=seed), run, last)
        for seed, run in runs.items()
        if len(run["epoch"]) == whole and run["train_accuracy"][-1] > 2 * _GUESSING
    }


def each(record: Record, measure: Measure, arm: str = FIG_2) -> list[float]:
    """One value a seed."""
    return [measure(walk) for walk in walks(record, arm).values()]


def at_scales(
    record: Record, measure: Callable[[Walk, str], float], scales: Sequence[str] = SCALES
) -> dict[str, list[float]]:
    """One value a seed for each scale."""
    return {_NAMES[s]: each(record, partial(_swap, measure, s)) for s in scales}


def _swap(measure: Callable[[Walk, str], float], scale: str, walk: Walk) -> float:
    return measure(walk, scale)


def versus(record: Record, measure: Measure, arm: str, base: str) -> list[float]:
    """A measure of one arm over that of another, for each seed of both, over the epochs that both
    arms have."""
    table = record["epochs"]
    shared = min(max(table.where(arm=a)["epoch"], default=0) for a in (arm, base))
    ours, theirs = (walks(record, a, shared) for a in (arm, base))
    return [measure(ours[s]) / measure(theirs[s]) for s in ours if s in theirs]


# --- the measures ----------------------------------------------------------------------------


def converged(walk: Walk) -> int:
    """The index of the first epoch whose test error is within a point of its late median."""
    return int(np.argmax(walk.error < np.median(quarter(walk.error, 3)) + 0.01))


def settled(walk: Walk) -> float:
    """The update ratio once test error has converged: in the second half of what follows over the
    first; at least of the last two epochs."""
    start = min(converged(walk), len(walk.epochs) - 2)
    first, second = np.array_split(walk.ratio("updates")[start:], 2)
    return float(second.mean() / first.mean())


def update_correlation(walk: Walk, which: int) -> float:
    """Rank correlation of L2 and ℓ2 over the updates of one quarter of the epochs."""
    chosen = np.isin(walk.at, quarter(walk.epochs, which))
    return correlation(walk.every["l2"][chosen], walk.every["parameters"][chosen])


def lowest_correlation(walk: Walk) -> float:
    """The smallest rank correlation of the two distances, over the scales and the four quarters."""
    found = [update_correlation(walk, q) for q in range(4)]
    for scale in ("epoch", "start"):
        halves = zip(
            np.array_split(walk.l2[scale], 2), np.array_split(walk.parameters[scale], 2),
            strict=True,
        )  # fmt: skip
        found += [correlation(a, b) for a, b in halves]
    return min(found)


def fastest_error(walk: Walk) -> float:
    """Rank correlation over epochs: how unusual the update ratio is, how fast test error falls.

    From epoch to epoch test error jumps up and down more than it falls: its fall is that of the
    falling curve nearest to it.
    """
    ratio = walk.ratio("updates")
    unusual = np.abs(ratio - np.median(quarter(ratio, 3)))
    falling = IsotonicRegression(increasing=False).fit_transform(walk.epochs, walk.error)
    return correlation(unusual[1:], -np.diff(falling))


def _relative(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


def spread(walk: Walk) -> float:
    """The update ratio's standard deviation over epochs over its mean."""
    return _relative(walk.ratio("updates"))


def changing(walk: Walk) -> float:
    """The update ratio's largest mean over a quarter of the epochs, over its smallest."""
    means = [quarter(walk.ratio("updates"), which).mean() for which in range(4)]
    return float(max(means) / min(means))


def slowing(walk: Walk) -> float:
    """Growth of the distance from the start per epoch, late over early, over the same for the
    distance between epochs."""
    growth = np.diff(np.concatenate([[0.0], walk.l2["start"]]))
    return late_over_early(np.abs(growth)) / late_over_early(walk.l2["epoch"])


def first_epoch(walk: Walk) -> float:
    """The first epoch's share of the path: of the sum of the distances between updates."""
    return float(walk.path[0] / walk.path.sum())


def since(walk: Walk, epochs: slice) -> float:
    """The ratio between updates in the last quarter of the epochs over its mean in others."""
    ratio = walk.ratio("updates")
    return float(quarter(ratio, 3).mean() / ratio[epochs].mean())


def contrast(record: Record) -> list[float]:
    """The smaller of two: by how much L2 between epochs grows from early to late without decay,
    and by how much it shrinks with it. A value for each seed of both."""
    without, decayed = (
        {seed: late_over_early(walk.l2["epoch"]) for seed, walk in walks(record, arm).items()}
        for arm in (FIG_A5, FIG_A4)
    )
    return [min(without[s], 1 / decayed[s]) for s in without if s in decayed]


def _cost(walk: Walk, scale: str) -> float:
    return float(np.median(1 / walk.ratio(scale)))


def _late(walk: Walk, scale: str) -> float:
    return float(quarter(walk.parameters[scale], 3).mean())


def _growth(walk: Walk, scale: str) -> float:
    return late_over_early(walk.parameters[scale])


def _claim(
    id: str,
    where: str,
    sentence: str,
    reading: str,
    effects: Callable[[Record], Effects],
    margin: float | tuple[float, float],
    direction: Direction = "above",
    departs: bool = False,
) -> Claim:
    return Claim(
        id, where, sentence, reading, "exchange_rate", effects, margin, direction, departs=departs
    )


CLAIMS = (
    _claim(
        "ratio-falls", "section 2.2, Fig. 2", "The L2/ℓ2 ratio falls during training.",
        "L2/ℓ2 between updates, late over early",
        lambda r: each(r, lambda w: late_over_early(w.ratio("updates"))), 0.8, "below",
    ),
    _claim(
        "ratio-three-scales", "Fig. 2", "The change shows between updates, between epochs and from "
        "the initialization.", "L2/ℓ2, late over early, at each scale",
        lambda r: at_scales(r, lambda w, s: late_over_early(w.ratio(s))), 0.8, "below",
    ),
    _claim(
        "ratio-settles", "Figs. 2, A.1", "The ratio settles at about one value once test error "
        "does.", "L2/ℓ2 between updates, from the epoch on in which test error comes within a "
        "point of its late median: the second half of these epochs over the first (read so after "
        "one seed was seen)",
        lambda r: each(r, settled), (0.9, 1.1), "within",
    ),
    _claim(
        "ratio-epoch-negative", "Fig. 2b", "Between epochs the two distances are negatively "
        "correlated for most of training.",
        "rank correlation over the epochs, without the first tenth",
        lambda r: each(r, lambda w: correlation(*_without_tenth(w))), -0.1, "below",
    ),
    _claim(
        "ratio-init-positive", "Fig. 2c", "From the initialization they are cleanly and positively "
        "related.", "rank correlation over the epochs",
        lambda r: each(r, lambda w: correlation(w.l2["start"], w.parameters["start"])), 0.7,
    ),
    _claim(
        "ratio-updates-late", "Fig. 2a", "Between updates they correlate late, less so early.",
        "rank correlation over updates: late, and late less early",
        lambda r: {
            "late": each(r, lambda w: update_correlation(w, 3)),
            "late less early": each(
                r, lambda w: update_correlation(w, 3) - update_correlation(w, 0)
            ),
        }, 0.1,
    ),
    _claim(
        "move-after-convergence", "Fig. 2", "Networks keep moving in both spaces after test error "
        "has converged.", "distance between epochs, late over early",
        lambda r: {
            "function": each(r, lambda w: late_over_early(w.l2["epoch"])),
            "parameters": each(r, lambda w: late_over_early(w.parameters["epoch"])),
        }, 0.1,
    ),
    _claim(
        "ratio-fastest-error", "Fig. A.1", "The epochs with unusual ratios are those in which test "
        "error changes fastest.", "rank correlation over epochs of |L2/ℓ2 less its late median| "
        "with the fall of test error, that of the falling curve nearest to it",
        lambda r: each(r, fastest_error), 0.3,
    ),
    _claim(
        "ratio-no-bn", "Fig. A.4", "Without BatchNorm larger parameter changes give the same "
        "function change, and the ratio between updates varies more over the epochs.",
        "without over with BatchNorm: median ℓ2/L2 at two scales; the ratio's relative spread",
        lambda r: {
            "cost between updates": versus(r, lambda w: _cost(w, "updates"), FIG_A4, FIG_2),
            "cost between epochs": versus(r, lambda w: _cost(w, "epoch"), FIG_A4, FIG_2),
            "spread over epochs": versus(r, spread, FIG_A4, FIG_2),
        }, 1.1, departs=True,
    ),
    _claim(
        "ratio-changes-without", "Figs. A.4, A.5", "Without BatchNorm, and without weight decay "
        "too, the ratio still changes during training.",
        "L2/ℓ2 between updates, means over the quarters of the run: the largest over the smallest",
        lambda r: {
            "without BatchNorm": each(r, changing, FIG_A4),
            "without decay": each(r, changing, FIG_A5),
        }, 1.25, departs=True,
    ),
    _claim(
        "no-bn-updates", "Fig. A.4", "BatchNorm keeps the size of updates steadier.",
        "ℓ2 length of an update, standard deviation over epochs over mean: without over with "
        "BatchNorm",
        lambda r: versus(r, lambda w: _relative(w.parameters["updates"]), FIG_A4, FIG_2), 1.1,
        departs=True,
    ),
    _claim(
        "ratio-no-wd", "Figs. A.5, A.4", "Without weight decay ℓ2 distances are larger at all "
        "scales, most of all late.", "ℓ2 distance without decay over with it, neither with "
        "BatchNorm: late, and late over the same early",
        lambda r: {
            f"{_NAMES[s]}, {when}": versus(r, partial(_swap, measure, s), FIG_A5, FIG_A4)
            for when, measure in (("late", _late), ("late over early", _growth))
            for s in SCALES
        }, 1.1, departs=True,
    ),
    _claim(
        "ratio-no-wd-epoch", "Figs. A.5, A.4", "Without weight decay the L2 distance from the last "
        "epoch grows during training; with it, it shrinks.",
        "the smaller of two: L2 between epochs, late over early without decay, early over late "
        "with it (made one number after one seed was seen)", contrast, 1.0, departs=True,
    ),
    _claim(
        "ratio-no-consistent", "section 2.2", "There is no consistent positive correlation between "
        "the two distances.", "the smallest rank correlation: between updates in each quarter of "
        "the run, between epochs and from the start in each half",
        lambda r: each(r, lowest_correlation), 0.2, "below",
    ),
    _claim(
        "init-slows", "section 2.2", "Movement relative to the initialization slows late; relative "
        "to the last epoch it does not, or less.", "growth of L2 from the start an "
        "epoch, late over early, over the same for L2 between epochs: whether the first slows "
        "more",
        lambda r: each(r, slowing), 0.5, "below",
    ),
    _claim(
        "mnist-early", "Fig. B.6", "On MNIST most of the function's movement is in the first "
        "epoch.", "share of the first epoch in the sum of L2 distances between updates, over all "
        "epochs of the run, whose number is our choice",
        lambda r: each(r, first_epoch, FIG_B6), 0.5,
    ),
    _claim(
        "mnist-ratio", "Fig. B.6", "On MNIST the relation changes in the same way after test error "
        "converges.", "L2/ℓ2 between updates: late over the first epoch, in which most of the "
        "error goes; late over the three epochs after it (this part added after the run)",
        lambda r: {
            "from the first epoch": each(r, lambda w: since(w, slice(1)), FIG_B6),
            "from the three after it": each(r, lambda w: since(w, slice(1, 4)), FIG_B6),
        }, 0.8, "below",
    ),
)  # fmt: skip


def _without_tenth(walk: Walk) -> tuple[np.ndarray, np.ndarray]:
    skip = max(1, len(walk.epochs) // 10)
    return walk.l2["epoch"][skip:], walk.parameters["epoch"][skip:]
