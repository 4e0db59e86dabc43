"""One run of the comparison of chapter 11: one network, one method, every step measured."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..distance import l2_distance
from ..models import mlp, seeded
from ..training import History, Progress, accuracy, batches
from ..trajectory import Movement
from .contenders import Knobs, cost, stepper

EPOCHS, COMPUTE = "equal epochs", "equal compute"
READINGS = (EPOCHS, COMPUTE)


@dataclass(frozen=True, kw_only=True)
class Config(Knobs):
    """One task and one budget for all.

    Attributes:
        epochs: For the reading at equal epochs. At equal compute each method stops when it has
            made as many gradient evaluations as SGD in these.
        aside: Training images that no method trains on: rates are tuned on them.
    """

    departures: tuple[str, ...] = (
        "the comparison is this book's own: the paper has none like it, and it has one scale",
    )
    epochs: int = 15
    hidden: tuple[int, ...] = (64, 64)
    aside: int = 300


LIVE = Config()


@dataclass(frozen=True)
class Run:
    """One run, measured on held-out images.

    Attributes:
        l2, ell2: Lengths of the single updates in the two spaces, shape ``(S,)``.
        marks: Numbers of steps after which the accuracy was taken.
        accuracy: The accuracies there.
        start: L2 distance from the initialization at the end.
    """

    l2: np.ndarray
    ell2: np.ndarray
    marks: list[int]
    accuracy: list[float]
    start: float

    @property
    def path(self) -> float:
        """Squared path length in function space."""
        return float(np.square(self.l2).sum())

    @property
    def rate(self) -> float:
        """Exchange rate: length of the path in function space over that in parameter space."""
        return float(self.l2.sum() / self.ell2.sum())

    def accuracy_at(self, step: int) -> float:
        """The accuracy after so many steps; one of ``marks``."""
        return self.accuracy[self.marks.index(step)]


def split(data: Dataset, config: Config, tuning: bool) -> Dataset:
    """The task: held out are the images put aside for tuning, or else the test images.

    What is trained on is the same for both.
    """
    n = len(data.y_train) - config.aside
    kept = replace(data, x_train=data.x_train[:n], y_train=data.y_train[:n])
    if not tuning:
        return kept
    return replace(kept, x_test=data.x_train[n:], y_test=data.y_train[n:])


def network(config: Config, data: Dataset, seed: int) -> nn.Module:
    """An untrained perceptron."""
    sizes = (int(np.prod(data.shape)), *config.hidden, len(data.classes))
    return seeded(lambda: mlp(sizes), seed)


def steps(config: Config, data: Dataset, method: str, reading: str) -> int:
    """How many steps a method may take."""
    full = config.epochs * per_epoch(config, data)
    return full if reading == EPOCHS else math.floor(full / cost(method, config))


def per_epoch(config: Config, data: Dataset) -> int:
    """Steps in an epoch."""
    return -(-len(data.y_train) // config.batch_size)


def run(data: Dataset, method: str, lr: float, seed: int, config: Config, upto: int) -> Run:
    """Train one network for so many steps. Batches depend on the seed alone.

    Raises:
        FloatingPointError: If the loss, its gradient or the parameters are no longer finite.
    """
    model = network(config, data, seed)
    step = stepper(method, model, lr, config)
    moved = Movement(model, data.x_test, function=_probabilities)
    first = _probabilities(model, data.x_test)
    epoch = per_epoch(config, data)
    # Early, while much happens, then once an epoch; and where the compute of others is used up.
    due = {0, 1, 2, 4, 8, *range(0, upto, epoch), steps(config, data, method, COMPUTE), upto}
    marks, right = [], []
    for k, batch in enumerate([None, *_batches(data, config, seed, upto)]):
        if batch is not None:
            step(*batch)
        moved(Progress(k, k // epoch, math.nan, History()))
        if k in due:
            marks.append(k)
            right.append(accuracy(model, data.x_test, data.y_test))
    start = float(l2_distance(_probabilities(model, data.x_test), first))
    return Run(np.array(moved.l2), np.array(moved.parameter), marks, right, start)


@torch.no_grad()
def _probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Softmax outputs of a network that is the same in training: at every step, time counts."""
    return model(x).softmax(dim=1)


def _batches(
    data: Dataset, config: Config, seed: int, upto: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A batch, its labels and an X_V without its examples, so many times."""
    n, made = len(data.y_train), 0
    order, other = (torch.Generator().manual_seed(s) for s in (seed, 10_000 + seed))
    while True:
        for index, rest in batches(n, config.batch_size, order):
            if made == upto:
                return
            made += 1
            held = rest[torch.randperm(len(rest), generator=other)[: config.validation_size]]
            yield data.x_train[index], data.y_train[index], data.x_train[held]
