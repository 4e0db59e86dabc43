"""Figures of chapter 2: estimates from samples, examples needed, and where they go wrong."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from ..distance import L2Estimate
from ..experiments.estimator import SCALES
from ..records import Record
from .style import COLOUR, SCALE_COLOUR, TIME_SCALE, Line, axis, curves, layout, panels

_COLOUR = dict(zip(SCALES, SCALE_COLOUR, strict=True))
# Pairs of one run in the colour of their scale; early and late differ in dash.
_PAIR = (
    (_COLOUR["between epochs"], "dash"),
    (_COLOUR["between epochs"], "solid"),
    (_COLOUR["from the initialization"], "solid"),
)


def estimates(found: np.ndarray, truth: L2Estimate, n: int, pair: str) -> tuple[go.Figure, str]:
    """Distances measured on many samples of ``n`` images, over the distance on all of them."""
    ratio = found / truth.distance
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "One distance, measured again and again on N random images",
            "Histogram of the measured distance over the true one for many samples of N images. It "
            "narrows around one as N grows; for functions late in training it is wide and skewed. "
            "Bars within 5% of one are in another colour.",
            height=340,
        ),
        xaxis=axis("measured distance / distance over all images", range=[0, 2.5]),
        yaxis=axis("share of samples"),
        bargap=0.02,
    )
    figure.update_yaxes(rangemode="tozero")
    edges = np.linspace(0, 2.5, 51)
    share = np.histogram(np.clip(ratio, 0, 2.499), edges)[0] / len(ratio)
    near = np.abs(edges[:-1] + 0.025 - 1) < 0.05
    figure.add_bar(
        x=edges[:-1] + 0.025,
        y=share,
        width=0.048,
        marker_color=np.where(near, SCALE_COLOUR[0], COLOUR["neutral"]).tolist(),
        hovertemplate="ratio %{x:.2f}: %{y:.1%}<extra></extra>",
    )
    figure.add_vline(x=1, line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5})
    within = float(np.mean(np.abs(ratio - 1) <= 0.05))
    low, high = np.quantile(ratio, [0.025, 0.975])
    text = (
        f"N = {n}, {pair}: {within:.0%} of the samples lie within ±5% of the truth (olive); 95% "
        f"lie between {low:.2f} and {high:.2f} times it."
    )
    return figure, text


def needed(record: Record, relative: float) -> tuple[go.Figure, str]:
    """Examples for ± ``relative`` at 95%, over the epochs, at three scales; bands over seeds."""
    factor = (0.05 / relative) ** 2
    lines = []
    for scale, at, side in zip(SCALES, (0.5, 0.75, 0.5), ("above", "below", "above"), strict=True):
        table = record["pairs"].where(scale=scale)
        epochs = table.unique("epoch")
        y = np.reshape(table["needed"], (-1, len(epochs))) * factor
        mean = np.exp(np.log(y).mean(0))
        lines.append(
            Line(scale, epochs, mean, _COLOUR[scale], y.min(0), y.max(0),
                 label_at=at, label_side=side)
        )  # fmt: skip
    figure = curves(
        lines,
        title="How many images for a given precision?",
        x="epoch",
        y="images needed",
        alt="Images needed against the epoch, logarithmic, for three scales of distance. From the "
        "initialization a handful is enough and it falls; between epochs and between updates it "
        "rises from hundreds to tens of thousands.",
        log_y=True,
        right=24,
    )
    figure.update_yaxes(range=[-0.5, 7])
    figure.add_hline(y=500, line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5})
    last = {line.name: float(np.asarray(line.y)[-1]) for line in lines}
    said = ", ".join(f"{np.ceil(np.round(n, 6)):,.0f} {scale}" for scale, n in last.items())
    return figure, f"For ±{relative:.0%} at the last epoch: {said}. Dotted: five hundred."


def spread(record: Record) -> go.Figure:
    """Standard deviation of one example against the distance: Figures 3C, A.2 and 3F."""
    figure = panels(
        list(SCALES),
        title="The spread σ against the distance, a dot an epoch",
        alt="Three scatter plots of standard deviation against distance on logarithmic axes, one "
        "dot an epoch and seed, coloured by epoch, with the line through proportional pairs. From "
        "the initialization the spread falls while the distance saturates.",
        height=350,
    )
    for col, scale in enumerate(SCALES, 1):
        table = record["pairs"].where(scale=scale)
        x, y = np.array(table["distance"]), np.array(table["std"])
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker={
                "color": table["epoch"],
                "colorscale": TIME_SCALE,
                "size": 7,
                "line": {"color": COLOUR["neutral"], "width": 0.8},  # dark dots on a dark page
                "showscale": col == 3,
                "colorbar": {"title": "epoch", "thickness": 10},
            },
            row=1,
            col=col,
        )
        ends = np.array([x.min(), x.max()])
        figure.add_scatter(
            x=ends,
            y=ends * np.exp(np.mean(np.log(y / x))),
            mode="lines",
            line={"color": COLOUR["neutral"], "dash": "dot"},
            hoverinfo="skip",
            row=1,
            col=col,
        )
        log = {"type": "log"}
        figure.update_xaxes(axis("distance L₂", **log), row=1, col=col)
        figure.update_yaxes(axis("σ, one example" if col == 1 else "", **log), row=1, col=col)
    return figure


def concentration(fractions: ArrayLike, shares: Mapping[str, ArrayLike]) -> go.Figure:
    """How much of the squared distance the images that carry most of it carry."""
    x = 100 * np.asarray(fractions)
    lines = [
        Line(name, x, y, colour, dash=dash, label_at=at, label_side=side)
        for (name, y), (colour, dash), at, side in zip(
            shares.items(), _PAIR, (0.43, 0.24, 0.6), ("left", "below", "right"), strict=False
        )
    ]
    figure = curves(
        lines,
        title="The images that carry most of a distance, added up",
        x="images, those that carry most first (%)",
        y="share of the squared distance",
        alt="Share of the squared distance against the share of images that carry it. Early it "
        "rises gradually; late in training it rises almost at once to one.",
        right=24,
    )
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    return figure


def coverage(sizes: Sequence[int], held: Mapping[str, Sequence[float]]) -> go.Figure:
    """How often a 95% interval holds the truth, against the number of images."""
    lines = [
        Line(
            name, sizes, y, colour, dash=dash, mode="lines+markers", label_at=at, label_side="below"
        )
        for (name, y), (colour, dash), at in zip(held.items(), _PAIR, (0.4, 0.6), strict=False)
    ]
    figure = curves(
        lines,
        title="A 95% interval that holds far less often than it says",
        x="images in the sample, N",
        y="intervals that hold the truth",
        alt="Share of intervals that contain the true distance against the sample size. Early in "
        "training it is close to 95% from few images on; late it starts far lower and rises "
        "slowly.",
        log_x=True,
        right=24,
    )
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    figure.add_hline(y=0.95, line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5})
    return figure
