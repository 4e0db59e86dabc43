"""Ten seeds of a small network at once against one after another: ``train_many`` over ``train``.

Both train the same networks with the same batches, and their histories are compared first. Each
repeat times both, and the ratio is taken within it.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench import Row
from hilbertlib.data import load
from hilbertlib.ensemble import train_many
from hilbertlib.models import mlp, seeded
from hilbertlib.training import History, train

SIZES = {"64-32-10": (64, 32, 10), "64-100-100-10": (64, 100, 100, 10)}


def trainers(
    sizes: tuple[int, ...], seeds: int, epochs: int, examples: int = 1297
) -> dict[str, Callable[[], list[History]]]:
    """Two functions that train ``seeds`` networks on the digits and return their histories."""
    digits = load("digits").subset(examples, seed=0)

    def built() -> list[nn.Sequential]:
        return [seeded(lambda: mlp(sizes), seed) for seed in range(seeds)]

    def optimizer(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    def one_by_one() -> list[History]:
        return [
            train(model, digits, optimizer(list(model.parameters())), epochs=epochs, seed=seed)
            for seed, model in enumerate(built())
        ]

    def at_once() -> list[History]:
        return train_many(built(), digits, optimizer, epochs=epochs, seeds=range(seeds))

    return {"one by one": one_by_one, "at once": at_once}


def rows(repeats: int = 5, seeds: int = 10, epochs: int = 3) -> list[Row]:
    """For each network: seconds of a loop, and how often the batched computation fits into it."""
    out: list[Row] = []
    for name, sizes in SIZES.items():
        both = trainers(sizes, seeds, epochs)
        losses = [[h.train_loss for h in run()] for run in both.values()]  # warms up too
        torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-3, atol=1e-5)
        seconds: dict[str, list[float]] = {which: [] for which in both}
        for _ in range(repeats):
            for which, run in both.items():
                started = time.perf_counter()
                run()
                seconds[which].append(time.perf_counter() - started)
        loop, many = seconds.values()
        ratio = statistics.median(a / b for a, b in zip(loop, many, strict=True))
        out += [
            (f"MLP {name}, {seeds} seeds, one by one", statistics.median(loop), "s", ""),
            ("  train_many, all at once", ratio, "x as fast", ">= 1"),
        ]
    return out


if __name__ == "__main__":
    from bench import print_table

    print_table(rows())
