"""Chapter 7's small runs: why one weight used many times makes a function hard to hold.

First a single weight, where everything can be written down; then the LSTM of Figure 6 at the
chapter's size, update by update.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from torch import Tensor, nn

from ..data import Dataset, permute_pixels
from ..distance import l2_distance
from ..hcgd import HilbertConstrained
from ..models import LSTMClassifier, probabilities, seeded
from ..records import Claim, Record, Table
from ..training import train
from ..trajectory import Movement
from . import hcgd_sequences
from .common import live_record, paired
from .hcgd_sequences import Config, optimizer, sequences

# --- one weight ------------------------------------------------------------------------------


def states(w: float, x: np.ndarray) -> np.ndarray:
    """What a memory of one number holds, ``(T,)``: h ← w h + x, from 0, for inputs ``(T,)``."""
    h, out = 0.0, np.empty(len(x))
    for t, now in enumerate(x):
        h = out[t] = w * h + now
    return out


def tied_rates(w: float, steps: int) -> np.ndarray:
    """Exchange rate of the weight after 1 to ``steps`` inputs, ``(steps,)``.

    L2 distance of h as a function of its inputs, which are independent with variance 1, for a
    unit of the weight, in the limit of a short step. After T inputs its square is
    Σ k² w^(2k − 2) over k < T.
    """
    k = np.arange(steps, dtype=float)
    return np.sqrt(np.cumsum(np.square(k * np.power(w, np.maximum(k - 1, 0)))))


def nudged(w: float, nudge: float, steps: int) -> np.ndarray:
    """How far a nudge of the weight moves the function, after 1 to ``steps`` inputs, ``(steps,)``.

    After T inputs its square is Σ ((w + nudge)ᵏ − wᵏ)² over k < T; for a short nudge it is that
    times :func:`tied_rates`.
    """
    k = np.arange(steps)
    return np.sqrt(np.cumsum(np.square((w + nudge) ** k - w**k)))


def untied_rates(w: float, steps: int) -> np.ndarray:
    """The same for a chain of layers that have a weight each, all of them ``w``, ``(steps,)``.

    Root of the mean square over the directions of a step in all T weights.
    """
    k = np.arange(steps, dtype=float)
    held = np.cumsum(np.power(w, 2 * k))  # mean square of h after 1, 2, ... inputs
    # A change of weight t meets what was held before it, and passes through those after it.
    square = [
        np.mean(np.append(0.0, held[: t - 1]) * np.power(w, 2 * (t - 1 - k[:t])))
        for t in range(1, steps + 1)
    ]
    return np.sqrt(square)


@dataclass(frozen=True)
class OneWeight:
    """To learn the memory ``target`` from the last state after T inputs, one step at a time.

    The cost is half the squared L2 distance to the memory that is wanted: C(w) = ½ D(w, target)²,
    with D(a, b)² = Σ (aᵏ − bᵏ)² over k < T for inputs of variance 1. All of it is exact.
    """

    steps: int = 20  # T
    target: float = 0.9
    lr: float = 0.001  # ε
    lam_eta: float = 0.0001  # λη
    clip: float = 1.0

    def distance(self, a: float, b: float) -> float:
        """L2 distance D between the memories of two weights."""
        k = np.arange(self.steps)
        return float(np.linalg.norm(a**k - b**k))

    def slope(self, w: float, other: float) -> float:
        """Derivative of D(w, other) by w; 0 where the two are one."""
        k = np.arange(1, self.steps)
        apart = self.distance(w, other)
        return float((w**k - other**k) @ (k * w ** (k - 1)) / apart) if apart else 0.0

    def gradient(self, w: float) -> float:
        """J, the derivative of the cost."""
        return self.distance(w, self.target) * self.slope(w, self.target)

    def step(self, w: float, clipped: bool = False, leashed: bool = False) -> float:
        """Where a step of SGD from ``w`` ends, with its gradient clipped or one correction."""
        with np.errstate(over="ignore", invalid="ignore"):
            gradient = self.gradient(w)
            if clipped:
                gradient = float(np.clip(gradient, -self.clip, self.clip))
            there = w - self.lr * gradient
            return there - self.lam_eta * self.slope(there, w) if leashed else there

    def moved(self, w: float, clipped: bool = False, leashed: bool = False) -> float:
        """How far that step moves the function; infinite where it is out of all range."""
        with np.errstate(over="ignore", invalid="ignore"):
            far = self.distance(self.step(w, clipped, leashed), w)
        return far if np.isfinite(far) else np.inf


# --- training, update by update --------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """One run: the lengths of its updates in both spaces ``(S,)``, test accuracy ``(E,)``."""

    name: str
    seed: int
    l2: np.ndarray
    ell2: np.ndarray
    accuracy: np.ndarray
    seconds: float

    @property
    def rates(self) -> np.ndarray:
        """Exchange rate of each update: L2 per ℓ2, ``(S,)``."""
        return self.l2 / self.ell2

    @property
    def late_rate(self) -> float:
        """The median exchange rate over the last quarter of the updates."""
        return float(np.median(self.rates[-len(self.rates) // 4 :]))

    @property
    def spread(self) -> float:
        """Standard deviation of the exchange rate's logarithm over all updates."""
        return float(np.log(self.rates).std())

    @property
    def final(self) -> float:
        """Mean test accuracy over the last quarter of the epochs."""
        return float(self.accuracy[-len(self.accuracy) // 4 :].mean())


SETTING = replace(hcgd_sequences.LIVE, pool=1, epochs=16)
"""For reading in portions: all 64 pixels of a digit."""

STEEP = replace(hcgd_sequences.LIVE, lr=0.4, epochs=16)
"""For clipping against the leash: a rate at which gradients that nobody clips do harm."""

RULES = {
    "SGD, clipped": ("SGD", 1.0),
    "SGD, not clipped": ("SGD", None),
    "SGD+HC, not clipped": ("SGD+HC, n = 1", None),
}


def in_portions(data: Dataset, portion: int) -> Dataset:
    """The same pixels in the same order, ``portion`` of them at each step: ``(N, portion, T)``.

    Raises:
        ValueError: If the pixels do not come out even.
    """
    pixels = data.x_train[0].numel()
    if portion < 1 or pixels % portion:
        raise ValueError(f"expected a divisor of {pixels} pixels as portion, got {portion}")

    def told(x: Tensor) -> Tensor:
        return x.flatten(1).unflatten(1, (-1, portion)).transpose(1, 2).contiguous()

    return replace(data, x_train=told(data.x_train), x_test=told(data.x_test))


def walk(
    name: str, seed: int, config: Config, arm: str = "SGD", portion: int = 1, measured: int = 100
) -> Walk:
    """Train the LSTM and measure each update, on so many held-out images."""
    started = time.perf_counter()
    data = in_portions(sequences(config, seed), portion)
    model = network(config, data, seed)
    moves = Movement(model, data.x_test[:measured])
    history = train(
        model,
        data,
        optimizer(config, arm, model),
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        validation_size=config.validation_size,
        clip_norm=config.clip_norm,
        on_step=moves,
    )
    return Walk(
        name,
        seed,
        np.array(moves.l2),
        np.array(moves.parameter),
        np.array(history.test_accuracy),
        time.perf_counter() - started,
    )


def network(config: Config, data: Dataset, seed: int) -> LSTMClassifier:
    """The untrained LSTM for the portions of the data."""
    inputs = data.x_train.shape[1]
    return seeded(lambda: LSTMClassifier(config.hidden, len(data.classes), inputs), seed)


def portions(
    sizes: Sequence[int], seeds: Sequence[int], config: Config = SETTING, jobs: int = -1
) -> dict[int, list[Walk]]:
    """SGD on the same pixels in portions of these sizes: a run for each seed."""
    work = [(size, seed) for size in sizes for seed in seeds]
    found = _side_by_side(
        [delayed(_alone)(walk, f"portions of {k}", s, config, "SGD", k) for k, s in work], jobs
    )
    return {k: [w for (size, _), w in zip(work, found, strict=True) if size == k] for k in sizes}


def rules(seeds: Sequence[int], config: Config = STEEP, jobs: int = -1) -> dict[str, list[Walk]]:
    """SGD with clipping, without, and with one correction in its place: a run for each seed.

    Only the lengths in parameters are meant to be used: functions are measured on one image.
    """
    work = [(name, seed) for name in RULES for seed in seeds]
    calls = []
    for name, seed in work:
        arm, clip = RULES[name]
        one = replace(config, clip_norm=clip)
        calls.append(delayed(_alone)(walk, name, seed, one, arm, measured=1))
    found = _side_by_side(calls, jobs)
    return {name: [w for w in found if w.name == name] for name in RULES}


def posts(seeds: Sequence[int], jobs: int = -1) -> dict[int, dict[str, float]]:
    """:func:`held` for each seed."""
    found = _side_by_side([delayed(_alone)(held, seed) for seed in seeds], jobs)
    return dict(zip(seeds, found, strict=True))


def _side_by_side(calls: list[Any], jobs: int) -> list[Any]:
    return list(Parallel(n_jobs=jobs)(calls))


def _alone(measure: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    torch.set_num_threads(1)  # the runs share the cores among themselves
    return measure(*arguments, **keywords)


# --- a leash tied to another order -----------------------------------------------------------

POSTS = ("its own order", "another order", "black images")


def held(
    seed: int, config: Config = STEEP, *, lr: float = 0.1, lam_eta: float = 0.01, steps: int = 8
) -> dict[str, float]:
    """How far a corrected step moves the function, over the same step without the correction.

    From a network in the middle of its training: steps of SGD at rate ``lr`` without momentum,
    each corrected once, with X_V of 256 training images whose pixels come in the order that the
    network knows, in another one, or all black. Both distances are measured on the held-out
    images in the network's own order; means over the steps.
    """
    config = replace(config, epochs=14)
    data = sequences(config, seed)
    model = network(config, data, seed)
    train(
        model,
        data,
        optimizer(config, "SGD", model),
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        clip_norm=config.clip_norm,
    )
    elsewhere = permute_pixels(data, seed).x_train
    generator = torch.Generator().manual_seed(seed)
    before = probabilities(model, data.x_test)
    ratios: dict[str, list[float]] = {post: [] for post in POSTS}
    for _ in range(steps):
        order = torch.randperm(len(data.x_train), generator=generator)
        batch, some = order[:64], order[64:320]
        x, y, x_v = data.x_train[batch], data.y_train[batch], data.x_train[some]

        def moved(on: Tensor, size: float, x: Tensor = x, y: Tensor = y) -> float:
            there = _one_step(model, x, y, on, lr, size)
            return float(l2_distance(probabilities(there, data.x_test), before))

        free = moved(x_v, 0.0)
        for post, on in zip(POSTS, (x_v, elsewhere[some], torch.zeros_like(x_v)), strict=True):
            ratios[post].append(moved(on, lam_eta) / free)
    return {post: float(np.mean(found)) for post, found in ratios.items()}


def _one_step(
    model: nn.Module, x: Tensor, y: Tensor, x_v: Tensor, lr: float, lam_eta: float
) -> nn.Module:
    there = copy.deepcopy(model)
    sgd = torch.optim.SGD(there.parameters(), lr=lr)
    leashed = HilbertConstrained(sgd, lam=1.0, inner_lr=lam_eta)
    F.cross_entropy(there(x), y).backward()
    leashed.step(lambda: there(x_v).softmax(dim=1))
    return there


# --- SGD at more learning rates --------------------------------------------------------------


def with_rates(record: Record, config: Config, more: Sequence[int], jobs: int = -1) -> Record:
    """A record of Figure 6 with SGD at ε + kη beside it, for the k in ``more``, from its seeds."""
    work = [(f"SGD at ε + {k}η", seed) for k in more for seed in record.seeds]
    done = _side_by_side([delayed(_alone)(_measured, config, *cell) for cell in work], jobs)
    tables = {
        name: Table.from_rows([*record[name].rows(), *(row for rows in done for row in rows[name])])
        for name in ("curve", "runs")
    }
    return replace(record, tables={**record.tables, **tables})


def _measured(config: Config, arm: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    found = hcgd_sequences.measure(config, arm, seed)
    return {name: [{"arm": arm, "seed": seed, **row} for row in found[name]] for name in found}


# --- the record and the claims ---------------------------------------------------------------


def record(
    read: Mapping[int, Sequence[Walk]],
    ruled: Mapping[str, Sequence[Walk]],
    posts: Mapping[int, Mapping[str, float]],
) -> Record:
    """What the chapter's own claims are judged on.

    Table ``portions``: for each size and seed the exchange rate late in training, its spread, and
    test accuracy at the end. Table ``rules``: the last for each rule. Table ``posts``: for each
    seed what :func:`held` found.
    """
    data = sequences(SETTING, 0)
    every = [w for walks in (*read.values(), *ruled.values()) for w in walks]
    portion_rows = [
        {"portion": k, "seed": w.seed, "rate": w.late_rate, "spread": w.spread, "final": w.final}
        for k, walks in read.items()
        for w in walks
    ]
    rule_rows = [
        {"arm": name, "seed": w.seed, "final": w.final, "longest": float(w.ell2.max())}
        for name, walks in ruled.items()
        for w in walks
    ]
    post_rows = [
        {"post": post, "seed": seed, "ratio": ratio}
        for seed, found in posts.items()
        for post, ratio in found.items()
    ]
    return live_record(
        "recurrence",
        {
            "portions": Table.from_rows(portion_rows),
            "rules": Table.from_rows(rule_rows),
            "posts": Table.from_rows(post_rows),
        },
        config=SETTING,
        seeds=sorted(posts),
        dataset=data,
        seconds=sum(w.seconds for w in every),
    )


def _portions(record: Record, column: str, size: int) -> list[float]:
    return record["portions"].where(portion=size)[column]


def _longest(record: Record, arm: str) -> list[float]:
    pairs = paired(record["rules"], arm, "SGD, clipped", "longest")
    return [a / b for a, b in pairs]


def _held_less(record: Record, post: str) -> list[float]:
    own, other = (record["posts"].where(post=p)["ratio"] for p in (POSTS[0], post))
    return [b - a for a, b in zip(own, other, strict=True)]


CLAIMS = (
    Claim(
        id="guess-seq-dearer",
        where="our guess",
        sentence="Used eight times, the same kind of network moves further for a unit of weights.",
        reading="median exchange rate over the last quarter of the updates, digits read in eight "
        "portions over digits read at once",
        experiment="recurrence",
        effects=lambda r: [
            a / b for a, b in zip(_portions(r, "rate", 8), _portions(r, "rate", 64), strict=True)
        ],
        margin=1.5,
    ),
    Claim(
        id="guess-seq-proxy",
        where="our guess",
        sentence="And its exchange rate changes more while it trains.",
        reading="standard deviation of the rate's logarithm over the updates, eight portions less "
        "one",
        experiment="recurrence",
        effects=lambda r: [
            a - b
            for a, b in zip(_portions(r, "spread", 8), _portions(r, "spread", 64), strict=True)
        ],
        margin=0.1,
    ),
    Claim(
        id="guess-seq-clip",
        where="our guess",
        sentence="A leash in place of clipping lets single steps grow long.",
        reading="longest update in parameters at ε = 0.4, SGD+HC not clipped over SGD clipped",
        experiment="recurrence",
        effects=lambda r: _longest(r, "SGD+HC, not clipped"),
        margin=1.2,
    ),
    Claim(
        id="guess-seq-order",
        where="our guess",
        sentence="A leash on digits in another order holds a step less than one in its own.",
        reading="distance with over without a correction, another order less the network's own",
        experiment="recurrence",
        effects=lambda r: _held_less(r, POSTS[1]),
        margin=0.02,
    ),
    Claim(
        id="guess-seq-black",
        where="our guess",
        sentence="So does a leash on black images.",
        reading="the same, black images less the network's own order",
        experiment="recurrence",
        effects=lambda r: _held_less(r, POSTS[2]),
        margin=0.02,
    ),
)
