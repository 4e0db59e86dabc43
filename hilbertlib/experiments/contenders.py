"""Seven ways to take a step on one batch, with what each costs: chapter 11's contenders."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ..hcgd import HilbertConstrained
from ..natural_gradient import ConvergenceWarning, Fisher, conjugate_gradient
from .runner import Setting

Step = Callable[[Tensor, Tensor, Tensor], None]
"""From a batch, its labels and an X_V to one step of the model."""


@dataclass(frozen=True, kw_only=True)
class Knobs(Setting):
    """What is not tuned: each method's second knob stands where its authors left it.

    Attributes:
        momentum: β of SGD, also beneath HCGD and SAM.
        lam, inner_lr: λ and η of HCGD and Adam+HC.
        validation_size: Number of examples in X_V; as many as in a batch, to spare passes.
        rho: Radius of SAM's climb.
        damping, products: Of the natural gradient's solve by conjugate gradients, which ends
            after so many products with F.
    """

    batch_size: int = 64
    momentum: float = 0.9
    lam: float = 0.5
    inner_lr: float = 0.02
    validation_size: int = 64
    rho: float = 0.05
    damping: float = 0.1
    products: int = 10


class SAM:
    """Sharpness-aware minimization (Foret et al., 2021): the gradient from a little uphill.

    Args:
        base: Takes the step, with the gradient that was found uphill.
        rho: ρ, the ℓ2 length of the climb.
    """

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        if not rho >= 0:
            raise ValueError(f"expected rho of at least 0, got {rho}")
        self.base, self.rho = base, rho

    def step(self, closure: Callable[[], Any]) -> None:
        """One step; ``closure`` clears the gradients, evaluates the loss and calls backward."""
        closure()
        moving = [p for g in self.base.param_groups for p in g["params"] if p.grad is not None]
        here = [p.detach().clone() for p in moving]
        length = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in moving]))
        with torch.no_grad():
            for p in moving:
                p.add_(p.grad * (self.rho / (length + 1e-12)))
        closure()
        with torch.no_grad():
            for p, before in zip(moving, here, strict=True):
                p.copy_(before)
        self.base.step()


def _sgd(model: nn.Module, lr: float, knobs: Knobs) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=knobs.momentum)


def _adam(model: nn.Module, lr: float, knobs: Knobs) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr)


def muon(model: nn.Module, lr: float) -> list[Optimizer]:
    """Muon for every weight matrix but the last layer's, Adam for that and the biases.

    Muon's steps are scaled to the root mean square of Adam's, so that one ε serves both.

    Raises:
        RuntimeError: If torch is too old to have it.
    """
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(f"torch.optim.Muon comes with torch 2.9; this is {torch.__version__}")
    matrices = [p for p in model.parameters() if p.ndim == 2][:-1]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    hidden = torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [hidden, torch.optim.Adam(others, lr=lr)]


def natural_step(model: nn.Module, x: Tensor, lr: float, damping: float, products: int) -> None:
    """θ ← θ − ε (F + damping)⁻¹ J, F on the batch, after so many products of the solve."""
    fisher = Fisher(model, x)
    j = fisher.flatten(p.grad for p in fisher.parameters if p.grad is not None)
    with warnings.catch_warnings():  # that it stops before its end is the method
        warnings.simplefilter("ignore", ConvergenceWarning)
        solved = conjugate_gradient(
            fisher.__matmul__, j, damping=damping, tol=1e-6, max_iter=products
        )
    with torch.no_grad():
        for p, part in zip(fisher.parameters, fisher.unflatten(solved.x), strict=True):
            p.sub_(part, alpha=lr)


def stepper(method: str, model: nn.Module, lr: float, knobs: Knobs) -> Step:
    """One method as a function that takes a step.

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"expected a method of {', '.join(METHODS)}; got {method!r}")

    def gradient(x: Tensor, y: Tensor) -> None:
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if not loss.isfinite():
            raise FloatingPointError(f"{method} at ε = {lr:g}: the training loss is {loss:g}")
        loss.backward()

    return METHODS[method](model, lr, knobs, gradient)


Gradient = Callable[[Tensor, Tensor], None]


def _plain(make: Callable[[nn.Module, float, Knobs], Optimizer]) -> Callable[..., Step]:
    def build(model: nn.Module, lr: float, knobs: Knobs, gradient: Gradient) -> Step:
        optimizer = make(model, lr, knobs)

        def step(x: Tensor, y: Tensor, x_v: Tensor) -> None:
            gradient(x, y)
            optimizer.step()

        return step

    return build


def _leashed(make: Callable[[nn.Module, float, Knobs], Optimizer]) -> Callable[..., Step]:
    def build(model: nn.Module, lr: float, knobs: Knobs, gradient: Gradient) -> Step:
        optimizer = HilbertConstrained(make(model, lr, knobs), knobs.lam, knobs.inner_lr)

        def step(x: Tensor, y: Tensor, x_v: Tensor) -> None:
            gradient(x, y)
            optimizer.step(lambda: model(x_v).softmax(dim=1))

        return step

    return build


def _natural(model: nn.Module, lr: float, knobs: Knobs, gradient: Gradient) -> Step:
    def step(x: Tensor, y: Tensor, x_v: Tensor) -> None:
        gradient(x, y)
        natural_step(model, x, lr, knobs.damping, knobs.products)

    return step


def _sam(model: nn.Module, lr: float, knobs: Knobs, gradient: Gradient) -> Step:
    optimizer = SAM(_sgd(model, lr, knobs), knobs.rho)

    def step(x: Tensor, y: Tensor, x_v: Tensor) -> None:
        optimizer.step(lambda: gradient(x, y))

    return step


def _muon(model: nn.Module, lr: float, knobs: Knobs, gradient: Gradient) -> Step:
    both = muon(model, lr)

    def step(x: Tensor, y: Tensor, x_v: Tensor) -> None:
        gradient(x, y)
        for optimizer in both:
            optimizer.step()

    return step


METHODS: Mapping[str, Callable[..., Step]] = {
    "SGD": _plain(_sgd),
    "Adam": _plain(_adam),
    "HCGD": _leashed(_sgd),
    "Adam+HC": _leashed(_adam),
    "natural gradient": _natural,
    "SAM": _sam,
    "Muon": _muon,
}
"""How each method is built."""


def cost(method: str, knobs: Knobs) -> float:
    """Gradient evaluations a step: forward and backward passes over the batch, 3 units in all.

    A forward pass is 1 unit and a backward pass 2. A product with F runs once through the network
    and once back: a gradient evaluation. The solve makes one more, to know its residual. What an
    optimizer does between the passes (Muon's matrix products) is not counted.
    """
    if method == "SAM":
        return 2.0
    if method in ("HCGD", "Adam+HC"):  # two forward passes and a backward one on X_V
        return 1 + 4 / 3 * knobs.validation_size / knobs.batch_size
    if method == "natural gradient":  # the network is linearized with a forward pass
        return 1 + 1 / 3 + knobs.products + 1
    return 1.0
