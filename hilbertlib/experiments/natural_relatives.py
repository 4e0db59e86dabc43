"""What is taken for the Fisher information, and what is taken for the natural gradient's effect.

Matrices that resemble F, judged by the step that they give; and inputs or activations that are
centred or whitened, judged by how near they bring the plain gradient to the natural one.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn

from ..data import Dataset
from ..fisher import fisher_diagonal
from ..models import mlp, seeded
from ..natural_gradient import Fisher, conjugate_gradient
from ..records import Claim, Record, Table
from .common import live_record
from .natural_gradient import LIVE, Config
from .natural_spectrum import Spectrum, starts
from .natural_steps import Stage, Target, stages
from .runner import dataset

Rows = list[dict[str, Any]]
DRAWS = (1, 10, 100)
KINDS = (
    "true", *(f"sampled, {n}" for n in DRAWS), "empirical", "L₂² of probabilities",
    "L₂² of logits", "noise for images", "one gradient",
)  # fmt: skip
INPUTS = ("pixels", "centred", "whitened", "BatchNorm")
STEPS = (0, 1, 2, 5, 10)
SMALL = replace(LIVE, batch_size=64, stages=(0, 1, 2), gathered=1)
"""For the comparison of inputs: F's factor has a row for each example and class."""
_NAME = "natural_relatives"


def compare(
    seeds: Sequence[int], config: Config = LIVE, small: Config = SMALL, jobs: int = 1
) -> Record:
    """A live record. ``where``: where what is missing lies, for each proposal and number of inner
    steps (:meth:`.natural_spectrum.Spectrum.missing`). ``kinds``: :func:`which_fisher`.
    ``inputs``: :func:`plain_against_natural` for each of :data:`INPUTS`."""
    began = time.perf_counter()
    cells = Parallel(n_jobs=jobs)(delayed(_cell)(seed, config, small) for seed in seeds)
    tables = {
        name: Table.from_rows([row for cell in cells for row in cell[name]])
        for name in ("where", "kinds", "inputs")
    }
    return live_record(
        _NAME, tables, config=config, seeds=seeds, dataset=dataset(config.dataset),
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _cell(seed: int, config: Config, small: Config) -> dict[str, Rows]:
    torch.set_num_threads(1)
    data, damping = dataset(config.dataset), max(config.dampings)
    rows: dict[str, Rows] = {"where": [], "kinds": [], "inputs": []}
    for stage in stages(config, data, seed):
        at = {"seed": seed, "epoch": stage.epoch}
        spectrum = Spectrum.of(stage)
        for name, start in starts(stage, config.lam, damping).items():
            rows["where"] += [
                {**at, "start": name, "n": n, **spectrum.missing(start, n, config.lam, damping)}
                for n in STEPS
            ]
        rows["kinds"] += [{**at, **row} for row in which_fisher(stage, seed, damping, config.lam)]
    for how in INPUTS:
        rows["inputs"] += [
            {"seed": seed, "epoch": stage.epoch, "how": how, **plain_against_natural(stage)}
            for stage in _trained(data, how, seed, small)
        ]
    return rows


def which_fisher(stage: Stage, seed: int, damping: float, lam: float = 1.0) -> Rows:
    """The natural update with each of :data:`KINDS` in F's place.

    Each is damped in proportion to its trace, so that a matrix ten times as large is damped ten
    times as much. ``missing``: as in :meth:`.natural_steps.Target.nearness`, under the true F, at
    the update's best length. ``cosine``: to the true update. ``apart``: the relative difference of
    the matrix, brought to F's trace, from F; measured by products with random vectors.
    """
    target = Target.of(stage, lam, damping)
    random = torch.Generator().manual_seed(seed)
    probes = torch.randn(8, stage.fisher.size, generator=random).to(stage.gradient)
    products = torch.stack([stage.fisher @ v for v in probes])
    whole, rows = float(fisher_diagonal(stage.model, stage.x).sum()), []
    for kind in KINDS:
        product, trace = _operator(stage, kind, random)
        scale = whole / trace
        found = torch.stack([product(v) for v in probes]) * scale
        step = -conjugate_gradient(
            product, stage.gradient, damping=damping / scale, tol=1e-6, max_iter=5000
        ).x
        near = target.nearness(target.best_length(step))
        apart = float((found - products).norm() / products.norm())
        rows.append({"kind": kind, "apart": apart, **{k: near[k] for k in ("missing", "cosine")}})
    return rows


def _operator(stage: Stage, kind: str, random: torch.Generator) -> tuple[Any, float]:
    """Products with a relative of F, and its trace."""
    if kind == "one gradient":  # what is left of F if the gradients are added up first
        j = stage.gradient
        return (lambda v: j * (j @ v)), float(j @ j)
    model, x = stage.model, stage.x
    options: dict[str, Any] = {}
    if kind == "noise for images":
        x = torch.rand(x.shape, generator=random).to(x)
    elif kind == "L₂² of logits":
        options = {"likelihood": "gaussian"}
    elif kind == "L₂² of probabilities":
        model, options = nn.Sequential(stage.model, nn.Softmax(dim=1)), {"likelihood": "gaussian"}
    elif kind == "empirical":
        options = {"kind": "empirical", "targets": stage.y}
    elif kind != "true":
        draws = int(kind.split()[-1])
        # The same draws for the operator and for its trace.
        again = torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=random)))
        options = {"kind": "sampled", "samples": draws, "generator": again}
        trace = fisher_diagonal(model, x, **options, chunk=16).sum()
        again.manual_seed(again.initial_seed())
        return Fisher(model, x, **options).__matmul__, float(trace)
    return Fisher(model, x, **options).__matmul__, float(fisher_diagonal(model, x, **options).sum())


# --- whitening --------------------------------------------------------------------------------


def prepared(data: Dataset, how: str, floor: float = 0.01) -> Dataset:
    """The images as they are, centred, or whitened, brought to a mean square of one.

    Args:
        how: One of :data:`INPUTS`; with ``"BatchNorm"`` the images stay as they are.
        floor: Added to the variances that whitening divides by: some pixels are always blank.
    """
    flat = data.x_train.flatten(1).double()
    mean = torch.zeros(flat.shape[1], dtype=flat.dtype)
    mix = torch.eye(flat.shape[1], dtype=flat.dtype)
    if how in ("centred", "whitened"):
        mean = flat.mean(dim=0)
    if how == "whitened":
        values, axes = torch.linalg.eigh(torch.cov(flat.T))
        mix = axes @ torch.diag((values.clamp(min=0) + floor).rsqrt()) @ axes.T
    size = ((flat - mean) @ mix).square().mean().sqrt()

    def apply(x: Tensor) -> Tensor:
        return ((x.flatten(1).double() - mean) @ mix / size).to(x.dtype).view_as(x)

    return replace(data, x_train=apply(data.x_train), x_test=apply(data.x_test))


def _trained(data: Dataset, how: str, seed: int, config: Config) -> Iterator[Stage]:
    """Stages as in :func:`.natural_steps.stages`, of a network with BatchNorm where asked for."""
    ready = prepared(data, how)
    if how != "BatchNorm":
        yield from stages(config, ready, seed)
        return
    sizes = (int(np.prod(data.shape)), *config.hidden, len(data.classes))

    def build() -> nn.Module:
        layers = []
        for layer in mlp(sizes):
            layers.append(layer)
            if isinstance(layer, nn.Linear) and layer.out_features in config.hidden:
                # The batch's statistics, always: F and J know of them.
                layers.append(nn.BatchNorm1d(layer.out_features, track_running_stats=False))
        return nn.Sequential(*layers)

    yield from stages(config, ready, seed, model=seeded(build, seed))


def plain_against_natural(
    stage: Stage, share: float = 0.01, enough: float = 0.05
) -> dict[str, Any]:
    """How near the plain gradient's direction is to the natural one, whatever F's scale.

    Args:
        share: Damping over F's largest eigenvalue.
        enough: What may be missing when the inner loop counts as done.

    Returns:
        ``missing``: what is missing from −J at its best length; ``steps``: inner steps from there
        until no more than ``enough`` is; ``largest``: F's largest eigenvalue over their sum.
    """
    spectrum = Spectrum.of(stage)
    damping = share * float(spectrum.values[0])
    start = starts(stage, 1.0, damping, names=("SGD",))["SGD"]
    left, n = sum(spectrum.missing(start, 0, 1.0, damping).values()), 0
    first = left
    while left > enough:
        n += 1
        left = sum(spectrum.missing(start, n, 1.0, damping).values())
    return {
        "missing": first, "steps": n,
        "largest": float(spectrum.values[0] / spectrum.values.sum()),
    }  # fmt: skip


# --- claims -----------------------------------------------------------------------------------


def _by_seed(table: Table, column: str) -> list[float]:
    """The geometric mean over the stages, a value a seed."""
    return [
        float(np.exp(np.log(np.maximum(table.where(seed=seed)[column], 1e-12)).mean()))
        for seed in sorted(table.unique("seed"))
    ]


def _over(table: Table, name: str, of: str, under: str, column: str = "missing") -> list[float]:
    a, b = (_by_seed(table.where(**{name: value}), column) for value in (of, under))
    return [x / y for x, y in zip(a, b, strict=True)]


def over(record: Record, how: str, than: str = "pixels") -> list[float]:
    """What the plain gradient misses on inputs prepared so, over that on others, a value a seed."""
    return _over(record["inputs"], "how", how, than)


def flat_share(record: Record, start: str, n: int = 0) -> list[float]:
    """The share of what is missing that lies where F is at most the damping, a value a seed."""
    table = record["where"].where(start=start, n=n)
    shares = []
    for seed in sorted(table.unique("seed")):
        rows = table.where(seed=seed)
        steep = np.array(rows["above the damping"])
        flat = np.array(rows["below the damping"]) + np.array(rows["where F is zero"])
        shares.append(float(np.mean(flat / (steep + flat))))
    return shares


CLAIMS = (
    Claim(
        id="ch9-flat",
        where="our guess",
        sentence="What RMSprop's proposal leaves lies along flatter directions of F than what "
        "SGD's leaves.",
        reading="share of what is missing before the first inner step that lies where F's "
        "eigenvalue is at most the damping of 0.1, RMSprop's less SGD's; mean over stages",
        experiment=_NAME,
        effects=lambda r: [
            a - b for a, b in zip(flat_share(r, "RMSprop"), flat_share(r, "SGD"), strict=True)
        ],
        margin=0.05,
    ),
    Claim(
        id="ch9-empirical",
        where="our guess",
        sentence="The empirical Fisher makes a worse step than one label an example, drawn from "
        "the network.",
        reading="missing from the step with the empirical Fisher over that with a sampled one, "
        "each of its best length, damped in proportion to its trace",
        experiment=_NAME,
        effects=lambda r: _over(r["kinds"], "kind", "empirical", "sampled, 1"),
        margin=1.1,
    ),
    Claim(
        id="ch9-one-gradient",
        where="this chapter",
        sentence="The gradient of the whole batch in the place of those of its examples gives "
        "back SGD's step.",
        reading="missing from the step with J Jᵀ for F, over that from −J; each of its best length",
        experiment=_NAME,
        effects=lambda r: [
            a / b
            for a, b in zip(
                _by_seed(r["kinds"].where(kind="one gradient"), "missing"),
                _by_seed(_whole(r["where"].where(start="SGD", n=0)), "missing"),
                strict=True,
            )
        ],
        margin=(0.99, 1.01),
        direction="within",
    ),
    Claim(
        id="ch9-whitened",
        where="our guess",
        sentence="On whitened images the plain gradient's direction is nearer to the natural one.",
        reading="missing from −J at its best length, whitened images over images as they are; "
        "damping 1% of F's largest eigenvalue",
        experiment=_NAME,
        effects=lambda r: over(r, "whitened"),
        margin=0.9,
        direction="below",
    ),
    Claim(
        id="ch9-batchnorm",
        where="our guess",
        sentence="So it is with BatchNorm on images as they are.",
        reading="the same, with BatchNorm before the hidden units over without",
        experiment=_NAME,
        effects=lambda r: over(r, "BatchNorm"),
        margin=0.9,
        direction="below",
    ),
)
"""Margins were written down after a trial of two seeds, which are not among the chapter's."""


def _whole(table: Table) -> Table:
    """The table of ``where`` with its parts added up, as ``missing``."""
    parts = ("above the damping", "below the damping", "where F is zero")
    sums = np.sum([table[part] for part in parts], axis=0)
    return Table({**table.columns, "missing": [float(v) for v in sums]})
