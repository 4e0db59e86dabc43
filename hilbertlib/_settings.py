"""What the user of :mod:`hilbertlib.hcgd` hands over, checked."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, get_args

from torch import Tensor

Norm = Literal["rms", "squared"]
Velocity = Literal["torch", "paper"]
Outputs = Callable[[], Tensor]


def output_functions(outputs: Outputs | Sequence[Outputs] | None, n: int) -> list[Outputs]:
    """One output function for each of the n corrections."""
    if callable(outputs):
        return [outputs] * n
    if not isinstance(outputs, Sequence) or not all(map(callable, outputs)):
        raise TypeError(
            "step needs an output function that returns f(X_V), such as lambda: "
            f"model(x_v).softmax(dim=1), or a list of {n}; got {type(outputs).__name__}"
        )
    if len(outputs) != n:
        raise ValueError(f"expected {n} output functions, one a correction, got {len(outputs)}")
    return list(outputs)


def check_group(group: dict[str, Any], sgd: bool) -> None:
    """Refuse a parameter group whose hyperparameters are out of range.

    Raises:
        ValueError: Saying which, what was expected and what came.
    """
    for name, symbol in (("lam", "λ"), ("inner_lr", "η")):
        value = group[name]
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 <= value < math.inf
        ):
            raise ValueError(f"expected a finite {name} ({symbol}) of at least 0, got {value!r}")
    n = group["corrections"]
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"expected an integer corrections (n) of at least 1, got {n!r}")
    for name, kind in (("norm", Norm), ("velocity", Velocity)):
        if group[name] not in get_args(kind):
            raise ValueError(
                f"expected {name} {' or '.join(map(repr, get_args(kind)))}, got {group[name]!r}"
            )
    if sgd and group["absorb"] and group["nesterov"]:
        raise ValueError("Nesterov's velocity is not its step; pass absorb=False to keep it apart")
    if group["velocity"] == "paper" and not sgd:
        raise ValueError("velocity='paper' is a form of SGD's momentum; the base is not SGD")
    if group.get("differentiable"):
        raise ValueError("expected a base with differentiable=False: no graph is kept of a step")


def complete(groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
    """Give each group the defaults that it lacks."""
    for group in groups:
        for name, value in defaults.items():
            group.setdefault(name, value)
