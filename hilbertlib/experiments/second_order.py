"""How far the second order of the KL divergence reaches during training, and what it misses.

Natural steps of given lengths to second order, and how far they move the function: over all images,
and on each.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset
from ..natural_gradient import natural_update
from ..records import Claim, Record, Table
from .common import live_record
from .kl_geometry import logits_of
from .natural_gradient import LIVE
from .natural_steps import Stage, stages

EPOCHS = (0, 1, 3, 10, 30)
RADII = tuple(float(f"{r:.3g}") for r in np.geomspace(1e-6, 0.1, 16))
SHORT, LONG = RADII[0], RADII[12]
"""A millionth of a nat, and a hundredth."""
SURE = EPOCHS[3]
"""An epoch after which networks are sure of themselves and wrong on a few images still."""


def reach(
    data: Dataset,
    seeds: Sequence[int],
    epochs: Sequence[int] = EPOCHS,
    radii: Sequence[float] = RADII,
    hidden: int = 16,
    damping: float = 0.01,
) -> Record:
    """Natural steps of given lengths to second order, and how far they move the function.

    Table ``reach``, for each seed, epoch and radius: the KL divergence that the step makes over the
    radius (``ratio``); and of images that the network has ``wrong`` before the step their number
    and what they add to the divergence, ``predicted`` and ``real``. Table ``images``: prediction
    and truth for each image of the first seed, for a step of ``LONG``.
    """
    started, rows, images = time.perf_counter(), [], []
    config = replace(LIVE, hidden=(hidden,), stages=tuple(epochs))
    for seed in seeds:
        for at in stages(config, data, seed):
            update = natural_update(at.fisher, at.gradient, damping=damping, max_iter=5000)
            wrong = at.fisher.outputs.argmax(1) != at.y
            for radius in radii:
                predicted, real = by_image(at, update, radius)
                row = {"seed": seed, "epoch": at.epoch, "radius": radius}
                rows.append(row | _compared(predicted, real, wrong))
            if seed == seeds[0]:
                each = zip(*(v.tolist() for v in (*by_image(at, update, LONG), wrong)), strict=True)
                names = ("predicted", "real", "wrong")
                images += [{"epoch": at.epoch, **dict(zip(names, v, strict=True))} for v in each]
    return live_record(
        "second_order",
        {"reach": Table.from_rows(rows), "images": Table.from_rows(images)},
        config={"epochs": list(epochs), "hidden": hidden, "damping": damping},
        seeds=seeds,
        dataset=data,
        seconds=time.perf_counter() - started,
    )


def by_image(at: Stage, direction: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """KL(new ‖ old) on each image, shape ``(N,)``: to second order, and as it is.

    The step goes along ``direction`` and is as long as makes the mean of the former ``radius``.
    """
    logits, zero = logits_of(at), torch.zeros_like(direction)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about how it makes its rules
        old, change = torch.func.jvp(logits, (zero,), (direction,))[:2]
        p = old.softmax(1)
        second = ((p * change**2).sum(1) - (p * change).sum(1) ** 2) / 2  # ½ uᵀ B u
        share = radius / second.mean()
        new = logits(share.sqrt() * direction).log_softmax(1)
        return second * share, (new.exp() * (new - old.log_softmax(1))).sum(1)


def _compared(predicted: Tensor, real: Tensor, wrong: Tensor) -> dict[str, float]:
    return {
        "ratio": float(real.mean() / predicted.mean()),
        "wrong": int(wrong.sum()),
        "predicted": float((predicted * wrong).mean()),
        "real": float((real * wrong).mean()),
    }


def doublings(record: Record, epoch: int, radius: float) -> list[float]:
    """log₂ of real over predicted divergence, a value a seed."""
    return [float(np.log2(r)) for r in record["reach"].where(epoch=epoch, radius=radius)["ratio"]]


def on_right(record: Record, epoch: int, radius: float) -> list[float]:
    """Real over predicted divergence on the images that the network has right, a value a seed."""
    rows = record["reach"].where(epoch=epoch, radius=radius).rows()
    return [(r["ratio"] * radius - r["real"]) / (radius - r["predicted"]) for r in rows]


def wrong_against_right(record: Record, epoch: int, radius: float) -> list[float]:
    """log₂ of real over predicted divergence on images that are wrong, less on those right."""
    rows = record["reach"].where(epoch=epoch, radius=radius).rows()
    return [
        float(np.log2(row["real"] / row["predicted"] / right))
        for row, right in zip(rows, on_right(record, epoch, radius), strict=True)
        if row["wrong"]
    ]


CLAIMS = (
    Claim(
        id="book-second-order-short",
        where="this chapter",
        sentence="At each stage of training there is a step so short that second order is right.",
        reading="real over predicted KL divergence of a natural step of a millionth of a nat, in "
        "doublings",
        experiment="second_order",
        effects=lambda r: {
            f"epoch {epoch}": doublings(r, epoch, SHORT) for epoch in r["reach"].unique("epoch")
        },
        margin=(-0.15, 0.15),
        direction="within",
        unit="doublings",
    ),
    Claim(
        id="book-second-order-late",
        where="our guess",
        sentence="Late in training a natural step of a hundredth of a nat moves the function "
        "further than second order says.",
        reading="real over predicted KL divergence after the last epoch, in doublings",
        experiment="second_order",
        effects=lambda r: doublings(r, max(r["reach"].unique("epoch")), LONG),
        margin=0.5,
        unit="doublings",
    ),
    Claim(
        id="book-second-order-wrong",
        where="this chapter",
        sentence="After ten epochs second order misses more on images that the network has wrong "
        "than on those it has right.",
        reading="real over predicted KL divergence of a natural step of a hundredth of a nat, on "
        "images that are wrong before it over on those that are right, in doublings; after ten "
        "epochs",
        experiment="second_order",
        effects=lambda r: wrong_against_right(r, SURE, LONG),
        margin=0.5,
        unit="doublings",
    ),
)
"""The margins of the first two were set after a trial of seed 0. On seeds 10 to 17 the second came
out inconclusive; looking for the reason there gave the third. The chapter judges them on others."""
