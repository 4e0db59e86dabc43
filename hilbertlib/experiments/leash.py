"""What Hilbert-constrained gradient descent does to a run: section 3.2 and figure C.7 of the paper.

Distances between functions are measured on held-out images, over softmax probabilities. The leash
itself (X_V) is drawn from the training images, as in the paper.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Dataset
from ..distance import l2_distance
from ..hcgd import HilbertConstrained, Norm
from ..models import mlp, seeded
from ..training import History, probabilities, train
from ..trajectory import Movement, Recorder, embed, l2_matrix

HIDDEN = (64, 64)


@dataclass(frozen=True)
class Setting:
    """How a run is made; the defaults are the paper's λ, η, |X_V| and our batch, ε and β."""

    lam: float = 0.5  # λ; 0 with one correction is plain SGD
    inner_lr: float = 0.02  # η
    lr: float = 0.1  # ε
    momentum: float = 0.9  # β
    corrections: int = 1  # n
    norm: Norm = "rms"
    batch_size: int = 64
    validation_size: int = 256
    epochs: int = 30


@dataclass(frozen=True)
class Run:
    """One run: per step ``(S,)``, per epoch ``(E,)``, and the function at each epoch's end.

    ``l2`` and ``ell2`` are the lengths of the single updates in the two spaces; ``outputs`` has
    shape ``(E + 1, N, C)`` and starts before training.
    """

    setting: Setting
    seed: int
    l2: np.ndarray
    ell2: np.ndarray
    history: History
    outputs: Tensor

    @property
    def cumulative(self) -> np.ndarray:
        """Running sum of the squared L2 distances between updates, ``(S,)``: figure C.7."""
        return np.cumsum(np.square(self.l2))

    @property
    def cumulative_parameters(self) -> np.ndarray:
        """The same sum for parameters, ``(S,)``."""
        return np.cumsum(np.square(self.ell2))


def run(
    dataset: Dataset,
    seed: int,
    setting: Setting = Setting(),
    leash_on: Tensor | None = None,
) -> Run:
    """Train one network on a leash and measure every update.

    Parameters
    ----------
    leash_on : Tensor of shape ``(M, *shape)``, optional
        Inputs that X_V is drawn from in place of the training images: for controls.
    """
    model = new_network(dataset, seed)
    sgd = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=setting.momentum)
    optimizer: Any = HilbertConstrained(
        sgd,
        lam=setting.lam,
        inner_lr=setting.inner_lr,
        corrections=setting.corrections,
        norm=setting.norm,
    )
    if leash_on is not None:
        optimizer = _LeashedOn(optimizer, model, leash_on, setting.validation_size, seed)
    steps = Movement(model, dataset.x_test)
    epochs = Recorder(model, dataset.x_test, parameters=False)
    history = train(
        model,
        dataset,
        optimizer,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        seed=seed,
        validation_size=setting.validation_size,
        on_step=steps,
        on_epoch=epochs,
    )
    moved = np.array(steps.l2), np.array(steps.parameter)
    return Run(setting, seed, *moved, history, epochs.trajectory().outputs)


def new_network(dataset: Dataset, seed: int) -> nn.Module:
    """An untrained perceptron with two hidden layers of 64 ReLU units."""
    sizes = (int(np.prod(dataset.shape)), *HIDDEN, len(dataset.classes))
    return seeded(lambda: mlp(sizes), seed)


class _LeashedOn:
    """An optimizer that measures its steps on inputs of our choice, whatever the loop offers."""

    def __init__(
        self, inner: HilbertConstrained, model: nn.Module, x: Tensor, size: int, seed: int
    ) -> None:
        self._inner, self._model, self._x, self._size = inner, model, x, size
        self._generator = torch.Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, outputs: Any) -> None:
        chosen = torch.randint(len(self._x), (self._size,), generator=self._generator)
        x = self._x[chosen]
        self._inner.step(lambda: self._model(x).softmax(dim=1))


def map_of_runs(runs: Sequence[Run]) -> tuple[list[np.ndarray], float]:
    """One map in the plane of all runs' functions, epoch by epoch, and its stress.

    Returns one array of shape ``(E + 1, 2)`` a run; all runs share one distance matrix, so the
    same function stands at the same place in each.
    """
    trajectories = [_Outputs(r.outputs) for r in runs]
    drawn = embed(l2_matrix(trajectories), method="classical")  # type: ignore[arg-type]
    ends = np.cumsum([len(r.outputs) for r in runs])[:-1]
    return np.split(drawn.points, ends), drawn.stress


@dataclass(frozen=True)
class _Outputs:
    outputs: Tensor
    folder: None = None

    def __len__(self) -> int:
        return len(self.outputs)


# --- a single step under the microscope ------------------------------------------------------


def overshoot(
    model: nn.Module,
    dataset: Dataset,
    rates: Sequence[float],
    *,
    lam_eta: float = 0.01,
    norm: Norm = "rms",
    steps: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> np.ndarray:
    """How far the function moves with a correction over how far without, ``(rates, steps)``.

    Each column is one training batch, its plain SGD step at each rate ε, and the same step
    corrected once with X_V of 256 training images. Both distances are measured on that X_V.
    Above 1 the correction made the step longer.
    """
    generator = torch.Generator().manual_seed(seed)
    ratios = np.empty((len(rates), steps))
    for k in range(steps):
        order = torch.randperm(len(dataset.x_train), generator=generator)
        batch, held = order[:batch_size], order[batch_size : batch_size + 256]
        x, y, x_v = dataset.x_train[batch], dataset.y_train[batch], dataset.x_train[held]
        before = probabilities(model, x_v)
        for i, rate in enumerate(rates):
            plain, leashed = (
                probabilities(_one_step(model, x, y, x_v, rate, lam, norm), x_v)
                for lam in (0.0, lam_eta)
            )
            ratios[i, k] = float(l2_distance(leashed, before) / l2_distance(plain, before))
    return ratios


def _one_step(
    model: nn.Module, x: Tensor, y: Tensor, x_v: Tensor, lr: float, lam_eta: float, norm: Norm
) -> nn.Module:
    there = copy.deepcopy(model)
    sgd = torch.optim.SGD(there.parameters(), lr=lr)
    optimizer = HilbertConstrained(sgd, lam=1.0, inner_lr=lam_eta, norm=norm)
    F.cross_entropy(there(x), y).backward()
    optimizer.step(lambda: there(x_v).softmax(dim=1))
    return there


def count_passes(corrections: int, reuse: bool = False) -> tuple[int, int]:
    """Forward and backward passes of one HCGD step, counted on a real network.

    With ``reuse`` X_V is the training batch and its forward pass serves as f(θ_t).
    """
    model = mlp((4, 3, 2))
    counts = {"forward": 0, "backward": 0}

    def forward(*_: object) -> None:
        counts["forward"] += 1

    def backward(*_: object) -> None:
        counts["backward"] += 1

    model.register_forward_hook(forward)
    last = list(model.modules())[-1]
    last.register_full_backward_hook(backward)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HilbertConstrained(sgd, corrections=corrections)
    x = torch.rand(corrections + 1, 8, 4, generator=torch.Generator().manual_seed(0))
    logits = model(x[0])
    F.cross_entropy(logits, torch.zeros(8, dtype=torch.long)).backward()
    if reuse:
        now = logits.detach().softmax(dim=1)
        optimizer.step(lambda: model(x[0]).softmax(dim=1), current=now)
    else:

        def on(batch: Tensor) -> Callable[[], Tensor]:
            return lambda: model(batch).softmax(dim=1)

        optimizer.step([on(batch) for batch in x[1:]])
    return counts["forward"], counts["backward"]
