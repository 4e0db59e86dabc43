"""The scorecard as a figure: how many claims have each verdict."""

from collections.abc import Mapping

import plotly.graph_objects as go

from ..verdicts import seeds_said
from .style import COLOUR, axis, layout

_COLOUR = {
    "reproduced": "#1a9c5b",
    "partly": "#a3881c",
    "not reproduced": "#d0433a",
    "inconclusive": COLOUR["neutral"],
    "not tested": "#b4bac2",
}


def tally(counts: Mapping[str, int], seeds: int) -> tuple[go.Figure, str]:
    """A bar for each verdict, and a sentence that says the same."""
    figure = go.Figure()
    words = list(_COLOUR)
    said = ", ".join(f"{counts[word]} {word}" for word in words)
    figure.update_layout(
        layout(
            "How many claims have each verdict",
            f"Bars for the five verdicts, at {seeds_said(seeds)}: {said}.",
            height=270,
        )
    )
    figure.add_bar(
        y=words,
        x=[counts[word] for word in words],
        orientation="h",
        marker={"color": [_COLOUR[word] for word in words]},
        text=[str(counts[word]) for word in words],
        textposition="outside",
        cliponaxis=False,
    )
    across = f"claims of the paper, judged on up to {seeds_said(seeds)}"  # moves where bars do not
    figure.update_xaxes(axis(across, range=[0, 1.08 * sum(counts.values())]))
    figure.update_yaxes(axis("", autorange="reversed"))
    return figure, f"With {seeds_said(seeds)} used: {said}."
