"""What a constrained step costs over a plain one, against the number of passes it makes.

One unit is the forward pass of a training batch; a backward pass counts two. A plain step is 3. A
correction evaluates f(X_V) before and after the proposal and goes back once: 4 |X_V| / |X|, or 3
where f before the step is known already. The count is a rule of thumb: nobody needs the gradient
of a network's inputs, for one, which is much of a small network's backward pass. So the same
passes are timed written out by hand as well, with nothing around them.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import Row
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.models import LSTMClassifier, cnn4, mlp, seeded

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MLP 784-400-400-10": (lambda: mlp((784, 400, 400, 10)), (784,), 128),
    "CNN (cnn4, 32x32)": (lambda: cnn4(), (3, 32, 32), 64),
    "LSTM-128, 64 pixels": (lambda: LSTMClassifier(), (1, 64), 64),
}
HAND = "the passes by hand, n = 1"


def stepper(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    *,
    share: float = 0,
    corrections: int = 1,
    reuse: bool = False,
    adam: bool = False,
) -> Callable[[], None]:
    """A function that takes one training step; ``share`` is |X_V| / |X|, 0 for a plain step."""
    model = seeded(build, 0)
    kind = torch.optim.Adam if adam else torch.optim.SGD
    base = kind(model.parameters(), lr=1e-3)
    optimizer = HilbertConstrained(base, corrections=corrections) if share else base
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *shape, generator=generator)
    y = torch.randint(10, (batch,), generator=generator)
    x_v = [
        torch.rand(round(share * batch), *shape, generator=generator) for _ in range(corrections)
    ]

    def outputs(at: Tensor) -> Callable[[], Tensor]:
        return lambda: model(at).softmax(dim=1)

    def step() -> None:
        optimizer.zero_grad()
        logits = model(x)
        F.cross_entropy(logits, y).backward()
        if not share:
            base.step()
        elif reuse:
            optimizer.step(outputs(x), current=logits.detach().softmax(dim=1))  # type: ignore
        else:
            optimizer.step([outputs(at) for at in x_v])  # type: ignore

    return step


def by_hand(
    build: Callable[[], nn.Module], shape: tuple[int, ...], batch: int
) -> Callable[[], None]:
    """The passes of a step with n = 1 and |X_V| = |X|: no checks, no way back, no buffers kept."""
    model = seeded(build, 0)
    parameters: list[Tensor] = list(model.parameters())
    base = torch.optim.SGD(parameters, lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    x, x_v = (torch.rand(batch, *shape, generator=generator) for _ in range(2))
    y = torch.randint(10, (batch,), generator=generator)

    def step() -> None:
        base.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            before = model(x_v).softmax(dim=1)
        base.step()
        length = torch.linalg.vector_norm(model(x_v).softmax(dim=1) - before)
        pull = torch.autograd.grad(length, parameters)
        with torch.no_grad():
            torch._foreach_sub_(parameters, pull, alpha=0.01 / math.sqrt(batch))

    return step


def interleaved(
    steps: dict[str, Callable[[], None]], repeats: int, least: float = 0.05
) -> dict[str, list[float]]:
    """Seconds of each in each repeat, taken in turn, so that a slow moment falls on all.

    Short steps are taken in a row, for ``least`` seconds, as training takes them: each then finds
    its own numbers in the cache.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    in_a_row = {}
    for name, step in steps.items():
        step()  # the first compares what it is given, and warms up
        started = time.perf_counter()
        step()
        in_a_row[name] = max(1, round(least / (time.perf_counter() - started)))
    for _ in range(repeats):
        for name, step in steps.items():
            started = time.perf_counter()
            for _ in range(in_a_row[name]):
                step()
            times[name].append((time.perf_counter() - started) / in_a_row[name])
    return times


def rows(repeats: int = 11) -> list[Row]:
    """One row for each network and kind of step: the ratio, and what the passes say."""
    kinds: dict[str, tuple[dict[str, Any], float]] = {
        "plain": ({}, 3.0),
        "Adam": ({"adam": True}, 3.0),
        "n = 1, |X_V| = |X|": ({"share": 1}, 7.0),
        "n = 1, |X_V| = 2|X|": ({"share": 2}, 11.0),
        "n = 1, forward reused": ({"share": 1, "reuse": True}, 6.0),
        "n = 5, |X_V| = |X|": ({"share": 1, "corrections": 5}, 23.0),
        "Adam+HC, n = 1, |X_V| = |X|": ({"share": 1, "adam": True}, 7.0),
    }
    out: list[Row] = []
    for name, case in CASES.items():
        steps = {kind: stepper(*case, **options) for kind, (options, _) in kinds.items()}
        seconds = interleaved({**steps, HAND: by_hand(*case)}, repeats)
        for kind in (HAND, *list(kinds)[2:]):
            passes = kinds[kind][1] / 3 if kind in kinds else 7 / 3
            base = seconds["Adam" if "Adam" in kind else "plain"]
            # Within a repeat: a machine that slows down slows both sides.
            ratio = statistics.median(a / b for a, b in zip(seconds[kind], base, strict=True))
            bound = 2.05 if "reused" in kind else 1.05 * passes
            judged = "LSTM" not in name and "Adam" not in kind and kind[:5] == "n = 1"
            target = f"passes {passes:.2f}" + (f"; <= {bound:.2f}" if judged else "")
            out.append((f"{name}: {kind}", ratio, "x plain step", target))
    return out


if __name__ == "__main__":
    from bench import print_table

    print_table(rows())
