"""Learning eight tasks one after another: Figure 4 of the paper, and its controls.

Permuted MNIST: the same images, with the pixels of each task moved by a permutation of its own.
What is asked is how well the first task is still known after the others, and what knowing it costs
on the newest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import permute_pixels
from ..forgetting import (
    EWC,
    L2Memory,
    Method,
    Replay,
    SynapticIntelligence,
    diagonal_storage,
    example_storage,
    mlp_parameters,
    train_tasks,
)
from ..models import mlp, seeded
from ..records import Claim, Record
from ..training import accuracy
from .common import paired
from .runner import HERE, Experiment, Place, Rows, Setting, dataset, run_cells

MAIN = ("Adam", "Adam+retrain", "L2", "EWC, all tasks", "EWC, last task", "SI")
LAMBDAS = (0.13, 0.41, 1.3, 4.1, 13.0)
EVERY = (1, 3, 10, 30, 100)


@dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """Section 3.1.1; the defaults are the paper's numbers, in a live size.

    Attributes:
        tasks, epochs: Number of tasks and passes over each.
        hidden: Units of the two hidden layers.
        lr: Adam's learning rate.
        capacity: Examples in the working memory.
        lam: λ of the L2 memory.
        every: A step on the memory every so many steps, for retraining.
        ewc_lam, c, xi: Strength of EWC and of SI, and SI's ξ (the paper's ε).
        grid: Whether to run the grids of λ and of ``every`` in place of the methods.
    """

    tasks: int = 5
    epochs: int = 5
    batch_size: int = 64
    hidden: tuple[int, ...] = (64, 64)
    lr: float = 0.001
    capacity: int = 128
    lam: float = 1.3
    every: int = 10
    ewc_lam: float = 500.0
    c: float = 0.1
    xi: float = 0.1
    grid: bool = False


LIVE = Config()
PAPER = Config(
    scale="paper",
    dataset="mnist",
    departures=(),
    reduced=False,
    choices=(
        "batches of 128: the paper gives no size; the library's default",
        "one Adam throughout: the paper speaks of Adam as one optimizer, not of one for each task",
        "every task's pixels are permuted, the first's too: the paper permutes each task",
        "ReLU units without dropout: the paper names neither",
        "EWC's Fisher is exact over the network's own labels, on all images of the task: the paper "
        "does not say which it takes",
        "EWC sums its penalties over all earlier tasks in one arm, keeps the last one's in another",
        "the whole memory enters each evaluation of the L2 distance, and each step of retraining",
    ),
    tasks=8,
    epochs=10,
    batch_size=128,
    hidden=(400, 400),
    capacity=1024,
)


def arms(config: Config) -> list[str]:
    """The methods of Figure 4, or the grids of section 3.1.1."""
    if not config.grid:
        return list(MAIN)
    return [f"L2, λ = {lam:g}" for lam in LAMBDAS] + [f"retrain every {k}" for k in EVERY]


def method(config: Config, arm: str, seed: int) -> Method:
    """What an arm does against forgetting."""
    memory, size = partial(L2Memory, config.capacity, seed=seed), config.capacity
    made: dict[str, Callable[[], Method]] = {
        "Adam": Method,
        "Adam+retrain": partial(Replay, size, config.every, seed=seed),
        "L2": partial(memory, config.lam),
        "EWC, all tasks": partial(EWC, config.ewc_lam, tasks="all", seed=seed),
        "EWC, last task": partial(EWC, config.ewc_lam, tasks="last", seed=seed),
        "SI": partial(SynapticIntelligence, config.c, config.xi),
    }
    made |= {f"L2, λ = {lam:g}": partial(memory, lam) for lam in LAMBDAS}
    made |= {f"retrain every {k}": partial(Replay, size, k, seed=seed) for k in EVERY}
    return made[arm]()


def measure(config: Config, arm: str, seed: int, place: Place = HERE) -> Rows:
    """One method from one seed: the tables of :func:`learn`."""
    return learn(config, method(config, arm, seed), seed, place)


def learn(config: Config, how: Method, seed: int, place: Place = HERE) -> Rows:
    """Learn the tasks with a new method; the seed decides permutations, network and batches.

    Table ``first``: the test accuracy on the first task before training on the others goes on
    (``epoch``: counted over all tasks). Table ``tasks``: after each task the accuracy on the first
    and on the newest, and the mean over those met. Table ``ends``: that mean at the end; the
    accuracy on the remembered examples of all tasks but the last, and on those tasks' test
    images; bytes kept.
    """
    base = dataset(config.dataset).to(place.device)
    # Seeds far apart: no two runs share a task.
    tasks = [permute_pixels(base, 1000 * (seed + 1) + t) for t in range(config.tasks)]
    sizes = (int(np.prod(base.shape)), *config.hidden, len(base.classes))
    model = seeded(lambda: mlp(sizes), seed).to(place.device)
    adam = torch.optim.Adam(model.parameters(), lr=config.lr)
    first: list[dict[str, Any]] = []

    def known(task: int, epoch: int) -> None:
        score = accuracy(model, tasks[0].x_test, tasks[0].y_test)
        first.append({"epoch": task * config.epochs + epoch, "accuracy": score})

    history = train_tasks(
        model,
        tasks,
        how,
        lambda: adam,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        on_epoch=known,
    )
    grid = history.accuracy
    return {
        "first": first,
        "tasks": [
            {
                "task": t + 1,
                "first": float(grid[t, 0]),
                "newest": float(grid[t, t]),
                "average": float(grid[t, : t + 1].mean()),
            }
            for t in range(len(tasks))
        ],
        "ends": [
            {
                "first": float(grid[-1, 0]),
                "average": float(grid[-1].mean()),
                "newest": float(grid[:, :].diagonal().mean()),
                "remembered": _on_memory(model, how, len(tasks)),
                "old_tests": float(grid[-1, :-1].mean()),
                "bytes": how.nbytes,
                "last_loss": float(history.loss[-1, -1]),
            }
        ],
    }


def run(config: Config = LIVE, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Record:
    """The record of :func:`hilbertlib.experiments.runner.run_cells`, which names the options."""
    return run_cells(GRID if config.grid else EXPERIMENT, config, seeds, **options)


def _on_memory(model: nn.Module, how: Method, tasks: int) -> float | None:
    """Accuracy on the remembered examples of the tasks before the last; None without a memory."""
    memory = getattr(how, "memory", None)
    if memory is None:
        return None
    old = memory.share * (tasks - 1)
    return accuracy(model, memory.x[:old], memory.y[:old])


def storage(inputs: int, capacity: int, hidden: int) -> dict[str, float]:
    """Bytes of a working memory with one byte a pixel, over EWC's: for a network of two hidden
    layers of this many units, and for one five times as wide. Ten classes."""
    memory = example_storage(capacity, inputs, 10).bytes
    return {
        f"{units} units a layer": memory
        / diagonal_storage(mlp_parameters((inputs, units, units, 10))).bytes
        for units in (hidden, 5 * hidden)
    }


# --- the claims ------------------------------------------------------------------------------


def ends(record: Record, arm: str, column: str, seeds: Sequence[int] | None = None) -> list[float]:
    """One value a seed, at the end of the last task; of these seeds, or of all."""
    rows = record["ends"].where(arm=arm).rows()
    return [row[column] for row in rows if seeds is None or row["seed"] in seeds]


def gap(record: Record, arm: str, other: str, column: str = "first") -> list[float]:
    """How much more of a column an arm has than another, a value for each seed of both."""
    return [a - b for a, b in paired(record["ends"], arm, other, column)]


def lead(record: Record, arm: str, others: Sequence[str], column: str) -> list[float]:
    """How much more of a column an arm has than the best of the others, a value for each seed.

    The best is the one with the greatest mean over the seeds; it is one for all of them.
    """
    gaps = [found for other in others if (found := gap(record, arm, other, column))]
    return min(gaps, key=lambda found: sum(found) / len(found), default=[])


def _overfit(record: Record) -> list[float]:
    rows = record["ends"].where(arm="Adam+retrain").rows()
    return [float(r["remembered"]) - float(r["old_tests"]) for r in rows]


def _stores(record: Record) -> dict[str, list[float]]:
    return {
        name: [a / b for a, b in paired(record["ends"], arm, "L2", "bytes")]
        for name, arm in (("EWC", "EWC, all tasks"), ("SI", "SI"))
    }


def _memory(record: Record) -> dict[str, list[float]]:
    config = record.provenance.config
    # By name: a record is judged where its data may not be at hand.
    inputs = {"digits": 64, "mnist": 784}[config["dataset"]]
    ratios = storage(inputs, config["capacity"], config["hidden"][0])
    return {name: [ratio] * len(record.seeds) for name, ratio in ratios.items()}


CLAIMS = (
    Claim(
        id="forget-adam",
        where="Fig. 4",
        sentence="Adam alone nearly forgets the first of the tasks.",
        reading="test accuracy on the first task after the last, where chance is 0.1",
        experiment="forgetting",
        effects=lambda r: ends(r, "Adam", "first"),
        margin=0.3,
        direction="below",
    ),
    Claim(
        id="forget-l2-retrain",
        where="Fig. 4",
        sentence="The L2 memory beats retraining on the same memory.",
        reading="accuracy on the first task at the end, L2 less Adam+retrain",
        experiment="forgetting",
        effects=lambda r: gap(r, "L2", "Adam+retrain"),
        margin=0.01,
    ),
    Claim(
        id="forget-l2-ewc",
        where="Fig. 4",
        sentence="The L2 memory beats EWC.",
        reading="accuracy on the first task at the end, L2 less EWC, for both ways of keeping "
        "EWC's books",
        experiment="forgetting",
        effects=lambda r: {
            "penalties summed": gap(r, "L2", "EWC, all tasks"),
            "last task's only": gap(r, "L2", "EWC, last task"),
        },
        margin=0.01,
    ),
    Claim(
        id="forget-l2-helps",
        where="section 3.1, Fig. 4",
        sentence="Regularizing the distance from old functions prevents catastrophic forgetting.",
        reading="accuracy on the first task at the end, L2 less Adam alone (added after the run, "
        "with the margin of the fifth chapter's claim on digits)",
        experiment="forgetting",
        effects=lambda r: gap(r, "L2", "Adam"),
        margin=0.15,
    ),
    Claim(
        id="forget-si-best",
        where="Fig. 4",
        sentence="The L2 memory does not beat synaptic intelligence.",
        reading="accuracy on the first task at the end, L2 less SI",
        experiment="forgetting",
        effects=lambda r: gap(r, "L2", "SI"),
        margin=0.0,
        direction="below",
    ),
    Claim(
        id="forget-overfit",
        where="Fig. 4",
        sentence="Retraining on the memory overfits it.",
        reading="accuracy on the remembered examples less that on test images, earlier tasks, at "
        "the end of Adam+retrain",
        experiment="forgetting",
        effects=_overfit,
        margin=0.05,
    ),
    Claim(
        id="forget-stores",
        where="section 3.1.1",
        sentence="As tensors hold them, EWC's and SI's stores are larger than the working memory.",
        reading="bytes kept from task to task, four a number, over those of the L2 memory",
        experiment="forgetting",
        effects=_stores,
        margin=1.0,
    ),
    Claim(
        id="forget-memory",
        where="section 3.1",
        sentence="At a byte a pixel the memory is comparable to or cheaper than EWC's stored "
        "diagonals.",
        reading="bytes of the memory, a byte a pixel, over those of EWC: the network of the "
        "experiment, and one five times as wide",
        experiment="forgetting",
        effects=_memory,
        margin=1.25,
        direction="below",
    ),
    Claim(
        id="forget-retrain-10",
        where="section 3.1.1",
        sentence="Of retraining every k steps, k = 10 is best.",
        reading="mean accuracy over all tasks at the end, k = 10 less the best other k",
        experiment="forgetting_grid",
        effects=lambda r: lead(
            r, "retrain every 10", [f"retrain every {k}" for k in EVERY if k != 10], "average"
        ),
        margin=0.0,
    ),
    Claim(
        id="forget-lambda",
        where="section 3.1.1",
        sentence="λ = 1.3 is the best of a logarithmic grid.",
        reading="mean accuracy over all tasks at the end, λ = 1.3 less the best other λ",
        experiment="forgetting_grid",
        effects=lambda r: lead(
            r, "L2, λ = 1.3", [f"L2, λ = {v:g}" for v in LAMBDAS if v != 1.3], "average"
        ),
        margin=0.0,
    ),
    Claim(
        id="book-equal-compute",
        where="our guess",
        sentence="A memory is better used by the L2 penalty than by retraining at equal compute.",
        reading="mean accuracy over all tasks at the end, L2 with λ = 1.3 less retraining at every "
        "step",
        experiment="forgetting_grid",
        effects=lambda r: gap(r, "L2, λ = 1.3", "retrain every 1", "average"),
        margin=0.0,
    ),
)

EXPERIMENT = Experiment(
    name="forgetting",
    figures="Fig. 4",
    title="Is the first of eight tasks still known after the last?",
    live=LIVE,
    paper=PAPER,
    arms=arms,
    measure=measure,
)
GRID = replace(
    EXPERIMENT,
    name="forgetting_grid",
    figures="Fig. 4, section 3.1.1",
    title="The L2 memory's λ, and how often to retrain",
    live=replace(LIVE, grid=True),
    paper=replace(PAPER, grid=True),
    seeds={"live": 3, "paper": 3},
)
