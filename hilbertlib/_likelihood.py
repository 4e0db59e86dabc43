"""What a Fisher information is an average over: the residuals of a likelihood, and their checks."""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._checks import at_least_one, known, positive

Likelihood = Literal["softmax", "gaussian"]
Kind = Literal["true", "sampled", "empirical"]


def residual_factor(
    outputs: Tensor,
    likelihood: Likelihood,
    kind: Kind,
    targets: Tensor | None,
    samples: int,
    variance: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Residuals r, shape ``(S, N, D)``, such that ``B_i = Σ_s r_is r_isᵀ``.

    A residual is the gradient of −log P(y|z) by z, over the root of the number of draws.
    """
    if likelihood == "gaussian":
        z = outputs.flatten(1)
        if kind == "true":
            unit = torch.eye(z.shape[1], dtype=z.dtype, device=z.device) / math.sqrt(variance)
            return unit[:, None].expand(-1, len(z), -1)
        if kind == "sampled":
            shape = (samples, *z.shape)
            noise = torch.randn(shape, dtype=z.dtype, device=z.device, generator=generator)
            return noise / math.sqrt(variance * samples)
        if targets is None or targets.shape != outputs.shape:
            raise ValueError(
                f"expected targets of shape {tuple(outputs.shape)}, got {_shape(targets)}"
            )
        if not targets.isfinite().all():
            raise ValueError("expected finite targets, got NaN or inf")
        return ((z - targets.flatten(1)) / variance)[None]

    p = outputs.softmax(dim=1)
    n, c = p.shape
    if kind == "true":  # Σ_c p_c (p − e_c)(p − e_c)ᵀ = diag p − p pᵀ
        classes = torch.eye(c, dtype=p.dtype, device=p.device)[:, None]
        return p.T.sqrt()[:, :, None] * (p - classes)
    if kind == "sampled":
        y = torch.multinomial(p, samples, replacement=True, generator=generator).T
        return (p - F.one_hot(y, c)) / math.sqrt(samples)
    if targets is None or targets.shape != (n,) or targets.dtype != torch.int64:
        raise ValueError(
            f"expected targets of shape ({n},) and int64, one class each; got {_shape(targets)}"
        )
    if targets.min() < 0 or targets.max() >= c:
        raise ValueError(
            f"expected classes from 0 to {c - 1}, got {int(targets.min())} to {int(targets.max())}"
        )
    return (p - F.one_hot(targets, c))[None]


def _shape(targets: Tensor | None) -> str:
    return "none" if targets is None else f"{tuple(targets.shape)}, {targets.dtype}"


def chosen_parameters(model: nn.Module, parameters: Iterable[Tensor] | None) -> dict[str, Tensor]:
    """The chosen parameters by name, in the model's order, each tied one once."""
    own = dict(model.named_parameters())
    if parameters is None:
        chosen: dict[str, Tensor] = {name: p for name, p in own.items() if p.requires_grad}
        if not chosen:
            raise ValueError("expected a model with trainable parameters, got none")
        return chosen
    wanted = {id(p) for p in parameters}
    chosen = {name: p for name, p in own.items() if id(p) in wanted}
    if not wanted or len(chosen) != len(wanted):
        raise ValueError(
            f"expected one or more of the model's own parameters, got {len(wanted)} of which "
            f"{len(chosen)} are"
        )
    return chosen


def check_arguments(
    x: Tensor,
    likelihood: str,
    kind: str,
    targets: Tensor | None,
    samples: int,
    variance: float,
) -> None:
    known("likelihood", likelihood, get_args(Likelihood))
    known("kind", kind, get_args(Kind))
    for name, given in (("x", x), ("targets", targets)):
        if not isinstance(given, Tensor) and (name == "x" or given is not None):
            raise TypeError(f"expected {name} to be a tensor, got {type(given).__name__}")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError("expected at least one example, got an empty batch or a single number")
    if (targets is None) == (kind == "empirical"):
        raise ValueError(
            "expected targets, the labels of x, for the empirical Fisher"
            if kind == "empirical"
            else f"the {kind} Fisher takes no targets; did you mean kind='empirical'?"
        )
    at_least_one(samples=samples)
    positive(variance=variance)


def check_outputs(outputs: Tensor, n: int, likelihood: Likelihood) -> Tensor:
    """The outputs, detached, if they fit the likelihood."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"expected a model that returns one tensor, got {type(outputs).__name__}: wrap it in a "
            "module that picks the outputs"
        )
    shape: Sequence[int] = tuple(outputs.shape)
    if likelihood == "softmax" and (outputs.ndim != 2 or len(outputs) != n or shape[1] < 2):
        raise ValueError(f"expected logits of shape ({n}, at least 2 classes), got {shape}")
    if outputs.ndim < 2 or len(outputs) != n:
        raise ValueError(f"expected outputs of shape ({n}, ...), got {shape}")
    if not outputs.isfinite().all():
        raise ValueError("the model's outputs are not finite; check its inputs and parameters")
    if likelihood == "softmax":
        warn_of_probabilities(outputs)
    return outputs.detach()


def warn_of_probabilities(z: Tensor) -> None:
    """Warn if what should be logits, shape ``(N, C)``, are probabilities in every row."""
    if (z >= 0).all() and ((z.sum(dim=1) - 1).abs() < 1e-4).all():
        warnings.warn(
            "the model's outputs look like probabilities, but logits are expected: leave out the "
            "model's last softmax",
            stacklevel=4,
        )
