"""Figures of chapter 4: distances in one space against those in the other, and their ratio."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from ..experiments.estimator import FIG_2, FIG_B6
from ..experiments.exchange_claims import SCALES, walks
from ..records import Record
from ..verdicts import seeds_said
from .style import (
    COLOUR,
    DIRECTION_COLOUR,
    SCALE_COLOUR,
    TIME_SCALE,
    Line,
    add_lines,
    axis,
    curves,
    layout,
    legend_above,
    panels,
)

NAMES = {"updates": "between updates", "epoch": "between epochs", "start": "from the start"}
_VALUES = [m * 10.0**k for k in range(-4, 3) for m in (1, 2, 5)]
_TICKS = {"tickvals": _VALUES, "ticktext": [f"{v:g}" for v in _VALUES]}
_FINE = [m * 10.0**k for k in range(-4, 3) for m in (1, 1.2, 1.5, 2, 2.5, *range(3, 10))]
_FINE_TICKS = {"tickvals": _FINE, "ticktext": [f"{v:g}" for v in _FINE]}
ARMS = {
    FIG_2: "BatchNorm, weight decay",
    "Fig. A.4": "no BatchNorm",
    "Fig. A.5": "no BatchNorm, no decay",
}


def cloud(record: Record, arm: str, scale: str, until: int) -> tuple[go.Figure, str]:
    """Figure 2: ℓ2 against L2, a dot an epoch of each seed, up to the epoch ``until``."""
    runs = walks(record, arm).values()
    x = np.concatenate([w.parameters[scale] for w in runs])
    y = np.concatenate([w.l2[scale] for w in runs])
    epoch = np.concatenate([w.epochs for w in runs])
    seen = epoch <= until
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Distance in one space against distance in the other",
            "Scatter of L2 distance between functions against ℓ2 distance between parameters, on "
            "logarithmic axes, one dot for each epoch so far and seed, coloured from early to "
            "late, with the line of one constant ratio.",
            height=400,
        ),
        xaxis=axis("ℓ₂, parameters", type="log"),
        yaxis=axis("L₂, functions", type="log"),
    )
    figure.add_scatter(
        x=x[seen],
        y=y[seen],
        mode="markers",
        marker={
            "size": 10,
            "color": epoch[seen].tolist(),
            "colorscale": TIME_SCALE,
            "cmin": int(epoch.min()),
            "cmax": int(epoch.max()),
            "line": {"color": COLOUR["neutral"], "width": 0.8},  # dark dots on a dark page
            "opacity": 0.95,
            "showscale": True,
            "colorbar": {"title": "epoch", "thickness": 10},
        },
        hovertemplate="ℓ₂ %{x:.3g}, L₂ %{y:.3g}<extra></extra>",
    )
    first = epoch == epoch.min()
    single = float(np.mean(y[first] / x[first]))
    ends = np.array([x.min(), x.max()])
    figure.add_scatter(
        x=ends,
        y=single * ends,
        mode="lines",
        line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5},
        hoverinfo="skip",
    )
    for axis_name, values in (("x", x), ("y", y)):  # one frame for all positions of the slider
        low, high = np.log10([values.min(), values.max()])
        ticks = _TICKS if high - low > 0.7 else _FINE_TICKS
        figure.update_layout({f"{axis_name}axis": {"range": [low - 0.08, high + 0.08], **ticks}})
    here = epoch == until
    text = (
        f"Epoch {until}, {ARMS.get(arm, arm)}: the function moves {np.mean(y[here] / x[here]):.3g} "
        f"for a unit of the parameters; dotted: {single:.3g}, as in the first epoch."
    )
    return figure, text


def ratio(record: Record, arm: str = "") -> tuple[go.Figure, str]:
    """The L2/ℓ2 ratio at three scales over the epochs, and the test error; bands over seeds.

    Without ``arm``, Figure 2's; of a record that does not have it yet, another one, which is named.
    """
    arm = arm or next(a for a in (FIG_2, FIG_B6, *ARMS) if walks(record, a))
    figure = panels(
        ["L₂/ℓ₂", "Test error"],
        title="The exchange rate while a network trains",
        alt="Left, on a logarithmic axis, the ratio of function to parameter distance at three "
        "scales against the epoch. Right, test error against the epoch.",
        widths=[0.62, 0.38],
    )
    runs = list(walks(record, arm).values())
    epochs = runs[0].epochs
    lines = [
        _band(NAMES[s], epochs, [w.ratio(s) for w in runs], SCALE_COLOUR[i])
        for i, s in enumerate(SCALES)
    ]
    figure.update_yaxes(axis("L₂ for a unit of ℓ₂", type="log", **_TICKS), row=1, col=1)
    figure.update_yaxes(axis("", tickformat="~%", rangemode="tozero"), row=1, col=2)
    for col in (1, 2):
        figure.update_xaxes(axis("epoch"), row=1, col=col)
    add_lines(figure, lines, labels=False)
    add_lines(
        figure, [_band("test error", epochs, [w.error for w in runs], COLOUR["neutral"])],
        row=1, col=2, labels=False,
    )  # fmt: skip
    legend_above(figure)
    first, last = (np.mean([w.ratio("updates")[k] for w in runs]) for k in (0, -1))
    of = "" if arm == FIG_2 else f"{arm}, "
    text = (
        f"{of}{seeds_said(len(runs))}: between updates the ratio goes from "
        f"{first:.2f} after the first epoch to {last:.2f} after epoch {epochs[-1]}."
    )
    return figure, text


def networks(record: Record, scale: str) -> tuple[go.Figure, str]:
    """The L2/ℓ2 ratio at one scale over the epochs, a curve a network; bands over seeds."""
    colour = dict(zip(SCALES, SCALE_COLOUR, strict=True))[scale]
    lines, said = [], []
    for (arm, name), dash in zip(ARMS.items(), ("solid", "dash", "dot"), strict=True):
        runs = list(walks(record, arm).values())
        line = _band(name, runs[0].epochs, [w.ratio(scale) for w in runs], colour)
        lines.append(replace(line, dash=dash))
        first, last = (float(np.asarray(line.y)[k]) for k in (0, -1))
        said.append(f"{first:.2f} to {last:.2f} ({name})")
    figure = curves(
        lines,
        title="The exchange rate with and without BatchNorm and decay",
        x="epoch",
        y="L₂ for a unit of ℓ₂",
        alt="The ratio of function to parameter distance against the epoch, on a logarithmic axis, "
        "for three networks: with BatchNorm and weight decay, without BatchNorm, and without "
        "either. Between updates the three curves have much the same shape.",
        log_y=True,
        labels=False,
        right=24,
    )
    ratios = [w.ratio(s) for arm in ARMS for s in SCALES for w in walks(record, arm).values()]
    low, high = np.log10([np.min(ratios), np.max(ratios)])
    figure.update_yaxes(**_TICKS, range=[low - 0.05, high + 0.05])  # one frame for all scales
    return figure, f"{NAMES[scale].capitalize()}, first epoch to last: {'; '.join(said)}."


def _band(name: str, x: np.ndarray, rows: Sequence[np.ndarray], colour: str) -> Line:
    y = np.array(rows)
    return Line(name, x, y.mean(0), colour, y.min(0), y.max(0))


def fan(lengths: Sequence[float], found: Mapping[str, np.ndarray]) -> go.Figure:
    """L2 against the length of a step, for several directions; dotted: the straight line."""
    names = [name for name in found if not name.endswith(", predicted")]
    foreseen = "dotted: the rate times the length"
    lines = []
    along, at_random, other = DIRECTION_COLOUR
    for colour, name in zip((at_random, along, other), names, strict=False):
        lines.append(Line(name, lengths, found[name], colour, mode="lines+markers"))
        straight = found[f"{name}, predicted"]
        lines.append(Line(foreseen, lengths, straight, colour, dash="dot", width=1.5))
    figure = curves(
        lines,
        title="One length in parameters, many lengths in function space",
        x="length of the step (ℓ₂)",
        y="how far the function goes (L₂)",
        alt="Function distance against the length of the step on logarithmic axes, for steps at "
        "random, down the loss, and down a loss with shuffled labels. Each starts on its dotted "
        "straight line and bends away from it when the step is long.",
        log_x=True,
        log_y=True,
        labels=False,
        right=24,
    )
    named: set[str] = set()
    for trace in figure.data:
        trace.showlegend = trace.name not in named
        named.add(trace.name)
        if trace.name == names[-1]:  # rings, since it may lie on the curve before it
            trace.marker.update(symbol="circle-open", size=14, line={"width": 2})
    return figure
