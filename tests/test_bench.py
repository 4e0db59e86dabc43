"""The measurements' own arithmetic: targets, counts of passes, weights, twins. Never a time."""

import json
import re

import pytest
from torch import nn

import bench
from bench import __main__ as everything
from bench import hcgd, pages


@pytest.mark.parametrize(
    ("value", "target", "word"),
    [
        (2.05, "<= 2.05", "met"),
        (2.06, "<= 2.05", "MISSED"),
        (20, ">= 20", "met"),
        (19.9, ">= 20", "MISSED"),
        (2.4, "passes 2.33; <= 2.45", "met"),
        (2.5, "passes 2.33; <= 2.45", "MISSED"),
        (60, "60 (the display's)", ""),
        (1, "", ""),
        (float("nan"), "<= 1", "MISSED"),
    ],
)
def test_a_target_is_met_or_missed(value, target, word):
    assert bench.met(value, target) == word


def test_the_table_says_what_how_much_and_whether(capsys):
    bench.print_table([("a step", 2.5, "x", "<= 2.45"), ("a page", 1.25, "MB", "")])
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["a", "step", "2.5", "x", "<=", "2.45", "MISSED"]
    assert second.split() == ["a", "page", "1.25", "MB"]


def test_a_section_that_cannot_run_says_why_and_the_others_go_on(capsys, monkeypatch):
    def half():
        yield "before it broke", 1.0, "s", ""
        raise FileNotFoundError("x is missing")

    monkeypatch.setattr(pages, "chapters", half)
    monkeypatch.setattr(pages, "weights", lambda: [("page", 1.0, "MB", "<= 2.0")])
    sections = {
        "gone": ("Not there", "bench.gone:rows"),
        "half": ("Breaks", "bench.pages:chapters"),
        "well": ("Works", "bench.pages:weights"),
    }
    monkeypatch.setattr(everything, "SECTIONS", sections)
    everything.main([])
    out = capsys.readouterr().out
    assert "not measured: ModuleNotFoundError: No module named 'bench.gone'" in out
    assert re.search(r"before it broke.*\n  not measured: FileNotFoundError: x is missing", out)
    assert re.search(r"Works\n  page .* met$", out.strip())
    everything.main(["well"])
    assert "Breaks" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="unknown section pages: choose among gone, half, well"):
        everything.main(["pages"])


def test_every_section_names_a_function():
    for title, place in everything.SECTIONS.values():
        module, function = place.split(":")
        assert title
        assert callable(getattr(__import__(module, fromlist=[function]), function))


@pytest.mark.parametrize(
    ("options", "forward"),
    [
        ({}, 1),
        ({"share": 1}, 3),
        ({"share": 2}, 5),
        ({"share": 1, "reuse": True}, 2),
        ({"share": 1, "corrections": 5}, 11),
        ({"share": 1, "adam": True}, 3),
    ],
)
def test_a_step_makes_the_passes_that_it_is_compared_with(options, forward):
    seen = []

    def build():
        model = nn.Linear(4, 10)
        model.register_forward_hook(lambda _, inputs, out: seen.append(len(inputs[0])))
        return model

    step = hcgd.stepper(build, (4,), 8, **options)
    step()  # the first compares what it is given
    seen.clear()
    step()
    assert sum(seen) == forward * 8


def test_candidates_take_turns():
    order = []
    steps = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = hcgd.interleaved(steps, repeats=4, least=0)
    assert order == ["a", "a", "b", "b"] + ["a", "b"] * 4
    assert {name: len(t) for name, t in times.items()} == {"a": 4, "b": 4}


def test_seconds_of_the_chapters(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"seconds\.json is missing: run make book first"):
        pages.chapters()
    (tmp_path / "_build").mkdir()
    seconds = {"01-one": 61.0, "02-two": 2.0, "index": 9.0, "03-unknown": None}
    (tmp_path / "_build" / "seconds.json").write_text(json.dumps(seconds))
    rows = pages.chapters()
    assert rows[0] == ("01-one", 61.0, "s", "<= 60")
    assert rows[2] == ("index", 9.0, "s", "")
    assert rows[-1] == ("all 2 chapters", 63.0, "s", "<= 120")


def test_the_books_own_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "HTML", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no pages in .*: run make book first"):
        pages.book_pages()
    for folder in ("api", "_static"):
        (tmp_path / folder).mkdir()
    aside = ("search.html", "genindex.html", "_static/d.html")
    for name in ("b.html", "a.html", "api/c.html", *aside):
        (tmp_path / name).touch()
    assert pages.book_pages() == ["a.html", "api/c.html", "b.html"]


def test_the_heavy_twin_loads_its_bundle_before_anything_else():
    twin = pages.heavy_twin('<html><head><script defer src="b.js"></script></head></html>')
    first = re.search(r"<script[^>]*>", twin)[0]
    assert first == '<script src="heavy-twin.js">'  # neither defer nor async
    with pytest.raises(ValueError, match="expected a page with a <head>"):
        pages.heavy_twin("<html></html>")
