"""Fisher-vector products against a gradient and against curvlinops, in one process.

The network is the paper's for permuted MNIST, 784-400-400-10, with 256 examples. Each repeat times
every candidate once, so that a machine that slows down slows all of them; medians are compared.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from bench import Row, print_table
from hilbertlib.fisher import Fisher, fisher_diagonal, fisher_vector_product
from hilbertlib.models import mlp, seeded


def rows(repeats: int = 30, n: int = 256, device: str = "cpu") -> list[Row]:
    """``(name, value, unit, target)``; the target is empty where nothing was promised."""
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

    seconds = medians(
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
    gradient = seconds["gradient"]
    return [
        ("gradient", 1e3 * gradient, "ms", ""),
        ("Fisher product inside a solve", seconds["held"] / gradient, "gradients", "<= 1.4"),
        ("the same over curvlinops' GGN", seconds["held"] / seconds["curvlinops"], "", "<= 0.5"),
        ("curvlinops' GGN product", seconds["curvlinops"] / gradient, "gradients", ""),
        ("linearizing, once a solve", seconds["build"] / gradient, "gradients", ""),
        ("a single product, all in all", seconds["single"] / gradient, "gradients", ""),
        ("empirical Fisher's diagonal", seconds["empirical diagonal"] / gradient, "gradients", ""),
        ("true Fisher's diagonal", seconds["true diagonal"] / gradient, "gradients", ""),
    ]


def medians(
    candidates: dict[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, float]:
    """Median seconds of each candidate, after two unmeasured rounds."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 2):
        for name, run in candidates.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if repeat >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    print_table(rows())
