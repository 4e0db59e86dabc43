"""Figures of chapter 5: what is left of the first task, and what it costs to keep it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..experiments.forgetting import EVERY, LAMBDAS, MAIN
from ..experiments.forgetting_controls import mean as mean_at_end
from ..records import Record, Table, seed_interval
from .style import (
    COLOUR,
    Line,
    add_lines,
    axis,
    curves,
    error_bars,
    legend_above,
    panels,
)

OF_METHOD: Mapping[str, str] = {
    "Adam": COLOUR["Adam"],
    "Adam+retrain": COLOUR["neutral"],
    "L2": COLOUR["L2"],
    "EWC, all tasks": COLOUR["ℓ2"],  # both live in parameter space
    "EWC, last task": COLOUR["ℓ2"],
    "SI": "#a3881c",
}
DASH: Mapping[str, str] = {"EWC, last task": "dash", "SI": "dot"}
SCORES: Mapping[str, str] = {
    "first": "the first task at the end",
    "average": "all tasks at the end",
    "newest": "each task when it is the newest",
}
_SHARE = {"tickformat": ".0%", "range": [0, 1.02]}


def _over_seeds(table: Table, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """``(K,)`` values of x and ``(seeds, K)`` of y; one of NaN where nothing was measured."""
    if not table.columns or not table.unique("seed"):
        return np.array([np.nan]), np.array([[np.nan]])
    each = [table.where(seed=seed) for seed in table.unique("seed")]
    return np.array(each[0][x], float), np.array([t[y] for t in each], float)


def _line(
    name: str, x: np.ndarray, y: np.ndarray, colour: str, band: bool = True, **more: object
) -> Line:
    low, high = (y.min(0), y.max(0)) if band else (None, None)
    return Line(name, x, y.mean(0), colour, low, high, **more)  # type: ignore[arg-type]


def _first(record: Record, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy on the first task, against the number of tasks that training has come to."""
    x, y = _over_seeds(record["first"].where(arm=arm), "epoch", "accuracy")
    return x / record.provenance.config["epochs"], y


def strength(main: Record, grid: Record, lam: float) -> tuple[go.Figure, str]:
    """Adam alone against the L2 memory of one λ: the first task, and the newest."""
    figure = panels(
        ["The first task, as others are learned", "Each task, when it is the newest"],
        title="What is left of the first task, and what it costs the newest",
        alt="Left: test accuracy on the first task against the number of tasks learned; it falls "
        "steeply under Adam alone and less with a memory. Right: test accuracy on each task just "
        "after it was learned; Adam's stays level, the memory's falls as λ grows.",
        height=400,
    )
    arm = f"L2, λ = {lam:g}"
    tasks = grid.provenance.config["tasks"]
    for col in (1, 2):
        lines = []
        for name, record, which in (("Adam", main, "Adam"), ("L2", grid, arm)):
            table = record["tasks"].where(arm=which)
            x, y = _first(record, which) if col == 1 else _over_seeds(table, "task", "newest")
            at, side = (0.55, "above") if name == "L2" else (0.3, "below")
            lines.append(_line(name, x, y, OF_METHOD[name], label_at=at, label_side=side))
        add_lines(figure, lines, col=col)
        figure.update_xaxes(axis("tasks learned", range=[0, tasks + 0.2]), row=1, col=col)
        figure.update_yaxes(axis("share right" if col == 1 else "", **_SHARE), row=1, col=col)
    ends = grid["ends"].where(arm=arm)
    text = (
        f"λ = {lam:g}: at the end {np.mean(ends['first']):.0%} right on the first task, "
        f"{np.mean(ends['newest']):.0%} on each task when it was the newest."
    )
    return figure, text


def methods(record: Record) -> tuple[go.Figure, str]:
    """Figure 4, and beside it each task when it is the newest: every method, over seeds."""
    config = record.provenance.config
    figure = panels(
        ["The first task, as others are learned", "Each task, when it is the newest"],
        title="Six ways to learn tasks in a row",
        alt="Left: test accuracy on the first task against the number of tasks learned, for Adam, "
        "Adam with retraining, the L2 memory, EWC with two ways of keeping its books, and SI. "
        "Right: test accuracy on each task just after it was learned, for the same six.",
        height=440,
    )
    for col in (1, 2):
        lines = []
        for arm in MAIN:
            table = record["tasks"].where(arm=arm)
            x, y = _first(record, arm) if col == 1 else _over_seeds(table, "task", "newest")
            dash = DASH.get(arm, "solid")
            lines.append(_line(arm, x, y, OF_METHOD[arm], band=col == 1, dash=dash))
        add_lines(figure, lines, col=col, labels=False)
        figure.update_xaxes(axis("tasks learned", range=[0, config["tasks"] + 0.2]), row=1, col=col)
        figure.update_yaxes(axis("share right" if col == 1 else "", **_SHARE), row=1, col=col)
    legend_above(figure)
    ends = {arm: record["ends"].where(arm=arm) for arm in MAIN}
    said = "; ".join(
        f"{arm} {np.mean(t['first']):.0%} and {np.mean(t['newest']):.0%}"
        for arm, t in ends.items()
        if t.unique("seed")
    )
    return figure, f"Right at the end on the first task, and on tasks when newest: {said}."


def plane(record: Record) -> tuple[go.Figure, str]:
    """The grids of λ and of k: old tasks against new ones, and the mean over all."""
    figure = panels(
        ["Old tasks kept, and new ones", "Mean over all tasks at the end"],
        title="The whole grid: every λ, and every k of retraining",
        alt="Left: accuracy on old tasks against accuracy on tasks when newest. On digits the L2 "
        "memory climbs and moves left as λ grows, and retraining climbs as it becomes more "
        "frequent; on MNIST all points of both lie close together. "
        "Right: the mean accuracy over all tasks of every member of both grids, a dot a seed.",
        height=430,
    )
    ends = record["ends"]
    grids = {
        "L2": [(f"λ={v:g}", f"L2, λ = {v:g}") for v in LAMBDAS],
        "Adam+retrain": [(f"k={k}", f"retrain every {k}") for k in EVERY],
    }
    best = {}
    for name, members in grids.items():
        found = [(short, ends.where(arm=arm)) for short, arm in members]
        found = [(short, table) for short, table in found if table.unique("seed")]
        figure.add_scatter(
            x=[np.mean(t["newest"]) for _, t in found],
            y=[np.mean(t["old_tests"]) for _, t in found],
            text=[short for short, _ in found],
            textposition="bottom left" if name == "L2" else "middle right",
            mode="lines+markers+text",
            name=name,
            line={"color": OF_METHOD[name], "width": 2},
            marker={"size": 9},
            textfont={"color": OF_METHOD[name], "size": 12},
            meta={"legend": True},
            cliponaxis=False,
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=[v for _, t in found for v in t["average"]],
            y=[short for short, t in found for _ in t["average"]],
            mode="markers",
            marker={"color": OF_METHOD[name], "size": 9, "opacity": 0.8},
            showlegend=False,
            row=1,
            col=2,
        )
        if found:
            best[name] = max(found, key=lambda f: np.mean(f[1]["average"]))
    figure.update_xaxes(axis("right on a task when newest", tickformat=".0%"), row=1, col=1)
    figure.update_yaxes(axis("right on old tasks at the end", tickformat=".0%"), row=1, col=1)
    x = np.concatenate([np.asarray(t.x, float) for t in figure.data[::2]])
    # Wide enough for whole percents to differ where all members of the grids are alike.
    pad = max(0.25 * (x.max() - x.min()), 0.02)
    figure.update_xaxes(range=[x.min() - pad, x.max() + pad], row=1, col=1)
    y = np.concatenate([np.asarray(t.y, float) for t in figure.data[::2]])
    pad = max(0.08 * (y.max() - y.min()), 0.02)
    figure.update_yaxes(range=[y.min() - pad, y.max() + pad], row=1, col=1)
    width, height = (np.ptp(a.range) for a in (figure.layout.xaxis, figure.layout.yaxis))
    for trace in figure.data[::2]:
        trace.text = _legible(np.divide(trace.x, width), np.divide(trace.y, height), trace.text)
    figure.update_xaxes(axis("share right", tickformat=".0%"), row=1, col=2)
    figure.update_yaxes(axis("", type="category", autorange="reversed"), row=1, col=2)
    legend_above(figure)
    said = " and ".join(f"{short} with {np.mean(t['average']):.1%}" for short, t in best.values())
    return figure, f"Highest mean over all tasks: {said}."


def _legible(x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> list[str]:
    """The names that fit beside their points, in shares of a panel; for the others "".

    The ends of a line come first: with them one knows which way it runs.
    """
    shown: list[int] = []
    for i in sorted(range(len(names)), key=lambda i: i not in (0, len(names) - 1)):
        if all(abs(x[i] - x[j]) > 0.15 or abs(y[i] - y[j]) > 0.05 for j in shown):
            shown.append(i)
    return [name if i in shown else "" for i, name in enumerate(names)]


def books(
    main: Record, strengths: Record, named: Callable[[float, str], str], lams: Sequence[float],
    score: str,
) -> tuple[go.Figure, str]:  # fmt: skip
    """EWC over its λ with both books, judged by one score, beside the other methods."""
    lines = []
    for tasks, arm in (("all", "EWC, all tasks"), ("last", "EWC, last task")):
        y = np.array([strengths["ends"].where(arm=named(lam, tasks))[score] for lam in lams]).T
        dash = DASH.get(arm, "solid")
        at, side = (0.5, "above") if tasks == "all" else (0.5, "below")
        lines.append(
            _line(arm, np.array(lams), y, OF_METHOD[arm], dash=dash, label_at=at, label_side=side)
        )
    ends = np.array([min(lams), max(lams)], float)
    levels = {arm: mean_at_end(main, arm, score, strengths.seeds) for arm in MAIN[:3]}
    for arm, level in levels.items():
        lines.append(Line(arm, ends, [level] * 2, OF_METHOD[arm], dash="dot", width=1.5))
    figure = curves(
        lines,
        title="Which method is best depends on EWC's λ, on its books, and on the score",
        x="λ of EWC",
        y=f"right: {SCORES[score]}",
        alt="Accuracy of EWC against its λ, with the penalties of all tasks summed and with the "
        "last task's only, in bands over seeds; horizontal lines for Adam, Adam with retraining "
        "and the L2 memory. As λ grows the first task is kept better and new tasks are learned "
        "worse.",
        log_x=True,
        height=420,
        labels=False,
    )
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    figure.update_layout(margin_r=24)
    own = {
        tasks: [float(np.mean(strengths["ends"].where(arm=named(lam, tasks))[score]))
                for lam in lams]
        for tasks in ("all", "last")
    }  # fmt: skip
    text = (
        f"Judged by {SCORES[score]}: at λ = {lams[-1]:g} EWC with all penalties has "
        f"{own['all'][-1]:.0%}, with the last only {own['last'][-1]:.0%}; the L2 memory "
        f"{levels['L2']:.0%}."
    )
    return figure, text


def bill(
    widths: Sequence[int], diagonals: np.ndarray, network: np.ndarray, memory: int, images: int
) -> tuple[go.Figure, str]:
    """What each method stores against the width of the network, both logarithmic, in bytes."""
    figure = curves(
        [
            Line("EWC and SI", widths, diagonals, OF_METHOD["EWC, all tasks"], label_at=0.6,
                 label_side="left"),
            Line("the network", widths, network, COLOUR["neutral"], dash="dot", label_at=0.75,
                 label_side="right"),
            Line("L2 memory", widths, [memory] * len(widths), OF_METHOD["L2"], label_at=0.12),
        ],
        title="What it takes to remember",
        x="units in each of two hidden layers",
        y="bytes stored",
        alt="Bytes against the width of the network, both on logarithmic axes. What EWC and SI "
        "store grows with the network and is twice its size; a memory of images is a horizontal "
        "line that crosses it.",
        log_x=True,
        log_y=True,
        right=24,
    )  # fmt: skip
    figure.update_yaxes(range=[3.5, 8.2])
    cost = f"{images} images with what was said of them take {memory / 1e6:.2f} MB"
    equal = float(np.exp(np.interp(np.log(memory), np.log(diagonals), np.log(widths))))
    if memory > diagonals[-1]:
        text = f"{cost}, more than EWC or SI at any width shown."
    elif memory < diagonals[0]:
        text = f"{cost}, less than EWC or SI at any width shown."
    else:
        units = f"{float(f'{equal:.2g}'):,.0f}"
        text = f"{cost}, less than EWC or SI above about {units} units a layer."
    return figure, text


def arms(
    record: Record, names: Mapping[str, str], title: str, alt: str, score: str = "first"
) -> go.Figure:
    """Arms side by side, means with 95% intervals over seeds.

    Parameters
    ----------
    names : mapping
        From an arm of the record to what it is called here.
    score : str
        A column of the table ``ends`` for the left panel; the right one has the mean of all tasks.
    """
    figure = panels(["First task, at the end", "All tasks, at the end"],
                    title=title, alt=alt, height=380)  # fmt: skip
    for col, what in ((1, score), (2, "average")):
        values = [seed_interval(record["ends"].where(arm=arm)[what]) for arm in names]
        colours = [OF_METHOD.get(arm, COLOUR["neutral"]) for arm in names]
        figure.add_scatter(
            x=[v.mean for v in values],
            y=list(names.values()),
            error_x=error_bars(values),
            mode="markers",
            marker={"size": 11, "color": colours},
            row=1,
            col=col,
        )
        figure.update_yaxes(axis("", autorange="reversed", showticklabels=col == 1), row=1, col=col)
        figure.update_xaxes(axis("share right", **_SHARE), row=1, col=col)
    return figure
