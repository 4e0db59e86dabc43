"""Random initializations on their way through both spaces: Figure 1 of the paper, in small."""

from collections.abc import Sequence

import numpy as np
import torch

from ..data import Dataset
from ..models import mlp, seeded
from ..training import train
from ..trajectory import Recorder, Trajectory, embed, l2_matrix, parameter_matrix


def run(
    dataset: Dataset, seeds: Sequence[int] = (0, 1, 2), epochs: int = 30, every: int = 4
) -> list[Trajectory]:
    """Train one perceptron from each seed and keep it every few steps.

    SGD at ε = 0.03 with momentum 0.9, batches of 64; all networks see the same batches.
    """
    runs = []
    for seed in seeds:
        sizes = (int(np.prod(dataset.shape)), 64, 64, len(dataset.classes))
        model = seeded(lambda sizes=sizes: mlp(sizes), seed)  # type: ignore[misc]
        sgd = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
        recorder = Recorder(model, dataset.x_test, every=every)
        train(model, dataset, sgd, epochs=epochs, batch_size=64, seed=0, on_step=recorder)
        runs.append(recorder.trajectory())
    return runs


def maps(runs: Sequence[Trajectory]) -> dict[str, tuple[list[np.ndarray], float]]:
    """The runs on a common map of parameter space and of function space, each with its stress.

    One array of shape ``(S, 2)`` a run.
    """
    ends = np.cumsum([len(r) for r in runs])[:-1]
    out = {}
    for name, matrix in (("parameters", parameter_matrix(runs)), ("functions", l2_matrix(runs))):
        drawn = embed(matrix, method="classical")
        out[name] = (np.split(drawn.points, ends), drawn.stress)
    return out
