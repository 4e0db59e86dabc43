"""Checks of arguments at their edges."""

import math

import numpy as np
import pytest

from hilbertlib._checks import at_least_one, at_least_zero, known, positive


def test_at_least_zero():
    at_least_zero(a=0, b=1e-300, c=5)
    for value in (-1e-300, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"^expected a finite b of at least 0, got {value}$"):
            at_least_zero(a=0, b=value)


def test_positive():
    positive(a=1e-300, b=5)
    for value in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"^expected a positive b, got {value}$"):
            positive(a=1, b=value)


def test_at_least_one():
    at_least_one(a=1, b=np.int64(2))
    for value in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"^expected an integer b of at least 1, got {value}$"):
            at_least_one(a=1, b=value)


def test_known():
    known("colour", "red", ("red", "blue"))
    with pytest.raises(ValueError, match=r"^expected colour 'red' or 'blue', got 'green'$"):
        known("colour", "green", ("red", "blue"))
