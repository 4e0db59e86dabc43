"""A record whose every text is an attempt to run a script: in a page it is text, and nothing more.

The page here has no policy of its own, so that nothing but the escaping holds the text back.
"""

import re
import sys
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
from conftest import ROOT, watch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from hilbertlib import live, scorecard
from hilbertlib.experiments.catalogue import NAMES
from hilbertlib.experiments.runner import record_path
from hilbertlib.figures.cover import picture
from hilbertlib.figures.style import Line, curves
from hilbertlib.records import Claim, Provenance, Record, Table, judge, load_record, save_record
from publishing import outputs

sys.path.append(str(ROOT / "book" / "_ext"))
from function_space_book import FIGURE, LAB, PLOTLY, InteractiveMime

EVIL = (
    """</script><script>got="script"</script><img src="data:," onerror="got='image'">"""
    """<svg onload="got='svg'"></svg>"'><b onmouseover="got='hover'">bold</b>"""
    """<a href="javascript:got='link'">link</a><iframe srcdoc="<script>top.got=1</script>">"""
    """</td></table></figure>&lt;script&gt;`${got=1}`{{got}}"""
)


def hostile(name: str) -> Record:
    provenance = Provenance(
        config={"choices": [EVIL], EVIL: EVIL},
        seeds=[1, 2, 3],
        dataset=EVIL,
        dataset_checksum=EVIL,
        device=EVIL,
        versions={"torch": EVIL, EVIL: EVIL},
        seconds=1.0,
        commit=EVIL,
        dataset_note=EVIL,
        departures=[EVIL],
        reduced=True,
    )
    table = Table({"arm": [EVIL] * 3, "x": [1.0, 2.0, 3.0], EVIL: [EVIL] * 3})
    return Record(name, "paper", {"arms": table}, provenance)


def draw(record: Record) -> tuple[go.Figure, str]:
    """Each place where a figure can hold a text."""
    table = record.tables["arms"]
    arm = table["arm"][0]
    line = Line(arm, table["x"], table["x"])
    figure = curves([line, line], title=arm, alt=arm, x=arm, y=arm, labels=True)
    figure.add_scatter(
        x=[1, 2], y=[1, 2], name=arm, text=[arm, arm], hovertext=arm, mode="markers+text"
    )
    figure.add_bar(x=[arm], y=[1], xaxis="x2", yaxis="y2", hovertemplate=arm)
    figure.add_annotation(text=arm, hovertext=arm)
    figure.update_layout(
        showlegend=True, legend_title_text=arm, meta={"alt": arm, "provenance": arm, arm: arm}
    )
    return figure, arm


def emitted(action) -> list[dict]:
    InteractiveShell.instance()
    with capture_output() as captured:
        action()
    InteractiveShell.clear_instance()
    return [output.data for output in captured.outputs]


def written(mime: str, content: object) -> str:
    """The HTML that the build makes of an output."""
    (node,) = InteractiveMime.handle_mime(None, SimpleNamespace(mime_type=mime, content=content), 0)
    return node.astext()


def parts(folder) -> list[str]:
    """Everything that a page can make of a record and of what was said about it."""
    save_record(hostile("evil"), record_path(folder, "evil", "paper"))
    record = load_record(record_path(folder, "evil", "paper"))
    claim = Claim(
        EVIL, EVIL, EVIL, EVIL, "evil", lambda r: {EVIL: r.tables["arms"]["x"]}, 0.5, unit=EVIL
    )
    line = np.array([[0.0, 0.0], [1.0, 1.0]])
    out = [
        scorecard.verdict_table([(claim, judge(claim, record)), (claim, judge(claim, None))]),
        scorecard.sources({name: hostile(name) for name in NAMES}),
        picture({EVIL: [line], f"other {EVIL}": [line]}, alt=EVIL, steps=range(len(line))),
        live._caption_html(EVIL, EVIL),
        written(LAB, {"settings": dict.fromkeys(("tab", "data", "lam", "guide", EVIL), EVIL)}),
        written(PLOTLY, live._compact(draw(record)[0])),
    ]
    sliders = {"at": live.Slider(EVIL, [0, 1], text=lambda value: f"{value} {EVIL}")}
    for action in (
        lambda: live.show(draw(record)[0], EVIL, EVIL, EVIL),
        lambda: live.display(live.explore(lambda at: draw(record), caption=EVIL, **sliders)),
        lambda: live.beside(draw, record, caption=EVIL, provenance=EVIL, folder=folder),
    ):
        (data,) = emitted(action)
        out.append(written(FIGURE, data[live.FIGURE_MIME]))
    return out


def test_a_hostile_record_runs_nothing_in_a_page(browser, site, tmp_path, monkeypatch):
    monkeypatch.setenv("HILBERT_BOOK", "1")
    scripts = "".join(f'<script defer src="_static/{s}"></script>' for s in ("book.js", "lab.js"))
    style = '<link rel="stylesheet" href="_static/book.css">'
    body = "\n".join(f'<div class="part">{part}</div>' for part in parts(tmp_path))
    text = f'<!DOCTYPE html><meta charset="utf-8">{style}{scripts}<body>{body}</body>'
    page = browser.new_page()
    seen = watch(page, site)
    page.route("**/hostile.html", lambda r: r.fulfill(body=text, content_type="text/html"))
    page.goto(site + "hostile.html#tab=<img src=x onerror=got=1>&changes=9.lam.<b>")
    page.wait_for_function("typeof HilbertLab === 'object'")
    for figure in page.locator("figure.book-figure").all():
        figure.scroll_into_view_if_needed()
        page.wait_for_function("f => f.dataset.drawn", arg=figure.element_handle())
        for slider in figure.locator("input[type=range]").all():
            slider.press("ArrowRight")
    page.locator(".hilbert-lab").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.hilbert-lab .hl-button')")
    for point in page.locator(".points path, .annotation, .legendtext, .book-plot").all()[:40]:
        point.dispatch_event("mouseover")
        point.dispatch_event("mousemove")
    page.wait_for_timeout(300)
    found = page.evaluate(
        """() => ({
            got: window.got ?? null,
            parts: document.querySelectorAll("body > .part").length,
            tags: [...document.querySelectorAll("body img[src^='data:,'], body iframe, "
                + "body script:not([type='application/json'])")].map((e) => e.outerHTML),
            handlers: [...document.querySelectorAll("body *")].filter((e) => [...e.attributes]
                .some((a) => a.name.startsWith("on"))).map((e) => e.outerHTML),
            links: [...document.querySelectorAll("body a")].map((a) => a.getAttribute("href")
                ?? a.getAttribute("xlink:href")).filter((h) => h && /script:/i.test(h)),
        })"""
    )
    nothing = {"got": None, "parts": 9, "tags": [], "handlers": [], "links": []}
    assert found == nothing
    assert "<img" in page.locator("table.book-verdicts").first.inner_text()  # it was there, as text
    assert seen.outside == []
    page.close()


def test_a_figure_in_a_hosted_notebook_closes_no_script_early():
    """Colab is given Plotly's own HTML, in which the figure stands inside a script."""

    def ends(text: str) -> int:
        figure = go.Figure(go.Scatter(x=[1], y=[1], name=text)).update_layout(title=text)
        return figure.to_html(include_plotlyjs=False, full_html=False).count("</script>")

    assert ends(EVIL) == ends("harmless")


def test_a_published_notebook_shows_a_hostile_record_as_text():
    def tags(text: str) -> list[str]:
        payload = {
            "figure": live._compact(draw_named(text)),
            "controls": [{"label": text, "texts": [text, text], "start": 0}],
            **dict.fromkeys(("caption", "provenance", "alt"), text),
        }
        page = outputs.figure_html(payload, "one") + outputs.laboratory_html({"tab": text})
        return re.findall(r"</?(?:script|img|svg|iframe|b|a|table|figure)\b", page)

    assert tags(EVIL) == tags("harmless")


def draw_named(text: str) -> go.Figure:
    return go.Figure(go.Scatter(x=[1], y=[1], name=text)).update_layout(title=text)
