"""The command line, as it is typed."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from hilbertlib.__main__ import main
from hilbertlib.experiments import catalogue, forgetting
from hilbertlib.experiments.runner import record_path
from hilbertlib.records import load_record


@pytest.fixture
def short(monkeypatch):
    """The forgetting experiment with one epoch of two tasks."""
    live = replace(forgetting.LIVE, tasks=2, epochs=1)
    toy = replace(forgetting.EXPERIMENT, live=live, seeds={"live": 1, "paper": 1})
    monkeypatch.setitem(catalogue.EXPERIMENTS, "forgetting", toy)


def of_figure_4(listed: str) -> str:
    return listed[listed.index("\nforgetting ") : listed.index("\nforgetting_grid ")]


def test_run_show_and_list(short, tmp_path, capsys):
    run = ["run", "forgetting", "--out", str(tmp_path), "--arms", "Adam", "--arms", "L2"]
    assert main(run) == 0
    path = record_path(tmp_path, "forgetting", "live")
    record = load_record(path)
    assert record["ends"]["arm"] == ["Adam", "L2"]
    out = capsys.readouterr().out
    assert f"written to {path}" in out
    assert "forget-adam: inconclusive (reduced setting)" in out
    assert main(["show", "forgetting", "--out", str(tmp_path)]) == 0
    assert "table ends: 2 rows of arm, seed" in capsys.readouterr().out
    assert main(["list", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{path}: reduced, 1 seed, " in out
    assert "8 claims: 8 not tested" in of_figure_4(out)  # a live record is no verdict on the paper
    assert [line.split()[0] for line in out.splitlines() if line[:1].strip()] == [*catalogue.NAMES]
    assert re.search(r"^estimator +Figs. 3, A.2\n +How many examples", out, re.M)
    assert main([*run, "--seeds", "2"]) == 0
    assert len(load_record(path)["ends"]) == 4


def test_list_counts_the_verdicts_of_paper_records(tmp_path, monkeypatch, capsys):
    tiny = replace(forgetting.LIVE, scale="paper", tasks=2, epochs=1)
    toy = replace(forgetting.EXPERIMENT, paper=tiny)
    monkeypatch.setitem(catalogue.EXPERIMENTS, "forgetting", toy)
    options = ["--scale", "paper", "--seeds", "2", "--arms", "Adam", "--out", str(tmp_path)]
    assert main(["run", "forgetting", *options]) == 0
    capsys.readouterr()
    assert main(["list", "--out", str(tmp_path)]) == 0
    out = of_figure_4(capsys.readouterr().out)
    assert "8 claims: 1 inconclusive, 6 not tested, 1 reproduced" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "forgetting"], "there is no"),
        (["run", "forgetting", "--arms", "nothing"], "expected arms among"),
        (["run", "forgetting", "--reduced"], "--reduced is for --scale paper of"),
        (["run", "forgetting", "--backend", "dask"], "go together"),
        (["run", "forgetting", "--scheduler", "tcp://127.0.0.1:9"], "go together"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "invalid choice: 'nothing'"),
        (["run", "forgetting", "--seeds", "0"], "expected a whole number, at least 1; got 0"),
        (["run", "forgetting", "--seeds", "some"], "expected a whole number, at least 1; got some"),
        (["run", "forgetting", "--jobs", "-2"], "at least 1, or -1; got -2"),
        (["run", "forgetting", "--scale", "huge"], "invalid choice: 'huge'"),
        ([], "required"),
    ],
)
def test_bad_options_are_explained(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_damaged_record_is_named(tmp_path, capsys):
    path = record_path(tmp_path, "forgetting", "live")
    path.write_text("{}")
    assert main(["show", "forgetting", "--out", str(tmp_path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_no_scheduler(tmp_path, capsys, short):
    pytest.importorskip("distributed")
    options = ["--backend", "dask", "--scheduler", "tcp://127.0.0.1:9", "--out", str(tmp_path)]
    assert main(["run", "forgetting", *options]) == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "hilbertlib", "list", "--out", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Fig. 4" in said
