"""Figures of chapter 8: a leash drawn in two parameters, and how far its second order holds."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..experiments.kl_geometry import Steps, TwoParameters
from ..experiments.second_order import LONG
from ..records import Record
from ..verdicts import printed
from .style import COLOUR, SCALE_COLOUR, Line, add_lines, axis, curves, layout, panels, rgba

NATURAL, PLAIN, GREY = COLOUR["natural gradient"], COLOUR["SGD"], COLOUR["neutral"]
YELLOW, SLATE, RED = SCALE_COLOUR  # no method's
EARLY_TO_LATE = (GREY, YELLOW, RED)
FACTORS = {"tickmode": "array", "tickvals": [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]}
FACTORS["ticktext"] = [f"{factor:g}" for factor in FACTORS["tickvals"]]
A_RANGE, B_RANGE = (-8.0, 17.0), (-10.0, 7.0)


def leash(model: TwoParameters, steps: Steps) -> tuple[go.Figure, str]:
    """Two parameters: the leash around a place, two steps of one size, and the functions there."""
    figure = panels(
        ["Parameters; contours of the cost", "Functions: P(the digit is a one)"],
        title="Two steps that move the function equally far, to second order",
        alt="Left: the plane of two parameters with contours of the cost. Around the present place "
        "lies an ellipse, the steps of one size to second order, and a dotted curve, those of one "
        "exact KL divergence. One arrow is the gradient's direction, another the natural "
        "gradient's. Right: the probability of a one against the ink in the middle, before and "
        "after either step, over dots for the images.",
        height=430,
        widths=[0.56, 0.44],
    )
    a, b = np.linspace(*A_RANGE, 51), np.linspace(*B_RANGE, 41)
    plane = np.stack(np.meshgrid(a, b), axis=-1)
    figure.add_contour(
        x=a, y=b, z=np.log(model.cost(plane)), showscale=False, hoverinfo="skip",
        colorscale=[[0, rgba(GREY, 0.6)], [1, rgba(GREY, 0.6)]], line={"width": 1},
        contours={"coloring": "lines", "start": -2.45, "end": 1.75, "size": 0.35},
        row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=steps.ellipse[:, 0], y=steps.ellipse[:, 1], mode="lines", fill="toself",
        fillcolor=rgba(NATURAL, 0.15), line={"color": NATURAL, "width": 2}, hoverinfo="skip",
        name="leash, quadratic", meta={"legend": True}, row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=steps.ball[:, 0], y=steps.ball[:, 1], mode="lines", hoverinfo="skip",
        line={"color": GREY, "width": 2, "dash": "dot"}, name="leash, exact",
        meta={"legend": True}, row=1, col=1,
    )  # fmt: skip
    x = np.linspace(0, 1, 61)
    seen = TwoParameters(x, np.zeros_like(x))
    ends = {"gradient": (steps.gradient, PLAIN), "natural step": (steps.natural, NATURAL)}
    for name, (step, colour) in ends.items():
        there = steps.theta + step
        figure.add_scatter(
            x=[steps.theta[0], there[0]], y=[steps.theta[1], there[1]], mode="lines+markers",
            line={"color": colour, "width": 3}, marker={"color": colour, "size": [0, 9]},
            name=name, meta={"legend": True}, row=1, col=1,
        )  # fmt: skip
    figure.add_scatter(
        x=steps.theta[:1], y=steps.theta[1:], mode="markers", name="start",
        marker={"size": 11, "color": GREY, "line": {"width": 2, "color": "white"}}, row=1, col=1,
    )  # fmt: skip
    every = slice(None, None, 2)
    jitter = np.random.default_rng(0).uniform(-0.035, 0.035, len(model.x))
    figure.add_scatter(
        x=model.x[every], y=(model.y + jitter)[every], mode="markers", hoverinfo="skip",
        marker={"size": 5, "color": rgba(GREY, 0.45)}, name="images", row=1, col=2,
    )  # fmt: skip
    lines = [Line("before", x, seen.p(steps.theta), GREY, dash="dash", label_at=0.12)]
    for (name, (step, colour)), at in zip(ends.items(), (0.62, 0.88), strict=True):
        lines.append(Line(name, x, seen.p(steps.theta + step), colour, label_at=at))
    add_lines(figure, lines, col=2, labels=False)
    figure.update_xaxes(axis("a, steepness", range=A_RANGE), row=1, col=1)
    figure.update_yaxes(
        axis("b, offset", range=B_RANGE, scaleanchor="x", constrain="domain"), row=1, col=1
    )
    figure.update_xaxes(axis("ink in the middle (0 to 1)", range=[-0.02, 1.02]), row=1, col=2)
    figure.update_yaxes(axis("probability", range=[-0.08, 1.08]), row=1, col=2)
    _names_above(figure)
    costs = [model.cost(steps.theta + step) for step in (0.0, steps.gradient, steps.natural)]
    made = [model.kl(steps.theta + s, steps.theta) for s in (steps.gradient, steps.natural)]
    text = (
        f"λ = {steps.lam:g}: the leash is {steps.radius:.2g} nats long to second order. The "
        f"natural step takes the cost from {costs[0]:.2f} to {costs[2]:.2f} nats, the gradient's "
        f"to {costs[1]:.2f}. Exactly, they move the function by {made[1]:.2g} "
        f"and {made[0]:.2g} nats."
    )
    return figure, text


def zoom(measures: Mapping[str, np.ndarray], t: np.ndarray, window: float) -> tuple[go.Figure, str]:
    """Three measures of one step, in a window around no step, each over its largest value there."""
    inside = np.abs(t) <= window * (1 + 1e-9)
    names = {
        "new || old": ("KL divergence", NATURAL, "solid"),
        "half squared": ("half the squared L₂", COLOUR["L2"], "dash"),
        "norm": ("L₂ norm", COLOUR["L2"], "solid"),
    }
    lines = [
        Line(name, t[inside] / window, values / values.max(), colour, dash=dash)
        for key, (name, colour, dash) in names.items()
        for values in [measures[key][inside]]
    ]
    figure = curves(
        lines,
        title="How a distance looks from close by",
        x="position in the window",
        y="share of the largest in the window",
        alt="Three measures of how far a network has moved along a line through its parameters. "
        "Close to the start the KL divergence and half the squared distance are parabolas with "
        "one shape, and the norm is a V with its kink at the start.",
        right=24,
        labels=False,
    )
    figure.update_layout(yaxis_range=[-0.03, 1.05])
    sides = [measures["new || old"][inside][i] for i in (0, -1)]
    text = (
        f"Window of ±{window:g} in units of the step: the KL divergence is {printed(sides[0], 2)} "
        f"nats at its left end and {printed(sides[1], 2)} at its right; the L₂ norm at the right "
        f"end is {printed(measures['norm'][inside][-1], 2)}."
    )
    return figure, text


def directions(measures: Mapping[str, np.ndarray], t: np.ndarray) -> go.Figure:
    """KL, its two directions' distance from their second order and from each other, against t."""
    new, old, second = (measures[k] for k in ("new || old", "old || new", "second order"))
    lines = [
        Line("KL(new ‖ old)", t, new, NATURAL),
        Line("|KL − its second order|", t, np.abs(new - second), RED, dash="dash"),
        Line("|KL(new ‖ old) − KL(old ‖ new)|", t, np.abs(new - old), YELLOW, dash="dot"),
    ]
    return curves(
        lines,
        title="Both directions of KL have one second order, and no more",
        x="t (in natural steps)",
        y="nats",
        alt="On logarithmic axes the KL divergence rises with slope two. What second order misses "
        "of it, and what the two directions differ by, lie lower and rise with slope three.",
        log_x=True,
        log_y=True,
        right=24,
        labels=False,
    )


def price(
    table: Mapping[str, np.ndarray], lams: Sequence[float], lam: float
) -> tuple[go.Figure, str]:
    """λ as a price, and the constraint behind it: its radius, and what the step buys."""
    i = list(lams).index(lam)
    radius, real = table["predicted"], table["new_old"]
    figure = panels(
        ["Length of the leash against λ", "What a step of that length buys"],
        title="Behind every price stands a constraint",
        alt="Left: the KL divergence of the natural step against λ on logarithmic axes, a line of "
        "slope minus two, with the real divergence close to it where λ is large. Right: the "
        "cost after the step against the same divergence: what the first order promises falls "
        "on and on, the real cost falls less.",
        height=420,
    )
    _apart(figure)
    figure.update_xaxes(axis("λ, price of a nat", type="log"), row=1, col=1)
    figure.update_yaxes(axis("KL divergence (nats)", type="log"), row=1, col=1)
    figure.update_xaxes(axis("½ Δθᵀ F Δθ (nats)", type="log"), row=1, col=2)
    figure.update_yaxes(axis("cost after the step (nats)", rangemode="tozero"), row=1, col=2)
    left = [
        Line("predicted", lams, radius, NATURAL, label_at=0.5, label_side="left"),
        Line("real", lams, real, RED, dash="dash", label_at=0.5, label_side="right"),
    ]
    right = [
        Line(
            "promised", radius, table["linear"], GREY, dash="dash", label_at=0.15, label_side="left"
        ),
        Line("real cost", radius, table["cost"], RED, label_at=0.1, label_side="below"),
    ]
    add_lines(figure, left, col=1)
    add_lines(figure, right, col=2)
    for col, x, y, colour in (
        (1, lam, radius[i], NATURAL),
        (2, radius[i], table["cost"][i], RED),
    ):
        figure.add_scatter(
            x=[x], y=[y], mode="markers", marker={"size": 13, "color": colour}, name="here",
            hoverinfo="skip", row=1, col=col,
        )  # fmt: skip
    text = (
        f"λ = {lam:g} is a leash of {printed(radius[i], 2)} nats; the step really moves the "
        f"function by {printed(real[i], 2)}. The cost goes from {table['start'][i]:.2f} to "
        f"{table['cost'][i]:.2f}; the first order promised {table['linear'][i]:.2f}."
    )
    return figure, text


def reach(record: Record, epoch: int) -> tuple[go.Figure, str]:
    """Real over predicted divergence against the length of the step; and image by image."""
    figure = panels(
        ["Real over predicted, a line a network", "One network, image by image"],
        title="Short steps keep to second order, longer ones need not",
        alt="Left: real over predicted KL divergence against the predicted one, a line for each of "
        "several networks. All begin at one; from some length on they leave it, up or down. "
        "Right: real against predicted divergence of each image, on logarithmic axes with the "
        "line where they are equal. After ten epochs images that the network has right lie "
        "about the line, and of the few that it has wrong one lies far above it.",
        height=430,
    )
    _apart(figure)
    table = record["reach"].where(epoch=epoch)
    for seed in table.unique("seed"):
        rows = table.where(seed=seed)
        figure.add_scatter(
            x=rows["radius"], y=rows["ratio"], mode="lines", name="a network", hoverinfo="skip",
            line={"color": rgba(NATURAL, 0.6), "width": 1.5}, row=1, col=1,
        )  # fmt: skip
    figure.add_hline(y=1, line={"color": GREY, "dash": "dot", "width": 1.5}, row=1, col=1)
    images = record["images"].where(epoch=epoch)
    line = np.array([1e-8, 10.0])
    figure.add_scatter(
        x=line, y=line, mode="lines", line={"color": GREY, "dash": "dot", "width": 1.5},
        name="equal", hoverinfo="skip", row=1, col=2,
    )  # fmt: skip
    for name, colour, symbol in (("right", SLATE, "circle"), ("wrong", RED, "diamond")):
        rows = images.where(wrong=name == "wrong")
        figure.add_scatter(
            x=rows["predicted"], y=rows["real"], mode="markers", name=f"network {name}",
            marker={"color": colour, "size": 8, "opacity": 0.75, "symbol": symbol},
            meta={"legend": True}, row=1, col=2,
        )  # fmt: skip
    log = {"type": "log"}
    figure.update_xaxes(axis("½ Δθᵀ F Δθ (nats)", range=[-6.1, -0.9], dtick=2, **log), row=1, col=1)
    figure.update_yaxes(
        axis("real / predicted", range=[-0.75, 0.95], **FACTORS, **log), row=1, col=1
    )
    figure.update_xaxes(axis("predicted (nats)", range=[-7.2, 1], dtick=2, **log), row=1, col=2)
    figure.update_yaxes(axis("real (nats)", range=[-7.2, 1], dtick=2, **log), row=1, col=2)
    _names_above(figure, x=0.59)
    there = record["reach"].where(epoch=epoch, radius=LONG)
    wrong = there.rows()[0]
    text = (
        f"After {epoch} epoch{'s' if epoch != 1 else ''} a step that should move the function by "
        f"{LONG:g} nats moves it by {min(there['ratio']):.2f} to {max(there['ratio']):.2f} "
        f"times as much. In the right panel {wrong['wrong']} of {len(images)} images are "
        f"wrong; they hold {wrong['predicted'] / LONG:.0%} of the predicted divergence and "
        f"{wrong['real'] / (wrong['ratio'] * LONG):.0%} of the real one."
    )
    return figure, text


def divergences(record: Record) -> tuple[go.Figure, str]:
    """Natural steps at several stages: real over predicted KL divergence, at damping 0.1."""
    table = record["divergence"].where(damping=0.1)
    figure = go.Figure()
    figure.set_subplots(1, 1)
    figure.update_layout(
        layout(
            "Second order against the truth, for natural steps",
            "Dots for natural steps of several networks at three stages of training: real KL "
            "divergence over the predicted one, against the predicted one, on logarithmic axes "
            "with a line where they are equal.",
        ),
        xaxis=axis("½ Δθᵀ F Δθ, predicted (nats)", type="log"),
        yaxis=axis("real / predicted", type="log", range=[-0.55, 1.25], **FACTORS),
    )
    said = []
    symbols = ("circle", "diamond", "square")
    for epoch, colour, symbol in zip(table.unique("epoch"), EARLY_TO_LATE, symbols, strict=False):
        rows = table.where(epoch=epoch)
        name = "untrained" if epoch == 0 else f"{epoch} epoch{'s' if epoch > 1 else ''}"
        figure.add_scatter(
            x=rows["predicted"], y=np.array(rows["new_old"]) / rows["predicted"], mode="markers",
            name=name, meta={"legend": True},
            marker={"size": 10, "color": colour, "symbol": symbol, "opacity": 0.85},
        )  # fmt: skip
        short = rows.where(lam=max(table.unique("lam")))
        factor = np.median(np.array(short["new_old"]) / short["predicted"])
        said.append(f"{name} {factor:.2f}")
    figure.add_hline(y=1, line={"color": GREY, "dash": "dot", "width": 1.5})
    _names_above(figure, panels=False)
    for lam in table.unique("lam"):  # each price is a cluster: its name above it
        middle = np.median(table.where(lam=lam)["predicted"])
        figure.add_annotation(
            x=np.log10(middle), y=0.99, yref="paper", yanchor="top", text=f"λ = {lam:g}",
            showarrow=False, font={"color": GREY, "size": 13},
        )  # fmt: skip
    lam = max(table.unique("lam"))
    return figure, f"Real over predicted at λ = {lam:g}, the median: {'; '.join(said)}."


def _apart(figure: go.Figure) -> None:
    """Room between two panels for the right one's numbers and their label."""
    for x, note, ends in zip(("xaxis", "xaxis2"), figure.layout.annotations,
                             ((0.0, 0.41), (0.59, 1.0)), strict=True):  # fmt: skip
        figure.layout[x].domain = ends
        note.x = sum(ends) / 2


def _names_above(figure: go.Figure, x: float = 0, panels: bool = True) -> None:
    """A legend between the title and the panels, each name once."""
    seen: set[str] = set()
    for trace in figure.data:
        trace.showlegend = bool(trace.meta and trace.meta.get("legend")) and trace.name not in seen
        seen.add(trace.name)
    y, margin = (1.1, 80) if panels else (1.02, 56)
    legend = {"orientation": "h", "y": y, "yanchor": "bottom", "x": x}
    title = {"y": 0.99, "yanchor": "top"}
    figure.update_layout(showlegend=True, legend=legend, title=title, margin_t=margin)
