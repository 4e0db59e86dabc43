"""Maps of distance matrices: exact where a plane is enough, aligned, refused where senseless."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hilbertlib.embedding import align, embed, stress

coordinates = st.floats(-10, 10, allow_subnormal=False)
planar = st.integers(3, 9).flatmap(lambda s: arrays(float, (s, 2), elements=coordinates))


def between(points):
    """The obvious twin: one distance at a time."""
    return np.array([[np.sqrt(((a - b) ** 2).sum()) for b in points] for a in points])


@given(planar)
def test_points_in_a_plane_are_recovered_up_to_rotation_and_reflection(points):
    found = embed(between(points))
    scale = 1 + np.abs(points).max()
    np.testing.assert_allclose(align(found.points, points), points, atol=1e-5 * scale)
    np.testing.assert_allclose(between(found.points), between(points), atol=1e-5 * scale)


def test_classical_scaling_is_the_principal_plane_of_the_points():
    """For points in many dimensions: an SVD of the centred points gives the same map."""
    points = np.random.RandomState(0).randn(20, 7) * [5, 3, 1, 1, 1, 0.5, 0.1]
    u, s, _ = np.linalg.svd(points - points.mean(axis=0))
    found = embed(between(points))
    np.testing.assert_allclose(np.abs(found.points), np.abs(u[:, :2] * s[:2]), atol=1e-8)


def test_a_map_has_one_orientation():
    points = np.random.RandomState(1).randn(12, 5)
    a, b = embed(between(points)), embed(between(-points + 3))
    np.testing.assert_allclose(a.points, b.points, atol=1e-8)
    np.testing.assert_allclose(a.points.mean(axis=0), 0, atol=1e-9)
    largest = a.points[np.abs(a.points).argmax(axis=0), [0, 1]]
    assert (largest > 0).all()


@given(arrays(float, (6, 4), elements=coordinates), st.integers(0, 5))
@settings(max_examples=20)
def test_smacof_is_never_worse_than_classical_scaling(points, seed):
    delta = between(points)
    classical, smacof = embed(delta), embed(delta, "smacof", seed)
    assert smacof.stress <= classical.stress + 1e-12
    assert smacof.method == "smacof"
    np.testing.assert_allclose(smacof.points.mean(axis=0), 0, atol=1e-8)


def test_smacof_lowers_the_stress_where_a_plane_is_not_enough():
    delta = 1 - np.eye(8)  # eight points, all at distance 1: a simplex
    assert embed(delta, "smacof").stress < 0.95 * embed(delta).stress


def test_one_seed_gives_one_map():
    delta = between(np.random.RandomState(2).randn(10, 6))
    again = [embed(delta, "smacof", seed=4).points for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_stress_is_the_relative_error_over_all_pairs():
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    delta = np.array([[0.0, 4.0, 2.0], [4.0, 0.0, 4.0], [2.0, 4.0, 0.0]])
    d = [5.0, 1.0, np.sqrt(18)]
    expected = np.sqrt(sum((a - b) ** 2 for a, b in zip(d, [4, 2, 4], strict=True)) / (16 + 4 + 16))
    assert stress(points, delta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["classical", "smacof"])
def test_identical_snapshots_fall_on_one_point(method):
    found = embed(np.zeros((4, 4)), method)
    assert found.stress == 0
    np.testing.assert_array_equal(found.points, 0)


@pytest.mark.parametrize("method", ["classical", "smacof"])
def test_two_snapshots_make_a_line(method):
    found = embed([[0, 3], [3, 0]], method)
    assert np.linalg.norm(found.points[0] - found.points[1]) == pytest.approx(3)


@given(
    planar,
    st.floats(0, 6.3),
    st.booleans(),
    arrays(float, (2,), elements=coordinates),
)
def test_alignment_undoes_any_rigid_motion(points, angle, mirror, shift):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        turn = turn @ np.diag([1.0, -1.0])
    np.testing.assert_allclose(align(points @ turn + shift, points), points, atol=1e-6)


def test_alignment_does_not_scale():
    points = np.random.RandomState(3).randn(6, 2)
    np.testing.assert_allclose(between(align(2 * points, points)), 2 * between(points))


@pytest.mark.parametrize("other", [np.zeros((5, 2)), np.zeros((6, 3)), np.zeros(6)])
def test_alignment_refuses_points_that_do_not_correspond(other):
    with pytest.raises(ValueError, match="two sets of points of one shape"):
        align(np.zeros((6, 2)), other)


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (np.zeros((3, 4)), r"square matrix .* got \(3, 4\)"),
        (np.zeros(3), "square matrix"),
        (np.zeros((1, 1)), "at least two points"),
        (np.array([[0, np.nan], [np.nan, 0]]), "finite"),
        (np.array([[0, np.inf], [np.inf, 0]]), "finite"),
        (np.array([[0, -1.0], [-1.0, 0]]), "not negative"),
        (np.array([[0, 1.0], [2.0, 0]]), "symmetric"),
        (np.array([[1.0, 1.0], [1.0, 0]]), "zero diagonal"),
    ],
)
def test_what_is_no_distance_matrix_is_refused(delta, message):
    with pytest.raises(ValueError, match=message):
        embed(delta)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'classical' or 'smacof', got 'tsne'"):
        embed(np.zeros((3, 3)), "tsne")
