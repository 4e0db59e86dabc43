"""The book's figures: one house style, made from plain arrays.

A figure function takes numbers and returns a Plotly figure; it computes no science. Each figure
carries its alt text in ``layout.meta["alt"]``. Colours belong to methods and keep their meaning
through the whole book; they differ in lightness as well as in hue, and hold on light and dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from ..records import Interval

COLOUR: Mapping[str, str] = {
    "SGD": "#3b8bd4",
    "HCGD": "#d9620f",
    "Adam": "#8a63c9",
    "Adam+HC": "#c2568f",
    "natural gradient": "#1b9e77",
    "L2": "#d9620f",  # function space
    "ℓ2": "#3b8bd4",  # parameter space
    "neutral": "#7d8590",
}
CYCLE = ("#3b8bd4", "#d9620f", "#1b9e77", "#8a63c9", "#c2568f", "#a3881c")
# Between updates, between epochs, from the initialization: no method's colour.
SCALE_COLOUR = ("#a3881c", "#5f6f86", "#a5533a")
# Networks that differ in their start alone: no method's colour and no space's.
START_COLOUR = SCALE_COLOUR
# Directions of a step: along the gradient, at random, and one that is neither.
DIRECTION_COLOUR = SCALE_COLOUR[::-1]
TIME_SCALE = "Cividis"  # early to late; readable without colour vision


@dataclass(frozen=True)
class Line:
    """One curve: ``x``, ``y`` of shape ``(K,)``, and optionally a band from ``low`` to ``high``."""

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: str = COLOUR["neutral"]
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    dash: str = "solid"
    mode: str = "lines"
    width: float = 2.5
    label_at: float = 1.0  # where along the curve its name stands: 1 is the last point
    label_side: str = ""  # "left", "right", "above" or "below" that point; "right" at the end


_PLACE = {
    "right": {"xanchor": "left", "yanchor": "middle", "xshift": 6},
    "left": {"xanchor": "right", "yanchor": "middle", "xshift": -8},
    "above": {"xanchor": "center", "yanchor": "bottom", "yshift": 4},
    "below": {"xanchor": "center", "yanchor": "top", "yshift": -8},
}


def rgba(colour: str, alpha: float) -> str:
    """``#rrggbb`` with an opacity, as CSS."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def layout(title: str, alt: str, height: int = 380, **more: Any) -> dict[str, Any]:
    """What every figure shares."""
    return {
        "title": {"text": title, "x": 0, "xanchor": "left", "font": {"size": 16}},
        "template": "none",
        "height": height,
        "margin": {"l": 62, "r": 24, "t": 12, "b": 50},
        "font": {"size": 13},
        "showlegend": False,
        "hovermode": "closest",
        "meta": {"alt": alt},
        **more,
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its label; pass ``type="log"`` and the like through ``more``."""
    style = {
        "title": {"text": title, "standoff": 8},
        "zeroline": False,
        "ticks": "outside",
        "automargin": True,
    }
    if more.get("type") == "log":
        style |= {"exponentformat": "power", "dtick": more.pop("dtick", 1)}
    return style | more


def error_bars(intervals: Sequence[Interval]) -> dict[str, Any]:
    """Error bars of means with their intervals over seeds; of a single seed there is none."""
    width = [v.high - v.mean if np.isfinite(v.high) else 0.0 for v in intervals]
    return {"type": "data", "array": width, "color": COLOUR["neutral"]}


def add_lines(
    figure: go.Figure, lines: Sequence[Line], row: int = 1, col: int = 1, labels: bool = True
) -> None:
    """Add curves to one panel, each with its name written at its end (in a legend on a phone)."""
    index = "" if (row, col) == (1, 1) else str(_axis_number(figure, row, col))
    for line in lines:
        x, y = np.asarray(line.x, float), np.asarray(line.y, float)
        if line.low is not None and line.high is not None:
            low, high = np.asarray(line.low, float), np.asarray(line.high, float)
            figure.add_scatter(
                x=np.concatenate([x, x[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                fill="toself",
                fillcolor=rgba(line.colour, 0.18),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                row=row,
                col=col,
            )
        figure.add_scatter(
            x=x,
            y=y,
            name=line.name,
            mode=line.mode,
            line={"color": line.colour, "width": line.width, "dash": line.dash},
            marker={"color": line.colour, "size": 8},
            meta={"legend": True},
            row=row,
            col=col,
        )
        at = round(line.label_at * (len(x) - 1))
        if labels and len(x) and np.isfinite([x[at], y[at]]).all():
            log_x = figure.layout[f"xaxis{index}"].type == "log"
            log_y = figure.layout[f"yaxis{index}"].type == "log"
            figure.add_annotation(
                x=np.log10(x[at]) if log_x else x[at],
                y=np.log10(y[at]) if log_y else y[at],
                xref=f"x{index}",
                yref=f"y{index}",
                text=f"<b>{line.name}</b>",
                name="direct label",  # the page swaps these for a legend where it is narrow
                showarrow=False,
                font={"color": line.colour, "size": 13},
                **_PLACE[line.label_side or ("right" if line.label_at == 1 else "above")],
            )


def legend_above(figure: go.Figure) -> None:
    """A legend above the panels, of the lines of the first one."""
    for trace in figure.data:
        trace.showlegend = bool(trace.name) and trace.xaxis in (None, "x")
    legend = {"orientation": "h", "y": 1.1, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, margin_t=96)


def _axis_number(figure: go.Figure, row: int, col: int) -> int:
    name = figure.get_subplot(row, col).xaxis.plotly_name
    return int(name.removeprefix("xaxis") or 1)


def curves(
    lines: Sequence[Line],
    *,
    title: str,
    x: str,
    y: str,
    alt: str,
    log_x: bool = False,
    log_y: bool = False,
    height: int = 380,
    right: int = 110,
    labels: bool = True,
) -> go.Figure:
    """One panel of labelled curves.

    Parameters
    ----------
    lines : sequence of Line
    title, x, y, alt : str
        The title says what is shown; the axis labels give units.
    right : int
        Pixels kept free on the right for the names.
    labels : bool
        Names beside the curves; a legend above them where that would be crowded.
    """
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(layout(title, alt, height))
    ends = np.concatenate([np.asarray(line.x, float) for line in lines])
    low, high = (np.log10 if log_x else np.asarray)([ends.min(), ends.max()])
    pad = 0.02 * (high - low)  # names beside the curves would widen an automatic range
    figure.update_layout(
        margin_r=right,
        xaxis=axis(x, type="log" if log_x else "linear", range=[low - pad, high + pad]),
        yaxis=axis(y, type="log" if log_y else "linear"),
    )
    add_lines(figure, lines, labels=labels)
    if not labels:
        legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
        figure.update_layout(showlegend=True, legend=legend, margin_t=70)
    return figure


def panels(
    titles: Sequence[str],
    *,
    title: str,
    alt: str,
    height: int = 380,
    widths: Sequence[float] | None = None,
) -> go.Figure:
    """An empty row of panels, each with a heading; the page stacks them where it is narrow."""
    figure = make_subplots(
        1, len(titles), subplot_titles=list(titles), column_widths=widths, horizontal_spacing=0.12
    )
    figure.update_layout(layout(title, alt, height))
    figure.update_layout(margin_t=40, meta={"alt": alt, "panels": len(titles)})
    for note in figure.layout.annotations:
        note.update(name="panel title", font={"size": 14})
    return figure


def path_map(
    points: Mapping[str, ArrayLike],
    *,
    title: str,
    alt: str,
    height: int = 420,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Trajectories in a plane: each of shape ``(S, 2)``, from an open circle to a filled one."""
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(layout(title, alt, height))
    add_paths(figure, points, colours=colours)
    return figure


def add_paths(
    figure: go.Figure,
    points: Mapping[str, ArrayLike],
    *,
    row: int = 1,
    col: int = 1,
    colours: Mapping[str, str] | None = None,
) -> None:
    """Add trajectories to one panel; distances on the two axes are drawn to the same scale."""
    for i, (name, path) in enumerate(points.items()):
        p = np.asarray(path, float)
        colour = (colours or COLOUR).get(name, CYCLE[i % len(CYCLE)])
        size = np.full(len(p), 5.0)
        size[[0, -1]] = 11
        figure.add_scatter(
            x=p[:, 0],
            y=p[:, 1],
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 1.5},
            marker={
                "size": size,
                "color": [rgba(colour, 0.0)] + [colour] * (len(p) - 1),
                "line": {"color": colour, "width": 1.5},
            },
            meta={"legend": True},
            row=row,
            col=col,
        )
    n = "" if (row, col) == (1, 1) else str(_axis_number(figure, row, col))
    blank = {"showticklabels": False, "zeroline": False, "showgrid": True, "ticks": ""}
    figure.update_xaxes(**blank, row=row, col=col)
    figure.update_yaxes(**blank, scaleanchor=f"x{n}", row=row, col=col)
