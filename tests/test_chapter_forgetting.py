"""Chapter 5: its wrong memories, its claims, which can hold and can fail, and its figures."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_chapter_claims import judged, made
from test_figures import check, check_moves

from hilbertlib.experiments import forgetting, forgetting_controls
from hilbertlib.figures import forgetting as draw
from hilbertlib.figures import style
from hilbertlib.models import mlp, seeded
from hilbertlib.records import Record

SMALL = replace(forgetting.LIVE, tasks=2, epochs=1, hidden=(8,), capacity=20)


def build():
    return mlp((16, 8, 10))


@pytest.mark.parametrize("what", forgetting_controls.WRONG)
def test_a_wrong_memory_is_wrong_in_one_way_only(what):
    model, other = seeded(build, 0), seeded(build, 1)
    x, y = torch.rand(40, 16), torch.arange(40) % 10
    wrong = forgetting_controls.WrongMemory(what, other, capacity=12, lam=1.0, seed=3)
    wrong.begin_task(model, 0, 2)
    wrong.end_task(model, x, y)
    images = {tuple(row.tolist()) for row in x}
    true_images = all(tuple(row.tolist()) in images for row in wrong.memory.x)
    asked = other if what == "an untrained network's outputs" else model
    assert true_images == (what == "an untrained network's outputs")
    torch.testing.assert_close(wrong.memory.outputs, asked(wrong.memory.x).softmax(1).detach())
    assert wrong.memory.x.shape == (12, 16)
    if what == "no task's pixels":  # the same pixels, moved, and moved alike in each image
        rows = sorted(sorted(row.tolist()) for row in wrong.memory.x)
        assert all(row in sorted(sorted(r.tolist()) for r in x) for row in rows)


def test_the_third_book_keeps_all_fisher_information_about_the_latest_parameters():
    summed, online = forgetting_controls.EWC(lam=2.0), forgetting_controls.OnlineEWC(lam=2.0)
    model = seeded(build, 0)
    for task in range(2):
        x, y = torch.rand(20, 16), torch.arange(20) % 10
        for method in (summed, online):
            method.begin_task(model, task, 3)
            method.end_task(model, x, y)
        with torch.no_grad():
            model[-1].bias.add_(0.1)
    torch.testing.assert_close(summed.importance, online.importance)
    with torch.no_grad():
        model[-1].bias.sub_(0.1)  # back at the end of the second task
    assert online.penalty(model).item() == pytest.approx(0.0, abs=1e-7)
    assert summed.penalty(model).item() > 1e-6


@pytest.fixture(scope="module")
def small() -> dict[str, Record]:
    main = forgetting.run(SMALL, seeds=[0, 1])
    grid = forgetting_controls.grid(main, [0], SMALL)
    return {
        "main": main,
        "grid": grid,
        "strengths": forgetting_controls.strengths(main, [0], SMALL),
        "wrong": forgetting_controls.controls([0, 1], SMALL),
    }


def test_what_has_been_run_is_not_run_again(small):
    grid, main = small["grid"], small["main"]
    assert set(grid["ends"].unique("arm")) == set(forgetting.arms(replace(SMALL, grid=True)))
    for ours, theirs in (("L2, λ = 1.3", "L2"), ("retrain every 10", "Adam+retrain")):
        for table in ("first", "tasks", "ends"):
            a, b = grid[table].where(arm=ours), main[table].where(arm=theirs, seed=0)
            assert [{**r, "arm": ""} for r in a.rows()] == [{**r, "arm": ""} for r in b.rows()]
    # And it is what a run of the grid itself would have given.
    whole = forgetting.run(replace(SMALL, grid=True), seeds=[0], arms=["L2, λ = 1.3"])
    assert grid["ends"].where(arm="L2, λ = 1.3").rows() == whole["ends"].rows()
    names = {
        forgetting_controls.strength(lam, tasks)
        for lam in forgetting_controls.STRENGTHS
        for tasks in forgetting_controls.BOOKS
    }
    assert set(small["strengths"]["ends"].unique("arm")) == names


def test_the_figures_keep_their_traces(small):
    main, grid = small["main"], small["grid"]
    check_moves([draw.strength(main, grid, lam) for lam in forgetting.LAMBDAS])
    check_moves(
        [
            draw.books(
                main,
                small["strengths"],
                forgetting_controls.strength,
                forgetting_controls.STRENGTHS,
                score,
            )
            for score in draw.SCORES
        ]
    )
    widths = [25, 400, 2000]
    check_moves(
        [
            draw.bill(widths, **forgetting_controls.bill(widths), memory=794 * n, images=n)
            for n in (64, 1024, 10**6)
        ]
    )
    for figure, text in (draw.methods(main), draw.plane(grid)):
        check(figure)
        assert text.endswith(".")


def test_an_unfinished_record_draws_as_many_traces(small):
    """The record at the paper's scale may still be on its way."""
    begun = forgetting.run(SMALL, seeds=[0], arms=["Adam", "L2"])
    whole, part = draw.methods(small["main"])[0], draw.methods(begun)[0]
    assert [t.name for t in whole.data] == [t.name for t in part.data]
    grid = forgetting.run(replace(SMALL, grid=True), seeds=[0], arms=["L2, λ = 1.3"])
    assert len(draw.plane(small["grid"])[0].data) == len(draw.plane(grid)[0].data)


def test_colours_belong_to_methods(small):
    for figure in (draw.methods(small["main"])[0], draw.plane(small["grid"])[0]):
        for trace in figure.data:
            if trace.name:
                assert trace.line.color == draw.OF_METHOD[trace.name]
    assert {n: draw.OF_METHOD[n] for n in ("Adam", "L2")} == {
        n: style.COLOUR[n] for n in ("Adam", "L2")
    }
    names = {"Adam": "none", "L2": "true"} | {w: w for w in forgetting_controls.WRONG}
    joined = forgetting_controls.joined("forgetting_chapter", small["main"], small["wrong"])
    check(draw.arms(joined, names, "The same penalty, other memories", "dots " * 20))


ENDS = {  # first, newest, average
    "Adam": (0.2, 0.9, 0.5),
    "L2": (0.7, 0.9, 0.8),
    "EWC, all tasks": (0.8, 0.5, 0.4),
    "an untrained network's outputs": (0.2, 0.9, 0.5),
    "no task's pixels": (0.3, 0.9, 0.5),
    "noise": (0.3, 0.9, 0.5),
}
GRID = {
    "L2, λ = 1.3": (0.7, 0.9, 0.7),
    "L2, λ = 13": (0.8, 0.8, 0.7),
    "retrain every 1": (0.7, 0.9, 0.8),
    "retrain every 10": (0.5, 0.9, 0.6),
}


def ends(experiment: str, values: Mapping[str, tuple[float, float, float]]) -> Record:
    columns = np.repeat(list(values.values()), 2, axis=0).T.tolist()
    return made(
        experiment,
        ends={
            "arm": [arm for arm in values for _ in (0, 1)],
            "seed": [0, 1] * len(values),
            **dict(zip(("first", "newest", "average"), columns, strict=True)),
        },
    )


def words(**changed: tuple[float, float, float]) -> dict[str, str]:
    record = ends("forgetting_chapter", {**ENDS, **changed})
    return judged(forgetting_controls.CLAIMS, record)


def test_names_that_would_lie_on_one_another_are_left_out_and_the_ends_kept():
    names = ["a", "b", "c", "d"]
    apart, together = np.array([0.0, 0.3, 0.6, 0.9]), np.array([0.0, 0.01, 0.02, 0.9])
    level = np.zeros(4)
    assert draw._legible(level, apart, names) == names
    assert draw._legible(level, together, names) == ["a", "", "", "d"]
    assert draw._legible(together, level, names) == ["a", "", "", "d"]
    assert draw._legible(level, level, names) == ["a", "", "", ""]


def test_the_claims_can_hold():
    assert set(words().values()) == {"reproduced"}
    grid = judged(forgetting_controls.GRID_CLAIMS, ends("forgetting_grid", GRID))
    assert set(grid.values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "arm", "values"),
    [
        ("ch5-memory-helps", "Adam", (0.6, 0.9, 0.5)),
        ("ch5-plasticity", "EWC, all tasks", (0.8, 0.85, 0.4)),
        ("ch5-untrained", "an untrained network's outputs", (0.2, 0.9, 0.75)),
        ("guess-no-task", "no task's pixels", (0.6, 0.9, 0.5)),
        ("guess-noise", "noise", (0.6, 0.9, 0.5)),
    ],
)
def test_the_claims_can_fail(claim, arm, values):
    found = words(**{arm: values})
    assert found.pop(claim) == "inconclusive"  # a reduced setting refutes nothing
    assert set(found.values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "arm", "values"),
    [
        ("ch5-every-step", "retrain every 10", (0.5, 0.9, 0.9)),
        ("ch5-every-step", "L2, λ = 1.3", (0.7, 0.9, 0.85)),
        ("ch5-stiffness", "L2, λ = 13", (0.6, 0.8, 0.7)),
        ("ch5-stiffness", "L2, λ = 13", (0.8, 0.95, 0.7)),
    ],
)
def test_the_claims_on_the_grid_can_fail(claim, arm, values):
    record = ends("forgetting_grid", {**GRID, arm: values})
    assert judged(forgetting_controls.GRID_CLAIMS, record)[claim] != "reproduced"
