"""Experiments as cells, one arm from one seed each: run side by side, kept as soon as finished.

The record itself is the store of what is done. It is written anew, whole, whenever a cell ends;
a cell that stands in it is never run again; a long cell has a checkpoint beside it. So a run may be
killed at any moment and started again. One process at a time writes a record, and one works on a
cell: locks say so, which fall when their process ends, however it ends.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from ..checkpoints import write_whole
from ..data import Dataset, load
from ..provenance import (
    Provenance,
    collect_provenance,
    describe_device,
    git_commit,
    plain,
)
from ..records import Record, Scale, Table, load_record, save_record
from ..training import resolve_device

Rows = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every experiment's config has.

    Attributes:
        scale: ``"live"`` or ``"paper"``.
        dataset: The name :func:`hilbertlib.data.load` knows.
        departures: Each way in which the setting is not the paper's.
        reduced: Whether they make it a smaller experiment, which cannot refute the paper.
        choices: What the paper leaves open, with our choice and its reason.
    """

    scale: Scale = "live"
    dataset: str = "digits"
    departures: tuple[str, ...] = ("a small network on the 8x8 digits, trained for seconds",)
    reduced: bool = True
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a cell runs: its device, and a folder for checkpoints that is its own, or None."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path | None = None

    def checkpoint(self, name: str = "run") -> Path | None:
        """The file for a checkpoint in the folder."""
        return None if self.folder is None else self.folder / f"{name}.pt"


HERE = Place()
"""On the CPU, without checkpoints."""

Measure = Callable[[Any, str, int, Place], Rows]


@dataclass(frozen=True)
class View:
    """Tables of an experiment's record that are a record of their own.

    Attributes:
        figures, title: As of the :class:`Experiment`.
        tables: Their names.
    """

    figures: str
    title: str
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """A figure's experiment at both scales.

    Attributes:
        name: As the command line and the records have it.
        figures: Of the paper: ``"Fig. 4"``.
        title: What it asks, in a few words.
        live, paper: The configs (:class:`Setting`).
        smaller: A config of scale ``"paper"`` for a machine on which the full one would take days,
            marked as reduced. The record of the full one takes the place of its.
        seeds: How many seeds each scale takes by default.
        arms: From a config to the names of its arms, in the order of their running.
        measure: From config, arm, seed and place to rows for each table. The columns ``arm`` and
            ``seed`` are added to them. Sent to other processes: a function of a module.
        views: Other experiments whose records are some of this one's tables, by name.
    """

    name: str
    figures: str
    title: str
    live: Setting
    paper: Setting
    arms: Callable[[Any], Sequence[str]]
    measure: Measure
    seeds: Mapping[str, int] = field(default_factory=lambda: {"live": 3, "paper": 5})
    views: Mapping[str, View] = field(default_factory=dict)
    smaller: Setting | None = None


def run_cells(
    experiment: Experiment,
    config: Any,
    seeds: Sequence[int],
    *,
    arms: Sequence[str] | None = None,
    device: str | None = None,
    jobs: int = 1,
    out: str | Path | None = None,
    progress: bool = False,
    backend: Mapping[str, Any] | None = None,
) -> Record:
    """Run what is missing of ``arms`` x ``seeds`` and return the record of all that is done.

    Args:
        experiment: What to run.
        config: Its setting, usually ``experiment.config(scale)``.
        seeds: Different whole numbers, at least 0.
        arms: Default all.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU where there is one. Default
            ``"auto"`` at the paper's scale, else the CPU: small networks are no faster on a GPU.
        jobs: Cells at a time; -1 for one a core. Each then takes one thread.
        out: A folder for the record ``NAME-SCALE.json`` and the checkpoints. Finished cells of a
            record that lies there already are taken from it. None: nothing is written.
        progress: Whether to show a bar with the time left.
        backend: Keyword arguments of :func:`joblib.parallel_config`, for a cluster.

    Raises:
        ValueError: If an arm is unknown or named twice, seeds are missing, ``jobs`` is out of
            range, or the record in ``out`` is of another setting, damaged, or being written by
            another process.
    """
    names = list(experiment.arms(config))
    arms = names if arms is None else list(arms)
    if unknown := [arm for arm in arms if arm not in names]:
        raise ValueError(f"{experiment.name}: expected arms among {names}, got {unknown}")
    if len(set(arms)) != len(arms):
        raise ValueError(f"{experiment.name}: expected different arms, got {arms}")
    if jobs < 1 and jobs != -1:
        raise ValueError(f"expected at least one job, or -1 for one a core, got {jobs}")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"expected different seeds, none below 0, got {list(seeds)}")
    # Absolute: a worker of a cluster may have started in another folder.
    path = None if out is None else record_path(out, experiment.name, config.scale).resolve()
    device = device or ("auto" if config.scale == "paper" else "cpu")
    with _alone(path):
        return _run(experiment, config, seeds, arms, device, jobs, path, progress, backend)


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """The block in which no other process may run what writes the record of this path."""
    if path is None:
        yield
        return
    checkpoints = path.parent / ".checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(checkpoints / f"{path.stem}.lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"another process is writing {path}: wait for it, or choose another folder"
        ) from None


def _run(
    experiment: Experiment,
    config: Any,
    seeds: Sequence[int],
    arms: Sequence[str],
    device: str,
    jobs: int,
    path: Path | None,
    progress: bool,
    backend: Mapping[str, Any] | None,
) -> Record:
    done = _Done(experiment, config, path)
    # By seed first: what is finished early is then a whole comparison.
    todo = [(a, s) for s in seeds for a in arms if (a, s) not in done.cells]
    jobs = min(os.cpu_count() or 1, len(todo)) if jobs == -1 else min(jobs, len(todo))
    shared = jobs > 1 or backend is not None
    work = (
        delayed(_cell)(
            experiment.measure, config, arm, seed, device, _folder(path, config, arm, seed), shared
        )
        for arm, seed in todo
    )
    with (
        parallel_config(**backend) if backend else nullcontext(),
        tqdm(total=len(todo), desc=experiment.name, unit="cell", disable=not progress) as bar,
    ):
        for cell in _results(work, jobs, bool(backend)):
            done.add(cell)
            bar.update()
    return done.end()


def record_path(out: str | Path, name: str, scale: str) -> Path:
    """Where the record of an experiment lies in a folder of records."""
    return Path(out) / f"{name}-{scale}.json"


@dataclass(frozen=True)
class _Cell:
    """A finished cell."""

    arm: str
    seed: int
    rows: Rows
    seconds: float
    device: str
    commit: str | None
    folder: Path | None = None


def _cell(
    measure: Measure,
    config: Any,
    arm: str,
    seed: int,
    device: str,
    folder: Path | None,
    shared: bool,
) -> _Cell:
    if shared:
        torch.set_num_threads(1)
    where = resolve_device(device)
    commit = git_commit()  # of the code that is loaded now, not of what a later commit makes of it
    # Workers outlive a killed run: whoever starts it again waits for the cell, and then goes on.
    with nullcontext() if folder is None else FileLock(folder.with_suffix(".lock")):
        before, commits = (0.0, commit) if folder is None else _begun(folder, commit)
        started = time.perf_counter()
        rows = measure(config, arm, seed, Place(where, folder))
        seconds = before + time.perf_counter() - started
    return _Cell(arm, seed, rows, seconds, describe_device(where), commits, folder)


def _begun(folder: Path, commit: str | None) -> tuple[float, str | None]:
    """Seconds of work that a killed run has left in the checkpoints, and the commits of all starts.

    A start counts up to its last checkpoint: what came after that is lost and done once more.
    """
    path = folder / "begun.json"
    saved = max((file.stat().st_mtime for file in folder.glob("*.pt")), default=0.0)
    last: dict[str, Any] = {"seconds": 0.0, "at": saved, "commits": None}
    if saved and path.exists():
        last = json.loads(path.read_text())
    seconds = last["seconds"] + max(0.0, saved - last["at"])
    commits = _once(last["commits"], commit)
    text = json.dumps({"seconds": seconds, "at": time.time(), "commits": commits})
    write_whole(path, lambda file: file.write(text.encode()))
    return seconds, commits


def _once(*commits: str | None) -> str | None:
    """Commits in a line, each named once."""
    return ", ".join(dict.fromkeys(c for some in commits if some for c in some.split(", "))) or None


def _results(work: Iterable[Any], jobs: int, cluster: bool) -> Iterator[_Cell]:
    if jobs <= 1 and not cluster:
        for function, arguments, keywords in work:
            yield function(*arguments, **keywords)
    else:
        n = None if cluster else jobs
        yield from Parallel(n_jobs=n, return_as="generator_unordered", batch_size=1)(work)


class _Done:
    """The finished cells of a run, with their record kept up to date."""

    def __init__(self, experiment: Experiment, config: Any, path: Path | None) -> None:
        self.experiment, self.config, self.path = experiment, config, path
        self.cells: dict[tuple[str, int], _Cell] = {}
        if path is not None and path.exists():
            found = load_record(path)
            if found.provenance.reduced and not config.reduced:
                return  # of a smaller experiment: the first finished cell takes its place
            self._take(found)

    def add(self, cell: _Cell) -> None:
        """Keep a cell, write the record, and drop the cell's checkpoint, in this order."""
        self.cells[cell.arm, cell.seed] = cell
        if self.path is None:
            return
        record = self.record()
        save_record(record, self.path)
        self._save_views(record)
        if cell.folder is not None:
            shutil.rmtree(cell.folder, ignore_errors=True)
            cell.folder.with_suffix(".lock").unlink(missing_ok=True)

    def end(self) -> Record:
        """The record of all that is done; a killed run may have left its views old."""
        record = self.record()
        if self.path is not None and self.path.exists():
            self._save_views(record)
        return record

    def _save_views(self, record: Record) -> None:
        assert self.path is not None
        for name, view in self.experiment.views.items():
            names = (*view.tables, "cells")
            part = {table: record[table] for table in names if table in record.tables}
            save_record(
                replace(record, experiment=name, tables=part),
                record_path(self.path.parent, name, record.scale),
            )

    def record(self) -> Record:
        """Everything that is done, in the order of arms and seeds."""
        names = list(self.experiment.arms(self.config))
        cells = sorted(self.cells.values(), key=lambda c: (names.index(c.arm), c.seed))
        tables: dict[str, list[dict[str, Any]]] = {}
        for cell in cells:
            for name, rows in cell.rows.items():
                labelled = [{"arm": cell.arm, "seed": cell.seed, **row} for row in rows]
                tables.setdefault(name, []).extend(labelled)
        tables["cells"] = [
            {
                "arm": c.arm, "seed": c.seed, "seconds": c.seconds, "device": c.device,
                "commit": c.commit,
            }
            for c in cells
        ]  # fmt: skip
        made = {name: Table.from_rows(rows) for name, rows in tables.items()}
        return Record(self.experiment.name, self.config.scale, made, self._provenance(cells))

    def _provenance(self, cells: Sequence[_Cell]) -> Provenance:
        provenance = collect_provenance(
            self.config,
            sorted({c.seed for c in cells}),
            dataset(self.config.dataset),
            device="cpu",
            seconds=sum(c.seconds for c in cells),
            departures=self.config.departures,
            reduced=self.config.reduced,
        )
        other = getattr(self.config, "other", self.config.dataset)
        if other != self.config.dataset and any(c.rows for c in cells):
            note = f"beside it {other}, checksum {dataset(other).checksum[:12]}"
            provenance = replace(
                provenance, dataset_note="; ".join(filter(None, (provenance.dataset_note, note)))
            )
        return replace(
            provenance,
            device="; ".join(dict.fromkeys(c.device for c in cells)),
            commit=_once(*(c.commit for c in cells)),
        )

    def _take(self, record: Record) -> None:
        expected, found = identity(self.config), identity(record.provenance.config)
        if (record.experiment, found) != (self.experiment.name, expected):
            keys = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
            raise ValueError(
                f"{self.path} holds a record of another setting (different: "
                f"{', '.join(keys) or 'experiment'}); move it away, or choose another folder"
            )
        checksum = dataset(self.config.dataset).checksum
        if record.provenance.dataset_checksum != checksum:
            raise ValueError(
                f"{self.path} was measured on other data ({record.provenance.dataset}, checksum "
                f"{record.provenance.dataset_checksum[:12]}; here it is {checksum[:12]}); move it "
                "away, or choose another folder"
            )
        known = self.experiment.arms(self.config)
        if strange := sorted(set(record["cells"]["arm"]) - set(known)):
            raise ValueError(
                f"{self.path} holds arms that {self.experiment.name} does not have: {strange}; it "
                f"has {list(known)}; move it away, or choose another folder"
            )
        names = [name for name in record.tables if name != "cells"]
        grouped: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
        for name in names:
            for row in record[name].rows():
                key = row.pop("arm"), row.pop("seed")
                grouped.setdefault(key, {}).setdefault(name, []).append(row)
        for cell in record["cells"].rows():
            rows = grouped.get((cell["arm"], cell["seed"]), {})
            self.cells[cell["arm"], cell["seed"]] = _Cell(rows=rows, **cell)


def identity(config: Any) -> dict[str, Any]:
    """A setting as JSON holds it, without the sentences about it: what two runs must share."""
    settings: dict[str, Any] = plain(config, "config")
    return {key: v for key, v in settings.items() if key not in ("choices", "departures")}


@lru_cache(maxsize=4)
def dataset(name: str) -> Dataset:
    """A data set, read once a process."""
    return load(name)


def _folder(path: Path | None, config: Any, arm: str, seed: int) -> Path | None:
    """The folder of a cell's checkpoints: another one for every setting."""
    if path is None:
        return None
    text = json.dumps([identity(config), arm], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = re.sub(r"[^a-z0-9]+", "-", arm.lower()).strip("-")
    return path.parent / ".checkpoints" / f"{path.stem}-{name}-{digest}-seed{seed}"
