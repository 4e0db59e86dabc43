"""An inner loop towards the natural gradient, one eigenvector of F at a time; and what F v costs.

For networks so small that F's factor, one row for each example and class, fits in memory.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from ..natural_gradient import Fisher
from .natural_claims import DIAGONAL, PROPOSALS
from .natural_steps import Stage, Target, diagonal_proposal, proposal

_ROUNDING = 1e-10
"""An eigenvalue below this share of the largest is taken for zero."""


@dataclass(frozen=True)
class Spectrum:
    """F at a stage, in its own axes: P parameters, K of F's eigenvalues above zero.

    Attributes:
        stage: Where F is taken.
        values: Those eigenvalues, descending, shape ``(K,)``.
        vectors: Their unit eigenvectors, shape ``(K, P)``.
        gradient: J along each, shape ``(K,)``.
    """

    stage: Stage
    values: Tensor
    vectors: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, stage: Stage) -> "Spectrum":
        """From F's factor A, one row for an example and a class: F = AᵀA has AAᵀ's eigenvalues."""
        rows = factor(stage)
        values, left = torch.linalg.eigh(rows @ rows.T)
        kept = values > _ROUNDING * values[-1]
        values, left = values[kept].flip(0), left[:, kept].flip(1)
        vectors = (left / values.sqrt()).T @ rows
        return cls(stage, values, vectors, vectors @ stage.gradient)

    def along(self, delta: Tensor) -> Tensor:
        """A change of parameters along each eigenvector, shape ``(K,)``."""
        return self.vectors @ delta

    def exact(self, lam: float, damping: float) -> Tensor:
        """The natural update along each eigenvector: ``−J_k / (λ (κ_k + damping))``."""
        return -self.gradient / (lam * (self.values + damping))

    def eta(self, lam: float, damping: float) -> float:
        """η of the experiment: half of what the inner loop bears."""
        return 1 / (lam * (float(self.values[0]) + damping))

    def after(self, start: Tensor, n: int, lam: float, damping: float) -> Tensor:
        """The inner loop after n steps, along each eigenvector, without running it.

        What is missing along the k-th shrinks by ``1 − η λ (κ_k + damping)`` in each step.
        """
        exact = self.exact(lam, damping)
        kept = 1 - self.eta(lam, damping) * lam * (self.values + damping)
        return exact + kept**n * (start - exact)

    def missing(self, delta: Tensor, n: int, lam: float, damping: float) -> dict[str, float]:
        """Where what is still missing after n inner steps from a proposal lies.

        The share of the possible decrease of the cost that is missing
        (:meth:`.natural_steps.Target.nearness`), in parts that add up to it: by the eigenvalue of
        F, and along the directions in which F is zero.
        """
        start, exact = self.along(delta), self.exact(lam, damping)
        whole = ((self.values + damping) * exact.square()).sum()
        away = self.after(start, n, lam, damping) - exact
        parts = (self.values + damping) * away.square() / whole
        # Along F's null space J is zero too, and the natural update with it.
        outside = (delta @ delta - start @ start).clamp(min=0)
        shrunk = (1 - self.eta(lam, damping) * lam * damping) ** (2 * n)
        edges = {"above the damping": (damping, np.inf), "below the damping": (0.0, damping)}
        found = {
            name: float(parts[(self.values > low) & (self.values <= high)].sum())
            for name, (low, high) in edges.items()
        }
        return {**found, "where F is zero": float(damping * outside * shrunk / whole)}


def factor(stage: Stage) -> Tensor:
    """A with F = AᵀA, shape ``(N C, P)``: rows ``√(p_ic / N) ∂ log p_ic``."""
    held = {name: p.detach() for name, p in stage.model.named_parameters()}

    def log_p(parameters: Mapping[str, Tensor]) -> Tensor:
        return functional_call(stage.model, dict(parameters), (stage.x,)).log_softmax(dim=1)

    jacobian = jacrev(log_p)(held)
    rows = torch.cat([jacobian[name].flatten(2) for name in held], dim=2)
    weight = (log_p(held).exp() / len(stage.x)).sqrt()
    return (weight[:, :, None] * rows).flatten(0, 1)


def starts(
    stage: Stage, lam: float, damping: float, names: Sequence[str] = (*PROPOSALS, DIAGONAL)
) -> dict[str, Tensor]:
    """Proposals by these names, each of its best length."""
    target = Target.of(stage, lam, damping)
    found = {
        name: diagonal_proposal(stage, lam, damping) if name == DIAGONAL else proposal(stage, name)
        for name in names
    }
    return {name: target.best_length(delta) for name, delta in found.items()}


@dataclass(frozen=True)
class Valley:
    """The cost of equation 5 over the plane of two eigenvectors of F, the first much steeper.

    Attributes:
        curvature: Along the two, damping included, times λ.
        exact: The natural update in the plane, shape ``(2,)``.
        paths: For each proposal the inner loop in the plane, shape ``(n + 1, 2)``.
        missing: For each proposal what is missing after each step, in all directions, ``(n + 1,)``.
    """

    curvature: np.ndarray
    exact: np.ndarray
    paths: dict[str, np.ndarray]
    missing: dict[str, np.ndarray]


def valley(
    spectrum: Spectrum,
    proposals: Mapping[str, Tensor],
    steps: int,
    *,
    lam: float = 1.0,
    damping: float = 0.1,
    flat: float = 0.1,
) -> Valley:
    """The plane of two eigenvectors: of the five steepest and of those below ``flat``, that which
    J is longest along.

    Eigenvectors do not mix in the inner loop, so that its path in the plane is exact: the others
    move as they do, and no matter here.
    """
    exact, square = spectrum.exact(lam, damping), spectrum.gradient.square()
    low = torch.where(spectrum.values < flat, square, torch.zeros_like(square))
    pair = torch.tensor([int(square[:5].argmax()), int(low.argmax())])
    signs = exact[pair].sign()  # so that the natural update points to the upper right
    paths, missing = {}, {}
    for name, delta in proposals.items():
        start = spectrum.along(delta)
        walked = [spectrum.after(start, n, lam, damping)[pair] for n in range(steps + 1)]
        paths[name] = (torch.stack(walked) * signs).numpy()
        missing[name] = np.array(
            [sum(spectrum.missing(delta, n, lam, damping).values()) for n in range(steps + 1)]
        )
    curvature = lam * (spectrum.values[pair] + damping)
    return Valley(curvature.numpy(), (exact[pair] * signs).numpy(), paths, missing)


def made(spectrum: Spectrum, n: int, damping: float, lam: float = 1.0) -> np.ndarray:
    """The share of the natural update that n inner steps from no step make, along each axis."""
    nothing = torch.zeros_like(spectrum.values)
    share = spectrum.after(nothing, n, lam, damping) / spectrum.exact(lam, damping)
    return share.numpy()


def slope_left(spectrum: Spectrum, n: int) -> float:
    """|Slope of the cost| over |J| after n inner steps from no step, without damping.

    Along an eigenvector it shrinks by ``1 − κ_k / κ_max`` in each step; where F is zero, never.
    """
    j = spectrum.stage.gradient
    outside = (j @ j - spectrum.gradient.square().sum()).clamp(min=0)
    kept = (1 - spectrum.values / spectrum.values[0]) ** n
    return float((((kept * spectrum.gradient).square().sum() + outside) / (j @ j)).sqrt())


def arithmetic(stage: Stage) -> dict[str, float]:
    """Multiplications and additions in matrix products, over those of one gradient of the cost.

    Of building the operator F, of a product with it, of a product that runs the network again in
    forward and in reverse mode, and of the gradients of all examples.
    """
    model, x, y, fisher = stage.model, stage.x, stage.y, stage.fisher
    held = {name: p.detach() for name, p in model.named_parameters()}

    def one(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (image[None],))
        return cross_entropy(logits, label[None])

    base = _flops(lambda: torch.autograd.grad(cross_entropy(model(x), y), fisher.parameters))
    tasks: dict[str, Callable[[], object]] = {
        "build": lambda: Fisher(model, x),
        "product": lambda: fisher @ stage.gradient,
        "product anew": lambda: product(stage, stage.gradient),
        "per example": lambda: vmap(grad(one), in_dims=(None, 0, 0))(held, x, y),
    }
    return {name: _flops(task) / base for name, task in tasks.items()}


def _quietly(function: Callable[[Stage, Tensor], Tensor]) -> Callable[[Stage, Tensor], Tensor]:
    """Without the warning that torch gives, of itself, when it first makes rules for `jvp`."""

    @wraps(function)
    def quiet(stage: Stage, vector: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(stage, vector)

    return quiet


@_quietly
def product(stage: Stage, vector: Tensor) -> Tensor:
    """``F v`` in the open: forward mode, a small matrix for each example, reverse mode."""
    held = {name: p.detach() for name, p in stage.model.named_parameters()}
    tangent = dict(zip(held, stage.fisher.unflatten(vector), strict=True))

    def network(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(stage.model, parameters, (stage.x,))

    z, u = jvp(network, (held,), (tangent,))[:2]  # u = Z v, one row an example
    p = z.softmax(dim=1)
    u = p * (u - (p * u).sum(dim=1, keepdim=True))  # (diag p - p pᵀ) u
    pull = vjp(network, held)[1]
    return stage.fisher.flatten(pull(u / len(u))[0].values())  # Zᵀ u / N


def _flops(task: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        task()
    return counter.get_total_flops()
