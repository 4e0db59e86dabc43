"""Chapter 3: its controls, its claims, which can hold and can fail, and its figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_chapter_claims import judged, made
from test_figures import check, check_moves

from hilbertlib.embedding import embed
from hilbertlib.experiments import trajectories, trajectory_controls
from hilbertlib.experiments.trajectories import CLEAN, SHUFFLED
from hilbertlib.experiments.trajectory_controls import BATCHES, STRANGER, TWIN
from hilbertlib.figures import trajectories as draw
from hilbertlib.records import Record
from hilbertlib.trajectory import l2_matrix, parameter_matrix

SMALL = replace(trajectories.LIVE, epochs=4, measured=60)


@pytest.fixture(scope="module")
def record() -> Record:
    return trajectories.run(SMALL, seeds=[0, 1])


@pytest.fixture(scope="module")
def family():
    return trajectory_controls.family(0, SMALL)


@pytest.fixture(scope="module")
def controls() -> Record:
    return trajectory_controls.controls([0, 1], SMALL)


def test_the_three_are_those_of_the_experiment(record):
    walks = trajectory_controls.three(1, SMALL)
    table = record["map"].where(arm=CLEAN, seed=1, space="function")
    drawn = embed(l2_matrix(walks)).points
    np.testing.assert_allclose(drawn, np.column_stack([table["x"], table["y"]]), atol=1e-6)


def test_a_twin_is_the_same_function_elsewhere(family):
    own, twin = family["the network"], family[TWIN]
    torch.testing.assert_close(own.outputs, twin.outputs, atol=1e-5, rtol=0)
    for a, b in zip(own.parameters, twin.parameters, strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(a.sort().values, b.sort().values)
    # The same units change places at every snapshot: its own path is as long.
    torch.testing.assert_close(own.parameter(), twin.parameter(), atol=1e-4, rtol=1e-4)


def test_the_others_differ_in_one_thing(family):
    own, batches, stranger = (family[name] for name in ("the network", BATCHES, STRANGER))
    assert torch.equal(own.parameters[0], batches.parameters[0])
    assert not torch.equal(own.parameters[1], batches.parameters[1])
    assert not torch.equal(own.parameters[0], stranger.parameters[0])


def test_the_controls_tabulate_the_family(family, controls):
    own, other = family["the network"], family[STRANGER]
    table = controls["beside"].where(pair=STRANGER, seed=0)
    n = len(own)
    assert table["function"][-1] == pytest.approx(
        float(l2_matrix([own, other])[n - 1, -1]), rel=1e-5
    )
    assert table["parameters"][0] == pytest.approx(
        float(parameter_matrix([own, other])[0, n]), rel=1e-5
    )
    late = controls["late"].where(seed=0).rows()[0]
    assert late["between"] == table["function"][-1]
    assert late["within"] == pytest.approx(float(own.l2()[n - 1 - n // 4, n - 1]), rel=1e-5)


def test_random_walks_are_unrelated():
    steps = 20
    distances = trajectory_controls.random_walks(steps)
    assert np.array_equal(distances, distances.T)
    ends = [(i + 1) * (steps + 1) - 1 for i in range(3)]
    travelled = [distances[e - steps, e] for e in ends]
    np.testing.assert_allclose(travelled, np.sqrt(steps), rtol=0.05)
    columns = {
        "function": np.array([0.0, distances[ends[0], ends[1]]]),
        "function_travelled": np.array([0.0, travelled[0]]),
    }
    expected = trajectory_controls.unrelated(columns, "function")
    np.testing.assert_allclose(columns["function"], expected, rtol=0.05)


def test_enough_axes_keep_every_distance():
    points = np.random.RandomState(0).standard_normal((8, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    stresses = [trajectory_controls.seen(distances, k)[1] for k in (1, 2, 3)]
    assert stresses[0] > stresses[1] > stresses[2] == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(trajectory_controls.seen(distances, 3)[0], distances, atol=1e-9)
    # The plane is the library's own.
    assert stresses[1] == pytest.approx(embed(distances).stress)
    assert trajectory_controls.axes(distances)[1].sum() == pytest.approx(1)


def test_the_figures_keep_their_traces(record, controls):
    check_moves(
        [draw.moving(record, arm, epoch) for arm in (CLEAN, SHUFFLED) for epoch in range(5)]
    )
    for figure, _ in (draw.moving(record, CLEAN, epoch) for epoch in (0, 3)):
        here = figure.layout.annotations[-1].text  # on the map of parameters
        bar = figure.layout.shapes[-1]
        assert bar.x1 - bar.x0 == pytest.approx(float(here))
    assert (
        len(figure.data[0].x) == len(figure.data[0].marker.size) == 4
    )  # what is to come is not drawn
    distances = {"walks": trajectory_controls.random_walks(5)}
    check_moves([draw.shepard(distances["walks"], k, "walks") for k in (1, 2, 5)])
    for figure, text in (draw.maps(record), draw.apart(record), draw.late(record)):
        check(figure)
        assert text.endswith(".")
    check(draw.beside_one(controls, [TWIN, BATCHES, STRANGER]))
    paths = [np.random.RandomState(i).standard_normal((6, 2)) for i in range(3)]
    check(draw.two_maps(paths, paths))


@pytest.mark.parametrize(
    ("value", "expected"), [(0.23, 0.2), (1.0, 1.0), (7.4, 5.0), (49.0, 20.0), (0.05, 0.05)]
)
def test_a_bar_is_a_round_number_long(value, expected):
    assert draw._round_number(value) == pytest.approx(expected)


def test_an_unfinished_record_draws_as_many_traces(record):
    """The record at the paper's scale may still be on its way."""
    begun = trajectories.run(SMALL, seeds=[0], arms=[CLEAN])
    for figure in (draw.maps, draw.apart, draw.late):
        whole, part = (figure(r)[0] for r in (record, begun))
        assert [t.name for t in whole.data] == [t.name for t in part.data]


def apart(**changed: list[float]) -> Record:
    """A record of two triples over nine epochs, on both kinds of labels."""
    together = {
        "function": [0.05, 0.1, 0.2, 0.2, 0.2, 0.15, 0.1, 0.1, 0.1],
        "function_travelled": [0, 0.1, 0.5, 0.7, 0.8, 0.9, 0.9, 0.9, 0.9],
        "parameters": [10, 10.5, 12, 13, 14, 15, 16, 17, 17.3],
        "parameters_travelled": [0, 2, 4, 6, 7, 8, 9, 9.5, 10],
    }
    clean = together | changed
    shuffled = together | {"function": changed.get("shuffled", [0.1] * 4 + [0.2] * 5)}
    rows: dict[str, list] = {name: [] for name in ("arm", "seed", "epoch", *together)}
    for arm, values in ((CLEAN, clean), (SHUFFLED, shuffled)):
        for seed in (0, 1):
            rows["arm"] += [arm] * 9
            rows["seed"] += [seed] * 9
            rows["epoch"] += range(9)
            for name in together:
                rows[name] += values[name]
    return made("trajectories", apart=rows)


CLAIMS = (*trajectory_controls.CLAIMS, *trajectory_controls.LONG_CLAIMS)


def test_the_claims_can_hold():
    assert set(judged(CLAIMS, apart()).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        ("ch3-parameters-unrelated", {"parameters": [10.0] * 9}),
        ("ch3-functions-related", {"function": [0.05, 0.1, 2.0, 1.0, 1, 1, 1, 1, 1.0]}),
        ("ch3-clean-meet", {"function": [0.05, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]}),
        ("ch3-shuffled-part", {"shuffled": [0.1] * 9}),
    ],
)
def test_the_claims_can_fail(claim, changed):
    found = judged(CLAIMS, apart(**changed))
    assert found.pop(claim) == "inconclusive"  # a reduced setting refutes nothing
    assert set(found.values()) == {"reproduced"}


def beside(**changed: tuple[float, float]) -> dict[str, str]:
    ends = {TWIN: (0.0, 18.0), BATCHES: (0.05, 1.0), STRANGER: (0.1, 18.0)} | changed
    late = changed.get("late", (0.1, 0.05))
    record = made(
        "trajectories_chapter",
        beside={
            "pair": [pair for pair in ends if pair != "late" for _ in range(2)],
            "seed": [0, 1] * 3,
            "epoch": [5] * 6,
            "function": [v[0] for pair, v in ends.items() if pair != "late" for _ in range(2)],
            "parameters": [v[1] for pair, v in ends.items() if pair != "late" for _ in range(2)],
        },
        late={"seed": [0, 1], "between": [late[0]] * 2, "within": [late[1]] * 2},
    )
    return judged(trajectory_controls.CONTROL_CLAIMS, record)


def test_the_claims_on_the_controls_can_hold():
    assert set(beside().values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "pair", "values"),
    [
        ("ch3-twin-function", TWIN, (0.01, 18.0)),
        ("ch3-twin-parameters", TWIN, (0.0, 9.0)),
        ("ch3-batches-parameters", BATCHES, (0.05, 15.0)),
        ("guess-batches-function", BATCHES, (0.1, 1.0)),
        ("guess-modes", "late", (0.1, 0.2)),
    ],
)
def test_the_claims_on_the_controls_can_fail(claim, pair, values):
    found = beside(**{pair: values})
    assert found.pop(claim) == "inconclusive"
    assert set(found.values()) == {"reproduced"}
