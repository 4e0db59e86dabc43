"""Where a result comes from: its settings, its data, its machine and the code that made it."""

import json
import math
import operator
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .data import Dataset

Cell = bool | int | float | str | None
_DIGITS = 6
_LIBRARIES = ("torchvision", "numpy", "scikit-learn", "joblib")


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: enough to repeat it and to know what it may be held against.

    Attributes:
        config: Every setting of the experiment; numbers, texts, lists and mappings of them.
        seeds: The seeds that were run, each once.
        dataset: Name of the data.
        dataset_checksum: Their checksum (:class:`hilbertlib.data.Dataset`).
        dataset_note: What must be said about them, empty for exact data.
        device: What it ran on.
        versions: Version of Python and of each library.
        commit: The library's git commit, with ``+`` where files differed from it; None if unknown.
        seconds: How long it took, all seeds together.
        departures: Each way in which the setting is not the paper's.
        reduced: Whether they make it a smaller experiment, which cannot refute the paper.

    Raises:
        ValueError: If seeds are missing or repeated, ``seconds`` is negative or not finite, or
            the setting is reduced and no departure says how.
        TypeError: If a seed is not a whole number, or the config holds what JSON cannot.
    """

    config: Mapping[str, Any]
    seeds: Sequence[int]
    dataset: str
    dataset_checksum: str
    device: str
    versions: Mapping[str, str]
    seconds: float
    commit: str | None = None
    dataset_note: str = ""
    departures: Sequence[str] = ()
    reduced: bool = False

    def __post_init__(self) -> None:
        seeds, departures = list(map(operator.index, self.seeds)), list(self.departures)
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError(f"expected one or more different seeds, got {seeds}")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"expected a time in seconds, got {self.seconds}")
        if self.reduced and not departures:
            raise ValueError(
                "expected the departures that make the setting a reduced one, got none"
            )
        for name in ("dataset", "dataset_checksum", "dataset_note", "device"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"expected a text for {name}, got {getattr(self, name)!r}")
        if not (self.commit is None or isinstance(self.commit, str)):
            raise TypeError(f"expected a text for commit or None, got {self.commit!r}")
        if not all(isinstance(version, str) for version in self.versions.values()):
            raise TypeError(f"expected texts as versions, got {dict(self.versions)}")
        if not (isinstance(self.config, Mapping) or is_dataclass(self.config)):
            raise TypeError(f"expected a mapping of settings, got {type(self.config).__name__}")
        object.__setattr__(self, "config", plain(self.config, "config"))
        object.__setattr__(self, "versions", plain(self.versions, "versions"))
        object.__setattr__(self, "seeds", seeds)
        object.__setattr__(self, "departures", departures)
        object.__setattr__(self, "seconds", rounded(float(self.seconds)))


def collect_provenance(
    config: Any,
    seeds: Sequence[int],
    dataset: Dataset,
    *,
    device: str | torch.device,
    seconds: float,
    departures: Sequence[str] = (),
    reduced: bool = False,
) -> Provenance:
    """The provenance of a run that has just ended here.

    Args:
        config: The experiment's settings: a dataclass or a mapping.
        seeds: The seeds that were run.
        dataset: The data; name, checksum and note are taken from it.
        device: What it ran on.
        seconds: How long it took.
        departures: Each way in which the setting is not the paper's.
        reduced: Whether they make it a smaller experiment.
    """
    return Provenance(
        config=config,
        seeds=seeds,
        dataset=dataset.name,
        dataset_checksum=dataset.checksum,
        dataset_note=dataset.note,
        device=describe_device(device),
        versions=installed_versions(),
        commit=git_commit(),
        seconds=seconds,
        departures=departures,
        reduced=reduced,
    )


def installed_versions() -> dict[str, str]:
    """Version of Python and of each library that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # unlike the package's, it names the build: +cpu, +cu130
        **{name: version(name) for name in _LIBRARIES},
    }


def describe_device(device: str | torch.device) -> str:
    """A device in words: the GPU's name, or the processor and the number of threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{platform.machine()} CPU, {threads} thread{'s' * (threads != 1)}"
    return str(device)


def git_commit(package: Path = Path(__file__).parent) -> str | None:
    """The commit of the library that runs, ``+`` appended where its files differ; None if unknown.

    Read from the repository that tracks the package, else from what pip noted when it installed
    the package from a repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # A package installed into some other project's repository is not tracked by it.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return _installed_commit()


def _installed_commit() -> str | None:
    try:
        text = distribution("hilbertlib-book").read_text("direct_url.json")
        commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (PackageNotFoundError, ValueError):
        return None
    return commit if isinstance(commit, str) else None


def cell(value: Any) -> Cell:
    """A table's cell as plain Python, a number rounded to six significant digits.

    Raises:
        TypeError: If it is not a number, a text, a truth value or None.
        ValueError: If it is NaN or infinite.
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):  # NumPy's float64 is one too
        return rounded(float(value))
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and math.prod(value.shape) == 1:
        return cell(value.item())
    raise TypeError(
        f"expected a number, a text, a truth value or None in a table, got {type(value).__name__}"
    )


def rounded(number: float) -> float:
    """``number`` to six significant digits; a ValueError if it is NaN or infinite."""
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {number}; write None where there is none")
    return float(f"{number:.{_DIGITS}g}")


def plain(value: Any, where: str) -> Any:
    """Settings as what JSON holds: dataclasses as mappings, tuples as lists, floats unrounded."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{where}: expected texts as keys, got {list(value)}")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise TypeError(f"{where}: expected what JSON can hold, got {value!r}")
