"""Chapter 3's own questions: what a map hides, and to what paths should be compared."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..data import Dataset
from ..embedding import stress
from ..records import Claim, Record, Table
from ..symmetry import permute_hidden
from ..training import train
from ..trajectory import Recorder, Trajectory, l2_matrix, parameter_matrix
from .common import live_record
from .runner import dataset
from .trajectories import CLEAN, LIVE, SHUFFLED, Config, apart, network

LONG = replace(LIVE, epochs=60, lr=0.1)
"""Long enough to learn some shuffled labels by heart."""

TWIN, BATCHES, STRANGER = "its twin", "same start, other batches", "another start"


def path(data: Dataset, start: int, batches: int, config: Config = LIVE) -> Trajectory:
    """One network, from the start and over the batches of these seeds: a snapshot an epoch."""
    model = network(config, data, start)
    sgd = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    recorder = Recorder(model, data.x_test[: config.measured])
    train(
        model,
        data,
        sgd,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=batches,
        on_epoch=recorder,
    )
    return recorder.trajectory()


def three(seed: int, config: Config = LIVE) -> list[Trajectory]:
    """The three initializations of a seed, on digits as they are."""
    data = dataset(config.dataset)
    return [path(data, 3 * seed + i, seed, config) for i in range(3)]


def twin_path(path: Trajectory, data: Dataset, seed: int, config: Config = LIVE) -> Trajectory:
    """The path of the network whose hidden units stand in another order: the same functions.

    Each snapshot is shuffled in the same way; its outputs are computed anew.
    """
    assert path.parameters is not None
    model = network(config, data, 0)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(64, generator=generator) for _ in range(2)]
    outputs, parameters = [], []
    for snapshot in path.parameters:
        vector_to_parameters(snapshot, model.parameters())
        twin = model
        for layer, order in enumerate(orders):
            twin = permute_hidden(twin, order, layer)  # type: ignore[assignment]
        with torch.no_grad():
            outputs.append(twin(data.x_test[: config.measured]).softmax(1))
            parameters.append(parameters_to_vector(twin.parameters()))
    return replace(path, outputs=torch.stack(outputs), parameters=torch.stack(parameters))


def family(seed: int, config: Config = LIVE) -> dict[str, Trajectory]:
    """A network's path, and three to compare it with."""
    data = dataset(config.dataset)
    own = path(data, 3 * seed, seed, config)
    return {
        "the network": own,
        TWIN: twin_path(own, data, seed, config),
        BATCHES: path(data, 3 * seed, seed + 1000, config),
        STRANGER: path(data, 3 * seed + 1, seed, config),
    }


def controls(seeds: Sequence[int], config: Config = LIVE) -> Record:
    """Table ``beside``: at each epoch the distance of each from the network, in both spaces.

    Table ``late``: L2 distance from another start at the end, over what the network itself has
    moved in the last quarter of the epochs.
    """
    started = time.perf_counter()
    rows, late = [], []
    for seed in seeds:
        paths = family(seed, config)
        own = paths.pop("the network")
        n = len(own)
        for name, other in paths.items():
            function = l2_matrix([own, other])[:n, n:].diagonal()
            parameters = parameter_matrix([own, other])[:n, n:].diagonal()
            rows += [
                {
                    "pair": name,
                    "seed": seed,
                    "epoch": e,
                    "function": float(f),
                    "parameters": float(p),
                }
                for e, (f, p) in enumerate(zip(function, parameters, strict=True))
            ]
        moved = float(own.l2()[-1, n - 1 - n // 4])
        late.append({"seed": seed, "between": rows[-1]["function"], "within": moved})
    return live_record(
        "trajectories_chapter",
        {"beside": Table.from_rows(rows), "late": Table.from_rows(late)},
        config=config,
        seeds=seeds,
        dataset=dataset(config.dataset),
        seconds=time.perf_counter() - started,
    )


def random_walks(steps: int = 20, dimensions: int = 5000, seed: int = 0) -> np.ndarray:
    """Distances between all points of three random walks from one start, ``(3(s+1), 3(s+1))``."""
    random = np.random.RandomState(seed)
    moves = random.standard_normal((3, steps, dimensions)) / np.sqrt(dimensions)
    walks = np.concatenate([np.zeros((3, 1, dimensions)), moves.cumsum(1)], axis=1)
    flat = walks.reshape(-1, dimensions)
    square = (flat**2).sum(1)
    distances = np.sqrt(np.maximum(square[:, None] + square - 2 * flat @ flat.T, 0))
    np.fill_diagonal(distances, 0)
    return (distances + distances.T) / 2


def axes(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates whose distances these are, along axes of falling size; and each axis' share.

    Classical scaling without cutting off: shapes ``(S, S)`` and ``(S,)``.
    """
    squared = np.asarray(distances, float) ** 2
    gram = -0.5 * (squared - squared.mean(0) - squared.mean(1, keepdims=True) + squared.mean())
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values[::-1], 0)
    return vectors[:, ::-1] * np.sqrt(values), values / values.sum()


def seen(distances: np.ndarray, dimensions: int) -> tuple[np.ndarray, float]:
    """Distances on a map of so many dimensions, ``(S, S)``, and its stress."""
    points = axes(distances)[0][:, :dimensions]
    drawn = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return drawn, stress(points, distances)


def unrelated(columns: dict[str, np.ndarray], space: str) -> np.ndarray:
    """How far two would be apart had they moved as far in unrelated directions, each epoch.

    By Pythagoras ``sqrt(d² + 2 t²)``, d the distance at the start, t the distance travelled.
    """
    start, travelled = columns[space][0], columns[f"{space}_travelled"]
    return np.sqrt(start**2 + 2 * travelled**2)


# --- the claims: margins set on seeds 0 and 1, judged on others ------------------------------


def _strangers(space: str) -> Callable[[Record], list[float]]:
    return lambda record: [float(c[space][-1] / unrelated(c, space)[-1]) for c in apart(record)]


def _later(arm: str) -> Callable[[Record], list[float]]:
    def growth(c: dict[str, np.ndarray]) -> float:
        n = len(c["function"]) - 1
        return float(c["function"][-n // 10 :].mean() / c["function"][n // 4])

    return lambda record: [growth(c) for c in apart(record, arm)]


def _ratio(pair: str, space: str, over: str) -> Callable[[Record], list[float]]:
    def last(record: Record, name: str) -> np.ndarray:
        table = record["beside"].where(pair=name)
        return np.array(table.where(epoch=max(table["epoch"]))[space])

    return lambda record: list(last(record, pair) / last(record, over))


CLAIMS = (
    Claim(
        id="ch3-parameters-unrelated",
        where="this chapter",
        sentence="In parameter space two initializations part about as two that know nothing of "
        "each other.",
        reading="ℓ2 distance at the end over that of movements as long in unrelated directions",
        experiment="trajectories",
        effects=_strangers("parameters"),
        margin=(0.8, 1.3),
        direction="within",
    ),
    Claim(
        id="ch3-functions-related",
        where="this chapter",
        sentence="In function space they end far nearer than two with nothing in common.",
        reading="L2 distance at the end over that of movements as long in unrelated directions",
        experiment="trajectories",
        effects=_strangers("function"),
        margin=0.25,
        direction="below",
    ),
)

LONG_CLAIMS = (
    Claim(
        id="ch3-clean-meet",
        where="this chapter",
        sentence="On digits as they are, what has come apart comes together again.",
        reading="L2 distance between two in the last tenth of a long run, over that at a quarter",
        experiment="trajectories",
        effects=_later(CLEAN),
        margin=1.0,
        direction="below",
    ),
    Claim(
        id="ch3-shuffled-part",
        where="this chapter",
        sentence="Where labels are learned by heart the functions part late.",
        reading="L2 distance between two in the last tenth of a long run, over that at a quarter; "
        "40% of the labels shuffled",
        experiment="trajectories",
        effects=_later(SHUFFLED),
        margin=1.5,
    ),
)

CONTROL_CLAIMS = (
    Claim(
        id="ch3-twin-function",
        where="this chapter",
        sentence="A network and its twin are one function all along.",
        reading="L2 distance at the end, over that of another start",
        experiment="trajectories_chapter",
        effects=_ratio(TWIN, "function", STRANGER),
        margin=0.001,
        direction="below",
    ),
    Claim(
        id="ch3-twin-parameters",
        where="this chapter",
        sentence="In parameters its twin is as far as another start.",
        reading="ℓ2 distance at the end, over that of another start",
        experiment="trajectories_chapter",
        effects=_ratio(TWIN, "parameters", STRANGER),
        margin=(0.8, 1.25),
        direction="within",
    ),
    Claim(
        id="ch3-batches-parameters",
        where="this chapter",
        sentence="Other batches from the same start leave the parameters far nearer.",
        reading="ℓ2 distance at the end, over that of another start",
        experiment="trajectories_chapter",
        effects=_ratio(BATCHES, "parameters", STRANGER),
        margin=0.5,
        direction="below",
    ),
    Claim(
        id="guess-batches-function",
        where="our guess",
        sentence="In functions they are nearer too.",
        reading="L2 distance at the end, over that of another start",
        experiment="trajectories_chapter",
        effects=_ratio(BATCHES, "function", STRANGER),
        margin=0.8,
        direction="below",
    ),
    Claim(
        id="guess-modes",
        where="our guess",
        sentence="At the end two starts are further apart than either still moves.",
        reading="L2 distance between two at the end over that moved in the last quarter",
        experiment="trajectories_chapter",
        effects=lambda r: [
            a / b for a, b in zip(r["late"]["between"], r["late"]["within"], strict=True)
        ],
        margin=1.0,
    ),
)
