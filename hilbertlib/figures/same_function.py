"""Figures of chapter 1: walks between networks, pairs of networks, directions from one."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..experiments.same_function import PAIRS, Walk
from ..records import Record
from ..verdicts import printed
from .style import (
    COLOUR,
    DIRECTION_COLOUR,
    Line,
    add_lines,
    axis,
    curves,
    layout,
    panels,
)

# A twin and a rescaled network share a colour: each is the same function at other weights.
UPHILL, AT_RANDOM, SYMMETRY = DIRECTION_COLOUR
OTHER = COLOUR["neutral"]  # a network from another start
_VALUES = (0.3, 1, 3, 10, 30)
_TICKS = {"tickvals": _VALUES, "ticktext": [f"{v:g}" for v in _VALUES]}


def walk(
    walk: Walk, at: float, classes: Sequence[str], image: str = "one image"
) -> tuple[go.Figure, str]:
    """Both distances on the way from A to ``t = at``, and what is answered there to ``image``.

    The curves end at ``at``: who moves the slider walks, and sees only what lies behind.
    """
    k = int(np.abs(walk.t - at).argmin())
    figure = panels(
        ["Distance from A", f"Answer to {image}"],
        title="On a straight line from a network to its twin",
        alt="Left, up to t: the parameter distance from A grows in a straight line to its largest "
        "value at the twin, while the function distance rises to a hump halfway and returns to "
        f"zero. Right: bars of the class probabilities that the network at t gives to {image}.",
        widths=[0.58, 0.42],
    )
    scale, behind = walk.ell2[-1], walk.t[: k + 1]
    lines = [
        Line("weights (ℓ₂, share of the way)", behind, walk.ell2[: k + 1] / scale, COLOUR["ℓ2"]),
        Line("function (L₂)", behind, walk.l2[: k + 1], COLOUR["L2"]),
    ]
    figure.update_xaxes(axis("t", range=[-0.03, 1.03]), row=1, col=1)
    figure.update_yaxes(axis("distance from A", range=[-0.03, 1.2]), row=1, col=1)
    add_lines(figure, lines, labels=False)
    for curve, y in zip(lines, (1.15, 1.06), strict=True):  # where no curve comes
        figure.add_annotation(
            x=0.0, y=y, xref="x", yref="y", text=f"<b>{curve.name}</b>", name="direct label",
            showarrow=False, xanchor="left", font={"color": curve.colour, "size": 13},
        )  # fmt: skip
    for values, colour in ((walk.ell2 / scale, COLOUR["ℓ2"]), (walk.l2, COLOUR["L2"])):
        figure.add_scatter(
            x=[walk.t[k]],
            y=[values[k]],
            mode="markers",
            marker={"size": 13, "color": colour, "line": {"width": 2, "color": "white"}},
            row=1,
            col=1,
        )
    figure.add_bar(x=list(classes), y=walk.answers[k], marker_color=COLOUR["L2"], row=1, col=2)
    figure.update_xaxes(axis("digit", type="category"), row=1, col=2)
    figure.update_yaxes(axis("probability", range=[0, 1.02]), row=1, col=2)
    text = (
        f"t = {walk.t[k]:.2f}: parameters {walk.ell2[k]:.1f} from A, function {walk.l2[k]:.2f} "
        f"from A, {walk.accuracy[k]:.0%} of the test images right."
    )
    return figure, text


def pairs(record: Record) -> go.Figure:
    """Function distance against parameter distance, one dot a pair of networks and seed."""
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Five kinds of pairs of networks, in both distances",
            "Scatter plot. Permuted twins: largest parameter distance, no function distance. "
            "Untrained pairs: large parameter distance, small function distance. Trained pairs: "
            "large in both. Short steps: small parameter distance; the function distance is small "
            "in a random direction, and along the gradient of the order of that between trained "
            "pairs.",
            height=430,
        )
    )
    symbols = ("circle", "square", "diamond", "triangle-up", "star")
    colours = (SYMMETRY, OTHER, OTHER, AT_RANDOM, UPHILL)
    top = 1.1 * max(record["pairs"]["l2"])
    for name, colour, symbol in zip(PAIRS, colours, symbols, strict=True):
        table = record["pairs"].where(pair=name)
        x, y = table["ell2"], table["l2"]
        figure.add_scatter(
            x=x,
            y=y,
            name=name,
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": symbol, "opacity": 0.85},
            meta={"legend": True},
        )
        on_left = np.mean(x) < 1
        figure.add_annotation(
            x=np.log10(np.mean(x)),
            y=np.mean(y),
            text=f"<b>{name.replace(', ', ',<br>')}</b>",
            name="direct label",
            showarrow=False,
            align="left" if on_left else "right",
            xanchor="left" if on_left else "right",
            xshift=14 if on_left else -16,
            yshift=4 if np.mean(y) < 0.01 else 0,  # clear of the axis
            font={"color": colour, "size": 13},
        )
    figure.update_layout(
        xaxis=axis("parameter distance ℓ₂", type="log", range=[-0.7, 1.7], **_TICKS),
        yaxis=axis("function distance L₂", range=[-0.06 * top, top]),
    )
    return figure


def fan(
    ways: Mapping[str, np.ndarray], lengths: Sequence[float], at: float
) -> tuple[go.Figure, str]:
    """Function distance after equal steps in three directions; the dots stand at one length."""
    names = ("along the gradient", "at random", "rescaling units")
    colours = dict(zip(names, (UPHILL, AT_RANDOM, SYMMETRY), strict=True))
    k = int(np.abs(np.asarray(lengths) - at).argmin())
    figure = curves(
        [Line(name, lengths, y, colours[name]) for name, y in ways.items()],
        title="Equal steps in parameters, three directions",
        x="length of the step ‖Δθ‖ (ℓ₂)",
        y="function distance (L₂)",
        alt="Three curves of function distance against the length of a step. Along the gradient "
        "it is many times larger than in a random direction, and that many times larger than "
        "along the rescaling of hidden units.",
        log_x=True,
        log_y=True,
        right=150,
    )
    for name, y in ways.items():
        figure.add_scatter(
            x=[lengths[k]],
            y=[y[k]],
            mode="markers",
            marker={"size": 13, "color": colours[name], "line": {"width": 2, "color": "white"}},
        )
    moved = ", ".join(f"{printed(y[k], 2)} {name}" for name, y in ways.items())
    return figure, f"A step of length {lengths[k]:.2g} moves the function by {moved}."


def humps(record: Record) -> go.Figure:
    """How far each walk strays from the nearer of its ends: mean over seeds, and their range."""
    style = {
        "shuffled twin": (SYMMETRY, "solid"),
        "shuffled twin, matched": (SYMMETRY, "dot"),
        "independent network": (OTHER, "solid"),
        "independent network, matched": (OTHER, "dot"),
    }
    lines = []
    for name, (colour, dash) in style.items():
        table = record["walks"].where(walk=name)
        t = table.unique("t")
        stray = np.reshape(table["stray"], (-1, len(t)))  # one row a seed
        lines.append(Line(name, t, stray.mean(0), colour, stray.min(0), stray.max(0), dash))
    return curves(
        lines,
        title="With the hidden units matched first, the hump shrinks or goes",
        x="t, the way from one network to the other",
        y="L₂ from the nearer end",
        alt="Four curves with bands over seeds. Unmatched, both the twin and an independently "
        "trained network show a high hump halfway. After matching, the twin's is gone and the "
        "independent network's is several times lower.",
        right=20,
        labels=False,
    )
