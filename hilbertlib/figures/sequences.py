"""Figures of chapter 7: one weight used many times, an LSTM's steps, Figure 6 and its control."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..experiments.constrained import by_epoch
from ..experiments.recurrence import (
    POSTS,
    OneWeight,
    Walk,
    nudged,
    states,
    tied_rates,
    untied_rates,
)
from ..records import Record, seed_interval
from ..verdicts import seeds_said
from .style import COLOUR, START_COLOUR, Line, add_lines, axis, error_bars, panels

STEPS = 100  # how long the memory of the first figure is watched
NUDGE = 0.01
RACE = (
    "SGD", "Adam", "SGD+HC, n = 1", "SGD+HC, n = 5", "SGD+HC, n = 10", "Adam+HC",
    "SGD at ε + 4η", "SGD at ε + 9η",
)  # fmt: skip
BANDS = ("SGD", "Adam", "SGD+HC, n = 5")  # eight bands would hide each other
_DASH = {"n = 5": "dash", "n = 10": "dot", "+ 4η": "dash", "+ 9η": "dot"}


def memory(w: float, seed: int = 3) -> tuple[go.Figure, str]:
    """A memory of one number before and after a nudge of its weight, and how far it moves."""
    figure = panels(
        ["What the memory holds", "How far the nudge moves it (L₂)"],
        title="Nudge one weight that is used at every step",
        alt="Left: the state of a memory over a hundred inputs before and after its weight is "
        "nudged; the two curves are one for small weights and part when the weight is near one. "
        "Right, on logarithmic axes: distance between the two functions against the number of "
        "inputs, for the repeated weight and for a chain of layers with a weight each.",
        height=400,
    )
    figure.update_xaxes(axis("inputs read"), row=1, col=1)
    figure.update_yaxes(axis("state h"), row=1, col=1)
    figure.update_xaxes(
        axis("inputs read, T", type="log", range=[0.25, 2.05], **_ticks(2, 5, 10, 20, 50, 100)),
        row=1,
        col=2,
    )
    figure.update_yaxes(axis("", type="log", range=[-3.2, 3.2]), row=1, col=2)
    x = np.random.RandomState(seed).standard_normal(STEPS)
    time = np.arange(1, STEPS + 1)
    colour, other = COLOUR["HCGD"], COLOUR["neutral"]
    add_lines(
        figure,
        [
            Line("before", time, states(w, x), other, width=4),
            Line("after", time, states(w + NUDGE, x), START_COLOUR[2], width=2),
        ],
        labels=False,
    )
    tied = nudged(w, NUDGE, STEPS)
    chain = NUDGE * untied_rates(w, STEPS)
    add_lines(
        figure,
        [
            Line("used at every step", time[1:], tied[1:], colour),
            Line("a weight for each step", time[1:], chain[1:], COLOUR["SGD"], dash="dash"),
        ],
        col=2,
        labels=False,
    )
    _legend(figure)
    rate = tied[-1] / NUDGE
    text = (
        f"w = {w:g}: after {STEPS} inputs a nudge of {NUDGE:g} has moved the function by "
        f"{_short(tied[-1])}, {_short(rate)} times the nudge; spread over a chain of "
        f"{STEPS} weights it moves it by {_short(chain[-1])}."
    )
    return figure, text


def portions(read: Mapping[int, Sequence[Walk]], portion: int) -> tuple[go.Figure, str]:
    """Updates in both spaces, and the exchange rate over the updates, for one size of portions."""
    pixels = max(read)
    figure = panels(
        ["Each update, early to late", "Exchange rate, L₂ for a unit of ℓ₂"],
        title="The same digits, read in fewer or more steps",
        alt="Left: L2 length of every update against its ℓ2 length, a dot an update, coloured from "
        "early to late, on logarithmic axes, with the line of one constant rate. Right: the "
        "exchange rate against the epoch for this number of steps and for digits read at once. "
        "With more steps than one the dots leave the line further and the rate climbs higher.",
        height=410,
    )
    walks, reference = read[portion], read[pixels]
    some = walks[0]
    number = np.arange(len(some.l2))
    figure.add_scatter(
        x=some.ell2, y=some.l2, mode="markers", name="an update",
        marker={"color": number.tolist(), "colorscale": "Cividis", "size": 6, "opacity": 0.8},
        hovertemplate="ℓ₂ %{x:.3g}, L₂ %{y:.3g}<extra></extra>",
        row=1, col=1,
    )  # fmt: skip
    every = [w for runs in read.values() for w in runs[:1]]
    low, high = (f(f(w.ell2) for w in every) for f in (min, max))
    ends = np.geomspace(low, high, 5)
    figure.update_xaxes(
        axis(
            "ℓ₂",
            type="log",
            range=np.log10([low, high]).tolist(),
            **_ticks(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        ),
        row=1,
        col=1,
    )
    figure.update_yaxes(axis("L₂", type="log", range=[-4, 0]), row=1, col=1)
    figure.update_xaxes(axis("epoch"), row=1, col=2)
    figure.update_yaxes(
        axis("", type="log", range=[-1.7, 0.6], **_ticks(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)),
        row=1,
        col=2,
    )
    start = float(np.median(some.rates[:20]))
    add_lines(
        figure,
        [Line("rate at first", ends, start * ends, COLOUR["neutral"], dash="dot", width=2)],
        labels=False,
    )
    add_lines(
        figure,
        [
            _rate_line("read at once", reference, COLOUR["neutral"]),
            _rate_line("read in these steps", walks, COLOUR["HCGD"]),
        ],
        col=2,
    )
    steps = pixels // portion
    said = "1 step" if steps == 1 else f"{steps} steps"
    text = (
        f"{said} of {portion} pixel{'s' * (portion > 1)}: late in training the function moves "
        f"{np.mean([w.late_rate for w in walks]):.2f} for a unit of the weights; test accuracy "
        f"{np.mean([w.final for w in walks]):.0%}. Dotted: the rate of the first updates."
    )
    return figure, text


def _rate_line(name: str, walks: Sequence[Walk], colour: str) -> Line:
    epochs = len(walks[0].accuracy)
    y = np.array([[np.median(part) for part in np.array_split(w.rates, epochs)] for w in walks])
    side = "below" if colour == COLOUR["neutral"] else "above"
    return Line(
        name, np.arange(1, epochs + 1), y.mean(0), colour, y.min(0), y.max(0),
        label_at=0.65 if side == "below" else 0.35, label_side=side,
    )  # fmt: skip


def cliff(problem: OneWeight, w: float, grid: Sequence[float]) -> tuple[go.Figure, str]:
    """The cost along one weight with the steps of four rules from ``w``; how far each moves."""
    figure = panels(
        ["Cost, and where a step lands", "How far a step moves it (L₂)"],
        title="At the cliff: a clip and a leash",
        alt="Left: the cost of a repeated weight against the weight, with a valley and a wall "
        "where the weight exceeds one, and the landing places of steps with and without clipping "
        "and leash. Right: distance moved against the starting weight on a logarithmic axis. The "
        "clipped steps rise slowly along the wall, the others many orders of magnitude faster.",
        height=410,
    )
    x = np.linspace(-0.3, max(grid) + 0.02, 160)
    cost = [0.5 * problem.distance(v, problem.target) ** 2 for v in x]
    add_lines(figure, [Line("cost", x, cost, COLOUR["neutral"])], labels=False)
    figure.data[-1].showlegend = False
    rules = {
        "SGD": ({}, COLOUR["SGD"], "circle"),
        "leashed": ({"leashed": True}, COLOUR["HCGD"], "diamond"),
        "clipped": ({"clipped": True}, COLOUR["SGD"], "circle-open"),
        "clipped and leashed": ({"clipped": True, "leashed": True}, COLOUR["HCGD"], "diamond-open"),
    }
    places: list[tuple[str, float, str, str]] = [
        ("before the step", w, COLOUR["neutral"], "x-thin-open")
    ]
    outside = []
    for name, (how, colour, symbol) in rules.items():
        there = problem.step(w, **how)
        seen = x[0] <= there <= x[-1]
        outside += [] if seen else [name]
        places.append((name, there if seen else float("nan"), colour, symbol))
    for name, place, colour, symbol in places:
        shown = np.isfinite(place)
        figure.add_scatter(
            x=[place] if shown else [], mode="markers", name=name,
            showlegend=name == "before the step", meta={"legend": name == "before the step"},
            y=[max(0.5 * problem.distance(place, problem.target) ** 2, 1e-4)] if shown else [],
            marker={"symbol": symbol, "size": 12, "color": colour, "line": {"width": 2}},
            row=1, col=1,
        )  # fmt: skip
    lines = []
    for name, (how, colour, symbol) in rules.items():
        y = np.array([problem.moved(v, **how) for v in grid])
        dash = "dash" if symbol.endswith("open") else "solid"
        lines.append(Line(name, grid, np.minimum(y, 1e12), colour, dash=dash))
    before = len(figure.data)
    add_lines(figure, lines, col=2, labels=False)
    for trace, (_, colour, symbol) in zip(figure.data[before:], rules.values(), strict=True):
        line = {"color": colour, "width": 1.5}
        trace.update(mode="lines+markers", marker={"symbol": symbol, "size": 7, "line": line})
    figure.add_scatter(
        x=[w, w], y=[1e-4, 1e8], mode="lines", showlegend=False, hoverinfo="skip",
        line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5}, row=1, col=2,
    )  # fmt: skip
    figure.update_xaxes(axis("weight w", range=[float(x[0]), float(x[-1])]), row=1, col=1)
    figure.update_yaxes(axis("cost", type="log", range=[-4.2, 4.5], dtick=2), row=1, col=1)
    figure.update_xaxes(axis("weight w before the step"), row=1, col=2)
    figure.update_yaxes(axis("", type="log", range=[-4, 8], dtick=2), row=1, col=2)
    _legend(figure)
    rate = tied_rates(w, problem.steps)[-1]
    said = f"; out of the left panel: {', '.join(outside)}" if outside else ""
    moved = {n: problem.moved(w, **how) for n, (how, _, _) in rules.items()}
    text = (
        f"w = {w:g}, exchange rate {_short(rate)}: SGD moves the function by "
        f"{_short(moved['SGD'])}, leashed {_short(moved['leashed'])}, clipped "
        f"{_short(moved['clipped'])}, both {_short(moved['clipped and leashed'])}{said}."
    )
    return figure, text


def _short(value: float) -> str:
    if value >= 1e6:
        return "over a million"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _ticks(*values: float) -> dict[str, Any]:
    return {"tickvals": list(values), "ticktext": [f"{v:g}" for v in values]}


def race(record: Record) -> tuple[go.Figure, str]:
    """Figure 6: test accuracy by epoch, and by what was computed; bands over seeds."""
    figure = panels(
        ["by epoch", "by computation"],
        title="Pixels one at a time: test accuracy",
        alt="Test accuracy against the epoch, and against computation on a logarithmic axis, for "
        "SGD, Adam, SGD with one, five or more corrections, Adam with one, and SGD at larger "
        "rates. By epoch five corrections lie far above SGD; by computation every leashed curve "
        "moves to the right.",
        height=430,
    )
    found = {arm: by_epoch(record, arm, "test_accuracy") for arm in RACE}
    for col in (1, 2):
        lines = []
        for arm, y in found.items():
            x = np.arange(1, y.shape[1] + 1) * (1 if col == 1 else price(record, arm))
            low, centre, high = (y.min(0), y.mean(0), y.max(0)) if len(y) else ([], [], [])
            line = Line(_named(arm), x, centre, _colour(arm), dash=_dash(arm), width=2)
            lines.append(replace(line, low=low, high=high) if arm in BANDS else line)
        before = len(figure.data)
        add_lines(figure, lines, col=col, labels=False)
        for trace in figure.data[before:]:
            if trace.fill != "toself" and (col == 2 or not len(trace.x)):
                trace.showlegend = False
    figure.update_xaxes(axis("epoch"), row=1, col=1)
    figure.update_xaxes(
        axis(
            "computation, in plain epochs",
            type="log",
            **_ticks(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        ),
        row=1,
        col=2,
    )
    for col in (1, 2):
        figure.update_yaxes(
            axis("share right" if col == 1 else "", tickformat=".0%", range=[0, 1]), row=1, col=col
        )
    _legend(figure)
    ends = {a: record["runs"].where(arm=a)["final"] for a in RACE}
    said = ", ".join(f"{_named(a)} {np.mean(v):.1%}" for a, v in ends.items() if v)
    return figure, f"{seeds_said(len(record.seeds))}; at the end: {said}."


def price(record: Record, arm: str) -> float:
    """What a step costs, over a plain one: 3 + 4n |X_V| / |X| passes over 3, X_V drawn anew."""
    config = record.provenance.config
    share = config["validation_size"] / config["batch_size"]
    return (3 + 4 * corrections(arm) * share) / 3


def corrections(arm: str) -> int:
    """n of an arm; 0 where it has no leash."""
    if "+HC" not in arm:
        return 0
    return int(found[1]) if (found := re.search(r"n = (\d+)", arm)) else 1


def effective_rate(record: Record, arm: str) -> float:
    """ε + (n − 1)η of an arm whose base is SGD."""
    config = record.provenance.config
    more = re.search(r"(\d+)η", arm)
    k = int(more[1]) if more else max(corrections(arm) - 1, 0)
    return float(config["lr"] + k * config["inner_lr"])


def control(record: Record) -> tuple[go.Figure, str]:
    """Accuracy at the end against the rate that an arm amounts to: plain SGD's curve, and HC's."""
    figure = panels(
        [""],
        title="More corrections, or a larger learning rate?",
        alt="Test accuracy against the effective learning rate on a logarithmic axis: a line of "
        "plain SGD runs at several rates, and beside it the leashed arms at the rates that their "
        "corrections amount to, all with intervals over seeds.",
        height=400,
    )
    arms = record["runs"].unique("arm")
    said = []
    for name, members, colour in (
        ("SGD at this rate", [a for a in arms if re.match(r"SGD( at|$)", a)], COLOUR["SGD"]),
        ("SGD+HC", [a for a in arms if a.startswith("SGD+HC")], COLOUR["HCGD"]),
    ):
        members.sort(key=lambda a: effective_rate(record, a))
        values = [seed_interval(record["runs"].where(arm=a)["final"]) for a in members]
        beside = 1.03 if "HC" in name else 1.0  # or one interval would hide the other
        figure.add_scatter(
            x=[beside * effective_rate(record, a) for a in members], y=[v.mean for v in values],
            error_y=error_bars(values) | {"color": colour, "thickness": 1.5},
            mode="lines+markers+text", name=name, meta={"legend": True},
            line={"color": colour, "width": 2, "dash": "dot" if name == "SGD+HC" else "solid"},
            marker={"color": colour, "size": 11, "symbol": "diamond" if "HC" in name else "circle"},
            text=[f"n = {corrections(a)}" if "HC" in name else "" for a in members],
            textposition="top right", textfont={"color": colour, "size": 13},
            row=1, col=1,
        )  # fmt: skip
        said += [f"{_named(a)} {v.mean:.1%}" for a, v in zip(members, values, strict=True)]
    rates = [effective_rate(record, a) for a in arms if a.startswith("SGD")]
    ends = [float(np.log10(v)) for v in (0.85 * min(rates), 1.2 * max(rates))]
    ticks = sorted({round(effective_rate(record, a), 4) for a in arms if a.startswith("SGD")})
    figure.update_xaxes(
        axis("learning rate ε + (n − 1)η", type="log", range=ends),
        tickvals=ticks, ticktext=[f"{v:g}" for v in ticks], row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(
        axis("test accuracy at the end", tickformat=".0%", range=[0, 1]), row=1, col=1
    )
    _legend(figure)
    return figure, f"{', '.join(said)}."


def rules(ruled: Mapping[str, Sequence[Walk]]) -> go.Figure:
    """The longest step and the accuracy at the end of each rule, a dot a seed."""
    figure = panels(
        ["Longest step, in the weights", "Test accuracy at the end"],
        title="With a clip, without, and with a leash in its place",
        alt="Dots for each seed. The longest step in parameters stays under one where gradients "
        "are clipped, and is mostly longer where they are not, leashed or free. Test accuracy "
        "at the end varies between seeds.",
        height=360,
    )
    names = list(ruled)
    colours = [COLOUR["HCGD" if "HC" in n else "SGD"] for n in names for _ in ruled[n]]
    rows = [n for n in names for _ in ruled[n]]
    for col, values in (
        (1, [float(w.ell2.max()) for n in names for w in ruled[n]]),
        (2, [w.final for n in names for w in ruled[n]]),
    ):
        figure.add_scatter(
            x=values, y=rows, mode="markers", row=1, col=col,
            marker={"color": colours, "size": 11, "opacity": 0.85},
        )  # fmt: skip
        figure.update_yaxes(axis("", autorange="reversed", showticklabels=col == 1), row=1, col=col)
    figure.update_xaxes(axis("ℓ₂", type="log", **_ticks(0.5, 1, 2, 5, 10, 20)), row=1, col=1)
    figure.update_xaxes(axis("share right", tickformat=".0%", range=[0, 1]), row=1, col=2)
    return figure


def posts(record: Record) -> go.Figure:
    """How far a corrected step goes over one without, by what X_V shows; intervals over seeds."""
    figure = panels(
        ["A corrected step, Xᵥ showing:"],
        title="The same leash, tied to other images",
        alt="Ratios with intervals over seeds: a correction on digits in the network's own order "
        "shortens the step, one on another order less; with black images the dots scatter widely.",
        height=280,
    )
    values = [seed_interval(record["posts"].where(post=p)["ratio"]) for p in POSTS]
    figure.add_scatter(
        x=[v.mean for v in values], y=list(POSTS), error_x=error_bars(values), mode="markers",
        marker={"size": 11, "color": [COLOUR["HCGD"], COLOUR["neutral"], COLOUR["neutral"]]},
        row=1, col=1,
    )  # fmt: skip
    each = [r for p in POSTS for r in record["posts"].where(post=p)["ratio"]]
    figure.add_scatter(
        x=each, y=[p for p in POSTS for _ in record["posts"].where(post=p)["ratio"]],
        mode="markers", marker={"size": 6, "color": COLOUR["neutral"], "opacity": 0.6},
        row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(axis("", autorange="reversed"), row=1, col=1)
    figure.update_xaxes(axis("L₂ corrected / plain"), row=1, col=1)
    figure.add_vline(x=1, line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5})
    return figure


def _named(arm: str) -> str:
    return arm.replace("SGD+HC, ", "SGD+HC ").replace(" = ", "=")


def _colour(arm: str) -> str:
    return COLOUR[
        "Adam+HC" if arm == "Adam+HC" else "Adam" if arm == "Adam" else "HCGD" if "HC" in arm
        else "SGD"
    ]  # fmt: skip


def _dash(arm: str) -> str:
    return next((dash for part, dash in _DASH.items() if arm.endswith(part)), "solid")


def _legend(figure: go.Figure) -> None:
    legend = {"orientation": "h", "y": 1.1, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, margin_t=96)
    for trace in figure.data:
        if trace.showlegend is None:
            trace.showlegend = bool(trace.meta and trace.meta.get("legend"))
