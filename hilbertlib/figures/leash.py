"""Figures of chapter 6: paths on and off the leash, a single step, and the controls."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..experiments.leash import Run
from ..records import Record, seed_interval
from .style import COLOUR, Line, add_lines, add_paths, axis, curves, error_bars, panels


def paths(
    sgd: Run, leashed: Run, maps: tuple[np.ndarray, np.ndarray], frame: np.ndarray, stress: float
) -> tuple[go.Figure, str]:
    """SGD and one leashed run: their way through function space, and its squared length.

    Parameters
    ----------
    maps : pair of arrays of shape ``(E + 1, 2)``
        Both ways on the common map.
    frame : array of shape ``(M, 2)``
        Everything that any slider position will draw, so that the map does not move.
    """
    figure = panels(
        ["Map of functions, a dot an epoch", "Squared distance travelled"],
        title="Two ways to learn the digits: free, and on a leash of strength λ",
        alt="Left: two paths on a map of functions, both from one start. The leashed one takes "
        "shorter steps. Right: cumulative squared function distance against steps; both rise "
        "and level off, the leashed run lower, until λ is too large.",
        height=400,
    )
    add_paths(figure, {"SGD": maps[0], "HCGD": maps[1]})
    low, high = frame.min(0), frame.max(0)
    pad = 0.06 * (high - low).max()
    figure.update_xaxes(range=[low[0] - pad, high[0] + pad], row=1, col=1)
    figure.update_yaxes(range=[low[1] - pad, high[1] + pad], row=1, col=1)
    steps = np.arange(1, len(sgd.l2) + 1)
    top = 1.15 * sgd.cumulative[-1]
    figure.update_xaxes(axis("training step"), row=1, col=2)
    figure.update_yaxes(axis("Σ ‖Δf‖² (L₂²)", range=[0, top]), row=1, col=2)
    thin = slice(None, None, 4)
    add_lines(
        figure,
        [
            Line("SGD", steps[thin], sgd.cumulative[thin], COLOUR["SGD"], label_at=0.6),
            Line("HCGD", steps[thin], leashed.cumulative[thin], COLOUR["HCGD"], label_at=0.6),
        ],
        col=2,
    )
    text = (
        f"λ = {leashed.setting.lam:g}: {leashed.cumulative[-1] / sgd.cumulative[-1]:.0%} of SGD's "
        f"squared path; test accuracy {leashed.history.test_accuracy[-1]:.1%} (SGD "
        f"{sgd.history.test_accuracy[-1]:.1%}). The map's stress is {stress:.2f} (chapter 3): read "
        "no small distance off it."
    )
    return figure, text


def cumulative(arms: Mapping[str, Sequence[Run]], title: str) -> tuple[go.Figure, str]:
    """Figure C.7 for the arms SGD and HCGD: squared path in both spaces, bands over seeds."""
    figure = panels(
        ["in function space (L₂²)", "in parameter space (ℓ₂²)"],
        title=title,
        alt="Cumulative squared distance against training steps, in function space and in "
        "parameter space, for SGD and HCGD, with bands over seeds. HCGD's curves lie lower.",
    )
    for col, kind in ((1, "cumulative"), (2, "cumulative_parameters")):
        lines = []
        for name, runs in arms.items():
            y = np.array([getattr(r, kind)[::4] for r in runs])
            x = np.arange(1, 4 * y.shape[1], 4)
            lines.append(Line(name, x, y.mean(0), COLOUR[name], y.min(0), y.max(0), label_at=0.75))
        figure.update_xaxes(axis("training step"), row=1, col=col)
        figure.update_yaxes(axis("cumulative sum", rangemode="tozero"), row=1, col=col)
        add_lines(figure, lines, col=col)
    ends = {n: np.mean([r.history.test_accuracy[-1] for r in runs]) for n, runs in arms.items()}
    late = {n: np.mean([_late(r.cumulative) for r in runs]) for n, runs in arms.items()}
    said = "; ".join(
        f"{n}: {late[n]:.0%} of its squared path in the last third, test accuracy {ends[n]:.1%}"
        for n in arms
    )
    return figure, f"{said}."


def _late(cumulative: np.ndarray) -> float:
    return float(1 - cumulative[2 * len(cumulative) // 3 - 1] / cumulative[-1])


def overshoot(
    rates: Sequence[float], ratios: Mapping[str, np.ndarray], lam_eta: float
) -> tuple[go.Figure, str]:
    """Distance with a correction over distance without, against ε, for both norms."""
    colours = {"rms": COLOUR["HCGD"], "squared": COLOUR["neutral"]}
    names = {"rms": "the norm", "squared": "its square"}
    lines = [
        Line(
            names[n], rates, r.mean(1), colours[n], r.min(1), r.max(1),
            label_at=0.17 if n == "rms" else 0.55,
            label_side="right" if n == "rms" else "above",
        )
        for n, r in ratios.items()
    ]  # fmt: skip
    figure = curves(
        lines,
        title="When the pull is longer than the step",
        x="learning rate ε of the proposed step",
        y="distance with correction / without",
        alt="Ratio of function distances against the learning rate, both on logarithmic axes. For "
        "the norm the ratio lies far above one at small rates, dips below one, and returns to "
        "one. For the squared norm it is nearly level, a little below one.",
        log_x=True,
        log_y=True,
        right=24,
    )
    figure.add_hline(y=1, line={"color": COLOUR["neutral"], "dash": "dot", "width": 1.5})
    figure.update_yaxes(range=[-1.3, 2.9])
    by_norm, by_square = (ratios[name].mean(1)[0] for name in ("rms", "squared"))
    text = (
        f"λη = {lam_eta:g}: at ε = {rates[0]:g} the norm's correction makes the step "
        f"{by_norm:.2g} times as long; the squared norm's, {by_square:.2g} times."
    )
    return figure, text


def grid(lams: Sequence[float], runs: Mapping[float, Sequence[Run]]) -> go.Figure:
    """Every λ that was run: path length and accuracy, one dot a seed."""
    figure = panels(
        ["Squared path", "Lowest test accuracy, second half"],
        title="The whole grid of λ, not one chosen value",
        alt="Dots over the grid of λ. The squared path falls with λ up to about two, then rises "
        "again. The lowest accuracy late in a run is level, then collapses where λ is too large.",
        height=340,
    )
    names = [f"{lam:g}" for lam in lams]
    for col, value in (
        (1, lambda r: r.cumulative[-1]),
        (2, lambda r: r.lowest_late_accuracy),
    ):
        x = [n for n, lam in zip(names, lams, strict=True) for _ in runs[lam]]
        y = [value(r) for lam in lams for r in runs[lam]]
        figure.add_scatter(
            x=x, y=y, mode="markers", marker={"color": COLOUR["HCGD"], "size": 9, "opacity": 0.8},
            row=1, col=col,
        )  # fmt: skip
        figure.update_xaxes(axis("λ", type="category"), row=1, col=col)
    figure.update_yaxes(axis("Σ ‖Δf‖²", rangemode="tozero"), row=1, col=1)
    figure.update_yaxes(axis("share right", tickformat=".0%"), row=1, col=2)
    return figure


def arms(record: Record, names: Sequence[str], title: str, alt: str) -> go.Figure:
    """Arms side by side: squared path and test accuracy, means with 95% intervals over seeds."""
    figure = panels(["Squared path", "Test accuracy"], title=title, alt=alt, height=330)
    for col, what in ((1, "path"), (2, "accuracy")):
        values = [seed_interval(record["runs"].where(arm=name)[what]) for name in names]
        figure.add_scatter(
            x=[v.mean for v in values],
            y=list(names),
            error_x=error_bars(values),
            mode="markers",
            marker={"size": 11, "color": [_colour(name) for name in names]},
            row=1,
            col=col,
        )
        figure.update_yaxes(axis("", autorange="reversed", showticklabels=col == 1), row=1, col=col)
    figure.update_xaxes(axis("Σ ‖Δf‖² (L₂²)", rangemode="tozero"), row=1, col=1)
    figure.update_xaxes(axis("share right", tickformat=".1~%", nticks=5), row=1, col=2)
    return figure


def _colour(arm: str) -> str:
    """By method: plain SGD, a leash on the data, or a control that is neither."""
    if arm.startswith("SGD"):
        return COLOUR["SGD"]
    return COLOUR["HCGD" if arm.startswith(("HCGD", "n = ")) else "neutral"]
