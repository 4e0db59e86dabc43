"""The measurements' own arithmetic: targets, counts of passes, weights, twins. Never a time."""

import json
import re
import sys

import pytest
import torch
from torch import nn

import bench
from bench import __main__ as everything
from bench import ensemble, hcgd, matrices, pages
from hilbertlib.trajectory import Trajectory


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
        ({"share": 1, "adam": True, "corrections": 5}, 11),
        ({"share": 1, "compiled": {"backend": "eager"}}, 3),
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


def test_without_a_gpu_there_are_no_graphs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="CUDA graphs need a GPU"):
        list(hcgd.compiled_rows())


def test_a_ratio_is_taken_within_a_repeat():
    # The machine was twice as slow in the second repeat and four times in the third.
    assert hcgd.over("a", "b", {"a": [3.0, 6.0, 12.0], "b": [1.0, 2.0, 4.0]}) == 3


def test_a_loop_and_the_batched_computation_train_the_same():
    both = ensemble.trainers((64, 8, 10), seeds=3, epochs=2, examples=100)
    loop, many = ([h.train_loss for h in train()] for train in both.values())
    assert len(loop) == 3
    torch.testing.assert_close(torch.tensor(loop), torch.tensor(many), rtol=1e-4, atol=1e-5)
    assert len({tuple(losses) for losses in loop}) == 3  # a seed each


@pytest.mark.skipif(sys.platform != "linux", reason="a peak of memory is read on Linux only")
def test_matrices_are_measured_on_the_snapshots_that_were_written(tmp_path, monkeypatch):
    matrices.write(str(tmp_path), snapshots=4, parameters=7, examples=5)
    run = Trajectory.load(tmp_path)
    assert run.parameters.shape == (4, 7)
    assert torch.allclose(run.outputs.sum(dim=2), torch.ones(4, 5))
    for kind in matrices.KINDS:
        seconds, megabytes = matrices.measured(kind, str(tmp_path))
        assert seconds > 0
        assert megabytes < 100
    with pytest.raises(RuntimeError, match="holds no snapshots"):
        matrices.elsewhere("l2_matrix", str(tmp_path / "nothing"))
    taken = iter([(1.0, 2.0), (100.0, 10.0)] * 3)
    monkeypatch.setattr(matrices, "elsewhere", lambda kind, folder: next(taken))
    found = list(matrices.rows(few=2, parameters=7, examples=5))
    assert [value for _, value, _, _ in found[:5]] == [1, 100, 2, 10, 5]
    assert [name for name, *_ in found[::5]] == [
        "parameter_matrix, 2 snapshots of 7 numbers",
        "l2_matrix, 2 snapshots of 50 numbers",
        "pairwise_l2, 2 snapshots of 50 numbers",
    ]


def test_without_a_browser_it_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HILBERT_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(FileNotFoundError, match="playwright install chromium"), pages.chromium():
        pass


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
