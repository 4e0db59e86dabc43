"""Measurements of what the book promises, as medians and ratios within one run: ``make bench``."""

import re
from collections.abc import Iterable

import torch

Row = tuple[str, float, str, str]  # what, how much, in what unit, the target


def met(value: float, target: str) -> str:
    """Whether a value meets a target such as ``"<= 2.05"``; empty where there is none."""
    found = re.search(r"(<=|>=) ?([\d.]+)", target)
    if not found:
        return ""
    bound = float(found[2])
    return "met" if (value <= bound if found[1] == "<=" else value >= bound) else "MISSED"


def print_table(rows: Iterable[Row]) -> None:
    """One line a measurement: what, how much, in what unit, the target and whether it is met."""
    for name, value, unit, target in rows:
        line = f"  {name:<52} {value:>10.4g} {unit:<18} {target:<22} {met(value, target)}"
        print(line.rstrip(), flush=True)


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given; a processor has already."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
