import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from hilbertlib.experiments import forgetting, runner
from hilbertlib.experiments.runner import (
    Experiment,
    Place,
    Setting,
    View,
    record_path,
    run_cells,
)
from hilbertlib.records import load_record


@dataclass(frozen=True, kw_only=True)
class Config(Setting):
    log: str = ""
    pause: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Pair(Config):
    other: str = "digits"


def measure(config: Config, arm: str, seed: int, place: Place) -> runner.Rows:
    """Two tables, and a line in a file for each cell that was worked through."""
    time.sleep(config.pause)
    if config.log:
        with open(config.log, "a") as file:
            file.write(f"{arm} {seed}\n")
    if place.folder is not None:
        place.folder.mkdir(parents=True, exist_ok=True)
        (place.folder / "run.pt").touch()
    value = config.factor * (10 * "ab".index(arm) + seed)
    return {
        "ends": [{"value": value}],
        "path": [{"step": k, "value": value * k} for k in range(2)],
    }


TOY = Experiment(
    name="toy",
    figures="Fig. 0",
    title="Does it run?",
    live=Config(),
    paper=Config(scale="paper"),
    arms=lambda config: ["a", "b"],
    measure=measure,
    views={"part": View("Fig. 00", "Where does it end?", ("ends",))},
)


def worked(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize(("scale", "expected"), [("live", "cpu"), ("paper", "auto")])
def test_paper_scale_takes_a_gpu_where_there_is_one(monkeypatch, scale, expected):
    asked = []
    monkeypatch.setattr(
        "hilbertlib.experiments.runner.resolve_device",
        lambda name: asked.append(name) or torch.device("cpu"),
    )
    run_cells(TOY, replace(Config(), scale=scale), [0], arms=["a"])
    assert set(asked) == {expected}


def test_a_record_holds_every_cell_in_order():
    record = run_cells(TOY, Config(), (1, 0))
    assert record["ends"].rows() == [
        {"arm": arm, "seed": seed, "value": 10.0 * i + seed}
        for i, arm in enumerate("ab")
        for seed in (0, 1)
    ]
    assert len(record["path"]) == 8
    assert record.seeds == [0, 1]
    assert record["cells"].unique("device") == [record.provenance.device]
    assert record.provenance.seconds == pytest.approx(sum(record["cells"]["seconds"]), rel=1e-3)
    assert (record.experiment, record.scale, record.reduced) == ("toy", "live", True)


def test_what_is_done_is_not_done_again(tmp_path):
    log = tmp_path / "log"
    config = Config(log=str(log))
    first = run_cells(TOY, config, (0,), arms=["b"], out=tmp_path)
    assert load_record(record_path(tmp_path, "toy", "live")) == first
    both = run_cells(TOY, config, (0, 1), out=tmp_path)
    assert worked(log) == ["b 0", "a 0", "a 1", "b 1"]
    assert run_cells(TOY, config, (0, 1), out=tmp_path) == both
    assert len(worked(log)) == 4
    assert [path.name for path in (tmp_path / ".checkpoints").iterdir()] == ["toy-live.lock"]


def stumbling(config: Config, arm: str, seed: int, place: Place) -> runner.Rows:
    """Falls twice: with a checkpoint that it worked on for 100 seconds, and before the next one."""
    with open(config.log, "a") as file:
        file.write("begun\n")
    starts = len(worked(Path(config.log)))
    if starts == 1:
        begun = place.folder / "begun.json"
        when = json.loads(begun.read_text())
        begun.write_text(json.dumps(when | {"at": when["at"] - 100}))
        place.checkpoint().touch()
    if starts < 3:
        raise KeyboardInterrupt
    return {"ends": [{"value": 1.0}]}


def test_a_cell_that_was_killed_counts_what_its_checkpoints_hold(tmp_path, monkeypatch):
    commits = iter(["one", "two", "one"])
    monkeypatch.setattr(runner, "git_commit", lambda: next(commits))
    toy, config = replace(TOY, measure=stumbling), Config(log=str(tmp_path / "log"))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_cells(toy, config, (0,), arms=["a"], out=tmp_path)
    record = run_cells(toy, config, (0,), arms=["a"], out=tmp_path)
    (seconds,) = record["cells"]["seconds"]
    assert 99 < seconds < 190  # not twice: the second start left nothing
    assert record.provenance.commit == "one, two"


def test_two_runs_from_one_seed_are_one(tmp_path):
    config = replace(forgetting.LIVE, tasks=2, epochs=1)
    one, two = (
        run_cells(forgetting.EXPERIMENT, config, (0,), jobs=jobs, arms=["L2", "SI"])
        for jobs in (1, 2)
    )
    for name in ("first", "tasks", "ends"):
        assert one[name] == two[name]


def test_a_view_is_a_record_of_some_of_the_tables(tmp_path):
    record = run_cells(TOY, Config(), (0,), out=tmp_path)
    part = load_record(record_path(tmp_path, "part", "live"))
    assert set(part.tables) == {"ends", "cells"}
    assert part["ends"] == record["ends"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ["c"]}, "expected arms among"),
        ({"seeds": ()}, "expected different seeds"),
        ({"seeds": (1, 1)}, "expected different seeds"),
        ({"seeds": (-1,)}, "none below 0"),
        ({"arms": ["a", "a"]}, "expected different arms"),
        ({"jobs": 0}, "at least one job"),
        ({"jobs": -2}, "at least one job"),
    ],
)
def test_bad_options_are_refused(options, message, tmp_path):
    seeds = options.pop("seeds", (0,))
    with pytest.raises(ValueError, match=message):
        run_cells(TOY, Config(), seeds, out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_record_of_another_setting_stays_as_it_was(tmp_path):
    run_cells(TOY, Config(), (0,), out=tmp_path)
    path = record_path(tmp_path, "toy", "live")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"another setting \(different: factor\)"):
        run_cells(TOY, Config(factor=2.0), (0,), out=tmp_path)
    assert path.read_bytes() == before
    path.write_bytes(before[:-20])
    with pytest.raises(ValueError, match="damaged"):
        run_cells(TOY, Config(), (0,), out=tmp_path)


def test_a_record_of_other_data_stays_as_it_was(tmp_path, monkeypatch):
    run_cells(TOY, Config(), (0,), out=tmp_path)
    other = replace(runner.dataset("digits"), checksum="0" * 64)
    monkeypatch.setattr(runner, "dataset", lambda name: other)
    with pytest.raises(ValueError, match="measured on other data"):
        run_cells(TOY, Config(), (0,), out=tmp_path)


def test_what_is_said_about_a_setting_may_be_corrected(tmp_path):
    run_cells(TOY, Config(), (0,), out=tmp_path)
    better = Config(choices=("said better",))
    record = run_cells(TOY, better, (0, 1), out=tmp_path)
    assert record.provenance.config["choices"] == ["said better"]
    assert record.seeds == [0, 1]


def test_a_record_of_arms_that_are_gone_is_refused(tmp_path):
    run_cells(TOY, Config(), (0,), out=tmp_path)
    with pytest.raises(ValueError, match=r"does not have: \['a'\]; it has \['b', 'c'\]"):
        run_cells(replace(TOY, arms=lambda config: ["b", "c"]), Config(), (0,), out=tmp_path)


def test_a_record_is_written_by_one_process_at_a_time(tmp_path):
    def meanwhile(config, arm, seed, place):
        with pytest.raises(ValueError, match="another process is writing"):
            run_cells(TOY, Config(), (1,), out=tmp_path)
        return measure(config, arm, seed, place)

    run_cells(replace(TOY, measure=meanwhile), Config(), (0,), arms=["a"], out=tmp_path)
    assert len(run_cells(TOY, Config(), (0,), out=tmp_path)["ends"]) == 2


def test_a_cell_waits_for_a_worker_that_outlived_its_run(tmp_path):
    """Two processes on one checkpoint would write into each other's files."""
    folder = runner._folder(record_path(tmp_path, "toy", "live").resolve(), Config(), "a", 0)
    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        with FileLock(folder.with_suffix(".lock")):
            waiting = pool.submit(run_cells, TOY, Config(), (0,), arms=["a"], out=tmp_path)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
        assert len(waiting.result(timeout=30)["ends"]) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["toy-live.lock"]


def test_a_view_that_a_killed_run_left_old_is_written_again(tmp_path):
    run_cells(TOY, Config(), (0,), out=tmp_path)
    view = record_path(tmp_path, "part", "live")
    view.unlink()
    run_cells(TOY, Config(), (0,), out=tmp_path)
    assert len(load_record(view)["ends"]) == 2


def test_a_second_data_set_is_named(monkeypatch):
    digits, other = runner.dataset("digits"), replace(runner.dataset("digits"), checksum="1" * 64)
    monkeypatch.setattr(runner, "dataset", lambda name: digits if name == "digits" else other)
    two = replace(Pair(), other="mnist")
    assert run_cells(TOY, two, (0,)).provenance.dataset_note == (
        "beside it mnist, checksum 111111111111"
    )
    assert run_cells(TOY, Pair(), (0,)).provenance.dataset_note == ""


def test_the_full_experiment_takes_the_place_of_a_reduced_one(tmp_path):
    small = Config(scale="paper", factor=3.0)
    run_cells(TOY, small, (0, 1), out=tmp_path)
    full = Config(scale="paper", reduced=False, departures=())
    record = run_cells(TOY, full, (0,), arms=["a"], out=tmp_path)
    assert not record.reduced
    assert len(record["ends"]) == 1
    with pytest.raises(ValueError, match="another setting"):
        run_cells(TOY, small, (0,), out=tmp_path)


def test_an_error_in_a_cell_keeps_the_cells_before_it(tmp_path):
    def fails(config, arm, seed, place):
        if arm == "b":
            raise RuntimeError("no more")
        return measure(config, arm, seed, place)

    with pytest.raises(RuntimeError, match="no more"):
        run_cells(replace(TOY, measure=fails), Config(), (0,), out=tmp_path)
    assert load_record(record_path(tmp_path, "toy", "live"))["ends"]["arm"] == ["a"]


# --- killed ----------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_runner import TOY, Config, run_cells
run_cells(TOY, Config(log={log!r}, pause=0.2), range(4), jobs={jobs}, out={out!r})
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_nothing_is_lost_or_counted_twice_when_it_is_killed(jobs, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    text = SCRIPT.format(tests=str(Path(__file__).parent), log=str(log), out=str(out), jobs=jobs)
    script = tmp_path / "script.py"
    script.write_text(text)
    path = record_path(out, "toy", "live")
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    _wait(lambda: path.exists() and len(load_record(path)["ends"]) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = load_record(path)["ends"].rows()
    assert 2 <= len(kept) < 8
    log.unlink()
    subprocess.run([sys.executable, script], check=True, timeout=120)
    again = {tuple(line.split()) for line in worked(log)}
    assert not again & {(row["arm"], str(row["seed"])) for row in kept}
    assert len(worked(log)) == 8 - len(kept)
    uninterrupted = run_cells(TOY, Config(), range(4))
    assert load_record(path)["ends"] == uninterrupted["ends"]


def _wait(until, process, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end, "it never got so far"
        time.sleep(0.02)


# --- on a cluster ----------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    """A real scheduler and two workers, each a process of its own, on this machine alone."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10",
    }

    def start(what: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "distributed.cli." + what, *arguments]
        with open(tmp_path / f"{what}.log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    running = [
        start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        )
    ]  # fmt: skip
    try:
        _wait(file.exists, running[0])
        address = json.loads(file.read_text())["address"]
        for _ in range(2):
            running.append(
                start(
                    "dask_worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
                    "--no-dashboard", "--local-directory", str(tmp_path),
                )
            )  # fmt: skip
        yield address, running[1:]
    finally:
        for process in reversed(running):
            process.kill()
            process.wait()


@pytest.mark.timeout(300)
def test_a_cluster_gives_the_same_record_though_a_worker_is_killed(cluster, tmp_path):
    from distributed import Client

    address, workers = cluster
    log = tmp_path / "log"
    with Client(address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        config = Config(log=str(log), pause=0.5)
        killer = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os, sys, time\n"
                f"while not os.path.exists({str(log)!r}): time.sleep(0.02)\n"
                f"os.kill({workers[0].pid}, 9)",
            ]
        )
        record = run_cells(
            TOY,
            config,
            range(4),
            out=tmp_path / "out",
            backend={"backend": "dask", "client": client},
        )
        assert killer.wait(timeout=60) == 0
    assert workers[0].wait(timeout=60) == -signal.SIGKILL
    assert record["ends"] == run_cells(TOY, Config(), range(4))["ends"]
    assert load_record(record_path(tmp_path / "out", "toy", "live")) == record


# --- a long cell -----------------------------------------------------------------------------


def test_a_cell_goes_on_from_its_checkpoint(tmp_path):
    from hilbertlib.experiments import path_length

    config = replace(path_length.LIVE, epochs=4, measured=50)
    whole = path_length.measure(config, "HCGD", 0)
    place = Place(torch.device("cpu"), tmp_path / "cell")
    path_length.measure(replace(config, epochs=2), "HCGD", 0, place)
    assert place.checkpoint().is_file()
    assert path_length.measure(config, "HCGD", 0, place) == whole
