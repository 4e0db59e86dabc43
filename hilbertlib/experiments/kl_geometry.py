"""Where the natural gradient comes from, on models small enough to draw or to write down whole.

A classifier with two parameters, whose leash can be drawn; and a network as a function of the
change of its parameters, to differentiate a distance as often as one likes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from ..data import Dataset
from ..distance import kl_divergence, l2_distance
from ..natural_gradient import natural_update
from .natural_gradient import LIVE
from .natural_steps import Stage, divergences, stages


@dataclass(frozen=True)
class TwoParameters:
    """Two classes told apart by one number: ``P(y = 1 | x) = 1 / (1 + exp(−(a x + b)))``.

    Everything about it is exact. A point ``theta`` is (a, b), shape ``(..., 2)``; ``x`` and ``y``
    have shape ``(N,)``, and y is 0 or 1.
    """

    x: np.ndarray
    y: np.ndarray

    def p(self, theta: np.ndarray) -> np.ndarray:
        """P(y = 1) for each example, shape ``(..., N)``."""
        return _sigmoid(self._z(theta))

    def cost(self, theta: np.ndarray) -> np.ndarray:
        """Mean cross-entropy in nats, shape ``(...)``."""
        z = self._z(theta)
        return np.asarray((np.logaddexp(0, z) - self.y * z).mean(-1))

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """J, shape ``(2,)``."""
        return (self.p(theta) - self.y) @ self._features / len(self.x)

    def fisher(self, theta: np.ndarray) -> np.ndarray:
        """F, shape ``(2, 2)``."""
        p = self.p(theta)
        return (self._features * (p * (1 - p))[:, None]).T @ self._features / len(self.x)

    def kl(self, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        """Mean KL(new ‖ old) in nats."""
        z, w = self._z(new), self._z(old)
        p = _sigmoid(z)
        return np.asarray((p * (z - w) + np.logaddexp(0, w) - np.logaddexp(0, z)).mean(-1))

    def natural(self, theta: np.ndarray, lam: float) -> np.ndarray:
        """−(1/λ) F⁻¹ J (equation 6, with its sign), shape ``(2,)``."""
        return -np.linalg.solve(self.fisher(theta), self.gradient(theta)) / lam

    def ellipse(self, theta: np.ndarray, radius: float, points: int = 73) -> np.ndarray:
        """Where ``½ Δᵀ F Δ`` is ``radius``, shape ``(points, 2)``, closed."""
        values, vectors = np.linalg.eigh(self.fisher(theta))
        return theta + _circle(points) * np.sqrt(2 * radius / values) @ vectors.T

    def ball(
        self, theta: np.ndarray, radius: float, points: int = 73, most: float = 8.0
    ) -> np.ndarray:
        """Where KL(new ‖ old) is ``radius``, shape ``(points, 2)``, closed.

        Found by halving along rays from ``theta``, which are as the ellipse's. A ray on which no
        such place lies before ``most`` times the ellipse's ends there.
        """
        rays = self.ellipse(theta, radius, points) - theta
        low, high = np.zeros(points), np.full(points, most)
        for _ in range(40):
            middle = (low + high) / 2
            inside = self.kl(theta + middle[:, None] * rays, theta) < radius
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        return theta + low[:, None] * rays

    @property
    def _features(self) -> np.ndarray:
        return np.stack([self.x, np.ones_like(self.x)], axis=1)

    def _z(self, theta: np.ndarray) -> np.ndarray:
        return np.asarray(theta, float) @ self._features.T


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))


def _circle(points: int) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, points)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def ink_in_the_middle(data: Dataset, classes: tuple[int, int] = (0, 1)) -> TwoParameters:
    """Two digits, told apart by how bright the middle of the image is, from 0 to 1."""
    y = data.y_train
    keep = (y == classes[0]) | (y == classes[1])
    images = data.x_train[keep].squeeze().double().numpy()
    third = slice(3 * images.shape[-1] // 8, 5 * images.shape[-1] // 8)
    ink = images[:, third, third].mean((1, 2))
    return TwoParameters(ink, (y[keep] == classes[1]).double().numpy())


@dataclass(frozen=True)
class Steps:
    """Two steps of one size from one place, with size measured by F."""

    theta: np.ndarray
    lam: float
    radius: float
    natural: np.ndarray
    gradient: np.ndarray
    ellipse: np.ndarray
    ball: np.ndarray


def steps(model: TwoParameters, theta: Sequence[float], lam: float) -> Steps:
    """The natural step, and one along −J that is as long to F; the leash around both."""
    at = np.asarray(theta, float)
    natural, down, f = model.natural(at, lam), -model.gradient(at), model.fisher(at)
    radius = float(natural @ f @ natural) / 2
    gradient = down * np.sqrt(2 * radius / (down @ f @ down))
    ellipse, ball = model.ellipse(at, radius), model.ball(at, radius)
    return Steps(at, lam, radius, natural, gradient, ellipse, ball)


# --- a network -------------------------------------------------------------------------------


def stage(data: Dataset, hidden: int = 6, epoch: int = 3, seed: int = 0, n: int = 128) -> Stage:
    """A network with one layer of ``hidden`` units after some epochs, in float64, with n images."""
    config = replace(LIVE, hidden=(hidden,), stages=(epoch,), batch_size=n)
    (last,) = stages(config, data, seed)
    return last


def logits_of(stage: Stage) -> Callable[[Tensor], Tensor]:
    """The network as a function of Δθ, shape ``(P,)``: to its logits, shape ``(N, C)``."""
    named = list(stage.model.named_parameters())
    sizes = [p.numel() for _, p in named]

    def logits(delta: Tensor) -> Tensor:
        parts = zip(named, delta.split(sizes), strict=True)
        moved = {name: p.detach() + part.view_as(p) for (name, p), part in parts}
        out: Tensor = functional_call(stage.model, moved, (stage.x,))
        return out

    return logits


def along(stage: Stage, direction: Tensor, distances: Sequence[float]) -> dict[str, np.ndarray]:
    """Measures of movement at Δθ = t · direction, t in ``distances``.

    KL in both directions, the second order of both, half the mean square of the difference of the
    outputs, and its root without the half: the L2 distance.
    """
    logits = logits_of(stage)
    names = ("new || old", "old || new", "second order", "half squared", "norm")
    found: dict[str, list[float]] = {name: [] for name in names}
    with torch.no_grad():
        old = logits(torch.zeros_like(direction)).log_softmax(1)
        for t in distances:
            new = logits(t * direction).log_softmax(1)
            norm = float(l2_distance(new.exp(), old.exp()))
            values = (
                float(kl_divergence(new, old, log=True)),
                float(kl_divergence(old, new, log=True)),
                float(stage.fisher.kl(t * direction)),
                norm**2 / 2,
                norm,
            )
            for name, value in zip(names, values, strict=True):
                found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def leashes(stage: Stage, lams: Sequence[float], damping: float = 0.01) -> dict[str, np.ndarray]:
    """For each λ the natural step's KL divergences, and the cost before and after it."""
    logits = logits_of(stage)
    update = natural_update(stage.fisher, stage.gradient, damping=damping, tol=1e-9, max_iter=5000)
    made = [divergences(stage, update / lam) for lam in lams]
    table = {name: np.array([row[name] for row in made]) for name in made[0]}
    with torch.no_grad():
        ends = [torch.nn.functional.cross_entropy(logits(update / lam), stage.y) for lam in lams]
        start = torch.nn.functional.cross_entropy(logits(torch.zeros_like(update)), stage.y)
    table["cost"] = np.array([float(c) for c in ends])
    table["start"] = np.full(len(lams), float(start))
    table["linear"] = float(start) + float(stage.gradient @ update) / np.asarray(lams)
    return table
