"""The state of an unfinished run in a file, written whole or not at all, never a pickle of code."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file whole or not at all: to a temporary one beside it, which then takes its name.

    Args:
        path: The file; missing folders are made.
        write: Given the open temporary file, writes everything into it.

    Returns:
        The path written.

    Raises:
        OSError: If it cannot be written, for example because the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # a temporary file is its owner's alone
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            # A full disk names no file.
            said = f"{error.strerror}; what was there before is unchanged"
            raise OSError(error.errno, said, str(path)) from error
        raise
    return path


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> Path:
    """Write tensors, numbers, texts and containers of them; a kill leaves the old file or the new.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(f"{folder}/run.pt", {"epoch": 3, "theta": torch.ones(2)})
    ...     load_checkpoint(path)["epoch"]
    3
    """
    return write_whole(path, lambda file: torch.save(state, file))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        # weights_only: tensors and plain containers, so that a file cannot bring code along.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load promises no particular kind
        raise ValueError(
            f"{path} is damaged or no checkpoint ({str(error).splitlines()[0]}); delete it to "
            "begin the run anew"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint; delete it")
    return state
