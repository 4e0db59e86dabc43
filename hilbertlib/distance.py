"""Distances between functions and between parameters: section 2 of the paper.

A function is given by its outputs on ``N`` examples drawn from the data, ``(N, *C)``; for a
classifier, its softmax probabilities. Everything is a mean over these examples.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Reduction = Literal["rms", "mean_norm"]
Parameters = nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Tensor


def l2_distance(f: Tensor, g: Tensor, reduction: Reduction = "rms") -> Tensor:
    """L2 distance between two functions, from their outputs on the same examples.

    Between two softmax classifiers it lies between 0 and √2. It is differentiable; where the
    functions agree the gradient is the zero subgradient.

    Args:
        f, g: Outputs, shape ``(N, *C)``.
        reduction: ``"rms"``: ``sqrt(mean_i |f_i − g_i|²)``, the norm of section 2.
            ``"mean_norm"``: ``mean_i |f_i − g_i|``, of the introduction and the released code.

    Returns:
        A tensor of shape ``()``, in the units of the outputs, in float32 or wider.

    Raises:
        TypeError: If the outputs are not floating-point numbers.
        ValueError: If the shapes differ, the batch is empty, an output is not finite, or the
            reduction is unknown.

    >>> l2_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(1.4142)
    """
    _check_reduction(reduction)
    difference = _difference(f, g)
    if reduction == "rms":
        # One vector_norm over everything: its subgradient at zero is zero, a root's is NaN.
        return torch.linalg.vector_norm(difference) / math.sqrt(len(difference))
    return torch.linalg.vector_norm(difference, dim=1).mean()


@dataclass(frozen=True)
class L2Estimate:
    """An L2 distance measured on a sample, and how far to trust it.

    Attributes:
        distance: The estimate from ``n`` examples.
        low: Lower confidence bound at ``level`` for the distance over the whole distribution.
        high: Upper confidence bound.
        std: Standard deviation that one example contributes: the bounds are about
            ``distance ± z · std / √n``. In the units of the outputs.
        n: Number of examples.
        level: Confidence level.
        reduction: Which distance was estimated.
    """

    distance: float
    low: float
    high: float
    std: float
    n: int
    level: float
    reduction: Reduction

    @property
    def relative_error(self) -> float:
        """Half the interval's width over the distance, ``z · std / (√n · distance)``."""
        return _ratio(_z(self.level) * self.std, math.sqrt(self.n) * self.distance)

    def examples_needed(self, relative: float = 0.05) -> float:
        """How many examples make the interval ``± relative`` of the distance.

        Raises:
            ValueError: If ``relative`` is not positive.
        """
        if not (relative > 0 and math.isfinite(relative)):
            raise ValueError(f"expected a positive relative error, got {relative}")
        return _ratio(_z(self.level) * self.std, relative * self.distance) ** 2


def estimate_l2(
    f: Tensor, g: Tensor, level: float = 0.95, reduction: Reduction = "rms"
) -> L2Estimate:
    """Estimate an L2 distance from a sample of examples, with a confidence interval.

    With ``s_i = |f_i − g_i|²`` the interval for the mean square, ``mean(s) ± z · sd(s) / √N``, is
    carried through the root, its lower end clipped at 0. ``std`` is the delta method's
    ``sd(s) / (2 · distance)``. For ``"mean_norm"`` it is the plain interval of a mean.
    The normal approximation is poor where a few examples carry most of the distance.

    Args:
        f, g: Outputs on examples drawn independently, shape ``(N, *C)``, ``N ≥ 2``.
        level: Confidence level between 0 and 1.

    Raises:
        ValueError: As :func:`l2_distance`; or fewer than two examples; or a bad ``level``.

    >>> f, g = torch.zeros(100, 1), torch.tensor([[0.1], [0.3]]).repeat(50, 1)
    >>> estimate = estimate_l2(f, g)
    >>> print(f"{estimate.distance:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]")
    0.224 [0.205, 0.241]
    >>> math.ceil(estimate.examples_needed(0.05))  # for ± 5% of the distance
    249
    """
    _check_reduction(reduction)
    difference = _difference(f, g).detach().double()
    n = len(difference)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 examples, got {n}")
    z = _z(level)
    norms = torch.linalg.vector_norm(difference, dim=1)
    values = norms.square() if reduction == "rms" else norms
    mean, sd = float(values.mean()), float(values.std())
    low, high = max(0.0, mean - z * sd / math.sqrt(n)), mean + z * sd / math.sqrt(n)
    if reduction == "mean_norm":
        return L2Estimate(mean, low, high, sd, n, level, reduction)
    distance = math.sqrt(mean)
    std = 0.0 if distance == 0 else sd / (2 * distance)
    return L2Estimate(distance, math.sqrt(low), math.sqrt(high), std, n, level, reduction)


def pairwise_l2(
    outputs: Tensor | Sequence[Tensor],
    other: Tensor | Sequence[Tensor] | None = None,
    reduction: Reduction = "rms",
) -> Tensor:
    """L2 distances between every two of ``S`` functions, in float64.

    Differences are taken before they are squared: expanding the square, as matrix-multiplication
    distances do, loses near-equal functions to rounding.

    Args:
        outputs: Shape ``(S, N, *C)``, or ``S`` tensors of shape ``(N, *C)``.
        other: ``S'`` more functions on the same examples; default the same ones.

    Returns:
        Shape ``(S, S')``; symmetric with an exactly zero diagonal when ``other`` is not given.

    Raises:
        ValueError: As :func:`l2_distance`, or there is no function.

    >>> outputs = torch.tensor([[[0.0], [0.0]], [[1.0], [1.0]], [[0.0], [2.0]]])  # (S, N, C)
    >>> pairwise_l2(outputs, reduction="mean_norm")
    tensor([[0., 1., 1.],
            [1., 0., 1.],
            [1., 1., 0.]], dtype=torch.float64)
    """
    _check_reduction(reduction)
    rows = _stack(outputs, "outputs", 2)
    columns = rows if other is None else _stack(other, "outputs", 2)
    if rows.shape[1:] != columns.shape[1:]:
        raise ValueError(
            f"expected outputs on the same examples, got {_shape(rows)} and {_shape(columns)}"
        )
    n = rows.shape[1]
    if n == 0:
        raise ValueError("expected at least one example, got an empty batch")
    if reduction == "rms":
        return _pairwise_norm(rows.flatten(1), columns.flatten(1), other is None) / math.sqrt(n)
    return _symmetric(
        lambda i, j: torch.linalg.vector_norm((rows[i] - columns[j:]).flatten(2), dim=2).mean(1),
        len(rows), len(columns), other is None, rows.device,
    )  # fmt: skip


def parameter_distance(a: Parameters, b: Parameters) -> Tensor:
    """ℓ2 distance between two sets of parameters: the length of the difference.

    Args:
        a, b: Two modules (their trainable parameters; buffers are left out), two mappings from
            names to tensors, two iterables of tensors, or two tensors.

    Returns:
        A tensor of shape ``()``, without gradient, in float32 or wider.

    Raises:
        TypeError: If ``a`` and ``b`` are not of one kind.
        ValueError: If names, shapes or numbers of tensors differ, there are no parameters, or one
            is not finite.

    >>> parameter_distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))
    tensor(5.)
    """
    ours, theirs = _named(a), _named(b)
    if _kind(a) != _kind(b):
        raise TypeError(f"expected two of one kind, got {_kind(a)} and {_kind(b)}")
    shapes = [{n: tuple(t.shape) for n, t in side.items()} for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        odd = sorted(
            n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n)
        )
        first = odd[0]
        raise ValueError(
            f"expected parameters of the same names and shapes; {first} is "
            f"{shapes[0].get(first, 'missing')} and {shapes[1].get(first, 'missing')}"
        )
    if not ours:
        raise ValueError("expected at least one trainable parameter, got none")
    with torch.no_grad():
        parts = [
            torch.linalg.vector_norm(_wide(theirs[n]).to(t.device) - t) for n, t in ours.items()
        ]
        length = torch.linalg.vector_norm(torch.stack([p.to(parts[0].device) for p in parts]))
    if not bool(length.isfinite()):
        raise ValueError(f"expected finite parameters, got a distance of {float(length)}")
    return length


def pairwise_parameter_distance(
    parameters: Tensor | Sequence[Tensor], other: Tensor | Sequence[Tensor] | None = None
) -> Tensor:
    """ℓ2 distances between every two of ``S`` flat parameter vectors, in float64.

    Args:
        parameters: Shape ``(S, P)``, or ``S`` tensors of shape ``(P,)``.
        other: ``S'`` more; default the same ones.

    Returns:
        Shape ``(S, S')``; symmetric with an exactly zero diagonal when ``other`` is not given.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or there is no vector.

    >>> pairwise_parameter_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0., 5.],
            [5., 0.]], dtype=torch.float64)
    """
    rows = _stack(parameters, "parameters", 1)
    columns = rows if other is None else _stack(other, "parameters", 1)
    if rows.shape[1:] != columns.shape[1:] or rows.ndim != 2:
        raise ValueError(
            f"expected flat parameters (S, P) of one length, got {_shape(rows)} and "
            f"{_shape(columns)}"
        )
    return _pairwise_norm(rows, columns, other is None)


def kl_divergence(p: Tensor, q: Tensor, log: bool = False) -> Tensor:
    """Mean Kullback-Leibler divergence KL(p ‖ q) between the answers of two classifiers, in nats.

    ``mean_i Σ_c p_ic log(p_ic / q_ic)``, with 0 log 0 = 0; infinite where p is positive and q
    is 0. The paper's equation 3 has the new network as p and the old one as q.

    Args:
        p, q: Probabilities, shape ``(N, C)``; with ``log`` their logarithms, which lose less.

    Raises:
        ValueError: If shapes differ, the batch is empty, or a row is not a distribution.

    >>> kl_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))  # log 2
    tensor(0.6931)
    """
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"expected two tensors (N, C), got {_shape(p)} and {_shape(q)}")
    if len(p) == 0:
        raise ValueError("expected at least one example, got an empty batch")
    for name, t in (("p", p), ("q", q)):
        values = _wide(t).exp() if log else _wide(t)
        off = (values.sum(1) - 1).abs()
        if not (values >= 0).all() or not (off <= max(1e-4, 10 * torch.finfo(t.dtype).eps)).all():
            raise ValueError(
                f"expected each row of {name} to be {'log-' if log else ''}probabilities that sum "
                "to 1; did you pass logits?"
            )
    p, q = _wide(p), _wide(q)
    if log:
        terms = torch.where(p == -math.inf, 0.0, p.exp() * (p - q))
    else:
        terms = torch.special.xlogy(p, p) - torch.special.xlogy(p, q)
    return terms.sum(1).mean()


def _difference(f: Tensor, g: Tensor) -> Tensor:
    """``f − g`` as ``(N, everything else)``, after the checks that every distance shares."""
    if f.shape != g.shape:
        raise ValueError(f"expected outputs of the same shape, got {_shape(f)} and {_shape(g)}")
    if f.ndim == 0 or len(f) == 0:
        raise ValueError(
            f"expected at least one example along the first axis, got shape {_shape(f)}"
        )
    if not (f.is_floating_point() and g.is_floating_point()):
        raise TypeError(f"expected floating-point outputs, got {f.dtype} and {g.dtype}")
    difference = (_wide(f) - g).reshape(len(f), -1)
    if not bool(difference.isfinite().all()):
        raise ValueError("expected finite outputs, got NaN or infinity")
    return difference


def _wide(t: Tensor) -> Tensor:
    """In float32 or wider: in half precision a sum would lose all but three digits."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _pairwise_norm(rows: Tensor, columns: Tensor, same: bool) -> Tensor:
    return _symmetric(
        lambda i, j: torch.linalg.vector_norm(rows[i] - columns[j:], dim=1),
        len(rows), len(columns), same, rows.device,
    )  # fmt: skip


def _symmetric(row, n: int, m: int, same: bool, device: torch.device) -> Tensor:  # type: ignore[no-untyped-def]
    """Fill ``(n, m)`` from ``row(i, j)``, the distances of ``i`` to ``j`` and all after it."""
    out = torch.zeros(n, m, dtype=torch.float64, device=device)
    for i in range(n):
        if same:
            out[i, i + 1 :] = out[i + 1 :, i] = row(i, i + 1)
        else:
            out[i] = row(i, 0)
    return out


def _stack(tensors: Tensor | Sequence[Tensor], what: str, least: int) -> Tensor:
    if not isinstance(tensors, Tensor):
        tensors = list(tensors)
        shapes = {tuple(t.shape) for t in tensors}
        if len(shapes) != 1:
            raise ValueError(f"expected {what} of one shape, got {sorted(shapes)}")
        tensors = torch.stack(tensors)
    if tensors.ndim <= least or len(tensors) == 0:
        raise ValueError(
            f"expected {what} with {least + 1} axes or more and at least one row, "
            f"got shape {_shape(tensors)}"
        )
    if not bool(tensors.isfinite().all()):
        raise ValueError(f"expected finite {what}, got NaN or infinity")
    return tensors.detach().double()


def _named(parameters: Parameters) -> dict[str, Tensor]:
    if isinstance(parameters, nn.Module):
        return {n: p for n, p in parameters.named_parameters() if p.requires_grad}
    if isinstance(parameters, Tensor):
        return {"the tensor": parameters}
    if isinstance(parameters, Mapping):
        return dict(parameters)
    return {f"tensor {i}": t for i, t in enumerate(parameters)}


def _kind(parameters: Parameters) -> str:
    kinds = {nn.Module: "a module", Tensor: "a tensor", Mapping: "a mapping"}
    return next((n for k, n in kinds.items() if isinstance(parameters, k)), "a list of tensors")


def _shape(t: Tensor) -> str:
    return str(tuple(t.shape))


def _check_reduction(reduction: str) -> None:
    if reduction not in get_args(Reduction):
        raise ValueError(f"expected reduction 'rms' or 'mean_norm', got {reduction!r}")


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")
    return statistics.NormalDist().inv_cdf((1 + level) / 2)


def _ratio(part: float, whole: float) -> float:
    return 0.0 if part == 0 else math.inf if whole == 0 else part / whole
