"""Figures of chapter 11: seven methods by what is counted, by their rates, by their paths."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..experiments.contenders import METHODS
from ..experiments.contest import EPOCHS, LIVE
from ..experiments.contest_tuning import TUNING, best
from ..experiments.what_came_next import AGAIN, SLOW, versus
from ..records import Interval, Record, seed_interval
from . import style
from .style import axis, error_bars, layout, panels, rgba

COLOUR: Mapping[str, str] = {**style.COLOUR, "SAM": "#a3881c", "Muon": "#a5533a"}
_DASH = {"Adam": "dot", "Adam+HC": "dot", "SAM": "dash", "Muon": "dash"}
_SYMBOL = {
    "SGD": "circle", "HCGD": "circle-open", "Adam": "square", "Adam+HC": "square-open",
    "natural gradient": "diamond", "SAM": "triangle-up", "Muon": "triangle-down",
}  # fmt: skip
COUNTED: Mapping[str, tuple[str, str]] = {
    "epochs": ("epochs", "epochs"),
    "gradient evaluations": ("evaluations", "gradient evaluations"),
    "distance of the weights": ("length", "ℓ₂ length of the path"),
    "squared distance of the function": ("path", "Σ ‖Δf‖² (L₂²)"),
}
"""What a reader may count: the column, and how the axis says it."""
PLACES = ("lowest", "second", "middle", "fourth", "highest", "each its best")


def _base(arm: str) -> str:
    return SLOW.get(arm, "SGD" if arm == AGAIN else arm)


def _the(method: str) -> str:
    return f"the {method}" if method == "natural gradient" else method


def _legend(figure: go.Figure) -> None:
    for trace in figure.data:
        trace.showlegend = bool((trace.meta or {}).get("legend"))
    legend = {"orientation": "h", "y": 1.03, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, margin_t=48)


def curve(record: Record, arm: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Means over seeds of what is counted and of the share that is wrong, ``(K,)`` each."""
    table = record["curve"].where(arm=arm)
    each = [table.where(seed=seed) for seed in table.unique("seed")]
    x, y = (np.mean([t[name] for t in each], axis=0) for name in (column, "wrong"))
    return x[1:], y[1:]  # the start has no place on a logarithmic axis


def reached(record: Record, arm: str, column: str, wrong: float = 0.1) -> float:
    """How much of what is counted a method has used when so few are wrong first; inf if never."""
    x, y = curve(record, arm, column)
    there = np.flatnonzero(y <= wrong)
    return float(x[there[0]]) if len(there) else np.inf


def race(record: Record, counted: str) -> tuple[go.Figure, str]:
    """The share of test images that is wrong, against one of the things that may be counted."""
    column, label = COUNTED[counted]
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Who learns fastest? It depends on what you count",
            "Share of test images that are wrong, falling from nine in ten to about one in "
            "twenty-five, for seven methods. Counted in epochs the natural gradient leads; counted "
            "in gradient evaluations it comes last; counted in squared distance of the function "
            "Muon and the natural gradient are far ahead of the rest.",
            height=430,
        )
    )
    for arm in METHODS:
        x, y = curve(record, arm, column)
        figure.add_scatter(
            x=x, y=y, name=arm, mode="lines+markers", meta={"legend": True},
            line={"color": COLOUR[arm], "width": 2, "dash": _DASH.get(arm, "solid")},
            marker={"color": COLOUR[arm], "size": 7, "symbol": _SYMBOL[arm]},
        )  # fmt: skip
    figure.add_hline(y=0.1, line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5})
    figure.update_xaxes(axis(label, type="log"))
    ticks = [0.03, 0.1, 0.3, 1]
    figure.update_yaxes(
        axis("share of test images wrong", type="log", tickformat=".0%", tickvals=ticks)
    )
    figure.update_yaxes(range=[-1.6, 0.05])
    _legend(figure)
    order = sorted(METHODS, key=lambda arm: reached(record, arm, column))
    first, last = order[0], order[-1]
    return figure, (
        f"Counting {counted}: the first to have nine in ten right is {_the(first)} "
        f"({reached(record, first, column):.3g}), the last {_the(last)} "
        f"({reached(record, last, column):.3g})."
    )


def grid(place: str) -> tuple[go.Figure, str]:
    """The tuning images that are right when every method has its rate at this place of its grid."""
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Choose the learning rates, and you choose the winner",
            "For each of seven methods the share of tuning images that are wrong at five learning "
            "rates, with one of the five marked. Which method leads depends on the place of the "
            "rate in the grid.",
            height=380,
        )
    )
    names, share = list(METHODS), {}
    for method in names:
        rates = list(TUNING[method])
        lr = best(TUNING[method], EPOCHS) if place == PLACES[-1] else rates[PLACES.index(place)]
        share[method] = TUNING[method][lr].right(EPOCHS) / LIVE.aside
    every = [(m, t.right(EPOCHS) / LIVE.aside) for m in names for t in TUNING[m].values()]
    figure.add_scatter(
        y=[m for m, _ in every], x=[1 - s for _, s in every], mode="markers", hoverinfo="skip",
        marker={"size": 8, "color": [rgba(COLOUR[m], 0.3) for m, _ in every]},
    )  # fmt: skip
    figure.add_scatter(
        y=names, x=[1 - share[m] for m in names], mode="markers",
        marker={
            "size": 14,
            "color": [COLOUR[m] for m in names],
            "symbol": [_SYMBOL[m].removesuffix("-open") for m in names],
        },
    )  # fmt: skip
    ticks = [0.03, 0.1, 0.3, 1]
    figure.update_xaxes(axis("tuning images wrong", type="log", tickformat=".0%", tickvals=ticks))
    figure.update_xaxes(range=[-1.65, 0.05])
    figure.update_yaxes(axis("", autorange="reversed"))
    first, last = max(share.values()), min(share.values())
    led, trailed = (_listed([_the(m) for m in names if share[m] == s]) for s in (first, last))
    where = "its best rate" if place == PLACES[-1] else f"the {place} rate of its grid"
    return figure, (
        f"Each method at {where}: {led} comes first ({first:.1%} right), "
        f"{trailed} last ({last:.1%})."
    )


def plane(pair: str) -> tuple[go.Figure, str]:
    """Every rate of every method: the squared path and the share that is wrong, two picked out."""
    picked = PAIRS[pair]
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Every rate that was tried: how far the function went, and how well it ended",
            "Share of tuning images wrong against squared path in function space, a curve for "
            "each method over its learning rates. Each falls at first as the path grows, and most "
            "rise at the end. On the way down those of the natural gradient and of Muon lie to the "
            "left of SGD's and Adam's.",
            height=430,
        )
    )
    for method in METHODS:
        tried = [t for t in TUNING[method].values() if t.right(EPOCHS) > 0.8 * LIVE.aside]
        shown = method in picked
        colour = COLOUR[method] if shown else rgba(COLOUR["neutral"], 0.35)
        figure.add_scatter(
            x=[float(np.mean(t.path)) for t in tried],
            y=[1 - t.right(EPOCHS) / LIVE.aside for t in tried],
            name=method, mode="lines+markers", meta={"legend": shown},
            line={"color": colour, "width": 2.5 if shown else 1.5},
            marker={"color": colour, "size": 9 if shown else 5, "symbol": _SYMBOL[method]},
        )  # fmt: skip
    figure.update_xaxes(axis("squared path Σ ‖Δf‖² (L₂²)", type="log"))
    figure.update_yaxes(axis("share of tuning images wrong", tickformat=".0%", range=[0, 0.2]))
    _legend(figure)
    said = []
    for method in picked:
        t = TUNING[method][best(TUNING[method], EPOCHS)]
        said.append(
            f"{_the(method)} has {t.right(EPOCHS) / LIVE.aside:.1%} right on a squared path of "
            f"{np.mean(t.path):.2g}"
        )
    return figure, f"At its best rate {', '.join(said)}."


PAIRS: Mapping[str, tuple[str, ...]] = {
    "SGD and HCGD": ("SGD", "HCGD"),
    "Adam and Adam+HC": ("Adam", "Adam+HC"),
    "SGD and SAM": ("SGD", "SAM"),
    "SGD and the natural gradient": ("SGD", "natural gradient"),
    "Adam and Muon": ("Adam", "Muon"),
}
"""Which methods the plane picks out."""


def results(record: Record, reading: str) -> tuple[go.Figure, str]:
    """Test accuracy less SGD's, with intervals over seeds, at equal epochs or equal compute."""
    column = "accuracy" if reading == EPOCHS else "accuracy_compute"
    names = [m for m in (*METHODS, AGAIN) if m != "SGD"]
    found = [
        seed_interval([100 * d for d in versus(record, m, "SGD", column, "difference")])
        for m in names
    ]
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Test accuracy, less SGD's",
            "Differences of test accuracy from SGD with intervals over seeds, for six methods and "
            "for SGD under another name. At equal epochs nearly all intervals hold zero; at equal "
            "compute the natural gradient's lies below.",
            height=380,
        )
    )
    _dots(figure, names, found)
    figure.add_vline(x=0, line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5})
    figure.update_xaxes(axis("points of accuracy", tickformat="+d", range=[-6.5, 4.5]))
    figure.update_yaxes(axis("", autorange="reversed"))
    apart = [_the(m) for m, v in zip(names, found, strict=True) if v.low > 0 or v.high < 0]
    return figure, f"At {reading}, the interval leaves out zero for {_listed(apart)}."


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "none of them"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _dots(figure: go.Figure, names: Sequence[str], found: Sequence[Interval], col: int = 1) -> None:
    figure.add_scatter(
        x=[v.mean for v in found],
        y=list(names),
        error_x=error_bars(found),
        mode="markers",
        marker={
            "size": 11,
            "color": [COLOUR[_base(n)] for n in names],
            "symbol": ["x" if n in (AGAIN, *SLOW) else "circle" for n in names],
        },
        row=1,
        col=col,
    )


def spread(record: Record) -> dict[str, float]:
    """The largest of the seven methods' means over the least, of each quantity."""
    means = {
        column: [float(np.mean(record["runs"].where(arm=m)[column])) for m in METHODS]
        for column in ("path", "start", "exchange")
    }
    return {column: max(values) / min(values) for column, values in means.items()}


def quantities(record: Record) -> go.Figure:
    """The function-space quantities of this book for every method and control, with intervals."""
    names = [*METHODS, AGAIN, *SLOW]
    figure = panels(
        ["Squared path", "From the start", "Exchange rate"],
        title="Three numbers that accuracy does not show",
        alt="Squared path on a logarithmic axis, L2 distance from the initialization and exchange "
        "rate for seven methods and three controls, with intervals over seeds. The distances from "
        "the start are alike for the methods; their squared paths differ more than fifteenfold, "
        "Muon's the shortest; their exchange rates threefold and more.",
        height=420,
    )
    for col, column in enumerate(("path", "start", "exchange"), start=1):
        found = [seed_interval(record["runs"].where(arm=name)[column]) for name in names]
        _dots(figure, names, found, col)
        figure.update_yaxes(axis("", autorange="reversed", showticklabels=col == 1), row=1, col=col)
    figure.update_xaxes(axis("Σ ‖Δf‖² (L₂²)", type="log"), row=1, col=1)
    figure.update_xaxes(axis("L₂ at the end", range=[0, 1.05]), row=1, col=2)
    figure.update_xaxes(axis("L₂ per ℓ₂", rangemode="tozero"), row=1, col=3)
    return figure
