"""Networks far apart in parameters that are near as functions, and the other way round.

Everything here is measured on held-out images: distances between functions are taken over
softmax probabilities, equation 1 of the book and section 2 of the paper.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Dataset
from ..distance import l2_distance, parameter_distance
from ..models import mlp, seeded
from ..records import Claim, Record, Table
from ..symmetry import interpolate, match_hidden, permute_hidden
from ..training import accuracy, probabilities, train
from .common import live_record

HIDDEN = (32, 32, 32)  # units of the hidden layers; deep enough for the order of units to matter


def new_network(dataset: Dataset, seed: int, hidden: Sequence[int] = HIDDEN) -> nn.Module:
    """An untrained ReLU perceptron, initialized from ``seed``."""
    sizes = (int(np.prod(dataset.shape)), *hidden, len(dataset.classes))
    return seeded(lambda: mlp(sizes), seed)


def trained_network(
    dataset: Dataset, seed: int, hidden: Sequence[int] = HIDDEN, epochs: int = 40
) -> nn.Module:
    """The same network after plain SGD (ε = 0.1, momentum 0.9, batches of 64)."""
    model = new_network(dataset, seed, hidden)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, dataset, sgd, epochs=epochs, batch_size=64, seed=seed)
    return model


def shuffled_twin(model: nn.Module, seed: int) -> nn.Module:
    """``model`` with the units of every hidden layer in a random order: the same function."""
    generator = _generator(seed)
    widths = [layer.out_features for layer in _linear(model)][:-1]
    for layer, width in enumerate(widths):
        model = permute_hidden(model, torch.randperm(width, generator=generator), layer)
    return model


@dataclass(frozen=True)
class Walk:
    """The straight line from network A (t = 0) to network B (t = 1), at ``K`` places.

    ``l2`` and ``ell2``, shape ``(K,)``: distance from A of the functions and of the parameters;
    ``stray``, shape ``(K,)``: the function's distance from the nearer end;
    ``accuracy``, shape ``(K,)``; ``answers``, shape ``(K, C)``: probabilities for one image.
    """

    t: np.ndarray
    l2: np.ndarray
    ell2: np.ndarray
    stray: np.ndarray
    accuracy: np.ndarray
    answers: np.ndarray


def walk(a: nn.Module, b: nn.Module, dataset: Dataset, steps: int = 21, example: int = 0) -> Walk:
    """Measure the networks on the straight line from ``a`` to ``b`` on the test images."""
    x, y = dataset.x_test, dataset.y_test
    at_a, at_b = probabilities(a, x), probabilities(b, x)
    ts = np.linspace(0, 1, steps)
    rows = []
    for t in ts:
        between = interpolate(a, b, float(t))
        here = probabilities(between, x)
        from_a, from_b = (float(l2_distance(here, end)) for end in (at_a, at_b))
        moved = float(parameter_distance(a, between))
        rows.append((from_a, moved, min(from_a, from_b), accuracy(between, x, y), here[example]))
    l2, ell2, stray, right = np.array([row[:4] for row in rows]).T
    return Walk(ts, l2, ell2, stray, right, torch.stack([row[4] for row in rows]).numpy())


PAIRS = (
    "permuted twins",
    "two initializations, before training",
    "two initializations, after training",
    "a short step in a random direction",
    "the same step along the gradient",
)


def pairs(
    dataset: Dataset, seed: int, step: float = 0.3, epochs: int = 40
) -> dict[str, tuple[float, float]]:
    """``(ℓ2, L2)`` of five kinds of pairs of networks, made from one seed."""
    before = [new_network(dataset, 2 * seed + i) for i in (0, 1)]
    after = [trained_network(dataset, 2 * seed + i, epochs=epochs) for i in (0, 1)]
    a = after[0]
    others = (
        (a, shuffled_twin(a, seed)),
        (before[0], before[1]),
        (after[0], after[1]),
        (a, moved(a, random_direction(a, seed), step)),
        (a, moved(a, gradient_direction(a, dataset), step)),
    )
    return {
        name: (float(parameter_distance(f, g)), function_distance(f, g, dataset.x_test))
        for name, (f, g) in zip(PAIRS, others, strict=True)
    }


def function_distance(f: nn.Module, g: nn.Module, x: Tensor) -> float:
    """L2 distance between two classifiers over the images ``x``, shape ``(N, *shape)``."""
    return float(l2_distance(probabilities(f, x), probabilities(g, x)))


# --- three directions from one network -------------------------------------------------------


def random_direction(model: nn.Module, seed: int) -> list[Tensor]:
    """A direction drawn uniformly, of length 1 over all parameters."""
    generator = _generator(seed)
    return _unit([torch.randn(p.shape, generator=generator) for p in model.parameters()])


def gradient_direction(model: nn.Module, dataset: Dataset) -> list[Tensor]:
    """The direction in which the test images' loss rises fastest, of length 1."""
    loss = F.cross_entropy(model(dataset.x_test), dataset.y_test)
    return _unit(list(torch.autograd.grad(loss, list(model.parameters()))))


def rescaling_direction(model: nn.Module, seed: int) -> list[Tensor]:
    """The tangent to rescaling the first layer's ReLU units by random factors, of length 1.

    To first order the function does not move along it: what enters a unit grows by the share
    by which what leaves it shrinks.
    """
    into, out = _linear(model)[:2]
    share = torch.randn(into.out_features, generator=_generator(seed))
    tangent = {
        id(into.weight): into.weight * share[:, None],
        id(into.bias): into.bias * share,
        id(out.weight): -out.weight * share,
    }
    return _unit([tangent.get(id(p), torch.zeros_like(p)).detach() for p in model.parameters()])


@torch.no_grad()
def moved(model: nn.Module, direction: Sequence[Tensor], length: float) -> nn.Module:
    """A copy of ``model`` moved ``length`` along a direction of length 1."""
    there = copy.deepcopy(model)
    for p, d in zip(there.parameters(), direction, strict=True):
        p.add_(d, alpha=length)
    return there


def fan(
    model: nn.Module, dataset: Dataset, lengths: Sequence[float], seed: int = 0
) -> dict[str, np.ndarray]:
    """L2 distance from ``model`` after steps of these ℓ2 lengths, in each of three directions."""
    ways: Mapping[str, list[Tensor]] = {
        "along the gradient": gradient_direction(model, dataset),
        "at random": random_direction(model, seed),
        "rescaling units": rescaling_direction(model, seed),
    }
    return {
        name: np.array(
            [function_distance(model, moved(model, d, s), dataset.x_test) for s in lengths]
        )
        for name, d in ways.items()
    }


# --- is it the shuffling? --------------------------------------------------------------------


def humps(dataset: Dataset, seed: int, epochs: int = 40) -> dict[str, Walk]:
    """The walk from a network to four others: its twin and another training, each also matched."""
    a, b = (trained_network(dataset, 2 * seed + i, epochs=epochs) for i in (0, 1))
    twin = shuffled_twin(a, seed)
    others = {
        "shuffled twin": twin,
        "shuffled twin, matched": match_hidden(twin, a),
        "independent network": b,
        "independent network, matched": match_hidden(b, a),
    }
    return {name: walk(a, other, dataset) for name, other in others.items()}


@torch.no_grad()
def change_dark_pixels(model: nn.Module, dataset: Dataset, scale: float) -> tuple[nn.Module, int]:
    """A copy whose weights on pixels that are black in every image are random, and their number."""
    images = torch.cat([dataset.x_train, dataset.x_test]).flatten(1)
    dark = (images == 0).all(dim=0)
    changed = copy.deepcopy(model)
    first = _linear(changed)[0]
    noise = torch.randn(first.weight.shape, generator=_generator(0))
    first.weight[:, dark] = scale * noise[:, dark]
    return changed, int(dark.sum())


def _linear(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def _unit(direction: list[Tensor]) -> list[Tensor]:
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(d) for d in direction]))
    return [d / length for d in direction]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the record, the numbers for the text, and the claims ------------------------------------


@dataclass(frozen=True)
class Config:
    """Settings of the record."""

    epochs: int = 40
    step: float = 0.3


def run(dataset: Dataset, seeds: Sequence[int], config: Config = Config()) -> Record:
    """Pairs and walks for each seed: tables ``pairs`` and ``walks``."""
    started = time.perf_counter()
    pair_rows: list[dict[str, Any]] = []
    walk_rows: list[dict[str, Any]] = []
    for seed in seeds:
        for name, (ell2, l2) in pairs(dataset, seed, config.step, config.epochs).items():
            pair_rows.append({"seed": seed, "pair": name, "ell2": ell2, "l2": l2})
        for name, path in humps(dataset, seed, config.epochs).items():
            for t, stray in zip(path.t.tolist(), path.stray.tolist(), strict=True):
                walk_rows.append({"seed": seed, "walk": name, "t": t, "stray": stray})
    return live_record(
        "same_function",
        {"pairs": Table.from_rows(pair_rows), "walks": Table.from_rows(walk_rows)},
        config=config,
        seeds=seeds,
        dataset=dataset,
        seconds=time.perf_counter() - started,
    )


def ratios(record: Record, over: tuple[str, str], under: tuple[str, str]) -> list[float]:
    """One ratio a seed between two distances, each named by ``(pair, "ell2" or "l2")``."""
    table = record["pairs"]
    above, below = (table.where(pair=pair)[column] for pair, column in (over, under))
    return [a / b for a, b in zip(above, below, strict=True)]


def peaks(record: Record, walk: str) -> list[float]:
    """The greatest distance from the nearer end on each seed's walk of this kind."""
    table = record["walks"].where(walk=walk)
    return [max(table.where(seed=seed)["stray"]) for seed in record.seeds]


def growth_per_doubling(lengths: Sequence[float], l2: Sequence[float]) -> float:
    """By what factor L2 grows when the length doubles: 2 to the power of the mean log-log slope."""
    return float(2 ** np.polyfit(np.log2(lengths), np.log2(l2), 1)[0])


TWINS, UNTRAINED, STRANGERS, AT_RANDOM, UPHILL = PAIRS

CLAIMS = (
    Claim(
        id="book-twins",
        where="this chapter",
        sentence="A network and its shuffled twin are one function.",
        reading="L₂ between them",
        experiment="same_function",
        effects=lambda r: r["pairs"].where(pair=TWINS)["l2"],
        margin=1e-4,
        direction="below",
    ),
    Claim(
        id="book-strangers",
        where="this chapter",
        sentence="In parameters the twin is as far away as a network trained from another start.",
        reading="ℓ₂ to the twin over ℓ₂ to the other network",
        experiment="same_function",
        effects=lambda r: ratios(r, (TWINS, "ell2"), (STRANGERS, "ell2")),
        margin=(0.8, 1.25),
        direction="within",
    ),
    Claim(
        id="book-direction",
        where="this chapter",
        sentence="Equal steps in parameters are unequal steps in function.",
        reading="L₂ along the gradient over L₂ in a random direction",
        experiment="same_function",
        effects=lambda r: ratios(r, (UPHILL, "l2"), (AT_RANDOM, "l2")),
        margin=3.0,
    ),
    Claim(
        id="book-hump",
        where="this chapter",
        sentence="The straight line between two copies of one function leaves that function.",
        reading="greatest L₂ from the nearer end",
        experiment="same_function",
        effects=lambda r: peaks(r, "shuffled twin"),
        margin=0.3,
    ),
    Claim(
        id="book-match-twin",
        where="this chapter",
        sentence="It is the order of the units: matching them removes the detour.",
        reading="greatest L₂ from the nearer end, after matching",
        experiment="same_function",
        effects=lambda r: peaks(r, "shuffled twin, matched"),
        margin=1e-3,
        direction="below",
    ),
    Claim(
        id="book-match-stranger",
        where="this chapter",
        sentence="Between independent networks matching removes more than half of the detour.",
        reading="greatest L₂ after matching over the same before",
        experiment="same_function",
        effects=lambda r: [
            after / before
            for after, before in zip(
                peaks(r, "independent network, matched"),
                peaks(r, "independent network"),
                strict=True,
            )
        ],
        margin=0.5,
        direction="below",
    ),
    Claim(
        id="same-start-digits",
        where="section 2.1, Fig. 1",
        sentence="Random initializations begin near each other in function space, compared with "
        "where they end.",
        reading="L₂ between two networks before training over the same after training",
        experiment="same_function",
        effects=lambda r: ratios(r, (UNTRAINED, "l2"), (STRANGERS, "l2")),
        margin=0.5,
        direction="below",
    ),
)
