"""An LSTM's training step over long sequences, with the smallest numbers kept and flushed to zero.

Before training its gates keep about half, so a gradient fades by half a pixel and passes through
the numbers too small for a full float32. Both are timed in turn, and the ratio taken within it, on
one thread: the setting is a thread's own.
"""

import statistics
import time

import torch
import torch.nn.functional as F

from bench import Row
from hilbertlib.models import LSTMClassifier, seeded


def seconds(pixels: int, flush: bool, batch: int = 64) -> float:
    """Of one forward and backward pass of an untrained network."""
    model = seeded(LSTMClassifier, 0)
    x = torch.rand(batch, 1, pixels, generator=torch.Generator().manual_seed(0))
    torch.set_flush_denormal(flush)
    try:
        started = time.perf_counter()
        F.cross_entropy(model(x), torch.arange(batch) % 10).backward()
        return time.perf_counter() - started
    finally:
        torch.set_flush_denormal(False)


def rows(repeats: int = 5) -> list[Row]:
    """For each length of a sequence: milliseconds kept, and how often the flushed fits into it."""
    out: list[Row] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for pixels in (64, 196):
        seconds(pixels, True)  # warms up
        pairs = [(seconds(pixels, False), seconds(pixels, True)) for _ in range(repeats)]
        kept = statistics.median(a for a, _ in pairs)
        ratio = statistics.median(a / b for a, b in pairs)
        out += [
            (f"LSTM-128, {pixels} pixels, denormals kept", 1000 * kept, "ms", ""),
            ("  flushed to zero", ratio, "x as fast", ""),
        ]
    torch.set_num_threads(threads)
    return out
