"""What a chapter's cells show: the JSON that the book's pages draw, as HTML in a notebook.

Everything that a record or a chapter says is escaped here or by Plotly, so that no text of theirs
can become script.
"""

import html
import json
from typing import Any

import plotly.graph_objects as go

from hilbertlib import lab
from hilbertlib.lab.widget import LAB_MIME
from hilbertlib.live import FIGURE_MIME

GLUED = "application/papermill.record/"


def figure_html(payload: dict[str, Any], name: str) -> str:
    """A figure where its sliders start, with its caption; Plotly comes from its own network."""
    drawn = go.Figure(payload["figure"]).to_html(
        full_html=False, include_plotlyjs="cdn", div_id=name, config={"responsive": True}
    )
    moves = [html.escape(control["label"]) for control in payload["controls"]]
    notes = [html.escape(payload[part]) for part in ("caption", "provenance") if payload.get(part)]
    if moves:
        notes.append(f"<em>Run the cell above to move: {'; '.join(moves)}.</em>")
    alt = html.escape(payload.get("alt") or "Figure", quote=True)
    return (
        f'<div role="img" aria-label="{alt}">{drawn}</div>'
        f"<p style='max-width:44em'>{' '.join(notes)}</p>"
    )


def laboratory_html(settings: dict[str, Any]) -> str:
    """The laboratory with everything that it needs: it trains in the reader's browser."""
    told = html.escape(json.dumps(settings), quote=True)
    return (
        f"<style>{lab.css()}</style>"
        f'<div class="hilbert-lab" data-settings="{told}">Run the cell above.</div>'
        f"<script>{lab.page_script()}</script>"
    )


def published(outputs: list[Any], name: str) -> list[Any]:
    """The outputs of one cell as its notebook should show them; glued values are left out."""
    kept = []
    for i, output in enumerate(outputs):
        data = output.get("data", {})
        if any(kind.startswith(GLUED) for kind in data):
            continue
        if FIGURE_MIME in data:
            data["text/html"] = figure_html(data.pop(FIGURE_MIME), f"{name}-{i}")
        elif LAB_MIME in data:
            data["text/html"] = laboratory_html(data.pop(LAB_MIME)["settings"])
        if output.output_type == "execute_result":
            output.execution_count = None
        kept.append(output)
    return kept
