"""Figure 5 of the paper: HCGD and SGD on images while the learning rate falls."""

import numpy as np
import plotly.graph_objects as go

from ..experiments.constrained import by_epoch
from ..experiments.hcgd_images import ARMS
from ..records import Record
from ..verdicts import seeds_said
from .style import COLOUR, Line, add_lines, axis, legend_above, panels

_PANELS = {"test_accuracy": "Test images", "train_accuracy": "Training images"}


def falling(record: Record) -> tuple[go.Figure, str]:
    """Accuracy by epoch on test and training images, with the epoch after which ε falls.

    Bands, over the seeds, for the two arms with the lower ε.
    """
    config = record.provenance.config
    figure = panels(
        list(_PANELS.values()),
        title="With a learning rate that falls",
        alt="Accuracy against the epoch on test images and on training images, for SGD and HCGD, "
        "each at two learning rates. A dotted line marks the epoch after which the rates are "
        "divided by ten; there the curves of the higher rates rise.",
        height=420,
    )
    lowest = 1.0
    for col, column in enumerate(_PANELS, 1):
        lines = []
        for arm in ARMS:
            y = by_epoch(record, arm, column)
            if not len(y):
                y = np.full((1, config["epochs"]), np.nan)
            higher = arm.endswith("higher ε")
            band = {} if higher else {"low": y.min(0), "high": y.max(0)}
            lowest = min(lowest, np.nanmin(y.mean(0)[2:], initial=1.0))  # from the third epoch
            rate = config["higher_lr" if higher else "lr"]
            lines.append(
                Line(
                    f"{arm.split(',')[0]}, ε = {rate:g}", np.arange(1, y.shape[1] + 1), y.mean(0),
                    COLOUR[arm.split(",")[0]], dash="dot" if higher else "solid", **band,
                )
            )  # fmt: skip
        add_lines(figure, lines, col=col, labels=False)
    bottom = np.floor(10 * lowest) / 10
    for col in range(1, len(_PANELS) + 1):
        figure.add_scatter(
            x=[config["drop"] + 0.5] * 2, y=[bottom, 1], mode="lines", hoverinfo="skip",
            line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5}, row=1, col=col,
        )  # fmt: skip
        figure.update_xaxes(axis("epoch"), row=1, col=col)
        figure.update_yaxes(
            axis("share right" if col == 1 else "", tickformat=".0%", range=[bottom, 1.005]),
            row=1, col=col,
        )  # fmt: skip
    legend_above(figure)
    runs = record["runs"]
    ends = {arm: runs.where(arm=arm)["final"] for arm in ARMS}
    said = ", ".join(f"{arm} {np.mean(v):.1%}" for arm, v in ends.items() if v)
    return figure, f"{seeds_said(len(record.seeds))}; test images right at the end: {said}."
