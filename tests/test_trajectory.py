"""Recording a run: what is kept, what stays untouched, what survives an interruption."""

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertlib import snapshots, trajectory
from hilbertlib.data import load
from hilbertlib.models import mlp, probabilities, seeded, small_cnn
from hilbertlib.snapshots import SnapshotFiles
from hilbertlib.training import train
from hilbertlib.trajectory import (
    Movement,
    Recorder,
    Trajectory,
    cumulative_squared_l2,
    flat_parameters,
    l2_matrix,
    parameter_matrix,
)

SMALL = load("digits").subset(120, 0)
X = SMALL.x_test[:30]


@dataclass
class At:
    step: int
    epoch: int = 0


def build(seed=0):
    return seeded(lambda: mlp((64, 6, 10)), seed)


def run(recorder_options=None, seed=0, epochs=4, as_step=False, model=None):
    model = model or build(seed)
    recorder = Recorder(model, X, **(recorder_options or {}))
    where = {"on_step" if as_step else "on_epoch": recorder}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, SMALL, optimizer, epochs=epochs, batch_size=40, **where)
    return model, recorder.trajectory()


def twin(snapshots, reduction="rms"):
    """One pair at a time, one example at a time, in float64."""
    s = len(snapshots)
    result = torch.zeros(s, s, dtype=torch.float64)
    for i in range(s):
        for j in range(s):
            norms = [
                (a.double() - b.double()).flatten().square().sum().sqrt()
                for a, b in zip(snapshots[i], snapshots[j], strict=True)
            ]
            norms = torch.stack(norms)
            result[i, j] = norms.square().mean().sqrt() if reduction == "rms" else norms.mean()
    return result


# --- what is kept -----------------------------------------------------------------------------


def test_a_snapshot_is_the_function_and_the_parameters_at_that_step():
    model = build()
    recorder, expected = Recorder(model, X), []

    def both(progress):
        recorder(progress)
        expected.append((probabilities(model, X), flat_parameters(model)))

    train(model, SMALL, torch.optim.SGD(model.parameters(), lr=0.1), epochs=3, on_epoch=both)
    kept = recorder.trajectory()
    assert len(kept) == 4
    assert kept.steps.tolist() == kept.epochs.tolist() == [0, 1, 2, 3]
    assert torch.equal(kept.outputs, torch.stack([p for p, _ in expected]))
    assert torch.equal(kept.parameters, torch.stack([theta for _, theta in expected]))
    assert not torch.equal(kept.parameters[0], kept.parameters[1])


def test_every_so_many_steps():
    _, kept = run({"every": 5, "parameters": False}, as_step=True)
    assert kept.steps.tolist() == [0, 5, 10]
    assert kept.epochs.tolist() == [0, 2, 4]
    assert kept.parameters is None


def test_another_function_may_be_recorded():
    model = build()
    recorder = Recorder(model, X, function=lambda net, x: net(x)[:, :3])
    recorder.record(0, 0)
    torch.testing.assert_close(recorder.trajectory().outputs[0], model(X)[:, :3].detach())


def test_only_trainable_parameters_count():
    model = build()
    model[1].weight.requires_grad_(False)
    assert flat_parameters(model).numel() == 6 + 6 * 10 + 10
    # A copy: training on does not change what was kept.
    flat = flat_parameters(model)
    model[1].bias.data += 1
    assert not torch.equal(flat, flat_parameters(model))


def test_recording_changes_nothing_in_a_run():
    def trained(recorded):
        model = seeded(lambda: small_cnn(batch_norm=True), 0)
        recorder = Recorder(model, X) if recorded else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, SMALL, optimizer, epochs=2, on_step=recorder)
        return model.state_dict()

    torch.testing.assert_close(trained(True), trained(False), rtol=0, atol=0)


def test_recording_leaves_gradients_buffers_and_mode():
    model = seeded(lambda: small_cnn(batch_norm=True), 0)
    model(X).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    Recorder(model, X).record(0, 0)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert all(module.training for module in model.modules())


def test_a_step_is_kept_once_and_time_does_not_run_back():
    recorder = Recorder(build(), X)
    recorder(At(3))
    recorder(At(3))
    with pytest.raises(ValueError, match="a step after 3, got 2; a new run needs a new recorder"):
        recorder(At(2))
    assert recorder.trajectory().steps.tolist() == [3]


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [({"every": 0}, X, "every of at least 1"), ({}, X[:0], "at least one example")],
)
def test_impossible_recorders_are_refused(options, x, message):
    with pytest.raises(ValueError, match=message):
        Recorder(build(), x, **options)


def test_nothing_recorded_is_no_trajectory(tmp_path):
    with pytest.raises(ValueError, match="at least one snapshot"):
        Recorder(build(), X).trajectory()
    with pytest.raises(FileNotFoundError, match="holds no snapshots"):
        Recorder(build(), X, folder=tmp_path / "run").trajectory()


# --- distances --------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["rms", "mean_norm"])
def test_distances_are_those_of_each_pair(reduction):
    _, kept = run()
    torch.testing.assert_close(kept.l2(reduction), twin(kept.outputs, reduction))
    expected = twin(kept.parameters[:, None])  # one "example": the plain ℓ2 distance
    torch.testing.assert_close(kept.parameter(), expected)
    for matrix in (kept.l2(reduction), kept.parameter()):
        assert matrix.dtype == torch.float64
        assert torch.equal(matrix, matrix.T)
        assert torch.equal(matrix.diag(), torch.zeros(5, dtype=torch.float64))


@given(slab=st.integers(1, 4000), block=st.integers(1, 4000))
@settings(max_examples=20)
def test_slabs_and_blocks_of_any_size_give_the_same_matrix(slab, block):
    generator = torch.Generator().manual_seed(0)
    made = Trajectory(
        torch.arange(4),
        torch.arange(4),
        torch.rand(4, 7, 3, generator=generator),
        torch.rand(4, 11, generator=generator),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectory, "_SLAB_BYTES", slab)
        patch.setattr(trajectory, "_BLOCK_BYTES", block)
        for reduction in ("rms", "mean_norm"):
            torch.testing.assert_close(made.l2(reduction), twin(made.outputs, reduction))
        torch.testing.assert_close(made.parameter(), twin(made.parameters[:, None]))


def test_several_runs_share_one_matrix(tmp_path):
    kept = [run({"folder": tmp_path / str(s)} if s else None, seed=s)[1] for s in range(3)]
    outputs = torch.cat([t.outputs for t in kept])
    torch.testing.assert_close(l2_matrix(kept), twin(outputs))
    parameters = torch.cat([t.parameters for t in kept])
    torch.testing.assert_close(parameter_matrix(kept), twin(parameters[:, None]))


def test_runs_that_cannot_be_compared_are_refused():
    _, kept = run()
    other = Trajectory(kept.steps, kept.epochs, kept.outputs[:, :5], kept.parameters[:, :5])
    for matrix in (l2_matrix, parameter_matrix):
        with pytest.raises(ValueError, match="one or more runs"):
            matrix([kept, other])
        with pytest.raises(ValueError, match="one or more runs"):
            matrix([])
    with pytest.raises(ValueError, match="same number of recorded parameters, got None"):
        run({"parameters": False})[1].parameter()


def test_the_cumulative_squared_distance_sums_consecutive_ones():
    _, kept = run(as_step=True)
    matrix = twin(kept.outputs)
    total, expected = 0.0, [0.0]
    for i in range(1, len(kept)):
        total += matrix[i - 1, i].item() ** 2
        expected.append(total)
    assert kept.cumulative_squared_l2().tolist() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(cumulative_squared_l2(kept.outputs), kept.cumulative_squared_l2())
    assert cumulative_squared_l2(kept.outputs[:1]).tolist() == [0.0]
    with pytest.raises(ValueError, match="at least one snapshot"):
        cumulative_squared_l2([])


def test_movement_measures_what_snapshots_would():
    model = build()
    recorder = Recorder(model, X)
    updates, from_start = Movement(model, X), Movement(model, X, reference="first", every=2)

    def all_three(progress):
        for callback in (recorder, updates, from_start):
            callback(progress)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, SMALL, optimizer, epochs=2, batch_size=40, on_step=all_three)
    l2, parameter = twin(recorder.trajectory().outputs), recorder.trajectory().parameter()
    assert updates.steps == [1, 2, 3, 4, 5, 6]
    assert updates.epochs == [1, 1, 1, 2, 2, 2]
    assert updates.l2 == pytest.approx(l2.diag(1).tolist(), rel=1e-9)
    assert updates.parameter == pytest.approx(parameter.diag(1).tolist(), rel=1e-9)
    assert from_start.steps == [2, 4, 6]
    assert from_start.l2 == pytest.approx(l2[0, 2::2].tolist(), rel=1e-9)
    assert from_start.parameter == pytest.approx(parameter[0, 2::2].tolist(), rel=1e-9)


@pytest.mark.parametrize("options", [{"reference": "last"}, {"every": 0}])
def test_impossible_movements_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Movement(build(), X, **options)


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [True, False])
def test_files_hold_what_memory_would(tmp_path, parameters):
    _, memory = run({"parameters": parameters})
    _, streamed = run({"parameters": parameters, "folder": tmp_path / "run"})
    loaded = Trajectory.load(tmp_path / "run")
    for kept in (streamed, loaded):
        assert torch.equal(kept.outputs, memory.outputs)
        assert torch.equal(kept.steps, memory.steps)
        assert torch.equal(kept.epochs, memory.epochs)
        torch.testing.assert_close(kept.l2(), memory.l2())
    if parameters:
        assert torch.equal(loaded.parameters, memory.parameters)
        torch.testing.assert_close(loaded.parameter(), memory.parameter())
    else:
        assert loaded.parameters is None


def test_files_keep_the_precision_of_the_model(tmp_path):
    model = build().double()
    recorder = Recorder(model, X.double(), folder=tmp_path)
    recorder.record(0, 0)
    assert torch.equal(recorder.trajectory().parameters[0], flat_parameters(model))


def test_a_loaded_trajectory_can_be_written_to_without_changing_the_file(tmp_path):
    _, kept = run({"folder": tmp_path})
    kept.outputs[0] = 7
    assert Trajectory.load(tmp_path).outputs.max() <= 1


def test_two_runs_do_not_mix_in_one_folder(tmp_path):
    run({"folder": tmp_path})
    with pytest.raises(FileExistsError, match="resume=True or name another folder"):
        Recorder(build(), X, folder=tmp_path)


def test_a_resumed_run_skips_what_it_holds(tmp_path):
    run({"folder": tmp_path}, epochs=2)
    _, resumed = run({"folder": tmp_path, "resume": True}, epochs=4)
    _, whole = run(epochs=4)
    assert torch.equal(resumed.steps, whole.steps)
    assert torch.equal(resumed.parameters, whole.parameters)


@given(lost=st.integers(1, 400), kind=st.sampled_from(["index.txt", "parameters.bin", "extra"]))
@settings(max_examples=25)
def test_a_half_written_snapshot_is_dropped_on_resuming(tmp_path_factory, lost, kind):
    folder = tmp_path_factory.mktemp("run")
    _, whole = run({"folder": folder})
    if kind == "index.txt":  # killed while writing the last line
        path = folder / kind
        lost = 1
        path.write_bytes(path.read_bytes()[:-lost])
    elif kind == "parameters.bin":  # killed after the outputs, while writing the parameters
        index = folder / "index.txt"
        index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
        path = folder / kind
        path.write_bytes(path.read_bytes()[:-lost])
    else:  # killed before the index: data of a snapshot that does not count
        with open(folder / "outputs.bin", "ab") as file:
            file.write(b"x" * lost)
    before = len(SnapshotFiles.open(folder).index()[0])
    assert before == (5 if kind == "extra" else 4)
    assert torch.equal(Trajectory.load(folder).outputs, whole.outputs[:before])
    _, resumed = run({"folder": folder, "resume": True})
    assert torch.equal(resumed.outputs, whole.outputs)
    assert torch.equal(resumed.parameters, whole.parameters)
    assert resumed.steps.tolist() == whole.steps.tolist()


def test_a_killed_process_leaves_whole_snapshots(tmp_path):
    script = f"""
        import sys
        import torch
        from hilbertlib.models import mlp, seeded
        from hilbertlib.trajectory import Recorder
        model = seeded(lambda: mlp((64, 500, 10)), 0)
        recorder = Recorder(model, torch.zeros(50, 1, 8, 8), folder={str(tmp_path)!r})
        for step in range(10**9):
            model[1].bias.data[:] = step
            recorder.record(step, 0)
            if step == 20:
                print("running", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"running\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = Trajectory.load(tmp_path)
    assert kept.steps.tolist() == list(range(len(kept)))
    assert len(kept) > 20
    biases = kept.parameters[:, 64 * 500 : 65 * 500]
    assert torch.equal(biases, kept.steps[:, None].float().expand(-1, 500))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("format.json", "{", "format.json is damaged"),
        ("format.json", "[]", "format.json is damaged"),
        ("format.json", '{"outputs": ["float32", 30, 10]}', "format.json is damaged"),
        ("format.json", '{"format": "other", "outputs": ["float32", 3]}', "not hilbertlib"),
        ("format.json", '{"format": "hilbertlib snapshots 1"}', "format.json is damaged"),
        (
            "format.json",
            '{"format": "hilbertlib snapshots 1", "outputs": ["floaty", 3]}',
            "damaged",
        ),
        (
            "format.json",
            '{"format": "hilbertlib snapshots 1", "outputs": ["float32", -3]}',
            "shape",
        ),
        ("index.txt", "0 0\n1 one\n", "a step and an epoch on every line"),
        ("index.txt", "0 0\n1\n", "a step and an epoch on every line"),
        ("index.txt", "", "holds no finished snapshot"),
        ("outputs.bin", "", "outputs.bin is damaged: expected .* bytes"),
        ("parameters.bin", None, "parameters.bin is damaged: expected .* got 0"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    run({"folder": tmp_path})
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        Trajectory.load(tmp_path)


def test_snapshots_of_another_shape_are_refused(tmp_path):
    run({"folder": tmp_path})
    recorder = Recorder(build(), X[:4], folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="holds snapshots of"):
        recorder.record(99, 9)
    assert len(Trajectory.load(tmp_path)) == 5


def test_the_format_is_text_that_says_what_the_rows_are(tmp_path):
    run({"folder": tmp_path})
    described = json.loads((tmp_path / "format.json").read_text())
    assert described["outputs"] == ["float32", 30, 10]
    assert described["parameters"] == ["float32", 65 * 6 + 7 * 10]


def test_matrices_of_files_read_them_piece_by_piece(tmp_path, monkeypatch):
    """No slab is larger than asked for, whatever the size of the files."""
    _, kept = run({"folder": tmp_path})
    monkeypatch.setattr(trajectory, "_SLAB_BYTES", 8 * 5 * 20)
    widths = []
    original = trajectory._read

    def spy(*arguments):
        widths.append(original(*arguments).shape[1])
        return original(*arguments)

    monkeypatch.setattr(trajectory, "_read", spy)
    kept.parameter()
    assert max(widths) == 20
    assert sum(widths) == 65 * 6 + 7 * 10


@given(st.integers(0, 459), st.integers(1, 500))
def test_columns_are_those_of_the_rows(tmp_path_factory, low, width):
    folder = tmp_path_factory.getbasetemp() / "columns"
    if not folder.exists():
        run({"folder": folder})
    files = SnapshotFiles.open(folder)
    for kind in ("outputs", "parameters"):
        rows = files.rows(kind)
        first = low % rows.shape[1]
        expected = rows[:, first : first + width]
        assert torch.equal(files.columns(kind, first, first + width), expected)


def test_a_trajectory_stays_as_it_was_loaded_while_the_run_goes_on(tmp_path):
    run({"folder": tmp_path}, epochs=2)
    loaded = Trajectory.load(tmp_path)
    run({"folder": tmp_path, "resume": True}, epochs=4)
    assert loaded.l2().shape == loaded.parameter().shape == (3, 3)
    assert Trajectory.load(tmp_path).l2().shape == (5, 5)


def test_columns_of_what_was_not_recorded_are_refused(tmp_path):
    run({"folder": tmp_path, "parameters": False})
    with pytest.raises(ValueError, match="holds no parameters"):
        SnapshotFiles.open(tmp_path).columns("parameters", 0, 1)


@pytest.mark.parametrize("failing", ["outputs.bin", "parameters.bin", "index.txt"])
def test_a_failed_write_leaves_whole_rows_to_go_on_from(tmp_path, monkeypatch, failing):
    model = build()
    recorder = Recorder(model, X, folder=tmp_path)
    recorder.record(0, 0)

    def full(path, mode="r"):
        if str(path).endswith(failing):
            path.write_bytes((path.read_bytes() if path.exists() else b"") + b"half a r")
            raise OSError("no space left on device")
        return open(path, mode)

    monkeypatch.setattr(snapshots, "open", full, raising=False)
    with pytest.raises(OSError, match="no space left"):
        recorder.record(1, 1)
    monkeypatch.undo()
    with torch.no_grad():
        model[1].bias += 1
    recorder.record(2, 2)
    kept = recorder.trajectory()
    assert kept.steps.tolist() == [0, 2]
    assert torch.equal(kept.parameters[1], flat_parameters(model))
    assert torch.equal(kept.outputs[1], probabilities(model, X))
