"""Training runs with the natural gradient and with what comes near it, in steps and in passes."""

from math import isfinite, log
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Dataset
from ..natural_gradient import Fisher, conjugate_gradient, natural_step
from ..training import batches, evaluate
from .natural_steps import network

if TYPE_CHECKING:
    from .natural_gradient import Config


class Trainer:
    """One way to step: SGD, RMSprop, the natural gradient, or Algorithm 3 from one of the former.

    Counts its passes: a forward or backward pass over a batch is one, a product with F two.
    """

    def __init__(self, config: "Config", how: str, model: nn.Module) -> None:
        self.config, self.how, self.model = config, how, model
        self.passes = 0
        self._along: Tensor | None = None
        base = torch.optim.RMSprop if how.endswith("RMSprop") else torch.optim.SGD
        lr = config.rmsprop_lr if how.endswith("RMSprop") else config.sgd_lr
        self.base = base(model.parameters(), lr=lr)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step on a batch, on which F is taken too."""
        self.base.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        numbers = [loss, *(p.grad for p in self.model.parameters() if p.grad is not None)]
        if not all(bool(number.isfinite().all()) for number in numbers):
            raise FloatingPointError("the training loss or its gradient is not finite")
        self.passes += 2
        if self.how == "natural gradient":
            self._natural(Fisher(self.model, x))
        elif self.how.startswith("Algorithm 3"):
            self._corrected(Fisher(self.model, x))
        else:
            self.base.step()

    def _natural(self, fisher: Fisher) -> None:
        c = self.config
        j = fisher.flatten(p.grad for p in fisher.parameters if p.grad is not None)
        solved = conjugate_gradient(
            fisher.__matmul__, j, damping=c.training_damping, tol=c.solve_tol, max_iter=c.max_iter
        )
        self.passes += 1 + 2 * solved.iterations
        with torch.no_grad():
            for p, part in zip(fisher.parameters, fisher.unflatten(solved.x), strict=True):
                p.sub_(part / c.training_lam)

    def _corrected(self, fisher: Fisher) -> None:
        c, products = self.config, 5
        # F's largest eigenvalue, which η needs, by power iteration: its direction changes little
        # from step to step, so that it is taken up where the last step left it.
        if self._along is None:
            draw = torch.randn(fisher.size, generator=torch.Generator().manual_seed(0))
            self._along, products = draw.to(fisher.outputs), 20
        for _ in range(products):
            self._along = fisher @ (self._along / self._along.norm())
        eta = 1 / (c.training_lam * (float(self._along.norm()) + c.training_damping))
        if not isfinite(eta):
            raise FloatingPointError("products with F are not finite")
        natural_step(
            self.base, fisher, inner_lr=eta, lam=c.training_lam,
            corrections=c.inner, damping=c.training_damping,
        )  # fmt: skip
        self.passes += 1 + 2 * (products + c.inner)


def training(config: "Config", how: str, data: Dataset, seed: int) -> list[dict[str, Any]]:
    """One run: a row every few steps, with the passes until there.

    Losses and accuracies are those on the first training and test images of the config's number.
    A run that diverges stands at chance from there on.
    """
    model = network(config, data, seed)
    trainer = Trainer(config, how, model)
    order = torch.Generator().manual_seed(seed)
    rows = [_row(0, trainer, data)]
    diverged, epoch = False, batches(len(data.y_train), config.batch_size, order)
    for step in range(1, config.steps + 1):
        if (drawn := next(epoch, None)) is None:
            epoch = batches(len(data.y_train), config.batch_size, order)
            drawn = next(epoch)
        try:
            if not diverged:
                trainer.step(data.x_train[drawn[0]], data.y_train[drawn[0]])
        except (FloatingPointError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            diverged = True  # the latter: F grew until rounding hides the damping
        if step % config.every == 0:
            rows.append(_row(step, trainer, data, diverged))
            diverged = rows[-1]["diverged"]
    return rows


def _row(step: int, trainer: Trainer, data: Dataset, diverged: bool = False) -> dict[str, Any]:
    n, classes = trainer.config.measured, len(data.classes)
    values = (log(classes), 1 / classes) * 2
    if not diverged:
        measured = (
            *evaluate(trainer.model, data.x_train[:n], data.y_train[:n]),
            *evaluate(trainer.model, data.x_test[:n], data.y_test[:n]),
        )
        diverged = not all(map(isfinite, measured))
        values = values if diverged else measured
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    return {
        "step": step, "passes": trainer.passes,
        **dict(zip(names, values, strict=True)), "diverged": diverged,
    }  # fmt: skip
