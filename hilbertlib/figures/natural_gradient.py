"""Figures of chapter 9: a walk to the natural gradient, where it is slow, and what it costs."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..experiments.natural_claims import DIAGONAL, PROPOSALS
from ..experiments.natural_spectrum import Spectrum, Valley, made
from ..records import Record, Table
from .style import COLOUR, SCALE_COLOUR, Line, add_lines, axis, layout, legend_above, panels, rgba

YELLOW, SLATE, RED = SCALE_COLOUR
OF_START: Mapping[str, str] = {
    "SGD": COLOUR["SGD"],
    "RMSprop": YELLOW,
    "Adagrad": RED,
    DIAGONAL: COLOUR["neutral"],
    "solve by CG": COLOUR["natural gradient"],
}
DASH: Mapping[str, str] = {"Adagrad": "dot", DIAGONAL: "dash"}
BANDS: Mapping[str, str] = {  # from steep to flat: one colour, no optimizer's, ever paler
    "above the damping": SLATE,
    "below the damping": rgba(SLATE, 0.6),
    "where F is zero": rgba(SLATE, 0.25),
}
_FLOOR = 1e-4  # where the axis of what is missing ends


def walk(valley: Valley, n: int, names: Sequence[str]) -> tuple[go.Figure, str]:
    """The cost in a plane of two eigenvectors, and the inner loop from each proposal after n steps.

    Level curves are drawn at equal steps of the root of the cost above its least.
    """
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "A walk down to the natural gradient",
            "Elliptic level curves of the cost over a steep and a flat direction, with the natural "
            "step at their centre, and a path from each optimizer's proposal: it drops to the "
            "valley's floor at once and then creeps along it towards the centre.",
            height=430,
        ),
        margin_r=24,
    )
    steep, flat = valley.exact
    angle = np.linspace(0, 2 * np.pi, 49)
    ring = np.stack([np.cos(angle), np.sin(angle)]) / np.sqrt(valley.curvature)[:, None]
    full = np.sqrt((valley.curvature * valley.exact**2).sum())
    for r in (0.2, 0.4, 0.7, 1.0):
        level = r * full * ring + valley.exact[:, None]
        figure.add_scatter(
            x=level[1], y=level[0], mode="lines", hoverinfo="skip", showlegend=False,
            line={"color": COLOUR["neutral"], "width": 1},
        )  # fmt: skip
    figure.add_scatter(
        x=[0, flat], y=[0, steep], mode="markers+text", text=["no step", "natural step"],
        textposition=["bottom right", "top center"],
        textfont={"color": [COLOUR["neutral"], COLOUR["natural gradient"]]},
        marker={"color": [COLOUR["neutral"], COLOUR["natural gradient"]], "size": [8, 13],
                "symbol": ["circle", "star"]},
        showlegend=False,
    )  # fmt: skip
    shown = [k for k in range(n + 1) if k <= 20 or k % 10 == 0]
    for name in names:
        path = valley.paths[name][shown]
        size = [7.0] + [4.0] * (len(path) - 1)
        size[-1] = 11.0
        figure.add_scatter(
            x=path[:, 1], y=path[:, 0], name=name, mode="lines+markers", meta={"legend": True},
            line={"color": OF_START[name], "width": 2}, marker={"size": size}, showlegend=True,
        )  # fmt: skip
    reach = np.abs(ring).max(axis=1) * full
    tops = [path[0, 0] for path in valley.paths.values()]
    figure.update_xaxes(axis("along a flat direction", range=[-0.06 * flat, flat + 0.6 * reach[1]]))
    # One scale on both axes, or the valley would not look like one.
    figure.update_yaxes(axis("along a steep one", range=[-0.1, 1.2 * max(tops)], scaleanchor="x"))
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, margin_t=40)
    said = " and ".join(f"{valley.missing[name][n]:.1%} from {name}" for name in names)
    steps = "no inner step" if n == 0 else "1 inner step" if n == 1 else f"{n} inner steps"
    return figure, f"After {steps}, still missing of what the natural step gains: {said}."


def spectrum(found: Spectrum, n: int, damping: float, lam: float = 1.0) -> tuple[go.Figure, str]:
    """The share of the natural step that n inner steps make, along each eigenvector of F."""
    values = found.values.numpy()
    share = made(found, n, damping, lam)
    gain = ((found.values + damping) * found.exact(lam, damping).square()).numpy()
    shown = np.unique(np.geomspace(1, len(values), 90).astype(int)) - 1
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Flat directions come last",
            "The share of the natural step that is made, from nothing to all, against F's "
            "eigenvalue on a logarithmic axis, a dot for each eigenvector. Dots rise from the "
            "right, where F is large, to the left as the number of inner steps grows; the level "
            "on the left depends on the damping.",
        ),
        xaxis=axis("eigenvalue of F", type="log", range=[-4, np.log10(values[0]) + 0.15]),
        yaxis=axis("share of the natural step", range=[-0.03, 1.05], tickformat=".0%"),
        margin_t=24,
    )
    figure.add_scatter(
        x=values[shown], y=share[shown], mode="markers",
        marker={"color": COLOUR["natural gradient"], "opacity": 0.75,
                "size": (5 + 18 * np.sqrt(gain[shown] / gain.max())).round(1)},
        hovertemplate="eigenvalue %{x:.2g}: %{y:.0%}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=[damping] * 2, y=[-0.03, 1.05], mode="lines+text", text=["", "damping"],
        textposition="bottom left", line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5},
    )  # fmt: skip
    lost = float((gain * (1 - share) ** 2).sum() / gain.sum())
    flat = share[values < damping / 2]
    text = (
        f"n = {n}, damping {damping:g}: {share[0]:.0%} of the step along the steepest direction, "
        f"{np.median(flat):.0%} along half of those well below the damping; {lost:.1%} is missing."
    )
    return figure, text


# --- the record of Appendix E -----------------------------------------------------------------


def _missing(table: Table | None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of steps ``(K,)`` and what is missing ``(seeds, K)``, geometric means over stages."""
    if table is None or not len(table):
        return np.array([]), np.empty((1, 0))
    steps = sorted(table.unique("n"))
    rows = [
        [np.exp(np.mean(np.log(np.maximum(table.where(seed=s, n=n)["missing"], 1e-12))))
         for n in steps]
        for s in sorted(table.unique("seed"))
    ]  # fmt: skip
    return np.array(steps, float), np.array(rows)


def proposals(record: Record) -> tuple[go.Figure, str]:
    """What is missing after n inner steps from each proposal, and after n products of a solve."""
    config = record.provenance.config
    dampings, few = config["dampings"], config["few"]
    figure = panels(
        [f"damping {d:g}" for d in dampings],
        title="How near, after how many products with F",
        alt="The share of the possible decrease that is missing against the number of products "
        "with F, both logarithmic, in two panels for two dampings. Lines from the proposals of "
        "SGD, RMSprop, Adagrad and F's diagonal fall side by side; that of conjugate gradients "
        "falls far more steeply.",
        height=430,
    )
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
    said = []
    for col, damping in enumerate(dampings, 1):
        lines = []
        for name, colour in OF_START.items():
            solve = name == "solve by CG"
            if solve:
                table = record["solve"].where(damping=damping) if "solve" in record.tables else None
            else:
                table = record["inner"].where(arm=name, damping=damping, length="best")
            n, y = _missing(table)
            x = np.where(n == 0, ticks[0], n)
            dash = DASH.get(name, "solid")
            middle = np.exp(np.log(y).mean(0))
            if name in PROPOSALS and few in n:
                said.append(f"{name} {middle[list(n).index(few)]:.1%}")
            seen = slice(0, 1 + int((middle > _FLOOR).sum()))  # until it leaves the axis
            low, high = (edge(0)[seen] for edge in (y.min, y.max))
            lines.append(Line(name, x[seen], middle[seen], colour, low, high, dash))
        add_lines(figure, lines, col=col, labels=False)
        labels = ["0", *(f"{t:g}" for t in ticks[1:])]
        figure.update_xaxes(
            axis("products with F", type="log", tickvals=ticks, ticktext=labels, tickangle=0,
                 range=np.log10([0.45, 1.25 * max(config["grid"])]).tolist()),
            row=1, col=col,
        )  # fmt: skip
        figure.update_yaxes(
            axis("share missing" if col == 1 else "", type="log", tickformat=".2~%",
                 range=[np.log10(_FLOOR) - 0.05, 0.1]),
            row=1, col=col,
        )  # fmt: skip
    legend_above(figure)
    half = len(said) // 2
    text = (
        f"After {few} inner steps still missing, at damping {dampings[0]:g}: "
        f"{', '.join(said[:half])}; at {dampings[-1]:g}: {', '.join(said[half:])}."
    )
    return figure, text


_RUNS: Mapping[str, tuple[str, str, str]] = {
    "SGD": ("SGD", OF_START["SGD"], "solid"),
    "RMSprop": ("RMSprop", OF_START["RMSprop"], "solid"),
    "natural gradient": ("natural gradient", COLOUR["natural gradient"], "solid"),
    "SGD + walk": ("Algorithm 3 from SGD", OF_START["SGD"], "dot"),
    "RMSprop + walk": ("Algorithm 3 from RMSprop", OF_START["RMSprop"], "dot"),
}


def runs(record: Record) -> tuple[go.Figure, str]:
    """Training loss of whole runs, against steps and against passes; bands over seeds."""
    figure = panels(
        ["Step for step", "Pass for pass"],
        title="Does a better step train faster?",
        alt="Training loss on a logarithmic axis, left against steps, right against passes "
        "through the network. On the right the curves of the natural gradient and of the walks to "
        "it go on far beyond the ends of SGD's and RMSprop's: each of their steps takes more "
        "passes.",
        height=430,
    )
    ends = {}
    for col, x in ((1, "step"), (2, "passes")):
        lines = []
        for name, (arm, colour, dash) in _RUNS.items():
            table = record["training"].where(arm=f"train: {arm}")
            each = [table.where(seed=s) for s in sorted(table.unique("seed"))]
            first = 1 if x == "passes" else 0  # no pass has no place on a logarithmic axis
            y = np.array([t["train_loss"][first:] for t in each])
            at = np.mean([t[x][first:] for t in each], axis=0)
            middle = np.exp(np.log(y).mean(0))
            lines.append(Line(name, at, middle, colour, y.min(0), y.max(0), dash))
            ends[name] = (middle[-1], at[-1])
        add_lines(figure, lines, col=col, labels=False)
        label, scale = ("steps", "linear") if col == 1 else ("passes over a batch", "log")
        figure.update_xaxes(axis(label, type=scale), row=1, col=col)
        figure.update_yaxes(
            axis("training loss, nats" if col == 1 else "", type="log"), row=1, col=col
        )
    legend_above(figure)
    said = "; ".join(f"{name} {loss:.2g} after {p:,.0f}" for name, (loss, p) in ends.items())
    return figure, f"Training loss at the end, after so many passes: {said}."


CASES: Mapping[str, str] = {
    "same batch": COLOUR["neutral"],
    "another batch": RED,
    "another, damped": RED,
    "sampled labels": SLATE,
    "weight decay": YELLOW,
}


def drift(record: Record) -> tuple[go.Figure, str]:
    """How long the update has become, in lengths of J, where J lies in F's range and where not."""
    figure = panels(
        ["Slope that is left", "Length of the update"],
        title="An inner loop that never arrives",
        alt="Left: the slope of the cost that is left, against the number of inner steps. Without "
        "damping it goes towards zero where J and F come from one batch, and stays at a level "
        "where they do not. Right: the length of the update, which then keeps growing.",
        height=420,
    )
    table = record["drift"]
    last: dict[str, float] = {}
    for col, column in ((1, "left"), (2, "length")):
        lines = []
        for case, colour in CASES.items():
            rows = table.where(case=case.replace("another,", "another batch,"))
            steps = sorted(rows.unique("n"))
            y = np.array([
                [np.mean(rows.where(seed=s, n=n)[column]) for n in steps]
                for s in sorted(rows.unique("seed"))
            ])  # fmt: skip
            dash = {"another, damped": "dash", "weight decay": "dot"}.get(case, "solid")
            # Weight decay may lie on the same batch's line, which is wide so that both are seen.
            width = 7.0 if case == "same batch" else 2.5
            low, high = (None, None) if case == "weight decay" else (y.min(0), y.max(0))
            lines.append(Line(case, steps, y.mean(0), colour, low, high, dash, width=width))
            last.setdefault(case, float(y.mean(0)[-1]))
        add_lines(figure, lines, col=col, labels=False)
        figure.update_xaxes(axis("inner steps", rangemode="tozero"), row=1, col=col)
    figure.update_yaxes(
        axis("slope left, share of |J|", tickformat=".0%", rangemode="tozero"), row=1, col=1
    )
    figure.update_yaxes(axis("length, multiples of |J|", rangemode="tozero"), row=1, col=2)
    legend_above(figure)
    said = ", ".join(f"{case} {share:.0%}" for case, share in last.items())
    return figure, f"Left of the slope after {max(steps)} steps: {said}."


def where_missing(record: Record, n: int, epoch: int) -> tuple[go.Figure, str]:
    """What each proposal leaves after n inner steps, by F's eigenvalue; means over seeds."""
    figure = go.Figure()
    figure.set_subplots(1, 1)
    names = (*PROPOSALS, DIAGONAL)
    sums = dict.fromkeys(names, 0.0)
    for band, colour in BANDS.items():
        rows = {s: record["where"].where(start=s, n=n, epoch=epoch)[band] for s in names}
        means = [float(np.mean(rows[s])) for s in names]
        for name, value in zip(names, means, strict=True):
            sums[name] += value
        figure.add_bar(
            x=means, y=list(names), orientation="h", name=band, marker={"color": colour},
            meta={"legend": True}, hovertemplate="%{x:.1%}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        layout(
            "Where the missing part lies",
            "Stacked bars, one for each proposal: what is missing, by directions in which F is "
            "above the damping, below it, and zero. The steep part goes within a few steps; the "
            "flat part stays, and is larger for Adagrad and RMSprop early in training.",
            height=330,
        ),
        barmode="stack",
        xaxis=axis("share missing", tickformat=".0%", range=[0, 0.85]),
        yaxis=axis("", autorange="reversed"),
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        margin_t=40,
    )
    said = ", ".join(f"{name} {value:.1%}" for name, value in sums.items())
    return figure, f"Epoch {epoch}, after {n} inner steps, missing: {said}."
