"""Snapshots of a training run in plain files that can be appended to and survive interruption.

A folder holds ``outputs.bin`` and ``parameters.bin`` (raw rows, one a snapshot), ``index.txt``
(``step epoch``, one line a snapshot) and ``format.json`` (shapes). A snapshot counts once its line
in the index is complete; it is written last, so that a run killed in between leaves no half
snapshot behind.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FORMAT = "hilbertlib snapshots 1"


@dataclass
class SnapshotFiles:
    """The files of one run. Make it with :meth:`create` (to write) or :meth:`open` (to read)."""

    folder: Path

    @classmethod
    def create(cls, folder: str | Path, resume: bool = False) -> "SnapshotFiles":
        """Begin a new run in ``folder``, or continue the one there.

        Raises:
            FileExistsError: If the folder holds snapshots and ``resume`` is not set.
        """
        files = cls(Path(folder))
        files.folder.mkdir(parents=True, exist_ok=True)
        if (files.folder / "format.json").exists():
            if not resume:
                raise FileExistsError(
                    f"{files.folder} already holds the snapshots of a run; "
                    "continue it with resume=True or name another folder"
                )
            files._drop_unfinished()
        return files

    @classmethod
    def open(cls, folder: str | Path) -> "SnapshotFiles":
        """Open a folder for reading.

        Raises:
            FileNotFoundError: If it holds no snapshots.
        """
        files = cls(Path(folder))
        if not (files.folder / "format.json").is_file():
            raise FileNotFoundError(
                f"{files.folder} holds no snapshots: expected format.json, index.txt and "
                "outputs.bin as a Recorder writes them"
            )
        return files

    def append(self, step: int, epoch: int, outputs: Tensor, parameters: Tensor | None) -> None:
        """Add a snapshot: ``outputs`` ``(N, C)``, ``parameters`` ``(P,)`` or None.

        Raises:
            ValueError: If its shapes are not those of the first.
        """
        arrays = {"outputs": outputs.numpy()}
        if parameters is not None:
            arrays["parameters"] = parameters.numpy()
        described = {key: [str(a.dtype), *a.shape] for key, a in arrays.items()}
        if not (self.folder / "format.json").exists():
            text = json.dumps({"format": _FORMAT, **described}, indent=1)
            _write_atomically(self.folder / "format.json", text)
        elif (expected := self._described()) != described:
            raise ValueError(f"{self.folder} holds snapshots of {expected}, got one of {described}")
        line = f"{step} {epoch}\n".encode()
        rows = {f"{key}.bin": a.tobytes() for key, a in arrays.items()}
        written: list[tuple[Path, int]] = []
        try:
            for name, content in [*rows.items(), ("index.txt", line)]:
                path = self.folder / name
                written.append((path, path.stat().st_size if path.exists() else 0))
                with open(path, "ab") as file:
                    file.write(content)
        except BaseException:  # a full disk, Ctrl-C: what comes next must find whole rows
            for path, size in written:
                if path.exists():
                    os.truncate(path, size)
            raise

    def index(self) -> tuple[Tensor, Tensor]:
        """Step and epoch of each snapshot, both of shape ``(S,)``, int64.

        Raises:
            ValueError: If there is no snapshot yet or the index is damaged.
        """
        positions = self._positions()
        if not positions:
            raise ValueError(f"{self.folder} holds no finished snapshot")
        steps, epochs = torch.tensor(positions).T
        return steps, epochs

    @property
    def last_step(self) -> int:
        """The step of the last snapshot, -1 where there is none."""
        positions = self._positions()
        return positions[-1][0] if positions else -1

    def rows(self, kind: str) -> Tensor | None:
        """``"outputs"`` ``(S, N, C)`` or ``"parameters"`` ``(S, P)`` as a tensor over the file.

        None where that kind was not recorded. The tensor reads the file when it is used; writing
        to it changes memory only.

        Raises:
            ValueError: If the file is shorter than the index says.
        """
        layout = self._layout(kind)
        if layout is None:
            return None
        path, dtype, shape = layout
        return torch.from_numpy(np.memmap(path, dtype, mode="c", shape=shape))

    def columns(self, kind: str, low: int, high: int) -> Tensor:
        """``rows(kind)[:, low:high]``, read into memory.

        Not through a mapping: its pages count as memory too, on some systems in pieces of 2 MB.

        Raises:
            ValueError: If that kind was not recorded or the file is shorter than the index says.
        """
        layout = self._layout(kind)
        if layout is None:
            raise ValueError(f"{self.folder} holds no {kind}")
        path, dtype, (rows, width, *rest) = layout
        out = np.empty((rows, min(high, width) - low, *rest), dtype)
        column = out[0, :1].nbytes
        with open(path, "rb", buffering=0) as file:
            for i, row in enumerate(out):
                file.seek((i * width + low) * column)
                file.readinto(memoryview(row).cast("B"))
        return torch.from_numpy(out)

    def _layout(self, kind: str) -> tuple[Path, np.dtype[Any], tuple[int, ...]] | None:
        """File, type and shape of all rows of a kind; None where it was not recorded."""
        described = self._described()
        if kind not in described:
            return None
        dtype, *row = described[kind]
        shape = (len(self._positions()), *row)
        path = self.folder / f"{kind}.bin"
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        found = path.stat().st_size if path.exists() else 0
        if found < expected:
            raise ValueError(
                f"{path} is damaged: expected {expected} bytes for {shape[0]} snapshots, "
                f"got {found}; record the run again"
            )
        return path, np.dtype(dtype), shape

    def _positions(self) -> list[tuple[int, int]]:
        path = self.folder / "index.txt"
        # What follows the last line end is a line that was not finished.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        try:
            return [(int(step), int(epoch)) for step, epoch in (line.split() for line in lines)]
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged: expected a step and an epoch on every line ({error})"
            ) from error

    def _described(self) -> dict[str, Any]:
        path = self.folder / "format.json"
        try:
            described = json.loads(path.read_text())
            if described.pop("format") != _FORMAT or "outputs" not in described:
                raise ValueError(f"not {_FORMAT}")
            for dtype, *shape in described.values():
                np.dtype(dtype)
                if not all(isinstance(size, int) and size > 0 for size in shape):
                    raise ValueError(f"shape {shape}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged: expected the type and shape of each kind of row ({error})"
            ) from error
        return described

    def _drop_unfinished(self) -> None:
        """Cut every file after the last snapshot that is in the index."""
        positions = self._positions()
        for kind, (dtype, *shape) in self._described().items():
            size = len(positions) * math.prod(shape) * np.dtype(dtype).itemsize
            with open(self.folder / f"{kind}.bin", "ab") as file:
                file.truncate(size)
        text = "".join(f"{step} {epoch}\n" for step, epoch in positions)
        _write_atomically(self.folder / "index.txt", text)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
