"""Seven optimizers on one task, tuned alike and paid alike: chapter 11's own comparison.

It has one scale: the paper compares no such methods, so there is nothing to repeat at its scale.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..records import Claim, Record
from .common import paired
from .contenders import METHODS, cost
from .contest import COMPUTE, EPOCHS, LIVE, Config, per_epoch, run, split, steps
from .contest_tuning import GRID, TUNING, best
from .runner import HERE, Experiment, Place, Rows, dataset, run_cells

AGAIN = "SGD again"
"""The negative control: SGD under another name, which no honest comparison tells from SGD."""

SLOW = {"SGD, slower": "SGD", "HCGD, slower": "HCGD"}
"""The next smaller rate of the grid: is a short path merely a small rate?"""

SEEDS = range(10, 15)
"""Those that are judged: none of the tuning's."""


def arms(config: Config = LIVE) -> list[str]:
    """The methods and the controls."""
    return [*METHODS, AGAIN, *SLOW]


def plan(arm: str, seed: int) -> tuple[str, int, dict[str, float]]:
    """What an arm runs: its method, its seed, and its rate for either reading."""
    method = SLOW.get(arm, "SGD" if arm == AGAIN else arm)
    rates = {reading: best(TUNING[method], reading) for reading in (EPOCHS, COMPUTE)}
    if arm in SLOW:
        grid = GRID[method]
        rates = {reading: grid[grid.index(lr) - 1] for reading, lr in rates.items()}
    return method, seed + 100 if arm == AGAIN else seed, rates


def measure(config: Config, arm: str, seed: int, place: Place = HERE) -> Rows:
    """One arm from one seed, on the test images.

    Table ``runs``: the rates, the accuracies at equal epochs and at equal compute, and at equal
    epochs the squared path length in function space (``path``), the L2 distance from the
    initialization (``start``) and the exchange rate (``exchange``). Table ``curve``: along the
    run at equal epochs the steps, epochs, gradient evaluations, squared path and ℓ2 length until
    there, and the share of test images that are wrong.
    """
    data = split(dataset(config.dataset), config, tuning=False)
    method, own_seed, rates = plan(arm, seed)
    full, short = (steps(config, data, method, reading) for reading in (EPOCHS, COMPUTE))
    done = run(data, method, rates[EPOCHS], own_seed, config, full)
    paid = done.accuracy_at(short)
    if rates[COMPUTE] != rates[EPOCHS]:
        paid = run(data, method, rates[COMPUTE], own_seed, config, short).accuracy[-1]
    path, length = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.square(done.l2), done.ell2))
    return {
        "runs": [
            {
                "lr": rates[EPOCHS], "lr_compute": rates[COMPUTE],
                "accuracy": done.accuracy[-1], "accuracy_compute": paid,
                "path": done.path, "start": done.start, "exchange": done.rate,
            }
        ],
        "curve": [
            {
                "step": k, "epochs": k / per_epoch(config, data),
                "evaluations": k * cost(method, config),
                "path": float(path[k]), "length": float(length[k]), "wrong": 1 - right,
            }
            for k, right in zip(done.marks, done.accuracy, strict=True)
        ],
    }  # fmt: skip


def compare(config: Config = LIVE, seeds: Sequence[int] = SEEDS, **options: Any) -> Record:
    """The record of :func:`hilbertlib.experiments.runner.run_cells`, which names the options."""
    return run_cells(EXPERIMENT, config, seeds, **options)


EXPERIMENT = Experiment(
    name="what_came_next",
    figures="none: this book's own",
    title="Do seven optimizers differ, tuned alike and paid alike?",
    live=LIVE,
    paper=LIVE,  # it has one scale
    arms=arms,
    measure=measure,
)


# --- the claims: margins set on the tuning seeds and images, judged on others -----------------


def versus(record: Record, arm: str, other: str, column: str, how: str = "ratio") -> list[float]:
    """One ratio, or one difference, of two arms for each seed of both."""
    pairs = paired(record["runs"], arm, other, column)
    return [a / b if how == "ratio" else a - b for a, b in pairs]


def _each(column: str, how: str) -> Callable[[Record], dict[str, list[float]]]:
    return lambda record: {
        arm: versus(record, arm, "SGD", column, how) for arm in METHODS if arm != "SGD"
    }


def _of(arm: str, other: str, column: str, how: str = "ratio") -> Callable[[Record], list[float]]:
    return lambda record: versus(record, arm, other, column, how)


def _claim(id: str, sentence: str, reading: str, effects: Any, margin: Any, **more: Any) -> Claim:
    where = "our guess" if id.startswith("guess") else "this chapter"
    return Claim(
        id=id, where=where, sentence=sentence, reading=reading, experiment=EXPERIMENT.name,
        effects=effects, margin=margin, **more,
    )  # fmt: skip


CLAIMS = (
    _claim(
        "guess-accuracy",
        "Tuned alike, at equal epochs every method is within three points of SGD.",
        "test accuracy less SGD's",
        _each("accuracy", "difference"), (-0.03, 0.03), direction="within",
    ),
    _claim(
        "ch11-start",
        "All end equally far from their initialization, as functions.",
        "L2 distance from the initialization over SGD's",
        _each("start", "ratio"), (0.95, 1.05), direction="within",
    ),
    _claim(
        "ch11-natural-path",
        "The natural gradient takes a far shorter path there than SGD.",
        "squared path over SGD's",
        _of("natural gradient", "SGD", "path"), 0.33, direction="below",
    ),
    _claim(
        "ch11-muon-path",
        "Muon takes a far shorter path still.",
        "squared path over SGD's",
        _of("Muon", "SGD", "path"), 0.2, direction="below",
    ),
    _claim(
        "ch11-muon-not-slow",
        "Muon's short path is not that of a small rate: slower SGD goes further.",
        "Muon's squared path over that of SGD at the next smaller rate",
        _of("Muon", "SGD, slower", "path"), 0.7, direction="below",
    ),
    _claim(
        "ch11-slow-leash",
        "At the next smaller rate the leash shortens the squared path by more than half.",
        "squared path of HCGD over SGD's, both at the next smaller rate",
        _of("HCGD, slower", "SGD, slower", "path"), 0.5, direction="below",
    ),
    _claim(
        "guess-natural-compute",
        "At equal compute the natural gradient falls behind SGD.",
        "test accuracy less SGD's after as many gradient evaluations",
        _of("natural gradient", "SGD", "accuracy_compute", "difference"), -0.01,
        direction="below",
    ),
    _claim(
        "guess-again-accuracy",
        "Control: SGD under another name is as accurate as SGD.",
        "test accuracy of one less the other's",
        _of(AGAIN, "SGD", "accuracy", "difference"), (-0.02, 0.02), direction="within",
    ),
    _claim(
        "ch11-again-path",
        "Control: it goes as far.",
        "squared path of one over the other's",
        _of(AGAIN, "SGD", "path"), (0.5, 2.0), direction="within",
    ),
    _claim(
        "guess-hc-path",
        "At its own rate HCGD takes a shorter path than SGD at its own.",
        "squared path over SGD's",
        _of("HCGD", "SGD", "path"), 0.9, direction="below",
    ),
    _claim(
        "guess-adam-hc-path",
        "At its own rate Adam+HC takes a shorter path than Adam at its own.",
        "squared path over Adam's",
        _of("Adam+HC", "Adam", "path"), 0.9, direction="below",
    ),
    _claim(
        "guess-sam-path",
        "SAM, which looks for flat places, takes a shorter path than SGD.",
        "squared path over SGD's",
        _of("SAM", "SGD", "path"), 0.9, direction="below",
    ),
    _claim(
        "guess-sam-accuracy",
        "SAM is more accurate than SGD at equal epochs.",
        "test accuracy less SGD's",
        _of("SAM", "SGD", "accuracy", "difference"), 0.0,
    ),
    _claim(
        "guess-short-is-better",
        "Methods with shorter paths are more accurate.",
        "Spearman's correlation over the methods of squared path and test accuracy",
        lambda record: correlation(record), -0.3, direction="below",
    ),
)  # fmt: skip


def correlation(record: Record) -> list[float]:
    """Rank correlation over the methods of squared path and accuracy, one a seed."""
    from scipy.stats import spearmanr

    found = []
    for seed in record.seeds:
        rows = [record["runs"].where(arm=arm, seed=seed).rows()[0] for arm in METHODS]
        found.append(float(spearmanr(*([r[k] for r in rows] for k in ("path", "accuracy")))[0]))
    return found
