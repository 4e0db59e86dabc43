"""Distance matrices of a run's snapshots: seconds and peak memory, for ten times the snapshots.

Every measurement is a process of its own, whose memory nothing else has used before. Snapshots
are streamed to files, as a long run's are, and their matrices summed up in blocks; ``pairwise_l2``
gets the same outputs in memory. Pairs grow a hundredfold, and so does the time.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench import Row
from hilbertlib.distance import pairwise_l2
from hilbertlib.snapshots import SnapshotFiles
from hilbertlib.trajectory import Trajectory, l2_matrix, parameter_matrix

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("parameter_matrix", "l2_matrix", "pairwise_l2")


def write(folder: str, snapshots: int, parameters: int, examples: int) -> None:
    """Snapshots of a random walk, the outputs on ``examples`` in ten classes."""
    generator = torch.Generator().manual_seed(0)
    files = SnapshotFiles.create(folder)
    walk = torch.zeros(parameters)
    for step in range(snapshots):
        walk += 0.01 * torch.randn(parameters, generator=generator)
        outputs = torch.randn(examples, 10, generator=generator).softmax(dim=1)
        files.append(step, step, outputs, walk)


def measured(kind: str, folder: str) -> tuple[float, float]:
    """Seconds and megabytes at the peak, above those before, of one matrix in this process."""
    trajectory = Trajectory.load(folder)
    outputs = trajectory.outputs.clone() if kind == "pairwise_l2" else torch.empty(0)
    # Warm: what is imported and allocated once is no part of the matrix.
    pairwise_l2(torch.rand(3, 4, 5))
    before = _reset_peak()
    started = time.perf_counter()
    if kind == "pairwise_l2":
        pairwise_l2(outputs)
    else:
        {"parameter_matrix": parameter_matrix, "l2_matrix": l2_matrix}[kind]([trajectory])
    return time.perf_counter() - started, (_status("VmHWM") - before) / 1024


def _reset_peak() -> int:
    """Kilobytes that the process holds now, from which its peak is counted anew (Linux only)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise RuntimeError(f"a peak of memory is read on Linux only: {error}") from error
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def elsewhere(kind: str, folder: str) -> tuple[float, float]:
    """:func:`measured` in a process of its own."""
    command = [sys.executable, "-m", "bench.matrices", kind, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def rows(few: int = 30, parameters: int = 200_000, examples: int = 2000) -> Iterator[Row]:
    """For each kind of matrix: seconds, peak memory, and what ten times the snapshots take."""
    many = 10 * few
    with tempfile.TemporaryDirectory() as folder:
        paths = {snapshots: f"{folder}/{snapshots}" for snapshots in (few, many)}
        for snapshots, path in paths.items():
            write(path, snapshots, parameters, examples)
        for kind in KINDS:
            numbers = parameters if kind == "parameter_matrix" else 10 * examples
            (short, small), (long, large) = (elsewhere(kind, path) for path in paths.values())
            yield f"{kind}, {few} snapshots of {numbers:,} numbers", short, "s", ""
            yield f"  {many} snapshots", long / short, "x the time", ""
            yield f"  peak memory of {few}, above what was there", small, "MB", ""
            yield f"  peak memory of {many}", large, "MB", ""
            # In files the snapshots are read piece by piece; in memory each is held in float64.
            target = "<= 10" if kind != "pairwise_l2" else ""
            yield "  their ratio", large / max(small, 1), "x the memory", target


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
