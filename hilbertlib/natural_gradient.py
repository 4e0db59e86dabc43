"""The natural gradient as a leash on the KL divergence: section 3.2.1 and Appendix E of the paper.

A cost regularized by the KL divergence between the network's outputs after and before a step is,
to second order, ``Jᵀ Δθ + λ/2 Δθᵀ F Δθ`` (equation 5). Its minimizer ``Δθ = −(1/λ) F⁻¹ J`` is the
natural gradient step (equation 6, whose minus sign the paper leaves out). It is found here by
conjugate gradients, or approached from another optimizer's proposal by gradient descent (Algorithm
3). Both only multiply by F; products come from :class:`hilbertlib.fisher.Fisher`.
"""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._checks import at_least_one, at_least_zero, positive
from .conjugate_gradient import ConvergenceWarning as ConvergenceWarning  # public here too
from .conjugate_gradient import Solution as Solution
from .conjugate_gradient import conjugate_gradient as conjugate_gradient
from .fisher import Fisher as Fisher
from .fisher import fisher_vector_product as fisher_vector_product


def natural_update(
    fisher: Fisher,
    gradient: Tensor,
    *,
    lam: float = 1.0,
    damping: float = 0.0,
    tol: float = 1e-5,
    max_iter: int = 250,
) -> Tensor:
    """The KL-regularized update ``Δθ = −(1/λ) (F + damping · I)⁻¹ J`` (equations 5 and 6).

    With ``lam=1`` it is the natural gradient step. It changes the outputs by about
    ``fisher.kl(Δθ)`` nats, which falls as 1/λ².

    Args:
        fisher: F at the parameters before the step.
        gradient: J, shape ``(P,)``: ``fisher.flatten(p.grad for p in fisher.parameters)``.
        lam: λ > 0, nats of cost for each nat of KL divergence.
        damping: Added to every eigenvalue. F is singular for a network with more parameters than
            outputs; it can still be solved undamped if J comes from the same examples, without
            weight decay.
        tol, max_iter: As for :func:`.conjugate_gradient`, which says what else is raised.

    Raises:
        ValueError: If ``lam`` is not positive.

    >>> model = torch.nn.Linear(2, 3)
    >>> x, y = torch.rand(8, 2), torch.arange(8) % 3
    >>> torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> fisher = Fisher(model, x)
    >>> gradient = fisher.flatten(p.grad for p in fisher.parameters)
    >>> delta = natural_update(fisher, gradient, lam=10.0, damping=0.1)
    >>> bool(gradient @ delta < 0)  # downhill
    True
    """
    positive(lam=lam)
    solution = conjugate_gradient(
        fisher.__matmul__, gradient, damping=damping, tol=tol, max_iter=max_iter
    )
    return solution.x / -lam


def corrected_update(
    proposal: Tensor,
    fisher: Fisher,
    gradient: Tensor,
    *,
    inner_lr: float,
    lam: float = 1.0,
    corrections: int = 1,
    damping: float = 0.0,
) -> Tensor:
    """Move a proposed update towards the natural gradient step (Algorithm 3, lines 5 and 6).

    ``Δθ ← Δθ − η (J + λ (F + damping · I) Δθ)``, n times. It converges to
    :func:`natural_update` for η below 2 / (λ (:func:`largest_eigenvalue` + damping)). Where F is
    singular and undamped, and J not in its range, it drifts.

    Args:
        proposal: Δθ⁰, shape ``(P,)``.
        fisher: F at the parameters before the step.
        gradient: J, shape ``(P,)``.
        inner_lr: η ≥ 0.
        lam: λ ≥ 0.
        corrections: n ≥ 1.

    Raises:
        ValueError: If a number is out of range, or a vector has the wrong shape or is not finite.
        FloatingPointError: If the corrections overflow.

    Warns:
        ConvergenceWarning: If the corrections grow: η is too large.

    >>> fisher = Fisher(torch.nn.Linear(2, 3), torch.rand(8, 2))
    >>> gradient = torch.ones(fisher.size)
    >>> eta = 1 / (largest_eigenvalue(fisher) + 0.1)
    >>> proposal = -0.1 * gradient
    >>> near = corrected_update(
    ...     proposal, fisher, gradient, inner_lr=eta, corrections=100, damping=0.1
    ... )
    >>> torch.allclose(near, natural_update(fisher, gradient, damping=0.1), rtol=0.01)
    True
    """
    _check_corrections(inner_lr, lam, corrections, damping)
    for name, vector in (("proposal", proposal), ("gradient", gradient)):
        fisher.unflatten(vector)  # refuses what does not fit: one number would be broadcast
        if not vector.isfinite().all():
            raise ValueError(f"expected a finite {name}, got NaN or inf")
    delta, gradient, lengths = proposal.detach().clone(), gradient.detach(), []
    for _ in range(corrections):
        slope = gradient + lam * (fisher @ delta).add(delta, alpha=damping)
        lengths.append(torch.linalg.vector_norm(slope))
        delta.sub_(slope, alpha=inner_lr)
    if not delta.isfinite().all():
        raise FloatingPointError(f"the corrections overflow at inner_lr={inner_lr}; {_SMALLER}")
    # Gradient descent on a convex quadratic never lengthens the slope unless η is too large; what
    # rounding makes of a slope near zero is not counted.
    rounding = 100 * torch.finfo(delta.dtype).eps * torch.linalg.vector_norm(gradient)
    if lengths[-1] > 1.001 * lengths[0] + rounding:
        warnings.warn(
            f"the corrections grow ({float(lengths[0]):.1e} to {float(lengths[-1]):.1e}) at "
            f"inner_lr={inner_lr}; {_SMALLER}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return delta


def natural_step(
    optimizer: Optimizer,
    fisher: Fisher,
    *,
    inner_lr: float,
    lam: float = 1.0,
    corrections: int = 1,
    damping: float = 0.0,
) -> Tensor:
    """``optimizer.step()``, corrected towards the natural gradient step (Algorithm 3).

    Any optimizer that needs no closure: SGD, or one with a diagonal preconditioner, RMSprop or
    Adagrad, which Appendix E recommends. Its own state (momentum, squared gradients) knows nothing
    of the corrections. J is the gradient as the optimizer uses it, with weight decay unless
    decoupled. Use: after ``loss.backward()``.

    Args:
        optimizer: Over exactly the parameters of ``fisher``; those without a gradient, which it
            does not move, are corrected with J = 0.
        fisher: F at the present parameters.
        inner_lr, lam, corrections, damping: As for :func:`corrected_update`.

    Returns:
        The update made, shape ``(P,)``.

    Raises:
        ValueError: If the parameters are not the same, have no or a non-finite gradient, the
            optimizer's own step is not finite, or a number is out of range.
        FloatingPointError: If the corrections overflow.

    After any error the parameters and the optimizer's state are as before the step; for that a
    copy of the state is held during the step.

    >>> model = torch.nn.Linear(2, 3)
    >>> x, y = torch.rand(8, 2), torch.arange(8) % 3
    >>> optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    >>> torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> natural_step(optimizer, Fisher(model, x), inner_lr=0.1, corrections=5).shape
    torch.Size([9])
    """
    _check_corrections(inner_lr, lam, corrections, damping)
    groups = {id(p): (group, p) for group in optimizer.param_groups for p in group["params"]}
    own = {id(p) for p in fisher.parameters}
    # A frozen parameter may stand in the optimizer: it has no gradient and is not moved.
    moving = {key for key, (_, p) in groups.items() if p.requires_grad}
    if moving != own:
        raise ValueError(
            f"expected an optimizer and a Fisher information over the same parameters, got "
            f"{len(moving)} and {len(own)}, of which {len(moving & own)} are shared; pass "
            "Fisher(..., parameters=...) those of the optimizer"
        )
    if all(p.grad is None for p in fisher.parameters):
        raise ValueError("no parameter has a gradient: call loss.backward() before the step")
    gradient = fisher.flatten(_gradient(optimizer, *groups[id(p)]) for p in fisher.parameters)
    if not gradient.isfinite().all():
        raise ValueError("expected a finite gradient, got NaN or inf")
    before = fisher.flatten(p.detach() for p in fisher.parameters)
    state = {p: copy.deepcopy(kept) for p, kept in optimizer.state.items()}
    try:
        optimizer.step()
        after = fisher.flatten(p.detach() for p in fisher.parameters)
        proposal = after - before
        delta = corrected_update(
            proposal, fisher, gradient,
            inner_lr=inner_lr, lam=lam, corrections=corrections, damping=damping,
        )  # fmt: skip
    except Exception:
        _write(fisher, before)
        optimizer.state.clear()
        optimizer.state.update(state)
        raise
    _write(fisher, after + (delta - proposal))  # without a correction, exactly the optimizer's
    return delta


def largest_eigenvalue(fisher: Fisher, iterations: int = 30, seed: int = 0) -> float:
    """Largest eigenvalue of F, from below, by power iteration: what an inner learning rate needs.

    Raises:
        ValueError: If ``iterations`` is below 1.

    >>> model = torch.nn.Linear(2, 3)
    >>> largest_eigenvalue(Fisher(model, torch.zeros(8, 2), likelihood="gaussian"))
    1.0
    """
    at_least_one(iterations=iterations)
    like = fisher.parameters[0]
    start = torch.randn(fisher.size, generator=torch.Generator().manual_seed(seed))
    v = start.to(device=like.device, dtype=like.dtype)
    length = torch.linalg.vector_norm(v)
    for _ in range(iterations):
        v = fisher @ (v / length)
        length = torch.linalg.vector_norm(v)
        if length == 0:  # F = 0
            return 0.0
    return float(length)


_SMALLER = "use one below 2 / (lam * (largest_eigenvalue(fisher) + damping))"


def _gradient(optimizer: Optimizer, group: dict[str, Any], p: Tensor) -> Tensor:
    """J as the optimizer uses it: its sign, and its weight decay unless decoupled."""
    if p.grad is None:
        return torch.zeros_like(p)
    gradient = p.grad.to_dense()  # an embedding's may be sparse
    gradient = -gradient if group.get("maximize") else gradient
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
    decay = 0.0 if decoupled else group.get("weight_decay", 0.0)
    return gradient.add(p.detach(), alpha=decay)


@torch.no_grad()
def _write(fisher: Fisher, vector: Tensor) -> None:
    for p, value in zip(fisher.parameters, fisher.unflatten(vector), strict=True):
        p.copy_(value)


def _check_corrections(inner_lr: float, lam: float, corrections: int, damping: float) -> None:
    at_least_zero(inner_lr=inner_lr, lam=lam, damping=damping)
    at_least_one(corrections=corrections)
