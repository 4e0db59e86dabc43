"""Figures of chapter 3: maps of three trainings, and the distances that the maps come from."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..experiments.trajectories import CLEAN, SHUFFLED
from ..experiments.trajectories import apart as columns_of
from ..experiments.trajectory_controls import STRANGER, TWIN, seen, unrelated
from ..records import Record
from .style import (
    COLOUR,
    START_COLOUR,
    Line,
    add_lines,
    add_paths,
    axis,
    layout,
    legend_above,
    panels,
    rgba,
)

SPACES: Mapping[str, str] = {
    "function": "in function space (L₂)",
    "parameters": "in parameter space (ℓ₂)",
}
OF_SPACE = {"function": COLOUR["L2"], "parameters": COLOUR["ℓ2"]}
_DASH = {CLEAN: "solid", SHUFFLED: "dash"}
_SHORT = {CLEAN: "as they are", SHUFFLED: "40% shuffled"}
_MAP_ALT = (
    "Left: on a map of functions three paths begin together. Right: on a map of parameters the "
    "three begin far apart and never meet."
)


def _paths(record: Record, arm: str, space: str) -> list[np.ndarray]:
    """The places of the first triple on its map: for each initialization ``(S, 2)``."""
    table = record["map"].where(arm=arm, seed=record["map"]["seed"][0], space=space)
    each = [table.where(init=init) for init in table.unique("init")]
    return [np.column_stack([t["x"], t["y"]]) for t in each]


def _stress(record: Record, arm: str, space: str) -> float:
    table = record["map"].where(arm=arm, seed=record["map"]["seed"][0], space=space)
    return float(table["stress"][0])


_STARTS = dict(zip(("first", "second", "third"), START_COLOUR, strict=True))


def _frame(figure: go.Figure, paths: Sequence[np.ndarray], col: int) -> None:
    """Fix the axes to all that will be drawn, so that the map does not move.

    A map has distances and no coordinates: a bar in place of axes and grid says how far is far.
    """
    points = np.concatenate(paths)
    low, high = points.min(0), points.max(0)
    size = (high - low).max()
    pad = 0.07 * size
    n = "" if col == 1 else str(col)
    blank = {
        "showticklabels": False, "zeroline": False, "ticks": "", "showgrid": False,
        "showline": False,
    }  # fmt: skip
    figure.update_xaxes(**blank, range=[low[0] - pad, high[0] + pad], row=1, col=col)
    figure.update_yaxes(**blank, range=[low[1] - 2.5 * pad, high[1] + pad], row=1, col=col)
    figure.update_yaxes(scaleanchor=f"x{n}", row=1, col=col)
    length, y = _round_number(size / 4), low[1] - 1.5 * pad
    figure.add_shape(
        type="line", x0=low[0], x1=low[0] + length, y0=y, y1=y, xref=f"x{n}", yref=f"y{n}",
        line={"color": COLOUR["neutral"], "width": 2},
    )  # fmt: skip
    figure.add_annotation(
        x=low[0] + length, y=y, xref=f"x{n}", yref=f"y{n}", text=f"{length:g}", name="scale",
        showarrow=False, xanchor="left", xshift=4,
    )  # fmt: skip


def _round_number(value: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... and 0.5, 0.2, ... that is not above ``value``."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)) * power)


def moving(record: Record, arm: str, epoch: int) -> tuple[go.Figure, str]:
    """Three initializations on both maps, from an open circle up to an epoch."""
    figure = panels(
        ["Map of functions", "Map of parameters"],
        title="Three random initializations, trained on the same batches",
        alt="Up to the chosen epoch. " + _MAP_ALT + " Where labels are shuffled the functions part "
        "again late.",
        height=400,
    )
    for col, space in ((1, "function"), (2, "parameters")):
        paths = _paths(record, arm, space)
        for path, colour in zip(paths, START_COLOUR, strict=False):
            gone = path[: epoch + 1]
            figure.add_scatter(
                x=gone[:, 0], y=gone[:, 1], mode="lines+markers", showlegend=False,
                line={"color": colour, "width": 2},
                marker={
                    "color": [rgba(colour, 0.0)] + [colour] * (len(gone) - 1),
                    "opacity": 1,
                    "size": [11, *[4] * (len(gone) - 2), *[12] * (len(gone) > 1)],
                    "line": {"color": colour, "width": 1.5},
                },
                row=1, col=col,
            )  # fmt: skip
        _frame(figure, paths, col)
    c = columns_of(record, arm)[0]
    text = (
        f"Labels {_SHORT[arm]}, epoch {epoch}: two of the three are "
        f"{c['function'][epoch]:.2f} apart as functions and "
        f"{c['parameters'][epoch]:.1f} as parameters; each has moved "
        f"{c['function_travelled'][epoch]:.2f} and {c['parameters_travelled'][epoch]:.1f}. "
        f"Distances on the maps are off by about {_stress(record, arm, 'function'):.0%} and "
        f"{_stress(record, arm, 'parameters'):.0%}."
    )
    return figure, text


def maps(record: Record) -> tuple[go.Figure, str]:
    """Figure 1: one triple on a map of each space."""
    figure = panels(
        ["Function space", "Parameter space"],
        title="Three initializations, an open circle at the start, a dot an epoch",
        alt=_MAP_ALT,
        height=400,
    )
    for col, space in ((1, "function"), (2, "parameters")):
        paths = _paths(record, CLEAN, space)
        named = dict(zip(_STARTS, paths, strict=False))
        add_paths(figure, named, col=col, colours=_STARTS)
        _frame(figure, paths, col)
    said = " and ".join(
        f"{_stress(record, CLEAN, space):.2f} for the {word}"
        for space, word in (("function", "functions"), ("parameters", "parameters"))
    )
    return figure, f"Stress of the maps: {said}."


def _over_seeds(
    each: Sequence[np.ndarray], x: np.ndarray, name: str, colour: str, **more: object
) -> Line:
    y = np.array(each)
    return Line(name, x, y.mean(0), colour, y.min(0), y.max(0), **more)  # type: ignore[arg-type]


def apart(record: Record) -> tuple[go.Figure, str]:
    """How far two of three are apart, and would be had they moved in unrelated directions."""
    figure = panels(
        list(SPACES.values()),
        title="How far apart two of the three are, and two strangers would be",
        alt="Distance between two initializations against the epoch, in function space and in "
        "parameter space, each with a dashed curve for movements as long in unrelated "
        "directions. In parameter space the two curves lie together; in function space the "
        "measured one lies below, on the digits far below.",
        height=380,
    )
    triples = columns_of(record)
    said = []
    for col, space in enumerate(SPACES, start=1):
        measured = [c[space] for c in triples]
        strangers = [unrelated(c, space) for c in triples]
        x = triples[0]["epoch"]
        add_lines(
            figure,
            [
                _over_seeds(measured, x, "measured", OF_SPACE[space], label_at=0.4,
                            label_side="above"),
                _over_seeds(strangers, x, "if unrelated", COLOUR["neutral"], dash="dash",
                            label_at=0.85, label_side="below"),
            ],
            col=col,
        )  # fmt: skip
        figure.update_xaxes(axis("epoch"), row=1, col=col)
        figure.update_yaxes(
            axis("distance" if col == 1 else "", rangemode="tozero"), row=1, col=col
        )
        ratio = np.mean([m[-1] / s[-1] for m, s in zip(measured, strangers, strict=True)])
        said.append(f"{ratio:.0%} {SPACES[space]}")
    return figure, f"At the end, of what strangers would have: {' and '.join(said)}."


def late(record: Record) -> tuple[go.Figure, str]:
    """Distance between functions, and accuracy on the training labels, for both kinds of labels."""
    figure = panels(
        ["Two of the three, as functions", "Right on the training labels"],
        title="They part where labels are learned by heart",
        alt="Left: L2 distance between two initializations against the epoch. On the digits, with "
        "labels as they are, it rises and falls again; with shuffled labels it rises late. Right: "
        "accuracy on the training labels, which goes on growing where they are shuffled.",
        height=400,
    )
    said = []
    for arm, short in _SHORT.items():
        triples = columns_of(record, arm)
        x = triples[0]["epoch"] if triples else np.array([np.nan])
        functions = [c["function"] for c in triples] or [x]
        runs = record["runs"].where(arm=arm)
        trained = [
            np.mean([runs.where(seed=s, init=i)["train_accuracy"] for i in runs.unique("init")], 0)
            for s in runs.unique("seed")
        ] or [x]
        y = np.arange(1, len(trained[0]) + 1)
        for col, values, at, colour in (
            (1, functions, x, OF_SPACE["function"]),
            (2, trained, y, COLOUR["neutral"]),
        ):
            line = _over_seeds(values, at, short, colour, dash=_DASH[arm])
            add_lines(figure, [line], col=col, labels=False)
        if triples:
            end = np.mean([c["function"][-1] for c in triples])
            said.append(f"{end:.2f} apart with labels {short}")
    legend_above(figure)
    figure.update_xaxes(axis("epoch"))
    figure.update_yaxes(axis("distance (L₂)", rangemode="tozero"), row=1, col=1)
    figure.update_yaxes(axis("", tickformat=".0%", range=[0, 1.02]), row=1, col=2)
    return figure, f"At the end: {'; '.join(said)}."


def shepard(distances: np.ndarray, dimensions: int, of: str) -> tuple[go.Figure, str]:
    """Distances on the map against true ones, for a map of so many dimensions."""
    drawn, stress = seen(distances, dimensions)
    upper = np.triu_indices(len(distances), 1)
    chosen = np.random.RandomState(0).permutation(len(upper[0]))[:250]
    x, y = distances[upper][chosen], drawn[upper][chosen]
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "What a map says of distances, against the truth",
            "A scatter of distances on the map against true distances. All points lie on or "
            "below the diagonal, far below it for maps of one or two dimensions, on it for many.",
            height=390,
        )
    )
    top = float(distances.max())
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", hoverinfo="skip",
        line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5},
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=y, mode="markers", marker={"color": OF_SPACE["function"], "size": 6, "opacity": 0.6}
    )
    figure.update_xaxes(axis("true distance", range=[0, 1.03 * top]))
    figure.update_yaxes(axis("distance on the map", range=[0, 1.03 * top]))
    plural = "s" if dimensions > 1 else ""
    return figure, f"{of}, a map of {dimensions} dimension{plural}: stress {stress:.2f}."


def two_maps(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> go.Figure:
    """Networks in function space beside random walks: paths of shape ``(S, 2)``."""
    figure = panels(
        ["Networks, as functions", "Random walks"],
        title="Which of these has learned something?",
        alt="Two maps with three smooth paths each, from a common start. On the left they run "
        "side by side; on the right they fan out. Both look purposeful.",
        height=390,
    )
    for col, paths in ((1, left), (2, right)):
        add_paths(figure, dict(zip(_STARTS, paths, strict=True)), col=col, colours=_STARTS)
        _frame(figure, paths, col)
    return figure


def beside_one(record: Record, pairs: Sequence[str]) -> go.Figure:
    """Distance from a network, at each epoch, of its twin, of other batches, of another start."""
    figure = panels(
        list(SPACES.values()),
        title="How far from the network, epoch by epoch",
        alt="Distance from a network of three others, in function space and in parameter space. "
        "Its twin has distance zero in function space and as large a one as another start in "
        "parameter space. Other batches stay near in parameter space only.",
        height=400,
    )
    for col, space in enumerate(SPACES, start=1):
        lines = []
        for pair, colour, dash in zip(pairs, START_COLOUR, ("dot", "dash", "solid"), strict=True):
            table = record["beside"].where(pair=pair)
            each = [np.array(table.where(seed=s)[space]) for s in table.unique("seed")]
            x = np.arange(len(each[0]))
            lines.append(_over_seeds(each, x, pair, colour, dash=dash))
        add_lines(figure, lines, col=col, labels=False)
        figure.update_xaxes(axis("epoch"), row=1, col=col)
        figure.update_yaxes(
            axis("distance" if col == 1 else "", rangemode="tozero"), row=1, col=col
        )
    # Two pairs of curves lie on one another: a word says which.
    for col, pair, text, place in (
        (1, TWIN, "its twin: 0", "above"),
        (2, STRANGER, "its twin and another start,<br>one on the other", "below"),
    ):
        table = record["beside"].where(pair=pair)
        space, last = list(SPACES)[col - 1], max(table["epoch"])
        at = round(0.6 * last)
        y = float(np.mean(table.where(epoch=at)[space]))
        n = "" if col == 1 else str(col)
        figure.add_annotation(
            x=at, y=y, xref=f"x{n}", yref=f"y{n}", text=text, showarrow=False,
            yanchor="bottom" if place == "above" else "top", yshift=4 if place == "above" else -36,
        )  # fmt: skip
    figure.update_yaxes(range=_from_below_zero(figure, "y"), row=1, col=1)
    figure.update_yaxes(range=_from_below_zero(figure, "y2"), row=1, col=2)
    legend_above(figure)
    return figure


def _from_below_zero(figure: go.Figure, axis_name: str) -> list[float]:
    """A range that shows a curve at zero clear of the axis."""
    tops = [max(t.y) for t in figure.data if (t.yaxis or "y") == axis_name]
    return [-0.05 * max(tops), 1.08 * max(tops)]
