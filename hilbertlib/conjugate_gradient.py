"""Solve a symmetric positive semidefinite system by products with its matrix alone."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._checks import at_least_one, at_least_zero

Product = Callable[[Tensor], Tensor]


class ConvergenceWarning(UserWarning):
    """An iteration stopped, or moves away, before it reached what was asked for."""


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found.

    Attributes:
        x: The solution, shape ``(P,)``.
        iterations: Products in the iteration; one more was made to measure the residual.
        residual: ``|b − (A + damping) x| / |b|``, computed from ``x`` itself.
        converged: Whether ``residual`` is at most twice the tolerance.
    """

    x: Tensor
    iterations: int
    residual: float
    converged: bool


def conjugate_gradient(
    product: Product,
    b: Tensor,
    *,
    damping: float = 0.0,
    tol: float = 1e-5,
    max_iter: int = 250,
) -> Solution:
    """Solve ``(A + damping · I) x = b`` for a symmetric positive semidefinite A, by products.

    Starting from zero, so that for a singular A with ``b`` in its range the shortest solution is
    found.

    Args:
        product: ``v -> A v``, shape ``(P,)`` to ``(P,)``.
        b: Right-hand side, shape ``(P,)``.
        damping: Added to every eigenvalue; at least 0.
        tol: Stop when the residual is this fraction of ``|b|``. With 0 the iteration runs
            ``max_iter`` times on purpose, as trust-region methods do, and does not warn; it ends
            sooner only when nothing of ``b`` is left.
        max_iter: Products at most.

    Raises:
        ValueError: If ``b`` is not a finite vector, a product is not shaped like it, or another
            argument is out of range.
        FloatingPointError: If a product is not finite.
        torch.linalg.LinAlgError: If the system is singular, or indefinite, along a direction that
            ``b`` needs; the message says which and what to do.

    Warns:
        ConvergenceWarning: If ``tol`` was not reached.

    >>> a = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> conjugate_gradient(lambda v: a @ v, torch.tensor([1.0, 2.0])).x
    tensor([0.0909, 0.6364])
    """
    if b.ndim != 1 or not b.is_floating_point() or not b.isfinite().all():
        raise ValueError(
            f"expected a finite vector, got shape {tuple(b.shape)}, {b.dtype}, or NaN or inf"
        )
    at_least_zero(damping=damping, tol=tol)
    at_least_one(max_iter=max_iter)

    def times(v: Tensor) -> Tensor:
        av = product(v).detach()
        if av.shape != v.shape or av.dtype != v.dtype:  # one number would be broadcast in silence
            raise ValueError(
                f"expected a product of shape {tuple(v.shape)} and {v.dtype}, got "
                f"{tuple(av.shape)}, {av.dtype}"
            )
        return av.add(v, alpha=damping)

    # In units of its largest entry, so that no square of b under- or overflows.
    unit = float(b.detach().abs().max()) if b.any() else 1.0
    b = b.detach() / unit
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    square = first = float(r @ r)
    steepest, path, iterations, eps = 0.0, 0.0, 0, torch.finfo(b.dtype).eps
    # Below eps² of b the residual that is carried along says nothing, and soon underflows.
    enough = max(tol, eps**2) ** 2 * first
    while iterations < max_iter and square > enough:
        ap = times(p)
        curvature, length = float(p @ ap), float(p @ p)
        if not math.isfinite(curvature):
            raise FloatingPointError("a product with the matrix is not finite")
        steepest = max(steepest, abs(curvature) / length)
        if curvature <= 10 * eps * steepest * length:  # as large as rounding makes a zero look
            # Each step put rounding of its own length, times |A|, into r, in any direction.
            if math.sqrt(square) <= 30 * eps * (steepest * path + math.sqrt(first)):
                break  # what is left of b is that
            where = f"curvature {curvature / length:.1e} where the largest is {steepest:.1e}"
            if curvature < -math.sqrt(eps) * steepest * length:  # no rounding
                message = (
                    f"the system is indefinite ({where}, iteration {iterations + 1}), which no "
                    "Fisher information is: check the product, or add more damping than "
                    f"{-curvature / length:.1e}"
                )
            else:
                message = (
                    "the system is singular along a direction of the right-hand side "
                    f"({where}, iteration {iterations + 1}): add damping; 0.1 is common for a "
                    "Fisher information"
                )
            raise torch.linalg.LinAlgError(message)  # type: ignore[attr-defined]
        step = square / curvature
        x.add_(p, alpha=step)
        path += step * math.sqrt(length)
        r.sub_(ap, alpha=step)
        previous, square = square, float(r @ r)
        p.mul_(square / previous).add_(r)
        iterations += 1

    residual = 0.0
    if first > 0:
        # r is carried along and drifts from b − Ax by rounding; report the real one.
        residual = float(torch.linalg.vector_norm(b - times(x))) / math.sqrt(first)
    converged = residual <= 2 * tol
    if tol > 0 and not converged:
        warnings.warn(
            f"conjugate gradients stopped after {iterations} iterations at a relative residual of "
            f"{residual:.1e}, above tol={tol:.1e}: raise max_iter or the damping, use float64, or "
            "pass tol=0 to run max_iter iterations on purpose",
            ConvergenceWarning,
            stacklevel=2,
        )
    return Solution(x * unit, iterations, residual, converged)
