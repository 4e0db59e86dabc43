"""How many examples measure a distance: Figures 3 and A.2 of the paper, in small.

One network is trained; the function is kept after every update and every epoch. Distances at
three scales (between updates, between epochs, from the initialization) are then estimated from
samples of held-out images. The held-out images stand for the whole distribution: samples are drawn
from them with replacement, and the distance over all of them is the truth.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset
from ..distance import L2Estimate, Reduction, estimate_l2, l2_distance
from ..models import mlp, seeded
from ..records import Claim, Record, Table
from ..training import Progress, train
from ..trajectory import Recorder
from .common import live_record

SCALES = ("between updates", "between epochs", "from the initialization")
FIG_2, FIG_B6 = "Fig. 2", "Fig. B.6"
"""The arms of the network whose walk is measured at the paper's scale."""


@dataclass(frozen=True)
class Config:
    """Settings of a run: plain SGD, as for the paper's networks, in small."""

    epochs: int = 24
    lr: float = 0.1
    momentum: float = 0.9
    batch_size: int = 64
    hidden: tuple[int, ...] = (64, 64)


@dataclass(frozen=True)
class Pair:
    """Two functions of one run: outputs of shape ``(N, C)``, the scale and the epoch."""

    scale: str
    epoch: float
    before: Tensor
    after: Tensor


def snapshots(dataset: Dataset, seed: int, config: Config = Config()) -> list[Pair]:
    """Every pair that the figures compare: one each epoch and scale (updates: the epoch's last)."""
    sizes = (int(np.prod(dataset.shape)), *config.hidden, len(dataset.classes))
    model = seeded(lambda: mlp(sizes), seed)
    sgd = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    per_epoch = -(-len(dataset.x_train) // config.batch_size)
    recorder = Recorder(model, dataset.x_test, parameters=False)

    def around_each_epochs_last_update(progress: Progress) -> None:
        if progress.step % per_epoch in (0, per_epoch - 1):
            recorder(progress)

    train(
        model,
        dataset,
        sgd,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        on_step=around_each_epochs_last_update,
    )
    run = recorder.trajectory()
    outputs = dict(zip(run.steps.tolist(), run.outputs, strict=True))
    pairs = []
    for epoch in range(1, config.epochs + 1):
        now = epoch * per_epoch
        starts = (now - 1, now - per_epoch, 0)
        for scale, then in zip(SCALES, starts, strict=True):
            pairs.append(Pair(scale, epoch, outputs[then], outputs[now]))
    return pairs


def sample_distances(
    pair: Pair, n: int, repeats: int, seed: int = 0, reduction: Reduction = "rms"
) -> tuple[np.ndarray, float]:
    """Distances measured on ``repeats`` samples of ``n`` images, and how often the interval held.

    Returns the estimates, shape ``(repeats,)``, and the share of the 95% intervals that contain
    the distance over all images.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = float(l2_distance(pair.before, pair.after, reduction))
    found, covered = np.empty(repeats), 0
    for k in range(repeats):
        chosen = torch.randint(len(pair.before), (n,), generator=generator)
        estimate = estimate_l2(pair.before[chosen], pair.after[chosen], reduction=reduction)
        found[k] = estimate.distance
        covered += estimate.low <= truth <= estimate.high
    return found, covered / repeats


def estimate(pair: Pair, reduction: Reduction = "rms") -> L2Estimate:
    """The distance over all held-out images, with its per-example standard deviation."""
    return estimate_l2(pair.before, pair.after, reduction=reduction)


def concentration(pair: Pair, fractions: Sequence[float]) -> np.ndarray:
    """The share of the squared distance carried by each fraction of the images, largest first."""
    squares = (pair.after - pair.before).double().square().flatten(1).sum(1)
    running = squares.sort(descending=True).values.cumsum(0) / squares.sum()
    counts = [max(1, round(f * len(squares))) for f in fractions]
    return np.array([float(running[k - 1]) for k in counts])


def run(dataset: Dataset, seeds: Sequence[int], config: Config = Config()) -> Record:
    """Table ``pairs``: for each seed, scale and epoch the distance, its std and examples needed.

    Table ``carried``: for each seed the share of the squared distance between the last two epochs
    on a tenth of the images. ``needed`` is the number of examples for ±5% at 95% confidence, for
    the root of the mean
    square; ``needed_mean`` for the mean of norms.
    """
    started = time.perf_counter()
    rows, carried = [], []
    for seed in seeds:
        pairs = snapshots(dataset, seed, config)
        carried.append({"seed": seed, "share": float(concentration(pairs[-2], [0.1])[0])})
        for pair in pairs:
            rows.append({"seed": seed, **pair_row(pair)})
    return live_record(
        "estimator",
        {"pairs": Table.from_rows(rows), "carried": Table.from_rows(carried)},
        config=config,
        seeds=seeds,
        dataset=dataset,
        seconds=time.perf_counter() - started,
    )


def pair_row(pair: Pair) -> dict[str, float | str]:
    """A row of the table ``pairs``: the distance, its std and the examples it needs."""
    rms, mean = estimate(pair), estimate(pair, "mean_norm")
    return {
        "scale": pair.scale,
        "epoch": pair.epoch,
        "distance": rms.distance,
        "std": rms.std,
        "needed": rms.examples_needed(0.05),
        "needed_mean": mean.examples_needed(0.05),
    }


def per_seed(
    record: Record, scale: str, measure: Callable[[Table], float], arm: str = FIG_2
) -> list[float]:
    """A measure of each seed's rows of ``pairs``, of one arm where the record has several."""
    table = _of(record["pairs"].where(scale=scale), arm)
    return [measure(table.where(seed=seed)) for seed in table.unique("seed")]


def arms(record: Record) -> list[str]:
    """The arms that the record holds; a record of one network, which names none, is Figure 3's."""
    return record["pairs"].unique("arm") if "arm" in record["pairs"].columns else [FIG_2]


def carried_by_a_tenth(record: Record, arm: str = FIG_2) -> list[float]:
    """Per seed, the share of the squared distance between the last two epochs on a tenth of the
    images."""
    return _of(record["carried"], arm)["share"]


def _of(table: Table, arm: str) -> Table:
    return table.where(arm=arm) if "arm" in table.columns else table


def slopes(record: Record, scale: str) -> list[float]:
    """Per seed, the slope of log std against log distance: 1 where they are proportional."""
    return per_seed(
        record, scale, lambda t: float(np.polyfit(np.log(t["distance"]), np.log(t["std"]), 1)[0])
    )


def median_needed(
    record: Record, scale: str, which: str = "needed", arm: str = FIG_2
) -> list[float]:
    """Per seed, the median over epochs of the number of examples for ±5%."""
    return per_seed(record, scale, lambda t: float(np.median(t[which])), arm)


def early_over_late(record: Record, scale: str) -> list[float]:
    """Per seed, std over distance in the first tenth of the epochs over that in the last quarter.

    A tenth, since what is early from the initialization is over after an epoch or two.
    """

    def measure(table: Table) -> float:
        relative = np.array(table["std"]) / np.array(table["distance"])
        tenth, quarter = (max(1, len(relative) // part) for part in (10, 4))
        return float(relative[:tenth].mean() / relative[-quarter:].mean())

    return per_seed(record, scale, measure)


def on_another_data_set(record: Record) -> dict[str, list[float]]:
    """For each scale, per seed: std over distance for Figure B.6 over that for Figure 3."""

    def relative(table: Table) -> float:
        return float(np.median(np.array(table["std"]) / np.array(table["distance"])))

    if "arm" not in record["pairs"].columns:
        return {"": []}
    both = {
        scale: zip(
            per_seed(record, scale, relative, FIG_B6), per_seed(record, scale, relative),
            strict=False,
        )
        for scale in SCALES
    }  # fmt: skip
    return {scale: [there / here for there, here in pairs] for scale, pairs in both.items()}


def coverage(
    pairs: Mapping[str, Pair], sizes: Sequence[int], repeats: int = 400
) -> dict[str, list[float]]:
    """How often the 95% interval from ``n`` images holds the truth, for each pair and ``n``."""
    return {
        name: [sample_distances(pair, n, repeats)[1] for n in sizes] for name, pair in pairs.items()
    }


CLAIMS = (
    Claim(
        id="est-hundreds",
        where="section 2.3, Fig. 3",
        sentence="A few hundred examples estimate a distance to within a few percent.",
        reading="median over epochs of the examples that give ±5% at 95% confidence, at the two "
        "scales of the figure",
        experiment="estimator",
        effects=lambda r: {scale: median_needed(r, scale) for scale in (SCALES[0], SCALES[2])},
        margin=500.0,
        direction="below",
        unit="images",
    ),
    Claim(
        id="est-between-updates",
        where="Fig. 3C",
        sentence="Between updates the standard deviation is proportional to the distance.",
        reading="slope of log std against log distance over the epochs",
        experiment="estimator",
        effects=lambda r: slopes(r, SCALES[0]),
        margin=(0.85, 1.15),
        direction="within",
    ),
    Claim(
        id="est-from-init",
        where="Fig. 3F",
        sentence="From the initialization it is not: early distances have more variance for their "
        "size.",
        reading="std over distance in the first tenth of the epochs over that in the last quarter",
        experiment="estimator",
        effects=lambda r: early_over_late(r, SCALES[2]),
        margin=1.1,
    ),
    Claim(
        id="est-epochs",
        where="Fig. A.2",
        sentence="Between epochs about a thousand examples are needed for a few percent.",
        reading="median over epochs of the examples for ±5%",
        experiment="estimator",
        effects=lambda r: median_needed(r, SCALES[1]),
        margin=(500.0, 2000.0),
        direction="within",
        unit="images",
    ),
    Claim(
        id="est-epochs-scale",
        where="Fig. A.2",
        sentence="Between epochs and between updates the standard deviations are of like scale.",
        reading="median examples for ±5%, which go as (σ/D)², between epochs over those between "
        "updates",
        experiment="estimator",
        effects=lambda r: [
            a / b
            for a, b in zip(median_needed(r, SCALES[1]), median_needed(r, SCALES[0]), strict=True)
        ],
        margin=(0.5, 2.0),
        direction="within",
    ),
    Claim(
        id="est-mnist",
        where="Fig. B.6",
        sentence="The standard deviation is higher on MNIST than on CIFAR-10.",
        reading="median over epochs of std over distance, MNIST over CIFAR-10",
        experiment="estimator",
        effects=on_another_data_set,
        margin=1.0,
    ),
    Claim(
        id="book-mean-norm",
        where="this chapter",
        sentence="The mean of norms needs more examples than the root of the mean square.",
        reading="examples for ±5% between epochs, mean of norms over root of the mean square",
        experiment="estimator",
        effects=lambda r: [
            a / b
            for a, b in zip(
                median_needed(r, SCALES[1], "needed_mean"), median_needed(r, SCALES[1]), strict=True
            )
        ],
        margin=1.0,
    ),
    Claim(
        id="book-few-carry",
        where="this chapter",
        sentence="Late in training a tenth of the images carries most of the distance.",
        reading="share of the squared distance between the last two epochs on the top tenth",
        experiment="estimator",
        effects=carried_by_a_tenth,
        margin=0.5,
    ),
)
