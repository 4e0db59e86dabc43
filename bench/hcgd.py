"""What a constrained step costs over a plain one, against the number of passes it makes.

One unit is the forward pass of a training batch; a backward pass counts two. A plain step is 3. A
correction evaluates f(X_V) before and after the proposal and goes back once: 4 |X_V| / |X|, or 3
where f before the step is known already. The count is a rule of thumb: nobody needs the gradient
of a network's inputs, for one, which is much of a small network's backward pass. So the same
passes are timed written out by hand as well, with nothing around them.

All of it runs on a GPU where there is one. A small network's time there is that of launching
kernels; :func:`compiled_rows` measures both steps without it, as CUDA graphs.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import Row, synchronize
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.models import LSTMClassifier, cnn4, mlp, seeded
from hilbertlib.training import resolve_device

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
    device: str = "cpu",
    compiled: dict[str, Any] | None = None,
) -> Callable[[], None]:
    """A function that takes one training step.

    Args:
        share: |X_V| / |X|; 0 for a plain step.
        compiled: What to compile the network with, as ``torch.compile`` has it; None: not at all.
    """
    model = seeded(build, 0).to(device)
    network: Callable[[Tensor], Tensor] = torch.compile(model, **compiled) if compiled else model
    kind = torch.optim.Adam if adam else torch.optim.SGD
    base = kind(model.parameters(), lr=1e-3)
    optimizer = HilbertConstrained(base, corrections=corrections) if share else base
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *shape, generator=generator).to(device)
    y = torch.randint(10, (batch,), generator=generator).to(device)
    x_v = [
        torch.rand(round(share * batch), *shape, generator=generator).to(device)
        for _ in range(corrections)
    ]

    def outputs(at: Tensor) -> Callable[[], Tensor]:
        return lambda: network(at).softmax(dim=1)

    def step() -> None:
        if compiled:  # the memory of the last step's graphs may be used again
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        logits = network(x)
        F.cross_entropy(logits, y).backward()
        if not share:
            base.step()
        elif reuse:
            optimizer.step(outputs(x), current=logits.detach().softmax(dim=1))  # type: ignore
        else:
            optimizer.step([outputs(at) for at in x_v])  # type: ignore

    return step


def by_hand(
    build: Callable[[], nn.Module], shape: tuple[int, ...], batch: int, device: str = "cpu"
) -> Callable[[], None]:
    """The passes of a step with n = 1 and |X_V| = |X|: no checks, no way back, no buffers kept."""
    model = seeded(build, 0).to(device)
    parameters: list[Tensor] = list(model.parameters())
    base = torch.optim.SGD(parameters, lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    x, x_v = (torch.rand(batch, *shape, generator=generator).to(device) for _ in range(2))
    y = torch.randint(10, (batch,), generator=generator).to(device)

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
    steps: dict[str, Callable[[], None]], repeats: int, least: float = 0.05, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each in each repeat, taken in turn, so that a slow moment falls on all.

    Short steps are taken in a row, for ``least`` seconds, as training takes them: each then finds
    its own numbers in the cache.
    """

    def seconds(step: Callable[[], None], times: int) -> float:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(times):
            step()
        synchronize(device)
        return (time.perf_counter() - started) / times

    found: dict[str, list[float]] = {name: [] for name in steps}
    in_a_row = {}
    for name, step in steps.items():
        step()  # the first compares what it is given, and warms up
        in_a_row[name] = max(1, round(least / seconds(step, 1)))
    for _ in range(repeats):
        for name, step in steps.items():
            found[name].append(seconds(step, in_a_row[name]))
    return found


def over(name: str, other: str, seconds: dict[str, list[float]]) -> float:
    """The median of the ratios within a repeat: a machine that slows down slows both sides."""
    pairs = zip(seconds[name], seconds[other], strict=True)
    return statistics.median(a / b for a, b in pairs)


def rows(repeats: int = 11, device: str = "auto") -> Iterator[Row]:
    """One row for each network and kind of step: the ratio, and what the passes say."""
    device = str(resolve_device(device))
    kinds: dict[str, tuple[dict[str, Any], float]] = {
        "plain": ({}, 3.0),
        "Adam": ({"adam": True}, 3.0),
        "n = 1, |X_V| = |X|": ({"share": 1}, 7.0),
        "n = 1, |X_V| = 2|X|": ({"share": 2}, 11.0),
        "n = 1, forward reused": ({"share": 1, "reuse": True}, 6.0),
        "n = 5, |X_V| = |X|": ({"share": 1, "corrections": 5}, 23.0),
        "Adam+HC, n = 1, |X_V| = |X|": ({"share": 1, "adam": True}, 7.0),
        "Adam+HC, n = 5, |X_V| = |X|": ({"share": 1, "adam": True, "corrections": 5}, 23.0),
    }
    for name, case in CASES.items():
        steps = {
            kind: stepper(*case, device=device, **options) for kind, (options, _) in kinds.items()
        }
        steps[HAND] = by_hand(*case, device)
        seconds = interleaved(steps, repeats, device=device)
        for kind in (HAND, *list(kinds)[2:]):
            passes = kinds[kind][1] / 3 if kind in kinds else 7 / 3
            base = "Adam" if "Adam" in kind else "plain"
            bound = 2.05 if "reused" in kind else 1.05 * passes
            judged = "LSTM" not in name and "Adam" not in kind and kind[:5] == "n = 1"
            target = f"passes {passes:.2f}" + (f"; <= {bound:.2f}" if judged else "")
            unit = "x Adam's step" if base == "Adam" else "x plain step"
            yield f"{name}: {kind}", over(kind, base, seconds), unit, target


def compiled_rows(repeats: int = 11) -> Iterator[Row]:
    """n = 1 with both networks compiled to CUDA graphs; the LSTM, which torch leaves eager, not.

    Raises:
        RuntimeError: If there is no GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("CUDA graphs need a GPU")
    for name, case in list(CASES.items())[:2]:
        options: dict[str, Any] = {"device": "cuda", "compiled": {"mode": "reduce-overhead"}}
        steps = {
            "eager": stepper(*case, device="cuda"),
            "plain": stepper(*case, **options),
            "n = 1": stepper(*case, share=1, **options),
        }
        for step in steps.values():  # the first passes compile and record
            for _ in range(5):
                step()
        seconds = interleaved(steps, repeats, device="cuda")
        yield f"{name}: plain, compiled", over("plain", "eager", seconds), "x eager step", ""
        ratio = over("n = 1", "plain", seconds)
        yield f"{name}: n = 1, |X_V| = |X|", ratio, "x plain, compiled", "passes 2.33"


if __name__ == "__main__":
    from bench import print_table

    print_table(rows())
