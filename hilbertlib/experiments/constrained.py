"""One training run, with HCGD or without, as a curve: what Figures 5 and 6 of the paper share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isfinite, log
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from ..data import Dataset
from ..records import Record
from ..training import History, train
from .runner import Place, Setting


@dataclass(frozen=True, kw_only=True)
class Training(Setting):
    """Section 3.3's λ, η and |X_V|, and how a run is made.

    Attributes:
        momentum: β, in the arms whose base is SGD.
        weight_decay: Part of the gradient, in every arm.
        clip_norm: The ℓ2 norm to which gradients are clipped; None: they are not.
        lam, inner_lr, validation_size: λ, η and the number of examples in X_V.
        images: Number of training images, the same ones for each seed; None: all.
        tail: Number of last epochs over which a run's end is averaged.
    """

    epochs: int = 12
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = None
    lam: float = 0.5
    inner_lr: float = 0.02
    validation_size: int = 256
    images: int | None = None
    tail: int = 2


def some(data: Dataset, config: Training) -> Dataset:
    """The training images that the setting takes, with the whole test set."""
    return data if config.images is None else data.subset(config.images, seed=0)


def curve(
    model: nn.Module,
    data: Dataset,
    optimizer: Optimizer,
    config: Training,
    seed: int,
    place: Place,
    scheduler: Any = None,
) -> list[dict[str, Any]]:
    """Train, and return a row an epoch: accuracy and loss in training and on the test set.

    A run whose loss or outputs stop being finite does not end the experiment. From that epoch on
    it is a classifier that knows nothing: ``diverged`` is true, accuracies and losses are chance's.
    """
    history = History()
    with suppress(FloatingPointError), without_denormals():
        train(
            model,
            data,
            optimizer,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=seed,
            validation_size=config.validation_size,
            clip_norm=config.clip_norm,
            scheduler=scheduler,
            history=history,
            checkpoint=place.checkpoint(),
        )
    return rows(history, config.epochs, len(data.classes))


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers too small for a full float32 (below 1.2e-38) are 0 in the block, on this thread.

    A CPU is many times slower with them, and a gradient that fades over 196 pixels of a sequence
    passes through them: without this an untrained LSTM's step takes about ten times as long.
    """
    # torch tells no one how it is set: half of the smallest ordinary number shows it.
    flushed = float(torch.tensor(torch.finfo(torch.float32).tiny) / 2) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def rows(history: History, epochs: int, classes: int) -> list[dict[str, Any]]:
    """The rows of :func:`curve`, of a run that may have ended early."""
    names = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
    chance = dict(zip(names, (1 / classes, log(classes)) * 2, strict=True))
    out: list[dict[str, Any]] = []
    diverged = False
    for epoch in range(epochs):
        measured = {name: getattr(history, name)[epoch : epoch + 1] for name in names}
        diverged = diverged or not all(v and isfinite(v[0]) for v in measured.values())
        row = chance if diverged else {name: float(v[0]) for name, v in measured.items()}
        out.append({"epoch": epoch + 1, **row, "diverged": diverged})
    return out


def by_epoch(record: Record, arm: str, column: str) -> np.ndarray:
    """A column of the table ``curve``, shape ``(seeds, epochs)``; ``(0, 0)`` for an arm not run."""
    table = record["curve"].where(arm=arm)
    found = [table.where(seed=seed)[column] for seed in table.unique("seed")]
    return np.array(found) if found else np.empty((0, 0))


def mean(curve: Sequence[dict[str, Any]], column: str) -> float:
    """The mean of a column over some epochs of a curve."""
    return sum(float(row[column]) for row in curve) / len(curve)


def end(curve: Sequence[dict[str, Any]], tail: int) -> dict[str, Any]:
    """A run's end: mean accuracies over its last ``tail`` epochs, and whether it diverged."""
    return {
        "final": mean(curve[-tail:], "test_accuracy"),
        "final_train": mean(curve[-tail:], "train_accuracy"),
        "diverged": curve[-1]["diverged"],
    }
