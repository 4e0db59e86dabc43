"""Fisher-vector products against a gradient and against curvlinops, in one process.

The network is the paper's for permuted MNIST, 784-400-400-10, with 256 examples. Each repeat times
every candidate, and ratios are taken within it, so that a machine that slows down slows both sides;
the median of the ratios is reported.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from bench import Row, print_table, synchronize
from hilbertlib.fisher import Fisher, fisher_diagonal, fisher_vector_product
from hilbertlib.models import mlp, seeded
from hilbertlib.training import resolve_device


def rows(repeats: int = 15, n: int = 256, device: str = "auto") -> list[Row]:
    """``(name, value, unit, target)``; the target is empty where nothing was promised."""
    device = str(resolve_device(device))
    # Its import warns of torch's own deprecations, and so do its hooks.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from curvlinops import GGNLinearOperator  # type: ignore[import-untyped]

    generator = torch.Generator().manual_seed(0)
    model = seeded(lambda: mlp((784, 400, 400, 10)), seed=0).to(device)
    x = torch.rand(n, 784, generator=generator).to(device)
    y = torch.randint(10, (n,), generator=generator).to(device)
    parameters = list(model.parameters())
    v = torch.randn(sum(p.numel() for p in parameters), generator=generator).to(device)
    held = Fisher(model, x)
    ggn = GGNLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False
    )
    torch.testing.assert_close(held @ v, ggn @ v, rtol=1e-3, atol=1e-5)  # the same product

    seconds = interleaved(
        {
            "gradient": lambda: torch.autograd.grad(F.cross_entropy(model(x), y), parameters),
            "held": lambda: held @ v,
            "build": lambda: Fisher(model, x),
            "single": lambda: fisher_vector_product(model, x, v),
            "curvlinops": lambda: ggn @ v,
            "empirical diagonal": lambda: fisher_diagonal(model, x, kind="empirical", targets=y),
            "true diagonal": lambda: fisher_diagonal(model, x),
        },
        repeats,
        device,
    )

    def over(name: str, other: str) -> float:
        pairs = zip(seconds[name], seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    return [
        ("gradient", 1e3 * statistics.median(seconds["gradient"]), "ms", ""),
        ("Fisher product inside a solve", over("held", "gradient"), "gradients", "<= 1.4"),
        ("the same over curvlinops' GGN", over("held", "curvlinops"), "", "<= 0.5"),
        ("curvlinops' GGN product", over("curvlinops", "gradient"), "gradients", ""),
        ("linearizing, once a solve", over("build", "gradient"), "gradients", ""),
        ("a single product, all in all", over("single", "gradient"), "gradients", ""),
        ("empirical Fisher's diagonal", over("empirical diagonal", "gradient"), "gradients", ""),
        ("true Fisher's diagonal", over("true diagonal", "gradient"), "gradients", ""),
    ]


def interleaved(
    candidates: dict[str, Callable[[], object]], repeats: int, device: str, in_a_row: int = 5
) -> dict[str, list[float]]:
    """Seconds of each candidate in each repeat, after one unmeasured.

    Several in a row, as a solve makes them: each then finds its own numbers in the cache.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, run in candidates.items():
            synchronize(device)
            start = time.perf_counter()
            for _ in range(in_a_row):
                run()
            synchronize(device)
            if repeat > 0:
                times[name].append((time.perf_counter() - start) / in_a_row)
    return times


if __name__ == "__main__":
    print_table(rows())
