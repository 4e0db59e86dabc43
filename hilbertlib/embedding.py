"""Draw a distance matrix in the plane: multidimensional scaling, and laying one map on another."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Method = Literal["classical", "smacof"]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Embedding:
    """Points in the plane that stand for the rows of a distance matrix.

    Attributes:
        points: Shape ``(S, 2)``, float64, centred on the origin.
        stress: How badly the plane holds the distances δ: with d the distances between the
            points, sqrt(Σ (d − δ)² / Σ δ²) over all pairs. 0 is exact; 0.1 is an error of about
            a tenth.
        method: ``"classical"`` or ``"smacof"``.
    """

    points: Points
    stress: float
    method: Method


def embed(distances: ArrayLike, method: Method = "classical", seed: int = 0) -> Embedding:
    """Place points in the plane so that their distances are near the given ones.

    ``"classical"`` scaling takes the two leading eigenvectors of the doubly centred squared
    distances: exact if the distances are those of points in a plane, unique up to rotation and
    reflection, no random start. ``"smacof"`` (scikit-learn's, the iteration that most plots in
    the literature show) lowers the stress, from the classical map and from four random ones, and
    keeps the best: never worse than ``"classical"``, and where the minimum is not unique the map
    depends on ``seed``.

    Args:
        distances: Symmetric, zero diagonal, shape ``(S, S)``, S at least 2.
        method: ``"classical"`` or ``"smacof"``.
        seed: For the random starts of ``"smacof"``.

    Raises:
        ValueError: If ``distances`` is not a distance matrix or the method is unknown.

    >>> line = embed([[0, 1, 3], [1, 0, 2], [3, 2, 0]])
    >>> bool(line.stress < 1e-7)
    True
    """
    delta = _checked(distances)
    points = _classical(delta)
    if method == "classical":
        return Embedding(points, stress(points, delta), method)
    if method == "smacof":
        candidates = [points, *_smacof(delta, points, seed)]
        best = min(candidates, key=lambda candidate: stress(candidate, delta))
        best = best - best.mean(axis=0)
        return Embedding(best, stress(best, delta), method)
    raise ValueError(f"expected method 'classical' or 'smacof', got {method!r}")


def stress(points: ArrayLike, distances: ArrayLike) -> float:
    """How badly points ``(S, 2)`` hold the distances δ, ``(S, S)``: sqrt(Σ (d − δ)² / Σ δ²).

    Over all pairs, d the distance between the points; 0 where all δ are 0.

    >>> stress([[0, 0], [3, 0]], [[0, 4], [4, 0]])  # one unit short of four
    0.25
    """
    x, delta = np.asarray(points, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    scale = np.sum(delta**2)
    return float(np.sqrt(np.sum((d - delta) ** 2) / scale)) if scale > 0 else 0.0


def align(points: ArrayLike, target: ArrayLike) -> Points:
    """Rotate, reflect and shift ``points`` onto ``target``, without scaling (Procrustes).

    A map from distances has no orientation of its own: this makes two of them comparable.

    Args:
        points: Shape ``(S, 2)``.
        target: Shape ``(S, 2)``, row by row the same snapshots.

    Raises:
        ValueError: If the shapes differ.

    >>> turned = align([[0, 0], [0, 1], [0, 3]], [[0, 0], [1, 0], [3, 0]])
    >>> bool(np.allclose(turned, [[0, 0], [1, 0], [3, 0]]))
    True
    """
    from scipy.linalg import orthogonal_procrustes

    x, y = np.asarray(points, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"expected two sets of points of one shape, got {x.shape} and {y.shape}")
    rotation, _ = orthogonal_procrustes(x - x.mean(axis=0), y - y.mean(axis=0))
    return (x - x.mean(axis=0)) @ rotation + y.mean(axis=0)


def _checked(distances: ArrayLike) -> Points:
    delta = np.asarray(distances, dtype=np.float64)
    if delta.ndim != 2 or delta.shape[0] != delta.shape[1] or len(delta) < 2:
        raise ValueError(
            f"expected a square matrix of distances between at least two points, got {delta.shape}"
        )
    if not np.isfinite(delta).all() or delta.min() < 0:
        raise ValueError("expected finite distances that are not negative")
    tolerance = 1e-9 * delta.max()
    if np.abs(delta - delta.T).max() > tolerance or np.abs(np.diag(delta)).max() > tolerance:
        raise ValueError("expected a symmetric matrix with a zero diagonal")
    return (delta + delta.T) / 2


def _classical(delta: Points) -> Points:
    # B = -1/2 H δ² H with H = I - 1/S is the Gram matrix of the centred points.
    squared = delta**2
    gram = -0.5 * (
        squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    )
    eigenvalues, vectors = np.linalg.eigh(gram)  # ascending
    top, axes = eigenvalues[[-1, -2]], vectors[:, [-1, -2]]
    # An eigenvector's sign is arbitrary: let its largest entry be positive, the same everywhere.
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return axes * np.sqrt(np.maximum(top, 0))


def _smacof(delta: Points, start: Points, seed: int) -> list[Points]:
    from sklearn.manifold import smacof

    size = delta.max()
    if size == 0:
        return []
    # scikit-learn changed the defaults of n_init, eps and init between versions, so all are given.
    pinned: dict[str, Any] = {
        "metric": True,
        "n_components": 2,
        "max_iter": 1000,
        "eps": 1e-6,
        "normalized_stress": False,
        "n_jobs": 1,
    }
    # In units of the largest distance: scikit-learn compares some numbers with absolute ones.
    unit = delta / size
    from_classical, _ = smacof(unit, init=start / size, n_init=1, random_state=seed, **pinned)
    from_random, _ = smacof(unit, n_init=4, random_state=seed, **pinned)
    return [from_classical * size, from_random * size]
