"""Chapter 5's own questions: memories that should not help, and EWC at other strengths."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..forgetting import EWC, L2Memory, Method, diagonal_storage, mlp_parameters
from ..models import mlp, seeded
from ..records import Claim, Record, Table
from .common import live_record
from .forgetting import GRID, LIVE, Config, ends, gap, learn
from .runner import dataset, run_cells

What = Literal["an untrained network's outputs", "no task's pixels", "noise"]
WRONG: tuple[What, ...] = ("an untrained network's outputs", "no task's pixels", "noise")
BOOKS: tuple[Literal["all", "last"], ...] = ("all", "last")
STRENGTHS = (5.0, 50.0, 500.0)


class WrongMemory(L2Memory):
    """An L2 memory of something that is not worth remembering: a negative control.

    Args:
        what: ``"an untrained network's outputs"``: the right images, with what an untrained
            network says of them. ``"no task's pixels"``: images with their pixels in an order
            that no task has, and the right network's outputs. ``"noise"``: uniform noise, likewise.
        untrained: The untrained network.
    """

    def __init__(
        self, what: What, untrained: nn.Module, capacity: int, lam: float, seed: int
    ) -> None:
        super().__init__(capacity, lam, seed=seed)
        self.what, self.untrained = what, untrained
        self._noise = torch.Generator().manual_seed(seed)

    def end_task(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        asked = self.untrained if self.what == "an untrained network's outputs" else model
        super().end_task(asked, self._images(x), y)

    def _images(self, x: Tensor) -> Tensor:
        if self.what == "no task's pixels":
            order = torch.randperm(x[0].numel(), generator=self._noise).to(x.device)
            return x.flatten(1)[:, order].view_as(x)
        if self.what == "noise":
            return torch.rand(x.shape, generator=self._noise).to(x.device)
        return x


class OnlineEWC(EWC):
    """EWC with its third book: all tasks' Fisher information, about the last task's parameters."""

    def end_task(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        super().end_task(model, x, y)
        self.anchor, self.constant = self._theta(model).detach(), 0.0


def wrong(config: Config, what: What, seed: int) -> Method:
    """A wrong memory of the config's size and λ, for its network."""
    base = dataset(config.dataset)
    sizes = (int(np.prod(base.shape)), *config.hidden, len(base.classes))
    untrained = seeded(lambda: mlp(sizes), seed + 10_000)
    return WrongMemory(what, untrained, config.capacity, config.lam, seed)


def record(
    name: str,
    methods: Mapping[str, Callable[[int], Method]],
    seeds: Sequence[int],
    config: Config = LIVE,
) -> Record:
    """Learn the tasks with each method from each seed: tables ``tasks`` and ``ends``, by arm."""
    started = time.perf_counter()
    rows: dict[str, list[dict[str, Any]]] = {"tasks": [], "ends": []}
    for arm, make in methods.items():
        for seed in seeds:
            tables = learn(config, make(seed), seed)
            for table, into in rows.items():
                into.extend({"arm": arm, "seed": seed, **row} for row in tables[table])
    return live_record(
        name,
        {table: Table.from_rows(cells) for table, cells in rows.items()},
        config=config,
        seeds=seeds,
        dataset=dataset(config.dataset),
        seconds=time.perf_counter() - started,
    )


def controls(seeds: Sequence[int], config: Config = LIVE) -> Record:
    """Every wrong memory."""
    return record(
        "forgetting_controls", {what: partial(wrong, config, what) for what in WRONG}, seeds, config
    )


def strengths(main: Record, seeds: Sequence[int], config: Config = LIVE) -> Record:
    """EWC over a grid of λ, for both ways of keeping its books; :func:`strength` names the arms.

    What ``main`` has run already is not run again.
    """
    methods = {
        strength(lam, tasks): partial(_ewc, lam, tasks)
        for tasks in BOOKS
        for lam in STRENGTHS
        if lam != config.ewc_lam
    }
    known = {f"EWC, {_books(tasks)}": strength(config.ewc_lam, tasks) for tasks in BOOKS}
    new = record("forgetting_strengths", methods, seeds, config)
    return replace(new, tables=_with(new, main, known, seeds))


def _ewc(lam: float, tasks: Literal["all", "last"], seed: int) -> Method:
    return EWC(lam, tasks=tasks, seed=seed)


def _books(tasks: str) -> str:
    return "all tasks" if tasks == "all" else "last task"


def _with(
    new: Record, main: Record, known: Mapping[str, str], seeds: Sequence[int]
) -> dict[str, Table]:
    """The tables of ``new`` and, under other names, those arms of ``main``."""
    return {
        name: Table.from_rows(
            table.rows()
            + [
                {**row, "arm": arm}
                for source, arm in known.items()
                for row in main[name].where(arm=source).rows()
                if row["seed"] in seeds
            ]
        )
        for name, table in new.tables.items()
    }


def strength(lam: float, tasks: str) -> str:
    """The name of an arm of :func:`strengths`."""
    return f"EWC, {_books(tasks)}, λ = {lam:g}"


def grid(main: Record, seeds: Sequence[int], config: Config = LIVE) -> Record:
    """The grids of λ and of how often to retrain; what ``main`` has already is not run again."""
    setting = replace(config, grid=True)
    known = {"L2": f"L2, λ = {config.lam:g}", "Adam+retrain": f"retrain every {config.every}"}
    arms = [arm for arm in GRID.arms(setting) if arm not in known.values()]
    new = run_cells(GRID, setting, seeds, arms=arms)
    return replace(new, tables=_with(new, main, known, seeds))


def joined(name: str, *records: Record) -> Record:
    """One record of the arms of several, for claims that compare them."""
    tables = {
        table: Table.from_rows([row for r in records for row in r[table].rows()])
        for table in ("tasks", "ends")
    }
    return replace(records[0], experiment=name, tables=tables)


def bill(widths: Sequence[int], data: Dataset | None = None) -> dict[str, np.ndarray]:
    """Bytes that EWC or SI keep for a network with two hidden layers, each so many units wide.

    ``parameters``: 4-byte numbers; ``network``: the network itself, which everybody keeps.
    """
    inputs, classes = (784, 10) if data is None else (int(np.prod(data.shape)), len(data.classes))
    counts = [mlp_parameters((inputs, w, w, classes)) for w in widths]
    return {
        "diagonals": np.array([diagonal_storage(n).bytes for n in counts]),
        "network": np.array([4 * n for n in counts]),
    }


def mean(
    record: Record, arm: str, column: str = "first", seeds: Sequence[int] | None = None
) -> float:
    """Mean of a column of ``ends`` over these seeds, or over all."""
    return float(np.mean(ends(record, arm, column, seeds)))


# --- the claims: margins set on seeds 0 and 1, judged on others ------------------------------

CLAIMS = (
    Claim(
        id="ch5-memory-helps",
        where="this chapter",
        sentence="A memory of functions saves much of the first task.",
        reading="accuracy on the first task at the end, L2 less Adam alone",
        experiment="forgetting_chapter",
        effects=lambda r: gap(r, "L2", "Adam"),
        margin=0.15,
    ),
    Claim(
        id="ch5-plasticity",
        where="this chapter",
        sentence="EWC with summed penalties at its published λ can no longer learn new tasks well.",
        reading="accuracy on the tasks when newest, Adam alone less EWC, all tasks",
        experiment="forgetting_chapter",
        effects=lambda r: gap(r, "Adam", "EWC, all tasks", "newest"),
        margin=0.1,
    ),
    Claim(
        id="ch5-untrained",
        where="this chapter",
        sentence="A memory of an untrained network's outputs is worth less than the true one.",
        reading="mean accuracy over all tasks at the end, the true memory less this one",
        experiment="forgetting_chapter",
        effects=lambda r: gap(r, "L2", "an untrained network's outputs", "average"),
        margin=0.1,
    ),
    Claim(
        id="guess-no-task",
        where="our guess",
        sentence="A memory of images that no task has is of little use.",
        reading="accuracy on the first task at the end, the true memory less this one",
        experiment="forgetting_chapter",
        effects=lambda r: gap(r, "L2", "no task's pixels"),
        margin=0.15,
    ),
    Claim(
        id="guess-noise",
        where="our guess",
        sentence="A memory of noise is of little use.",
        reading="accuracy on the first task at the end, the true memory less this one",
        experiment="forgetting_chapter",
        effects=lambda r: gap(r, "L2", "noise"),
        margin=0.15,
    ),
)

GRID_CLAIMS = (
    Claim(
        id="ch5-every-step",
        where="this chapter",
        sentence="Retraining at every step is right more often over all tasks than every tenth, "
        "and than the L2 memory at the paper's λ.",
        reading="mean accuracy over all tasks at the end, k = 1 less each of the two",
        experiment="forgetting_grid",
        effects=lambda r: {
            "k = 10": gap(r, "retrain every 1", "retrain every 10", "average"),
            "L2, λ = 1.3": gap(r, "retrain every 1", "L2, λ = 1.3", "average"),
        },
        margin=0.0,
    ),
    Claim(
        id="ch5-stiffness",
        where="this chapter",
        sentence="A stronger penalty keeps more of the first task and learns new ones less well.",
        reading="λ = 13 less λ = 1.3: gain on the first task at the end; loss on tasks when newest",
        experiment="forgetting_grid",
        effects=lambda r: {
            "first task": gap(r, "L2, λ = 13", "L2, λ = 1.3", "first"),
            "newest tasks": gap(r, "L2, λ = 1.3", "L2, λ = 13", "newest"),
        },
        margin=0.0,
    ),
)
