"""How far a function travels on a leash and without: Figure C.7 of the paper, and its controls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import Dataset
from ..records import Record
from . import leash
from .runner import HERE, Experiment, Place, Rows, Setting, dataset, run_cells

_NO_MOMENTUM = {"momentum": 0.0}
_ARMS: dict[str, dict[str, Any]] = {
    "SGD": {"lam": 0.0},
    "HCGD": {},
    "SGD at ε": {"lam": 0.0, **_NO_MOMENTUM},
    "n = 1": _NO_MOMENTUM,
    "SGD, shuffled": {"lam": 0.0},
    "HCGD, shuffled": {},
    "HCGD, not absorbed": {"absorb": False},
    "HCGD, squared norm": {"norm": "squared"},
    "n = 5": {"corrections": 5, **_NO_MOMENTUM},
    "SGD at ε + 4η": {"lam": 0.0, **_NO_MOMENTUM},
    "on noise": {"x_v": "noise"},
    "on a black image": {"x_v": "black"},
    "random pull": {"pull": "random"},
}
_ONE_STEP = "one step"
CLAIMS = leash.CLAIMS


@dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """The paper's λ, η and |X_V|, in a live size.

    Attributes:
        lr, momentum: ε and β of the arms that do not say otherwise.
        lam, inner_lr, validation_size: λ, η and the number of examples in X_V.
        shuffled: Share of the labels that are shuffled where an arm says so.
        measured: On how many held-out images the function is compared at every update.
    """

    epochs: int = 10
    batch_size: int = 64
    hidden: tuple[int, ...] = (64, 64)
    lr: float = 0.1
    momentum: float = 0.9
    lam: float = 0.5
    inner_lr: float = 0.02
    validation_size: int = 256
    shuffled: float = 0.4
    measured: int = 500


LIVE = Config()
PAPER = Config(
    scale="paper",
    dataset="mnist",
    departures=(),
    reduced=False,
    choices=(
        "a perceptron with two hidden layers of 128 ReLU units: the paper says a simple one",
        "ε = 0.1, with momentum 0.9 in some arms and without in others: the paper gives neither; "
        "its test error saturates around epoch 15, which is slow for momentum 0.9",
        "30 epochs, twice as many as the paper's test error takes to saturate",
        "batches of 128; distances on the first 1,000 test images, at every update",
    ),
    epochs=30,
    batch_size=128,
    hidden=(128, 128),
    measured=1000,
)


def setting(config: Config, arm: str) -> leash.Setting:
    """What an arm sets."""
    common = leash.Setting(
        lam=config.lam, inner_lr=config.inner_lr, lr=config.lr, momentum=config.momentum,
        batch_size=config.batch_size, validation_size=config.validation_size,
        epochs=config.epochs, hidden=config.hidden, measured=config.measured,
    )  # fmt: skip
    own = replace(common, **_ARMS[arm])
    # From its second correction on, n = 5 adds -ηJ each time: the control has that rate.
    return replace(own, lr=own.lr + 4 * own.inner_lr) if arm == "SGD at ε + 4η" else own


def arms(config: Config) -> list[str]:
    """Runs, the controls among them, and a step looked at by itself."""
    return [*_ARMS, _ONE_STEP]


def measure(config: Config, arm: str, seed: int, place: Place = HERE) -> Rows:
    """One run, or one step.

    Table ``runs``: :func:`hilbertlib.experiments.leash.summary`. Table ``curve``: at each epoch's
    end the running sums of squared distances in both spaces, and the accuracies. Table
    ``overshoot``: for each norm and ε how far a step goes corrected over how far uncorrected.
    """
    data = dataset(config.dataset).to(place.device)
    if arm == _ONE_STEP:
        return {"overshoot": _overshoots(data, seed)}
    if arm.endswith("shuffled"):
        data = data.shuffle_labels(config.shuffled, seed)
    done = leash.run(data, seed, setting(config, arm), place.checkpoint())
    per_epoch = len(done.l2) // config.epochs
    ends = np.arange(1, config.epochs + 1) * per_epoch - 1
    row = leash.summary(done)
    del row["seed"]  # the runner adds it
    return {
        "runs": [row],
        "curve": [
            {
                "epoch": epoch + 1,
                "cumulative": float(done.cumulative[end]),
                "cumulative_parameters": float(done.cumulative_parameters[end]),
                "test_accuracy": done.history.test_accuracy[epoch],
                "train_accuracy": done.history.train_accuracy[epoch],
            }
            for epoch, end in enumerate(ends)
        ],
    }


def _overshoots(data: Dataset, seed: int) -> list[dict[str, Any]]:
    model = leash.ready_network(data, seed)
    rates = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    return [
        {"norm": norm, "rate": rate, "ratio": float(ratio)}
        for norm in ("rms", "squared")
        for rate, ratio in zip(
            rates, leash.overshoot(model, data, rates, norm=norm).mean(1), strict=True
        )
    ]


def run(config: Config = LIVE, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Record:
    """The record of :func:`hilbertlib.experiments.runner.run_cells`, which names the options."""
    return run_cells(EXPERIMENT, config, seeds, **options)


EXPERIMENT = Experiment(
    name="path_length",
    figures="Fig. C.7",
    title="How far does the function travel, with a leash and without?",
    live=LIVE,
    paper=PAPER,
    arms=arms,
    measure=measure,
)
