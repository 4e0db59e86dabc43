"""What a natural gradient step is and what comes near it, measured at a network that stands still.

All in float64, so that a solve can be exact and a difference from it means something.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Dataset
from ..distance import kl_divergence
from ..fisher import fisher_diagonal
from ..models import mlp, seeded
from ..natural_gradient import (
    Fisher,
    conjugate_gradient,
    corrected_update,
    largest_eigenvalue,
    natural_update,
)
from ..training import Progress, batches, train

if TYPE_CHECKING:
    from .natural_gradient import Config

Rows = list[dict[str, Any]]
_PROPOSING = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.001),
}
"""At rates that are customary for them; PyTorch's own where it has one."""


@dataclass(frozen=True)
class Stage:
    """A network after some epochs of training, with a batch, its gradient J and its F.

    ``others`` are more batches of the same epoch: inputs and labels.
    """

    epoch: int
    model: nn.Module
    x: Tensor
    y: Tensor
    others: tuple[tuple[Tensor, Tensor], ...]
    gradient: Tensor
    fisher: Fisher


def network(config: "Config", data: Dataset, seed: int) -> nn.Module:
    """An untrained perceptron of ReLU units, where the data are."""
    sizes = (int(np.prod(data.shape)), *config.hidden, len(data.classes))
    return seeded(lambda: mlp(sizes), seed).to(data.x_train.device)


def stages(
    config: "Config", data: Dataset, seed: int, model: nn.Module | None = None
) -> Iterator[Stage]:
    """A network, by default :func:`network`, at each of the config's epochs of training by SGD."""
    model = network(config, data, seed) if model is None else model
    kept = {}

    def keep(progress: Progress) -> None:
        if progress.epoch in config.stages:
            kept[progress.epoch] = copy.deepcopy(model).double()

    sgd = torch.optim.SGD(model.parameters(), lr=config.stage_lr, momentum=config.momentum)
    size, last = config.batch_size, max(1, *config.stages)
    train(model, data, sgd, epochs=last, batch_size=size, seed=seed, on_epoch=keep)
    wide = data.to(data.x_train.device, torch.float64)
    for epoch, there in kept.items():
        # Batches that the training has not drawn: another stream.
        order = torch.Generator().manual_seed(1000 * (seed + 1) + epoch)
        drawn = _draw(wide, config.gathered + 1, size, order)
        x, y = drawn[-1]
        fisher = Fisher(there, x)
        yield Stage(epoch, there, x, y, drawn[:-1], gradient(there, x, y, fisher), fisher)


def gradient(model: nn.Module, x: Tensor, y: Tensor, fisher: Fisher) -> Tensor:
    """J, flat."""
    return fisher.flatten(torch.autograd.grad(F.cross_entropy(model(x), y), fisher.parameters))


def _draw(
    data: Dataset, n: int, size: int, order: torch.Generator
) -> tuple[tuple[Tensor, Tensor], ...]:
    """n batches; a small training set is gone through more than once."""
    drawn: list[tuple[Tensor, Tensor]] = []
    while len(drawn) < n:
        whole = [
            index for index, _ in batches(len(data.y_train), size, order) if len(index) == size
        ]
        drawn += [(data.x_train[index], data.y_train[index]) for index in whole]
    return tuple(drawn[:n])


# --- equations 3 to 6 ------------------------------------------------------------------------


def hessian_errors(stage: Stage, seed: int, directions: int = 3) -> dict[str, float]:
    """How far the Hessian of the KL divergence is from F, relative, as products with vectors.

    The Hessian by differentiating twice, for both orders of the two distributions. The largest of
    the errors along J and along random directions.
    """
    random = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(stage.fisher.size, generator=random) for _ in range(directions)]
    vectors = [stage.gradient, *(v.to(stage.gradient) for v in vectors)]
    return {
        "new || old": max(_hessian_error(stage, v, new_first=True) for v in vectors),
        "old || new": max(_hessian_error(stage, v, new_first=False) for v in vectors),
    }


def _hessian_error(stage: Stage, vector: Tensor, new_first: bool) -> float:
    parameters = stage.fisher.parameters
    new = stage.model(stage.x).log_softmax(dim=1)
    pair = (new, new.detach()) if new_first else (new.detach(), new)
    slope = torch.autograd.grad(kl_divergence(*pair, log=True), parameters, create_graph=True)
    along = torch.cat([s.reshape(-1) for s in slope]) @ vector
    hessian = stage.fisher.flatten(torch.autograd.grad(along, parameters))
    return _relative(hessian, stage.fisher @ vector)


def minimizer(stage: Stage, lam: float, damping: float) -> Tensor:
    """The Δθ that minimizes ``Jᵀ Δθ + λ/2 Δθᵀ (F + damping) Δθ``, by LBFGS from zero.

    It knows the cost and its slope, not the formula that it should meet.
    """
    delta = torch.zeros_like(stage.gradient, requires_grad=True)
    lbfgs = torch.optim.LBFGS(
        [delta], max_iter=1000, history_size=20, tolerance_grad=1e-9, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        at = delta.detach()
        curved = stage.fisher @ at + damping * at
        delta.grad = stage.gradient + lam * curved
        return float(stage.gradient @ at + lam / 2 * (at @ curved))

    lbfgs.step(closure)
    return delta.detach()


def divergences(stage: Stage, delta: Tensor) -> dict[str, float]:
    """The KL divergence that a step makes, as its second order predicts and as it is."""
    there = copy.deepcopy(stage.model)
    with torch.no_grad():
        parts = stage.fisher.unflatten(delta)
        for p, part in zip(there.parameters(), parts, strict=True):
            p.add_(part)
        old, new = (m(stage.x).log_softmax(dim=1) for m in (stage.model, there))
    return {
        "predicted": float(stage.fisher.kl(delta)),
        "new_old": float(kl_divergence(new, old, log=True)),
        "old_new": float(kl_divergence(old, new, log=True)),
    }


# --- Algorithm 3 -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The exact natural update of a stage, and how near another update is to it."""

    stage: Stage
    lam: float
    damping: float
    update: Tensor

    @classmethod
    def of(cls, stage: Stage, lam: float, damping: float) -> "Target":
        """Solved to a residual of 1e-9."""
        update = natural_update(
            stage.fisher, stage.gradient, lam=lam, damping=damping, tol=1e-9, max_iter=5000
        )
        return cls(stage, lam, damping, update)

    def nearness(self, delta: Tensor) -> dict[str, float]:
        """``missing``: the share of the possible decrease of the cost (equation 5) that is not
        made: 1 for no step, 0 for the exact one. ``error``: the relative distance to it in ℓ2.
        ``cosine``: the cosine of the angle to it. ``residual``: |slope of the cost| over |J|.
        ``cost``: that of equation 5, damped."""
        j, away = self.stage.gradient, delta - self.update
        slope = j + self.lam * self._curved(delta)
        return {
            "missing": float(away @ self._curved(away) / (self.update @ self._curved(self.update))),
            "error": _relative(delta, self.update),
            "cosine": float(torch.cosine_similarity(delta, self.update, dim=0)),
            "residual": float(slope.norm() / j.norm()),
            "cost": float(j @ delta + self.lam / 2 * (delta @ self._curved(delta))),
        }

    def best_length(self, direction: Tensor) -> Tensor:
        """The direction, as long as makes the cost least along it."""
        along = -(self.stage.gradient @ direction)
        return direction * (along / (self.lam * (direction @ self._curved(direction))))

    def inner_loop(self, proposal: Tensor, grid: Sequence[int], eta: float) -> Rows:
        """Nearness after each number of corrections in the grid, ascending."""
        rows, delta, done = [], proposal, 0
        for n in grid:
            if n > done:
                delta = corrected_update(
                    delta, self.stage.fisher, self.stage.gradient, inner_lr=eta,
                    lam=self.lam, corrections=n - done, damping=self.damping,
                )  # fmt: skip
            done = n
            rows.append({"n": n, **self.nearness(delta)})
        return rows

    def conjugate_gradients(self, grid: Sequence[int]) -> Rows:
        """The same after each number of products in a solve, which starts from no step."""
        f, j = self.stage.fisher, self.stage.gradient
        rows = []
        for n in grid:
            x = torch.zeros_like(j)
            if n > 0:
                x = conjugate_gradient(f.__matmul__, j, damping=self.damping, tol=0.0, max_iter=n).x
            rows.append({"n": n, **self.nearness(x / -self.lam)})
        return rows

    def _curved(self, v: Tensor) -> Tensor:
        return self.stage.fisher @ v + self.damping * v


def inner_lr(fisher: Fisher, lam: float, damping: float) -> float:
    """η at half of what the inner loop bears: 1 / (λ (largest eigenvalue + damping))."""
    return 1 / (lam * (largest_eigenvalue(fisher) + damping))


def diagonal_proposal(stage: Stage, lam: float, damping: float) -> Tensor:
    """The natural update if F were its diagonal: Adagrad and RMSprop divide by a root in place."""
    return stage.gradient / (-lam * (fisher_diagonal(stage.model, stage.x) + damping))


def proposal(stage: Stage, name: str) -> Tensor:
    """What an optimizer would do at a stage: its squared gradients come from other batches there.

    The parameters are put back after each of them, so that all optimizers propose from one network.
    """
    model = copy.deepcopy(stage.model)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = _PROPOSING[name](model.parameters())
    for x, y in (*stage.others, (stage.x, stage.y)):
        with torch.no_grad():
            for p, value in zip(model.parameters(), start, strict=True):
                p.copy_(value)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    moved = [p.detach() - s for p, s in zip(model.parameters(), start, strict=True)]
    return stage.fisher.flatten(moved)


def drift(stage: Stage, lam: float, damping: float, grid: Sequence[int], seed: int) -> Rows:
    """The inner loop from no step, without damping, where J is in the range of F and where not.

    ``left``: |slope of the cost| over |J|; what no correction removes lies in the null space of F,
    and makes the update grow by as much with each. ``length``: |Δθ| over |J|.
    """
    x_other, _ = stage.others[0]
    random = torch.Generator(stage.x.device).manual_seed(seed)
    decayed = stage.gradient + 5e-4 * stage.fisher.flatten(
        p.detach() for p in stage.fisher.parameters
    )
    other = Fisher(stage.model, x_other)
    sampled = Fisher(stage.model, stage.x, kind="sampled", generator=random)
    cases = {
        "same batch": (stage.fisher, stage.gradient, 0.0),
        "another batch": (other, stage.gradient, 0.0),
        "another batch, damped": (other, stage.gradient, damping),
        "sampled labels": (sampled, stage.gradient, 0.0),
        "weight decay": (stage.fisher, decayed, 0.0),
    }
    rows = []
    for case, (fisher, j, damp) in cases.items():
        eta, delta, done = inner_lr(fisher, lam, damp), torch.zeros_like(j), 0
        for n in grid:
            if n > done:
                delta = corrected_update(
                    delta, fisher, j,
                    inner_lr=eta, lam=lam, corrections=n - done, damping=damp,
                )  # fmt: skip
            done = n
            slope = j + lam * (fisher @ delta + damp * delta)
            row = {"left": float(slope.norm() / j.norm()), "length": float(delta.norm() / j.norm())}
            rows.append({"case": case, "n": n, **row})
    return rows


def _relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())
