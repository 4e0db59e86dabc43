"""Figures with a caption, and figures with sliders, that work in a page and in a live kernel.

One object serves both. In a kernel, :func:`explore` shows an ipywidgets slider whose every move
calls the function again, so it retrains. While the book is built (environment variable
``HILBERT_BOOK``), the same object calls the function once for each value of the slider and emits
the results as JSON, which the page draws with no kernel.
"""

import ast
import base64
import html
import inspect
import itertools
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import plotly.graph_objects as go
from IPython.display import HTML, Markdown, display

from . import scorecard as _tables
from .claims import CLAIMS
from .experiments.runner import record_path
from .provenance import describe_device
from .records import Claim, Record, judge, load_record, records_folder
from .training import resolve_device

FIGURE_MIME = "application/vnd.hilbertlib.figure+json"
LAB_MIME = "application/vnd.hilbertlib.lab+json"


def building_book() -> bool:
    """Whether the outputs go to a page that has no kernel."""
    return bool(os.environ.get("HILBERT_BOOK"))


def runs_on(scale: str, *, live: str, paper: str, gpu: bool = True) -> None:
    """Say on what a chapter's cells run and how long they take, before they do.

    At the live scale that is the CPU, where networks this small are fastest and their numbers come
    out alike. At the paper's scale :func:`hilbertlib.experiments.runner.run_cells` takes a GPU
    where there is one. A page, whose cells have run, says nothing.

    Parameters
    ----------
    scale : str
        ``"live"`` or ``"paper"``.
    live, paper : str
        How long all cells take at each scale, and on what: ``"a minute on two cores"``.
    gpu : bool
        Whether the chapter's paper-scale cells can use a GPU.

    Raises
    ------
    ValueError
        If there is no such scale.
    """
    if scale not in ("live", "paper"):
        raise ValueError(f'expected SCALE = "live" or "paper", got {scale!r}')
    if building_book():
        return
    device = resolve_device("auto" if scale == "paper" and gpu else "cpu")
    print(f"Runs on: {describe_device(device)}. Time: {live if scale == 'live' else paper}.")
    if scale == "paper" and gpu and device.type == "cpu":
        print("There is no GPU here. In Colab: Runtime, Change runtime type, then run all again.")


def glue(name: str, value: Any) -> None:
    """Mark ``value`` so that prose can quote it with the role ``{glue:text}``.

    Writes the metadata that MyST-NB's own ``glue`` writes, and needs neither MyST-NB nor Sphinx.
    The output itself is not displayed.

    Parameters
    ----------
    name : str
        Unique within the notebook.
    value : float, int, str or 0-dim tensor or array
    """
    plain = value.item() if hasattr(value, "item") else value
    prefix = "application/papermill.record/"
    display(
        {f"{prefix}text/plain": repr(plain)},
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
    )


def glue_all(**values: Any) -> None:
    """:func:`glue` each of these under its own name."""
    for name, value in values.items():
        glue(name, value)


def laboratory(tab: str = "learn", **settings: Any) -> None:
    """Display the laboratory, in which the reader's own browser trains (:mod:`hilbertlib.lab`).

    Takes the arguments of :class:`hilbertlib.lab.Lab`; in a page it needs no kernel.
    """
    if building_book():
        page = {"settings": {"tab": tab, **settings}}
        display({LAB_MIME: page, "text/plain": "The laboratory"}, raw=True)
    else:
        from .lab import Lab

        display(Lab(tab, **settings))


def verdicts(record: Record, claims: Iterable[Claim], folder: str | Path = "records") -> None:
    """Judge the claims on the record and display the verdicts as a table.

    Below a claim of the scorecard stands its verdict on the record in ``folder``, where the
    experiment has been run at the paper's scale.

    Raises:
        AssertionError: If a claim of the book itself does not hold. The paper's claims may fail:
            then the table says so.
    """
    judged = [(claim, judge(claim, record)) for claim in claims]
    paper = paper_record(record, folder) if record.scale == "live" else record
    there = {c.id: judge(c, paper) for c, _ in judged if c.id in CLAIMS and paper is not record}
    display(HTML(_tables.verdict_table(judged, paper=there)))
    broken = [
        f"{claim.id}: {verdict.word}, {verdict.reason}"
        for claim, verdict in judged
        if claim.where == "this chapter" and verdict.word != "reproduced"
    ]
    assert not broken, "a claim of this book no longer holds: " + "; ".join(broken)


def scorecard(records: Mapping[str, Record], ours: bool = False) -> None:
    """Display every claim of the paper, or our own, judged on paper-scale records."""
    display(HTML(_tables.scorecard(records, ours)))


def sources(records: Mapping[str, Record]) -> None:
    """Display where each record comes from, and how to make those that are missing."""
    display(HTML(_tables.sources(records)))


def _is_docstring(node: ast.AST) -> TypeGuard[ast.stmt]:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_refusal(node: ast.AST) -> TypeGuard[ast.stmt]:
    return isinstance(node, ast.If) and not node.orelse and isinstance(node.body[0], ast.Raise)


def source(*objects: Any) -> None:
    """Display the library's own lines, so that the book cannot drift.

    Docstrings and refusals of bad input (an ``if`` that only raises) are left out.
    """
    parts = []
    for obj in objects:
        tree = ast.parse(textwrap.dedent(inspect.getsource(obj)))
        lines = textwrap.dedent(inspect.getsource(obj)).splitlines()
        left_out = [n for n in ast.walk(tree) if _is_docstring(n) or _is_refusal(n)]
        for node in sorted(left_out, key=lambda n: n.lineno, reverse=True):
            del lines[node.lineno - 1 : node.end_lineno]
        parts.append("\n".join(lines).strip("\n"))
    display(Markdown("```python\n" + "\n\n\n".join(parts) + "\n```"))


@dataclass(frozen=True)
class Slider:
    """The values a reader can choose among.

    Parameters
    ----------
    label : str
        What the slider changes, with its unit, for example ``"λ, the leash"``.
    values : sequence
        In the order of the slider.
    start : optional
        The value shown first; the first of ``values`` by default.
    text : callable
        How a value is printed.
    """

    label: str
    values: Sequence[Any]
    start: Any = None
    text: Callable[[Any], str] = "{:g}".format

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"a slider needs at least two values, got {list(self.values)}")
        if self.start is not None and self.start not in self.values:
            raise ValueError(f"start={self.start!r} is not one of {list(self.values)}")

    @property
    def start_index(self) -> int:
        """Position of the value shown first."""
        return 0 if self.start is None else list(self.values).index(self.start)


def show(figure: go.Figure, caption: str, alt: str = "", provenance: str = "") -> None:
    """Display a figure with its caption.

    Parameters
    ----------
    figure : plotly Figure
        Its title says what it shows.
    caption : str
        The takeaway, in a sentence.
    alt : str
        What a reader who cannot see the figure is told; ``figure.layout.meta["alt"]`` by default.
    provenance : str
        Where the numbers come from; ``figure.layout.meta["provenance"]`` by default.
    """
    meta = figure.layout.meta or {}
    alt, provenance = alt or meta.get("alt", ""), provenance or meta.get("provenance", "")
    if building_book():
        _emit({"figure": _compact(figure), "controls": [], "frames": []}, caption, alt, provenance)
    else:
        _show_live(figure)
        display(HTML(_caption_html(caption, provenance)))


class explore:
    """A figure that moves: ``explore(draw, lam=Slider("λ", [0, 0.1, 1]), caption="...")``.

    Parameters
    ----------
    draw : callable
        ``draw(**values) -> Figure`` or ``(Figure, str)``; the string is one sentence on what is
        drawn now, read aloud by screen readers. Every figure must have the same traces, in the
        same order.
    caption, alt, provenance : str
        As for :func:`show`.
    sliders : Slider
        One keyword for each argument of ``draw``.

    Raises
    ------
    ValueError
        No slider is given, or two values give figures with a different number of traces or
        different titles.
    """

    def __init__(
        self,
        draw: Callable[..., go.Figure | tuple[go.Figure, str]],
        *,
        caption: str,
        alt: str = "",
        provenance: str = "",
        **sliders: Slider,
    ) -> None:
        if not sliders:
            raise ValueError(
                "explore needs at least one Slider, for example lam=Slider('λ', [0, 1])"
            )
        self._draw, self.sliders = draw, sliders
        self._caption, self._alt, self._provenance = caption, alt, provenance
        self._known: dict[tuple[int, ...], tuple[go.Figure, str]] = {}
        # Now, since what a display raises is only printed; from here it stops the build.
        self._page = self.payload() if building_book() else None

    def frame(self, *index: int) -> tuple[go.Figure, str]:
        """The figure and its sentence at these positions of the sliders, computed once."""
        if index not in self._known:
            values = {
                name: s.values[i] for (name, s), i in zip(self.sliders.items(), index, strict=True)
            }
            drawn = self._draw(**values)
            self._known[index] = drawn if isinstance(drawn, tuple) else (drawn, "")
        return self._known[index]

    def payload(self) -> dict[str, Any]:
        """What the page needs: the first figure whole, every other one as its difference."""
        start = tuple(s.start_index for s in self.sliders.values())
        figure, _ = self.frame(*start)
        base = _compact(figure)
        frames = []
        for index in itertools.product(*(range(len(s.values)) for s in self.sliders.values())):
            other, text = self.frame(*index)
            now = _compact(other)
            if len(now["data"]) != len(base["data"]):
                raise ValueError(
                    f"at {self._describe(index)} the figure has {len(now['data'])} traces, at "
                    f"{self._describe(start)} it has {len(base['data'])}; a slider may not change "
                    "that"
                )
            if now["layout"].get("title") != base["layout"].get("title"):
                raise ValueError(
                    f"at {self._describe(index)} the figure has another title than at "
                    f"{self._describe(start)}; a slider may not change that"
                )
            patch: dict[str, Any] = {
                "data": [_difference(a, b) for a, b in zip(base["data"], now["data"], strict=True)]
            }
            if layout := _difference(base["layout"], now["layout"]):
                patch["layout"] = layout
            if text:
                patch["text"] = text
            frames.append(patch)
        controls = [
            {"label": s.label, "texts": [s.text(v) for v in s.values], "start": s.start_index}
            for s in self.sliders.values()
        ]
        return {"figure": base, "controls": controls, "frames": frames}

    def widget(self) -> Any:
        """The live form: sliders over an output; every move calls ``draw``."""
        import ipywidgets as widgets

        picks = [
            widgets.SelectionSlider(
                options=[(s.text(v), i) for i, v in enumerate(s.values)],
                value=s.start_index,
                description=s.label,
                continuous_update=False,
                style={"description_width": "initial"},
                layout={"width": "min(36em, 95%)"},
            )
            for s in self.sliders.values()
        ]
        out = widgets.Output()

        def update(_change: Any = None) -> None:
            figure, text = self.frame(*(p.value for p in picks))
            out.clear_output(wait=True)
            with out:
                _show_live(figure)
                if text:
                    display(HTML(f"<p>{html.escape(text)}</p>"))

        for pick in picks:
            pick.observe(update, "value")
        update()
        note = widgets.HTML(_caption_html(self._caption, self._provenance))
        return widgets.VBox([*picks, out, note])

    def _describe(self, index: Sequence[int]) -> str:
        pairs = zip(self.sliders.items(), index, strict=True)
        return ", ".join(f"{name}={s.text(s.values[i])}" for (name, s), i in pairs)

    def _ipython_display_(self) -> None:
        if building_book():
            figure, _ = self.frame(*(s.start_index for s in self.sliders.values()))
            meta = figure.layout.meta or {}
            _emit(
                self._page or self.payload(),
                self._caption,
                self._alt or meta.get("alt", ""),
                self._provenance or meta.get("provenance", ""),
            )
        else:
            display(self.widget())


def paper_record(live: Record, folder: str | Path = "records") -> Record:
    """The record in ``folder`` of a live record's experiment at the paper's scale.

    ``live`` itself where there is none.

    Raises:
        ValueError: If the record is damaged.
    """
    path = record_path(records_folder(folder), live.experiment, "paper")
    return load_record(path) if path.exists() else live


def beside(
    draw: Callable[[Record], go.Figure | tuple[go.Figure, str]],
    live: Record,
    *,
    caption: str,
    provenance: str = "",
    folder: str | Path = "records",
) -> None:
    """Display the figure of a live record with a switch to the record at the paper's scale.

    Parameters
    ----------
    draw : callable
        From a record to a figure, or to a figure and a sentence on it; with the same traces for
        both records.
    live : Record
        What the chapter has just run. Its experiment's name is that of the record in ``folder``.
        Where there is none, the live figure stands alone and says so.
    caption, provenance : str
        As for :func:`show`; the provenance is that of the live record.
    """
    paper = paper_record(live, folder)
    if paper is live:
        note = f"{provenance}; not run at the paper's scale yet"
        drawn = draw(live)
        show(drawn[0] if isinstance(drawn, tuple) else drawn, caption, provenance=note)
        return
    about = paper.provenance
    reduced = "reduced setting, " if about.reduced else ""
    note = (
        f"here: {provenance}; at the paper's scale: {reduced}{about.dataset}, "
        f"{paper.seeds_said}, {about.device}"
    )
    records = {"here": live, "paper": paper}
    display(
        explore(
            lambda scale: draw(records[scale]),
            scale=Slider("scale: here, or the paper's", list(records), text=str),
            caption=caption,
            provenance=note,
        )
    )


def _emit(payload: dict[str, Any], caption: str, alt: str, provenance: str) -> None:
    if not alt:
        raise ValueError(
            "a figure in the book needs alt text: pass alt=, or set layout.meta['alt']"
        )
    payload |= {"caption": caption, "alt": alt, "provenance": provenance}
    display({FIGURE_MIME: payload, "text/plain": f"Figure: {caption}"}, raw=True)


def _show_live(figure: go.Figure) -> None:
    if "google.colab" in sys.modules:  # each output is a frame of its own there, without Plotly
        display(HTML(figure.to_html(include_plotlyjs="cdn", full_html=False)))
    else:
        display(figure)


def _caption_html(caption: str, provenance: str) -> str:
    source = f" <small>{html.escape(provenance)}</small>" if provenance else ""
    return f"<p style='max-width:44em'>{html.escape(caption)}{source}</p>"


def _compact(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain JSON, its numbers cut to five significant digits to keep a page light."""
    return _rounded(json.loads(figure.to_json()))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() >= {"dtype", "bdata"}:  # Plotly's binary form of an array
            flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
            shape = [int(n) for n in str(value.get("shape", len(flat))).split(",")]
            return _rounded(flat.reshape(shape).tolist())
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        short = float(f"{value:.5g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    return value


def _difference(base: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The keys of ``now`` that differ from ``base``; keys that ``now`` lacks become ``None``."""
    out: dict[str, Any] = dict.fromkeys(base.keys() - now.keys())
    for key, value in now.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _difference(old, value):
                out[key] = inner
        elif value != old:
            out[key] = value
    return out
