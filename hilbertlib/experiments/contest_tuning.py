"""The tuning of chapter 11's methods: the same small budget for each, and what it found.

The table was made by :func:`tune`, which takes some minutes; a test makes a part of it again.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..data import Dataset
from .contest import COMPUTE, EPOCHS, LIVE, Config, run, split, steps

SEEDS = (0, 1, 2)
"""Those of the tuning; the runs that are judged have others."""

_STEEP = (0.01, 0.03, 0.1, 0.3, 1.0)
_ADAPTIVE = (0.001, 0.003, 0.01, 0.03, 0.1)
GRID: Mapping[str, Sequence[float]] = {
    "SGD": _STEEP,
    "Adam": _ADAPTIVE,
    "HCGD": _STEEP,
    "Adam+HC": _ADAPTIVE,
    "natural gradient": (0.03, 0.1, 0.3, 1.0, 3.0),
    "SAM": _STEEP,
    "Muon": _ADAPTIVE,
}
"""Five learning rates for each method, about a factor of three apart."""


class Tried(NamedTuple):
    """What one rate gave, a number a seed.

    Attributes:
        epochs, compute: How many of the tuning images are right at either reading.
        path: Squared path length in function space at equal epochs.
    """

    epochs: tuple[int, ...]
    compute: tuple[int, ...]
    path: tuple[float, ...]

    def right(self, reading: str) -> float:
        """The mean number of images that are right."""
        counts = self.epochs if reading == EPOCHS else self.compute
        return sum(counts) / len(counts)


def tune(
    method: str,
    data: Dataset,
    rates: Sequence[float],
    config: Config = LIVE,
    seeds: Sequence[int] = SEEDS,
) -> dict[float, Tried]:
    """Every rate from every seed, on the images put aside.

    Raises:
        FloatingPointError: If a run diverges.
    """
    task = split(data, config, tuning=True)
    full, short = (steps(config, task, method, reading) for reading in (EPOCHS, COMPUTE))
    found = {}
    for lr in rates:
        done = [run(task, method, lr, seed, config, full) for seed in seeds]
        found[lr] = Tried(
            tuple(round(r.accuracy_at(full) * len(task.y_test)) for r in done),
            tuple(round(r.accuracy_at(short) * len(task.y_test)) for r in done),
            tuple(float(f"{r.path:.3g}") for r in done),
        )
    return found


def best(tried: Mapping[float, Tried], reading: str) -> float:
    """The rate with the most right; the smaller one of two that have as many."""
    return min(tried, key=lambda lr: (-tried[lr].right(reading), lr))


TUNING: Mapping[str, Mapping[float, Tried]] = {
    "SGD": {
        0.01: Tried((266, 259, 264), (266, 259, 264), (0.0376, 0.0267, 0.0341)),
        0.03: Tried((283, 282, 283), (283, 282, 283), (0.437, 0.475, 0.62)),
        0.1: Tried((288, 292, 289), (288, 292, 289), (2.22, 2.47, 3.11)),
        0.3: Tried((286, 273, 285), (286, 273, 285), (13.2, 22.2, 12.3)),
        1.0: Tried((27, 26, 29), (27, 26, 29), (11.4, 9.13, 7.04)),
    },
    "Adam": {
        0.001: Tried((281, 279, 283), (281, 279, 283), (0.0436, 0.0495, 0.0368)),
        0.003: Tried((286, 286, 282), (286, 286, 282), (0.248, 0.254, 0.227)),
        0.01: Tried((289, 288, 284), (289, 288, 284), (1.18, 1.05, 1.03)),
        0.03: Tried((288, 291, 290), (288, 291, 290), (3.47, 3.53, 2.86)),
        0.1: Tried((267, 282, 254), (267, 282, 254), (9.13, 8.58, 10.0)),
    },
    "HCGD": {
        0.01: Tried((264, 264, 257), (232, 144, 179), (0.00504, 0.00314, 0.0037)),
        0.03: Tried((284, 284, 285), (270, 264, 265), (0.0635, 0.0596, 0.0642)),
        0.1: Tried((286, 288, 288), (283, 283, 286), (1.31, 1.83, 1.86)),
        0.3: Tried((282, 292, 283), (275, 274, 276), (9.44, 9.76, 12.2)),
        1.0: Tried((27, 26, 29), (27, 38, 38), (9.45, 6.03, 9.89)),
    },
    "Adam+HC": {
        0.001: Tried((259, 277, 253), (269, 263, 262), (0.0307, 0.0276, 0.0335)),
        0.003: Tried((289, 288, 285), (282, 278, 280), (0.129, 0.137, 0.131)),
        0.01: Tried((288, 286, 287), (287, 287, 286), (0.83, 0.918, 0.773)),
        0.03: Tried((288, 292, 286), (286, 285, 287), (3.27, 2.76, 3.11)),
        0.1: Tried((259, 287, 263), (240, 276, 276), (9.21, 6.85, 6.59)),
    },
    "natural gradient": {
        0.03: Tried((280, 279, 279), (126, 117, 117), (0.0084, 0.00814, 0.00824)),
        0.1: Tried((287, 285, 285), (260, 263, 258), (0.0488, 0.0509, 0.0488)),
        0.3: Tried((288, 288, 286), (277, 279, 277), (0.347, 0.336, 0.279)),
        1.0: Tried((27, 26, 26), (63, 72, 38), (21.8, 25.0, 20.2)),
        3.0: Tried((27, 26, 26), (27, 37, 27), (68.4, 74.9, 79.2)),
    },
    "SAM": {
        0.01: Tried((267, 261, 262), (183, 77, 189), (0.0505, 0.0369, 0.0462)),
        0.03: Tried((282, 285, 282), (277, 264, 269), (0.537, 0.516, 0.654)),
        0.1: Tried((291, 291, 288), (277, 284, 281), (2.18, 2.5, 2.75)),
        0.3: Tried((267, 279, 288), (273, 275, 275), (14.1, 13.4, 10.2)),
        1.0: Tried((27, 26, 29), (27, 26, 26), (7.2, 6.49, 4.52)),
    },
    "Muon": {
        0.001: Tried((257, 263, 261), (257, 263, 261), (0.000709, 0.000598, 0.000507)),
        0.003: Tried((286, 287, 285), (286, 287, 285), (0.0199, 0.0185, 0.0174)),
        0.01: Tried((293, 291, 292), (293, 291, 292), (0.139, 0.125, 0.143)),
        0.03: Tried((280, 287, 286), (280, 287, 286), (1.47, 1.31, 1.32)),
        0.1: Tried((286, 282, 280), (286, 282, 280), (7.54, 7.43, 7.96)),
    },
}
"""The whole grid, as :func:`tune` found it."""
