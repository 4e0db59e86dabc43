"""More figures of chapter 9: matrices in the place of F, and inputs that make F rounder."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ..records import Record, Table, seed_interval
from .style import COLOUR, SCALE_COLOUR, axis, error_bars, layout


def kinds(record: Record, epoch: int) -> tuple[go.Figure, str]:
    """What is missing from the step with each relative of F; 95% intervals over seeds."""
    table = record["kinds"].where(epoch=epoch)
    names = [kind for kind in dict.fromkeys(table["kind"]) if kind != "true"]
    found = {kind: table.where(kind=kind)["missing"] for kind in names}
    figure = _dots(
        found,
        title="The step with something else for F",
        x="share missing",
        alt="A dot with an interval for each matrix in F's place: sampled labels with one, ten and "
        "a hundred draws, the labels of the data, the outputs' and the logits' own squared "
        "distances, noise for images, and one gradient for all.",
        colours={kind: SCALE_COLOUR[0] for kind in names if kind.startswith("sampled")}
        | {"empirical": SCALE_COLOUR[2]},
        top=_reach(record["kinds"], "kind"),
    )
    said = ", ".join(f"{kind}: {np.mean(values):.1%}" for kind, values in found.items())
    return figure, f"Epoch {epoch}, missing: {said}."


def inputs(record: Record, epoch: int) -> tuple[go.Figure, str]:
    """What is missing from the plain gradient's step, by what was done to the inputs."""
    table = record["inputs"].where(epoch=epoch)
    names = list(dict.fromkeys(table["how"]))
    found = {how: table.where(how=how)["missing"] for how in names}
    figure = _dots(
        found,
        title="How much the plain gradient misses",
        x="share missing from −J",
        alt="A dot with an interval for pixels as they are, centred pixels, whitened pixels, and "
        "BatchNorm in the network: what the plain gradient's step misses of what the natural "
        "one gains.",
        colours={},
        top=_reach(record["inputs"], "how"),
    )
    steps = ", ".join(f"{how} {np.mean(table.where(how=how)['steps']):.0f}" for how in names)
    return figure, f"Epoch {epoch}: inner steps until at most 5% is missing: {steps}."


def _reach(table: Table, column: str) -> float:
    """Where an axis ends that holds the intervals of all stages: it stands still as a slider moves.

    An interval may reach beyond one, where nothing can lie.
    """
    groups = [table.where(**{column: v}, epoch=e)["missing"]
              for v in table.unique(column) for e in table.unique("epoch")]  # fmt: skip
    return min(1.02, 0.02 + max(seed_interval(group).high for group in groups))


def _dots(
    values: Mapping[str, Sequence[float]], *, title: str, x: str, alt: str,
    colours: Mapping[str, str], top: float,
) -> go.Figure:  # fmt: skip
    figure = go.Figure()
    figure.set_subplots(1, 1)
    found = [seed_interval(v) for v in values.values()]
    figure.add_scatter(
        x=[v.mean for v in found],
        y=list(values),
        error_x=error_bars(found),
        mode="markers",
        marker={
            "size": 11,
            "color": [colours.get(name, COLOUR["neutral"]) for name in values],
        },
    )
    figure.update_layout(
        layout(title, alt, height=60 + 36 * len(found)),
        xaxis=axis(x, tickformat=".0%", range=[-0.01, top]),
        yaxis=axis("", autorange="reversed"),
    )
    return figure
