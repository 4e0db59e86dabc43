"""What Hilbert-constrained gradient descent does to a run: section 3.2 and figure C.7 of the paper.

Distances between functions are measured on held-out images, over softmax probabilities. The leash
itself (X_V) is drawn from the training images, as in the paper.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from torch import Tensor, nn

from .._settings import Norm
from ..data import Dataset
from ..distance import l2_distance, pairwise_l2
from ..hcgd import HilbertConstrained
from ..models import mlp, seeded
from ..records import Claim, Record, Table
from ..training import History, probabilities, train
from ..trajectory import Movement, Recorder, embed
from .common import live_record, paired

HIDDEN = (64, 64)


@dataclass(frozen=True)
class Setting:
    """How a run is made; the defaults are the paper's λ, η, |X_V| and our batch, ε and β."""

    lam: float = 0.5  # λ; 0 with one correction is plain SGD
    inner_lr: float = 0.02  # η
    lr: float = 0.1  # ε
    momentum: float = 0.9  # β
    corrections: int = 1  # n
    norm: Norm = "rms"
    absorb: bool = True  # whether the velocity takes up the corrections
    batch_size: int = 64
    validation_size: int = 256
    epochs: int = 15
    x_v: str = "training"  # where X_V comes from: "training", or for controls "noise", "black"
    pull: str = "gradient"  # or for a control "random": a correction of the same size anywhere
    hidden: tuple[int, ...] = HIDDEN
    measured: int | None = None  # on how many held-out images functions are compared; None: all


@dataclass(frozen=True)
class Run:
    """One run: per step ``(S,)``, per epoch ``(E,)``, and the function at each epoch's end.

    ``l2`` and ``ell2`` are the lengths of the single updates in the two spaces; ``outputs`` has
    shape ``(E + 1, N, C)`` and starts before training.
    """

    setting: Setting
    seed: int
    l2: np.ndarray
    ell2: np.ndarray
    history: History
    outputs: Tensor

    @property
    def cumulative(self) -> np.ndarray:
        """Running sum of the squared L2 distances between updates, ``(S,)``: figure C.7."""
        return np.cumsum(np.square(self.l2))

    @property
    def lowest_late_accuracy(self) -> float:
        """The lowest test accuracy in the second half of the run: what being thrown about costs."""
        accuracy = self.history.test_accuracy
        return min(accuracy[len(accuracy) // 2 :])

    @property
    def cumulative_parameters(self) -> np.ndarray:
        """The same sum for parameters, ``(S,)``."""
        return np.cumsum(np.square(self.ell2))


def run(
    dataset: Dataset,
    seed: int,
    setting: Setting = Setting(),
    checkpoint: Path | None = None,
) -> Run:
    """Train one network on a leash and measure every update; go on from a checkpoint's epoch."""
    model = new_network(dataset, seed, setting.hidden).to(dataset.x_train.device)
    sgd = torch.optim.SGD(model.parameters(), lr=setting.lr, momentum=setting.momentum)
    optimizer: Any = HilbertConstrained(
        sgd,
        lam=setting.lam,
        inner_lr=setting.inner_lr,
        corrections=setting.corrections,
        norm=setting.norm,
        absorb=setting.absorb,
    )
    if setting.pull == "random":
        optimizer = _RandomPull(model, setting)
    if setting.x_v != "training":
        optimizer = _LeashedOn(optimizer, model, _other_inputs(setting, dataset, seed))
    held_out = dataset.x_test[: setting.measured]
    steps = Movement(model, held_out)
    epochs = Recorder(model, held_out, parameters=False)
    history = train(
        model,
        dataset,
        optimizer,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        seed=seed,
        validation_size=setting.validation_size,
        on_step=steps,
        on_epoch=epochs,
        checkpoint=checkpoint,
    )
    moved = np.array(steps.l2), np.array(steps.parameter)
    return Run(setting, seed, *moved, history, epochs.trajectory().outputs)


def run_all(
    dataset: Dataset, arms: Mapping[str, Setting], seeds: Sequence[int], jobs: int = -1
) -> dict[str, list[Run]]:
    """Every arm from every seed, side by side on the machine's cores."""
    work = [(name, seed) for name in arms for seed in seeds]
    done = Parallel(n_jobs=jobs)(delayed(_alone)(dataset, seed, arms[name]) for name, seed in work)
    out: dict[str, list[Run]] = {name: [] for name in arms}
    for (name, _), result in zip(work, done, strict=True):
        out[name].append(result)
    return out


def _alone(dataset: Dataset, seed: int, setting: Setting) -> Run:
    torch.set_num_threads(1)  # the runs share the cores among themselves
    return run(dataset, seed, setting)


def new_network(dataset: Dataset, seed: int, hidden: Sequence[int] = HIDDEN) -> nn.Module:
    """An untrained perceptron with two hidden layers of ReLU units."""
    sizes = (int(np.prod(dataset.shape)), *hidden, len(dataset.classes))
    return seeded(lambda: mlp(sizes), seed)


def _other_inputs(setting: Setting, dataset: Dataset, seed: int) -> Tensor:
    shape, device = (setting.validation_size, *dataset.shape), dataset.x_train.device
    if setting.x_v == "black":
        return torch.zeros(shape, device=device)
    # Drawn on the CPU: the same numbers on every device.
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


class _LeashedOn:
    """An optimizer that measures its steps on inputs of our choice, whatever the loop offers."""

    def __init__(self, inner: HilbertConstrained, model: nn.Module, x: Tensor) -> None:
        self._inner, self._model, self._x = inner, model, x

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, outputs: Any) -> None:
        self._inner.step(lambda: self._model(self._x).softmax(dim=1))


class _RandomPull(torch.optim.SGD):
    """HCGD with one correction whose pull keeps its size, parameter by parameter, and not its way.

    With momentum as HCGD has it: the velocity takes the pull up.
    """

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        super().__init__(model.parameters(), lr=setting.lr, momentum=setting.momentum)
        self._size = setting.lam * setting.inner_lr

    def step(self, outputs: Callable[[], Tensor] | list[Callable[[], Tensor]]) -> None:  # type: ignore[override]
        (function,) = outputs if isinstance(outputs, list) else [outputs]
        with torch.no_grad():
            before = function()
        super().step()
        parameters = self.param_groups[0]["params"]
        with torch.enable_grad():
            gradients = torch.autograd.grad(l2_distance(function(), before), parameters)
        for p, g in zip(parameters, gradients, strict=True):
            away = torch.randn_like(g)
            pull = away * (self._size * g.norm() / away.norm())
            p.data.sub_(pull)
            self.state[p]["momentum_buffer"].add_(pull / self.param_groups[0]["lr"])


def map_of_runs(runs: Sequence[Run]) -> tuple[list[np.ndarray], float]:
    """One map in the plane of all runs' functions, epoch by epoch, and its stress.

    Returns one array of shape ``(E + 1, 2)`` a run; all runs share one distance matrix, so the
    same function stands at the same place in each.
    """
    drawn = embed(pairwise_l2(torch.cat([r.outputs for r in runs])), method="classical")
    ends = np.cumsum([len(r.outputs) for r in runs])[:-1]
    return np.split(drawn.points, ends), drawn.stress


# --- a single step under the microscope ------------------------------------------------------


def overshoot(
    model: nn.Module,
    dataset: Dataset,
    rates: Sequence[float],
    *,
    lam_eta: float = 0.01,
    norm: Norm = "rms",
    steps: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> np.ndarray:
    """How far the function moves with a correction over how far without, ``(rates, steps)``.

    Each column is one training batch, its plain SGD step at each rate ε, and the same step
    corrected once with X_V of 256 training images. Both distances are measured on that X_V.
    Above 1 the correction made the step longer.
    """
    generator = torch.Generator().manual_seed(seed)
    ratios = np.empty((len(rates), steps))
    for k in range(steps):
        order = torch.randperm(len(dataset.x_train), generator=generator)
        batch, held = order[:batch_size], order[batch_size : batch_size + 256]
        x, y, x_v = dataset.x_train[batch], dataset.y_train[batch], dataset.x_train[held]
        before = probabilities(model, x_v)
        for i, rate in enumerate(rates):
            plain, leashed = (
                probabilities(_one_step(model, x, y, x_v, rate, lam, norm), x_v)
                for lam in (0.0, lam_eta)
            )
            ratios[i, k] = float(l2_distance(leashed, before) / l2_distance(plain, before))
    return ratios


def ready_network(dataset: Dataset, seed: int, epochs: int = 3) -> nn.Module:
    """A network in the middle of its training, for single steps."""
    model = new_network(dataset, seed).to(dataset.x_train.device)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, dataset, sgd, epochs=epochs, batch_size=64, seed=seed)
    return model


def _one_step(
    model: nn.Module, x: Tensor, y: Tensor, x_v: Tensor, lr: float, lam_eta: float, norm: Norm
) -> nn.Module:
    there = copy.deepcopy(model)
    sgd = torch.optim.SGD(there.parameters(), lr=lr)
    optimizer = HilbertConstrained(sgd, lam=1.0, inner_lr=lam_eta, norm=norm)
    F.cross_entropy(there(x), y).backward()
    optimizer.step(lambda: there(x_v).softmax(dim=1))
    return there


def count_passes(corrections: int, reuse: bool = False) -> tuple[int, int]:
    """Forward and backward passes of one HCGD step, counted on a real network.

    With ``reuse`` X_V is the training batch and its forward pass serves as f(θ_t).
    """
    model = mlp((4, 3, 2))
    counts = {"forward": 0, "backward": 0}

    def forward(*_: object) -> None:
        counts["forward"] += 1

    def backward(*_: object) -> None:
        counts["backward"] += 1

    model.register_forward_hook(forward)
    last = list(model.modules())[-1]
    last.register_full_backward_hook(backward)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HilbertConstrained(sgd, corrections=corrections)
    x = torch.rand(corrections + 1, 8, 4, generator=torch.Generator().manual_seed(0))
    logits = model(x[0])
    F.cross_entropy(logits, torch.zeros(8, dtype=torch.long)).backward()
    if reuse:
        now = logits.detach().softmax(dim=1)
        optimizer.step(lambda: model(x[0]).softmax(dim=1), current=now)
    else:

        def on(batch: Tensor) -> Callable[[], Tensor]:
            return lambda: model(batch).softmax(dim=1)

        optimizer.step([on(batch) for batch in x[1:]])
    return counts["forward"], counts["backward"]


# --- the record and the claims ---------------------------------------------------------------


def record(
    dataset: Dataset, arms: Mapping[str, Sequence[Run]], overshoots: Mapping[str, np.ndarray]
) -> Record:
    """What the claims are judged on.

    Parameters
    ----------
    arms : mapping
        Runs by the name of their arm, all from the same seeds.
    overshoots : mapping
        For ``"rms"`` and ``"squared"``, the ratio of distances at the smallest ε for each seed.

    Table ``runs``: for each arm and seed the squared path length in both spaces, the share of it
    travelled in the last third of the steps, and test accuracy early (a quarter of the epochs)
    and at the end. Table ``overshoot``: one ratio a norm and seed.
    """
    rows = [{"arm": name, **summary(r)} for name, runs in arms.items() for r in runs]
    seeds = [r.seed for r in next(iter(arms.values()))]
    over = [
        {"norm": norm, "seed": seed, "rate": 0.001, "ratio": float(ratio)}
        for norm, ratios in overshoots.items()
        for seed, ratio in zip(seeds, ratios, strict=True)
    ]
    first = next(iter(arms.values()))[0].setting
    seconds = sum(sum(r.history.seconds) for runs in arms.values() for r in runs)
    return live_record(
        "path_length",
        {"runs": Table.from_rows(rows), "overshoot": Table.from_rows(over)},
        config=first,
        seeds=seeds,
        dataset=dataset,
        seconds=seconds,
    )


def summary(r: Run) -> dict[str, Any]:
    """A row of the table ``runs``: how far a run went and how well it ended."""
    accuracy = r.history.test_accuracy
    return {
        "seed": r.seed,
        "path": float(r.cumulative[-1]),
        "late": late_share(r.cumulative),
        "late_parameters": late_share(r.cumulative_parameters),
        "early_accuracy": accuracy[len(accuracy) // 4 - 1],
        "accuracy": accuracy[-1],
    }


def late_share(cumulative: np.ndarray) -> float:
    """The share of a cumulative sum that comes in the last third of the steps."""
    return float(1 - cumulative[2 * len(cumulative) // 3 - 1] / cumulative[-1])


def column(record: Record, arm: str, name: str) -> list[float]:
    """One value a seed."""
    return record["runs"].where(arm=arm)[name]


def compare(record: Record, arm: str, base: str, name: str, how: str = "ratio") -> list[float]:
    """One ratio, or one difference, between two arms for each seed of both."""
    pairs = paired(record["runs"], arm, base, name)
    return [a / b if how == "ratio" else a - b for a, b in pairs]


def _noise_less_digits(record: Record) -> list[float]:
    """Squared path over SGD's, leashed on noise less leashed on digits: each seed of all three."""
    arms = {
        arm: {row["seed"]: float(row["path"]) for row in record["runs"].where(arm=arm).rows()}
        for arm in ("SGD", "HCGD", "on noise")
    }
    seeds = [s for s in arms["SGD"] if s in arms["HCGD"] and s in arms["on noise"]]
    return [(arms["on noise"][s] - arms["HCGD"][s]) / arms["SGD"][s] for s in seeds]


CLAIMS = (
    Claim(
        id="hcgd-path",
        where="Fig. C.7",
        sentence="HCGD lowers the cumulative squared L2 distance.",
        reading="squared path of HCGD (λ = 0.5) over that of SGD at its end",
        experiment="path_length",
        effects=lambda r: compare(r, "HCGD", "SGD", "path"),
        margin=0.9,
        direction="below",
    ),
    Claim(
        id="hcgd-plateau",
        where="Fig. C.7",
        sentence="Late in training SGD's function keeps drifting, HCGD's plateaus.",
        reading="share of the squared path travelled in the last third, SGD's less HCGD's",
        experiment="path_length",
        effects=lambda r: {
            "clean labels": compare(r, "SGD", "HCGD", "late", "difference"),
            "40% of the labels shuffled": compare(
                r, "SGD, shuffled", "HCGD, shuffled", "late", "difference"
            ),
            "clean labels, no momentum": compare(r, "SGD at ε", "n = 1", "late", "difference"),
        },
        margin=0.05,
    ),
    Claim(
        id="hcgd-params-drift",
        where="Fig. C.7",
        sentence="HCGD's parameters keep drifting although its function has converged.",
        reading="shares of the squared path in the last third: HCGD's in parameters less that in "
        "function; for a function at rest, SGD's less HCGD's (this second part added after the "
        "run, with the margin of the first)",
        experiment="path_length",
        effects=lambda r: {
            "parameters drift": [
                float(row["late_parameters"]) - float(row["late"])
                for row in r["runs"].where(arm="HCGD").rows()
            ],
            "its function at rest": compare(r, "SGD", "HCGD", "late", "difference"),
        },
        margin=0.05,
    ),
    Claim(
        id="hcgd-momentum",
        where="section 3.2",
        sentence="A velocity that absorbs the corrections speeds training and lowers test error.",
        reading="test accuracy with less without absorbing, a quarter of the way and at the end",
        experiment="path_length",
        effects=lambda r: {
            "early": compare(r, "HCGD", "HCGD, not absorbed", "early_accuracy", "difference"),
            "at the end": compare(r, "HCGD", "HCGD, not absorbed", "accuracy", "difference"),
        },
        margin=0.0,
    ),
    Claim(
        id="hcgd-one-correction",
        where="section 3.2",
        sentence="One correction is often enough.",
        reading="test accuracy with five corrections less that with one, no momentum (on MNIST "
        "any two arms with true labels are as close)",
        experiment="path_length",
        effects=lambda r: compare(r, "n = 5", "n = 1", "accuracy", "difference"),
        margin=(-0.01, 0.01),
        direction="within",
    ),
    Claim(
        id="hcgd-shorter-step",
        where="sections 1 and 3.2",
        sentence="A correction makes the step shorter in function space.",
        reading="distance with over without a correction, λη = 0.01, at the rates of Figs. 5 and "
        "6; one step of a perceptron, early in training, without momentum (added after the run)",
        experiment="path_length",
        effects=lambda r: {
            f"ε = {rate:g}": r["overshoot"].where(norm="rms", rate=rate)["ratio"]
            for rate in (0.01, 0.1, 0.3)
        },
        margin=1.0,
        direction="below",
    ),
    Claim(
        id="book-overshoot",
        where="this chapter",
        sentence="On a short step a correction by the norm lengthens the step.",
        reading="distance with over without a correction at ε = 0.001, λη = 0.01",
        experiment="path_length",
        effects=lambda r: r["overshoot"].where(norm="rms", rate=0.001)["ratio"],
        margin=2.0,
    ),
    Claim(
        id="book-squared",
        where="this chapter",
        sentence="A correction by the squared norm shortens a short step.",
        reading="distance with over without such a correction at ε = 0.001, λη = 0.01",
        experiment="path_length",
        effects=lambda r: r["overshoot"].where(norm="squared", rate=0.001)["ratio"],
        margin=1.0,
        direction="below",
    ),
    Claim(
        id="book-rate",
        where="this chapter",
        sentence="On the squared path, five corrections are more than a larger learning rate.",
        reading="squared path of HCGD with n = 5 over that of SGD at ε + 4η",
        experiment="path_length",
        effects=lambda r: compare(r, "n = 5", "SGD at ε + 4η", "path"),
        margin=0.9,
        direction="below",
    ),
    Claim(
        id="book-black-leash",
        where="this chapter",
        sentence="A leash tied to a black image does not hold the function of digits.",
        reading="squared path leashed on black images over SGD's",
        experiment="path_length",
        effects=lambda r: compare(r, "on a black image", "SGD", "path"),
        margin=0.8,
    ),
    Claim(
        id="guess-random-pull",
        where="our guess",
        sentence="A pull of the same size in a random direction lengthens the path.",
        reading="squared path with random corrections over SGD's",
        experiment="path_length",
        effects=lambda r: compare(r, "random pull", "SGD", "path"),
        margin=1.0,
    ),
    Claim(
        id="guess-noise-leash",
        where="our guess",
        sentence="A leash on images of noise holds the function less than one on digits.",
        reading="squared path over SGD's, leashed on noise less leashed on digits",
        experiment="path_length",
        effects=_noise_less_digits,
        margin=0.0,
    ),
)
