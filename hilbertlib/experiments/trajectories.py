"""Three random initializations on their way through both spaces: Figure 1 of the paper.

A seed here is a triple of initializations, trained on the same batches: the interval over seeds is
one over independent triples, not over the three runs of one figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from ..data import Dataset
from ..distance import l2_distance
from ..models import cnn4, measured_statistics, mlp, probabilities, seeded
from ..records import Claim, Record
from ..training import History, accuracy, train
from ..trajectory import Recorder, Trajectory, embed, l2_matrix, parameter_matrix
from .runner import HERE, Experiment, Place, Rows, Setting, dataset, run_cells

CLEAN, SHUFFLED = "as in Fig. 1", "40% of the labels shuffled"
_THREE = 3


@dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """Section 2.1 with the numbers of Figure 2's caption, whose network is the same.

    Attributes:
        examples: Size of the training set, drawn anew for each seed; None for all.
        measured: On how many held-out images functions are compared.
    """

    examples: int | None = None
    measured: int = 500
    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4


LIVE = Config(lr=0.03)
PAPER = Config(
    scale="paper",
    dataset="cifar10",
    departures=(),
    reduced=False,
    choices=(
        "ε, momentum, decay and network as in Figure 2, whose caption says it is the same network",
        "batches of 128, no augmentation, a constant learning rate: the paper mentions none",
        "40 epochs: the paper says that the training images are learned perfectly",
        "distances on the first 2,000 test images, our large validation batch; functions are read "
        "in evaluation mode, the start twice: BatchNorm's statistics are those of no image there",
        "an arm with shuffled labels is our control",
    ),
    examples=5000,
    measured=2000,
    epochs=40,
    batch_size=128,
)


def arms(config: Config) -> list[str]:
    """The figure, and a control that cannot be learned by reading the images."""
    return [CLEAN, SHUFFLED]


def network(config: Config, data: Dataset, seed: int) -> nn.Module:
    """An untrained network: four convolutional layers, or for the live size a perceptron."""
    if config.scale == "live":
        return seeded(lambda: mlp((int(np.prod(data.shape)), 64, 64, len(data.classes))), seed)
    return seeded(lambda: cnn4(data.shape, len(data.classes)), seed)


def measure(config: Config, arm: str, seed: int, place: Place = HERE) -> Rows:
    """Three initializations.

    Table ``runs``: accuracies of each initialization (``init``) at each epoch. Table ``apart``:
    at each epoch the mean distance between two of the three in both spaces, and the mean distance
    of each from its own start. Table ``ends``: accuracy on the training and on the test images at
    the end (``runs`` has that of the batches as they were met). Table ``start``, of networks with
    BatchNorm: the first mean distance in function space once more, with statistics of the training
    images in place of none. Table ``map``: the place of every snapshot on a map of each space, by
    classical multidimensional scaling, with the map's stress.
    """
    data = dataset(config.dataset)
    if config.examples is not None:
        data = data.subset(config.examples, seed)
    if arm == SHUFFLED:
        data = data.shuffle_labels(0.4, seed)
    data = data.to(place.device)
    calibrated = [calibrated_start(config, data, seed, i) for i in range(_THREE)]
    done = [_walk(config, data, seed, i, place) for i in range(_THREE)]
    walks = [walk for walk, _, _ in done]
    matrices = {"function": l2_matrix(walks), "parameters": parameter_matrix(walks)}
    return {
        "runs": [
            {"init": i, "epoch": e + 1, "train_accuracy": trained, "test_accuracy": tested}
            for i, (_, h, _) in enumerate(done)
            for e, (trained, tested) in enumerate(
                zip(h.train_accuracy, h.test_accuracy, strict=True)
            )
        ],
        "ends": [
            {"init": i, "train_accuracy": fitted, "test_accuracy": h.test_accuracy[-1]}
            for i, (_, h, fitted) in enumerate(done)
        ],
        **_start(calibrated),
        "apart": _apart({name: m.numpy() for name, m in matrices.items()}, len(walks[0])),
        "map": [row for name, m in matrices.items() for row in _map(name, m, len(walks[0]))],
    }


def _walk(
    config: Config, data: Dataset, seed: int, init: int, place: Place
) -> tuple[Trajectory, History, float]:
    model = network(config, data, _THREE * seed + init).to(place.device)
    sgd = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    folder = None if place.folder is None else place.folder / f"init{init}"
    recorder = Recorder(model, data.x_test[: config.measured], folder=folder, resume=True)
    history = train(
        model,
        data,
        sgd,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        on_epoch=recorder,
        checkpoint=place.checkpoint(f"init{init}"),
    )
    return recorder.trajectory(), history, accuracy(model, data.x_train, data.y_train)


def calibrated_start(config: Config, data: Dataset, seed: int, init: int) -> Tensor | None:
    """The outputs of an untrained network whose BatchNorm knows the training images; None without.

    A network is read in evaluation mode, with the running statistics of its layers. Before training
    those are 0 and 1, whatever the images are.
    """
    model = network(config, data, _THREE * seed + init).to(data.x_train.device)
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        return None
    known = measured_statistics(model, data.x_train, config.batch_size)
    return probabilities(known, data.x_test[: config.measured]).cpu()


def _start(outputs: Sequence[Tensor | None]) -> dict[str, list[dict[str, Any]]]:
    known = [f for f in outputs if f is not None]
    pairs = [float(l2_distance(f, g)) for f, g in combinations(known, 2)]
    return {"start": [{"function": float(np.mean(pairs))}]} if pairs else {}


def _apart(matrices: dict[str, np.ndarray], snapshots: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"epoch": e} for e in range(snapshots)]
    for name, matrix in matrices.items():
        blocks = matrix.reshape(_THREE, snapshots, _THREE, snapshots)
        for e, row in enumerate(rows):
            pairs = [blocks[i, e, j, e] for i in range(_THREE) for j in range(i)]
            row[name] = float(np.mean(pairs))
            row[f"{name}_travelled"] = float(np.mean([blocks[i, 0, i, e] for i in range(_THREE)]))
    return rows


def _map(space: str, matrix: torch.Tensor, snapshots: int) -> list[dict[str, Any]]:
    drawn = embed(matrix, method="classical")
    return [
        {
            "space": space, "init": k // snapshots, "epoch": k % snapshots, "x": float(x),
            "y": float(y), "stress": float(drawn.stress),
        }
        for k, (x, y) in enumerate(drawn.points)
    ]  # fmt: skip


def run(config: Config = LIVE, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Record:
    """The record of :func:`hilbertlib.experiments.runner.run_cells`, which names the options."""
    return run_cells(EXPERIMENT, config, seeds, **options)


EXPERIMENT = Experiment(
    name="trajectories",
    figures="Fig. 1",
    title="Do random initializations follow one path?",
    live=LIVE,
    paper=PAPER,
    arms=arms,
    measure=measure,
    seeds={"live": 3, "paper": 3},
)


# --- the claims ------------------------------------------------------------------------------


def apart(record: Record, arm: str = CLEAN) -> list[dict[str, np.ndarray]]:
    """For each triple the columns of ``apart``, an entry an epoch."""
    table = record["apart"].where(arm=arm)
    return [
        {name: np.array(cells) for name, cells in table.where(seed=seed).columns.items()}
        for seed in table.unique("seed")
    ]


def _each(
    measure: Callable[[dict[str, np.ndarray]], float], arm: str = CLEAN
) -> Callable[[Record], list[float]]:
    return lambda record: [measure(columns) for columns in apart(record, arm)]


def _tenth(values: np.ndarray) -> int:
    return max(1, (len(values) - 1) // 10)


def _same_start(record: Record) -> dict[str, list[float]]:
    """The networks as they are built, and with BatchNorm's statistics measured where it has any."""
    triples = {c["seed"][0]: c for c in apart(record)}
    functions = {"": {seed: c["function"][0] for seed, c in triples.items()}}
    if "start" in record.tables:
        rows = record["start"].where(arm=CLEAN).rows()
        measured = {row["seed"]: row["function"] for row in rows}
        functions = {"as built": functions[""], "BatchNorm's statistics measured": measured}
    return {
        name: [
            float(f / c["function"][-1] / (c["parameters"][0] / c["parameters"][-1]))
            for f, c in ((first[seed], c) for seed, c in triples.items() if seed in first)
        ]
        for name, first in functions.items()
    }


def _shared_path(c: dict[str, np.ndarray]) -> float:
    early = slice(1, 1 + _tenth(c["function"]))
    return float((c["function"][early] / c["function_travelled"][early]).mean())


def _late_divergence(c: dict[str, np.ndarray]) -> float:
    n = _tenth(c["function"])
    return float(c["function"][-n:].mean() / c["function"][1 : 1 + n].mean())


def _rises(c: dict[str, np.ndarray], column: str) -> float:
    return float(spearmanr(c["epoch"], c[column]).statistic)


def _accuracy(record: Record) -> dict[str, list[float]]:
    table = record["ends"].where(arm=CLEAN)
    out: dict[str, list[float]] = {"training images": [], "test images": []}
    for seed in table.unique("seed"):
        last = table.where(seed=seed)
        out["training images"].append(float(np.mean(1 - np.array(last["train_accuracy"]))) / 0.02)
        out["test images"].append(float(abs(np.mean(last["test_accuracy"]) - 0.5)) / 0.1)
    return out


CLAIMS = (
    Claim(
        id="traj-same-start",
        where="section 2.1, Fig. 1",
        sentence="Random initializations begin at about the same point in function space, far "
        "apart in parameter space.",
        reading="distance between two at the start over that at the end, functions over parameters",
        experiment="trajectories",
        effects=_same_start,
        margin=0.25,
        direction="below",
    ),
    Claim(
        id="traj-shared-path",
        where="Fig. 1",
        sentence="They follow about the same path at first.",
        reading="L2 distance between two over that travelled from the start, first tenth of the "
        "epochs",
        experiment="trajectories",
        effects=_each(_shared_path),
        margin=0.5,
        direction="below",
    ),
    Claim(
        id="traj-late-divergence",
        where="Fig. 1",
        sentence="They diverge in function space late in training.",
        reading="L2 distance between two in the last tenth of the epochs over that in the first",
        experiment="trajectories",
        effects=_each(_late_divergence),
        margin=1.2,
    ),
    Claim(
        id="traj-params-diverge",
        where="Fig. 1",
        sentence="In parameter space they keep moving apart throughout.",
        reading="rank correlation of the epoch with the ℓ2 distance between two",
        experiment="trajectories",
        effects=_each(partial(_rises, column="parameters")),
        margin=0.9,
    ),
    Claim(
        id="traj-leave-starts",
        where="section 2.1",
        sentence="In parameter space they move ever further from where they started.",
        reading="rank correlation of the epoch with the ℓ2 distance from the start (added after "
        "the run, with the margin of the row above)",
        experiment="trajectories",
        effects=_each(partial(_rises, column="parameters_travelled")),
        margin=0.9,
    ),
    Claim(
        id="traj-accuracy",
        where="Fig. 1",
        sentence="All fit the 5,000 training images, and about half of the test set.",
        reading="share of training images missed, as a multiple of 2%; distance of test accuracy "
        "from 50%, as a multiple of 10 points",
        experiment="trajectories",
        effects=_accuracy,
        margin=1.0,
        direction="below",
    ),
    Claim(
        id="guess-shuffled-divergence",
        where="our guess",
        sentence="With shuffled labels, too, they diverge in function space late in training.",
        reading="L2 distance between two in the last tenth of the epochs over that in the first, "
        "40% of the labels shuffled",
        experiment="trajectories",
        effects=_each(_late_divergence, SHUFFLED),
        margin=1.2,
    ),
)
