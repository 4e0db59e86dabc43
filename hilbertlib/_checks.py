"""Checks of arguments: a number or a name out of range is refused by name."""

import math
from numbers import Integral


def at_least_zero(**values: float) -> None:
    """Refuse a number that is negative, infinite or NaN."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"expected a finite {name} of at least 0, got {value}")


def positive(**values: float) -> None:
    """Refuse a number that is zero, negative, infinite or NaN."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"expected a positive {name}, got {value}")


def at_least_one(**values: int) -> None:
    """Refuse a count that is below 1 or no integer."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"expected an integer {name} of at least 1, got {value!r}")


def known(name: str, value: object, values: tuple[str, ...]) -> None:
    """Refuse a name that is not one of ``values``."""
    if value not in values:
        raise ValueError(f"expected {name} {' or '.join(map(repr, values))}, got {value!r}")
