"""Figures with captions and sliders: what the page gets, and what a kernel shows."""

import json
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from hilbertlib import live
from hilbertlib.claims import CLAIMS
from hilbertlib.data import load
from hilbertlib.experiments.common import live_record
from hilbertlib.experiments.trajectories import CLEAN
from hilbertlib.live import (
    FIGURE_MIME,
    Slider,
    beside,
    explore,
    glue,
    paper_record,
    runs_on,
    show,
    source,
)
from hilbertlib.provenance import describe_device
from hilbertlib.records import Claim, Provenance, Record, Table, save_record


def line(slope: float) -> go.Figure:
    figure = go.Figure(go.Scatter(x=[0, 1, 2], y=[0, slope, 2 * slope]))
    return figure.update_layout(title="A line", meta={"alt": "a line that rises"})


@pytest.fixture(autouse=True)
def shell():
    """Without a shell, display only prints."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.fixture
def in_book(monkeypatch):
    monkeypatch.setenv("HILBERT_BOOK", "1")


@pytest.fixture
def in_kernel(monkeypatch):
    monkeypatch.delenv("HILBERT_BOOK", raising=False)


def displayed(action) -> list[dict]:
    with capture_output() as captured:
        action()
    return [output.data for output in captured.outputs]


def rebuilt(payload: dict, index: int) -> dict:
    """The figure that the page makes of a frame: the base with the patch laid over it."""

    def merge(base, patch):
        out = dict(base)
        for key, value in patch.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merge(out[key], value) if both else value
        return {k: v for k, v in out.items() if v is not None}

    patch = payload["frames"][index]
    base = payload["figure"]
    return {
        "data": [merge(t, p) for t, p in zip(base["data"], patch["data"], strict=True)],
        "layout": merge(base["layout"], patch.get("layout", {})),
    }


def test_a_figure_that_cannot_be_drawn_stops_the_build_and_is_not_only_printed(in_book):
    def drawing(a):
        raise ZeroDivisionError(f"at {a}")

    with pytest.raises(ZeroDivisionError, match="at 1"):
        explore(drawing, a=Slider("a", [1, 2]), caption="Never seen.")


def test_a_slider_may_not_change_the_title(in_book):
    with pytest.raises(ValueError, match="at a=2 the figure has another title than at a=1"):
        explore(lambda a: line(1.0).update_layout(title=f"{a}"), a=Slider("a", [1, 2]), caption="")


def test_a_figure_for_the_page_carries_caption_alt_and_provenance(in_book):
    (data,) = displayed(lambda: show(line(2.0), "It rises.", provenance="made up"))
    payload = data[FIGURE_MIME]
    assert payload["caption"] == "It rises."
    assert payload["alt"] == "a line that rises"
    assert payload["provenance"] == "made up"
    assert payload["figure"]["data"][0]["y"] == [0, 2, 4]
    json.dumps(payload)


def test_a_figure_without_alt_text_is_refused_in_the_book(in_book):
    with pytest.raises(ValueError, match="alt text"):
        show(go.Figure(), "Nobody can see this.")


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6, unique=True))
@settings(max_examples=25, deadline=None)
def test_every_frame_can_be_rebuilt_from_the_first_and_its_difference(values):
    def draw(slope):
        figure = line(slope)
        if slope > 0:  # a key that only some frames have
            figure.update_layout(yaxis_range=[0, slope])
        return figure, f"slope {slope}"

    payload = explore(draw, caption="c", slope=Slider("slope", values, start=values[1])).payload()
    for i, value in enumerate(values):
        figure = rebuilt(payload, i)
        np.testing.assert_allclose(figure["data"][0]["y"], [0, value, 2 * value], rtol=1e-4)
        assert ("range" in figure["layout"].get("yaxis", {})) == (value > 0)
        assert payload["frames"][i]["text"] == f"slope {value}"
    assert payload["controls"][0]["start"] == 1


def test_a_live_record_stands_beside_the_paper_scale_one(in_book, tmp_path):
    live = live_record(
        "forgetting", {"runs": Table({"slope": [2.0]})}, config={}, seeds=[0],
        dataset=load("digits"), seconds=0.0,
    )  # fmt: skip

    def draw(record):
        return line(record["runs"]["slope"][0]), record.scale

    def on_page():
        (data,) = displayed(
            lambda: beside(draw, live, caption="c", provenance="made up", folder=tmp_path)
        )
        return data[FIGURE_MIME]

    assert paper_record(live, tmp_path) is live
    alone = on_page()
    assert alone["controls"] == []
    assert "made up; not run at the paper's scale yet" in alone["provenance"]
    paper = replace(live, scale="paper", tables={"runs": Table({"slope": [3.0]})})
    save_record(paper, tmp_path / "forgetting-paper.json")
    assert paper_record(live, tmp_path) == paper
    both = on_page()
    assert both["controls"][0]["texts"] == ["here", "paper"]
    assert [rebuilt(both, i)["data"][0]["y"][1] for i in (0, 1)] == [2, 3]
    assert [frame["text"] for frame in both["frames"]] == ["live", "paper"]
    assert "made up; at the paper's scale: reduced setting, digits, 1 seed" in both["provenance"]


def test_a_chapter_says_on_what_it_runs_and_how_long(in_kernel, monkeypatch, capsys):
    times = {"live": "a minute", "paper": "an hour"}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    runs_on("live", **times)
    assert capsys.readouterr().out.startswith(f"Runs on: {describe_device('cpu')}. Time: a minute.")
    runs_on("paper", **times, gpu=False)
    assert "no GPU" not in capsys.readouterr().out
    runs_on("paper", **times)
    said = capsys.readouterr().out
    assert "Time: an hour." in said
    assert "There is no GPU here" in said
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "a card")
    runs_on("paper", **times)
    assert capsys.readouterr().out == "Runs on: a card. Time: an hour.\n"
    runs_on("live", **times)
    assert "a card" not in capsys.readouterr().out
    with pytest.raises(ValueError, match='expected SCALE = "live" or "paper", got \'big\''):
        runs_on("big", **times)


def test_a_page_does_not_say_how_long_its_cells_would_take(in_book, capsys):
    runs_on("live", live="a minute", paper="an hour")
    assert capsys.readouterr().out == ""


def test_two_sliders_are_numbered_like_the_pages_loop():
    draw = lambda a, b: line(10 * a + b)  # noqa: E731
    figure = explore(draw, caption="c", a=Slider("a", [1, 2]), b=Slider("b", [3, 4, 5]))
    payload = figure.payload()
    slopes = [rebuilt(payload, i)["data"][0]["y"][1] for i in range(6)]
    assert slopes == [13, 14, 15, 23, 24, 25]  # index = a · 3 + b, as in book.js


def test_the_number_of_traces_may_not_change():
    def draw(n):
        return go.Figure([go.Scatter(y=[1.0])] * n)

    with pytest.raises(ValueError, match=r"n=3 the figure has 3 traces, at n=1 it has 1"):
        explore(draw, caption="c", n=Slider("n", [1, 3])).payload()


def test_in_a_kernel_every_move_calls_the_function_again(in_kernel):
    called = []

    def draw(slope):
        called.append(slope)
        return line(slope), f"now {slope}"

    values = [1.0, 2.0, 3.0]
    widget = explore(draw, caption="<i>c</i>", slope=Slider("slope", values, start=2.0)).widget()
    slider = widget.children[0]
    for i in range(3):
        slider.value = i
    assert called == [2.0, 1.0, 3.0]  # each value once; coming back costs nothing
    assert "&lt;i&gt;" in widget.children[-1].value


def test_an_error_in_the_function_reaches_the_reader(in_kernel):
    def draw(x):
        if x == 1:
            raise RuntimeError("training diverged")
        return line(x)

    slider = explore(draw, caption="c", x=Slider("x", [0, 1])).widget().children[0]
    with pytest.raises(RuntimeError, match="diverged"):
        slider.value = 1


def test_a_page_gets_json_and_a_kernel_gets_a_widget(monkeypatch):
    figure = explore(line, caption="c", slope=Slider("slope", [1.0, 2.0]))
    monkeypatch.setenv("HILBERT_BOOK", "1")
    (data,) = displayed(figure._ipython_display_)
    assert len(data[FIGURE_MIME]["frames"]) == 2
    monkeypatch.delenv("HILBERT_BOOK")
    data = displayed(figure._ipython_display_)[-1]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_numbers_are_cut_to_five_digits():
    assert live._rounded({"x": [1 / 3, 2.0, 123456.7, True, None, "a"]}) == {
        "x": [0.33333, 2, 123460, True, None, "a"]
    }
    array = go.Figure(go.Scatter(y=np.array([1 / 3, 0.5])))  # written as base64 by Plotly
    assert live._compact(array)["data"][0]["y"] == [0.33333, 0.5]
    square = go.Figure(go.Heatmap(z=np.eye(2)))
    assert live._compact(square)["data"][0]["z"] == [[1, 0], [0, 1]]


def test_glue_writes_what_myst_nb_reads():
    with capture_output() as captured:
        glue("answer", np.float64(0.25))
    (output,) = captured.outputs
    assert output.metadata["scrapbook"]["name"] == "answer"
    prefix = output.metadata["scrapbook"]["mime_prefix"]
    assert output.data == {prefix + "text/plain": "0.25"}


def test_source_quotes_the_code_without_its_docstrings():
    def twice(x: float) -> float:
        """Not shown."""
        return 2 * x  # shown

    (data,) = displayed(lambda: source(twice))
    text = data["text/markdown"]
    assert "return 2 * x  # shown" in text
    assert "Not shown" not in text
    assert text.startswith("```python\ndef twice")


def test_verdicts_are_shown_and_a_broken_claim_of_the_book_raises():
    def claim(where, margin):
        return Claim("c", where, "It is <b>big</b>.", "size", "e", lambda r: r["t"]["x"], margin)

    provenance = Provenance({}, [1, 2, 3], "d", "0", "cpu", {}, 0.0)
    record = Record("e", "live", {"t": Table({"x": [1.0, 1.1, 0.9]})}, provenance)
    with capture_output() as captured:
        live.verdicts(record, [claim("this chapter", 0.5), claim("Fig. 1", 2.0)])
    page = captured.outputs[0].data["text/html"]
    assert page.count("</tr>") == 3
    assert ">holds<" in page
    assert (
        "inconclusive (the reduced setting speaks against it)" in page
    )  # it cannot refute the paper
    assert "&lt;b&gt;" in page
    with pytest.raises(AssertionError, match="c: inconclusive"), capture_output():
        live.verdicts(record, [claim("this chapter", 2.0)])


def test_below_a_claim_stands_its_verdict_at_the_papers_scale(tmp_path):
    chosen = CLAIMS["guess-shuffled-divergence"], CLAIMS["traj-late-divergence"]

    def record(scale, far, **setting):
        rows = {"arm": [CLEAN] * 9, "seed": [0] * 3 + [1] * 3 + [2] * 3, "epoch": [0, 1, 2] * 3}
        apart = [x for more in (0.0, 0.1, 0.2) for x in (0.0, 1.0, far + more)]
        table = Table({**rows, "function": apart})
        provenance = Provenance({}, [0, 1, 2], "d", "0", "cpu", {}, 0.0, **setting)
        return Record("trajectories", scale, {"apart": table}, provenance)

    def shown(here):
        with capture_output() as captured:
            live.verdicts(here, chosen, folder=tmp_path)
        return captured.outputs[0].data["text/html"]

    assert "book-paper" not in shown(record("live", 1.0))  # no record in the folder
    save_record(record("paper", 1.5), tmp_path / "trajectories-paper.json")
    page = shown(record("live", 1.0))
    guess, claim, there = page.split("<tr")[2:]
    assert ">waits<" in guess  # at neither scale
    assert "1.1 [" in claim
    assert "1.6 [" in there
    assert ">reproduced<" in there
    assert "the same at the paper's scale" in there
    save_record(
        record("paper", 1.5, departures=["smaller"], reduced=True),
        tmp_path / "trajectories-paper.json",
    )
    assert "the same in a larger run, still reduced" in shown(record("live", 1.0))
    assert "book-paper" not in shown(record("paper", 1.5))  # nothing else to say


def test_source_leaves_out_refusals_of_bad_input():
    def root(x: float) -> float:
        if x < 0:
            raise ValueError("negative")
        return x**0.5

    (data,) = displayed(lambda: source(root))
    assert "raise" not in data["text/markdown"]
    assert "return x**0.5" in data["text/markdown"]


def test_a_slider_says_what_is_wrong_with_it():
    with pytest.raises(ValueError, match="at least two values"):
        Slider("λ", [1])
    with pytest.raises(ValueError, match=r"start=3 is not one of \[1, 2\]"):
        Slider("λ", [1, 2], start=3)
    with pytest.raises(ValueError, match="at least one Slider"):
        explore(line, caption="c")
