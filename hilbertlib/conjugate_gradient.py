"""Solve a symmetric positive semidefinite system by products with its matrix alone."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
            ``max_iter`` times on purpose, as trust-region methods do, and does not warn.
        max_iter: Products at most.

    Raises:
        ValueError: If ``b`` is not a finite vector, or another argument is out of range.
        FloatingPointError: If a product is not finite.
        torch.linalg.LinAlgError: If the system is singular, or A indefinite, along a direction
            that ``b`` needs.

    Warns:
        ConvergenceWarning: If ``tol`` was not reached.

    >>> a = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> conjugate_gradient(lambda v: a @ v, torch.tensor([1.0, 2.0])).x
    tensor([0.0909, 0.6364])
    """
    if b.ndim != 1 or not b.isfinite().all():
        raise ValueError(f"expected a finite vector, got shape {tuple(b.shape)}, or NaN or inf")
    check_at_least_zero(damping=damping, tol=tol)
    if max_iter < 1:
        raise ValueError(f"expected max_iter of at least 1, got {max_iter}")

    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    square = first = float(r @ r)
    steepest, iterations, eps = 0.0, 0, torch.finfo(b.dtype).eps
    while iterations < max_iter and square > 0 and square > tol**2 * first:
        ap = product(p).add(p, alpha=damping)
        curvature, length = float(p @ ap), float(p @ p)
        if not math.isfinite(curvature):
            raise FloatingPointError("a product with the matrix is not finite")
        steepest = max(steepest, curvature / length)
        if curvature <= 10 * eps * steepest * length:  # as large as rounding makes a zero look
            if square <= (1000 * eps) ** 2 * first:
                break  # what is left of b is rounding too
            raise torch.linalg.LinAlgError(  # type: ignore[attr-defined]
                f"the system is singular along a direction of the right-hand side (curvature "
                f"{curvature / length:.1e} where the largest is {steepest:.1e}, iteration "
                f"{iterations + 1}): add damping; 0.1 is common for a Fisher information"
            )
        step = square / curvature
        x.add_(p, alpha=step)
        r.sub_(ap, alpha=step)
        previous, square = square, float(r @ r)
        p.mul_(square / previous).add_(r)
        iterations += 1

    residual = 0.0
    if first > 0:
        # r is carried along and drifts from b − Ax by rounding; report the real one.
        error = b - product(x).add(x, alpha=damping)
        residual = float(torch.linalg.vector_norm(error)) / math.sqrt(first)
    converged = residual <= 2 * tol
    if tol > 0 and not converged:
        warnings.warn(
            f"conjugate gradients stopped after {iterations} iterations at a relative residual of "
            f"{residual:.1e}, above tol={tol:.1e}: raise max_iter or the damping, use float64, or "
            "pass tol=0 to run max_iter iterations on purpose",
            ConvergenceWarning,
            stacklevel=2,
        )
    return Solution(x, iterations, residual, converged)


def check_at_least_zero(**values: float) -> None:
    """Refuse a number that is negative, infinite or NaN, by name."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"expected a finite {name} of at least 0, got {value}")
