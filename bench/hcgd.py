"""What a constrained step costs over a plain one, against the number of passes it makes.

One unit is the forward pass of a training batch; a backward pass counts two. A plain step is 3. A
correction evaluates f(X_V) before and after the proposal and goes back once: 4 |X_V| / |X|, or 3
where f before the step is known already.
"""

import statistics
import time
from collections.abc import Callable

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


def interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turn, so that a slow moment falls on all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):
        for step in steps.values():
            step()
    for _ in range(repeats):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(t) for name, t in times.items()}


def rows(repeats: int = 15) -> list[Row]:
    """One row for each network and kind of step: the ratio, and what the passes say."""
    out: list[Row] = []
    for name, case in CASES.items():
        kinds = {
            "plain": ({}, 3.0),
            "n = 1, |X_V| = |X|": ({"share": 1}, 7.0),
            "n = 1, |X_V| = 2|X|": ({"share": 2}, 11.0),
            "n = 1, forward reused": ({"share": 1, "reuse": True}, 6.0),
            "n = 5, |X_V| = |X|": ({"share": 1, "corrections": 5}, 23.0),
            "Adam": ({"adam": True}, 3.0),
            "Adam+HC, n = 1, |X_V| = |X|": ({"share": 1, "adam": True}, 7.0),
        }
        seconds = interleaved(
            {kind: stepper(*case, **options) for kind, (options, _) in kinds.items()}, repeats
        )
        for kind, (_, passes) in kinds.items():
            if kind in ("plain", "Adam"):
                continue
            base = seconds["Adam" if "Adam" in kind else "plain"]
            bound = 2.05 if "reused" in kind else 1.05 * passes / 3
            judged = not name.startswith("LSTM") and "n = 1" in kind and "Adam" not in kind
            target = f"passes {passes / 3:.2f}" + (f"; <= {bound:.2f}" if judged else "")
            out.append((f"{name}: {kind}", seconds[kind] / base, "x plain step", target))
    return out


if __name__ == "__main__":
    from bench import print_table

    print_table(rows())
