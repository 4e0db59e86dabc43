"""A training run as a path in two spaces: snapshots, their distances, a map in the plane.

Figure 1 of the paper: at each epoch keep the parameters and the outputs on one fixed batch, then
compare every pair of snapshots by ℓ2 distance between parameters and by L2 distance between
functions, and draw each distance matrix in two dimensions (:mod:`hilbertlib.embedding`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .distance import (
    Reduction,
    l2_distance,
    pairwise_l2,
    pairwise_parameter_distance,
    parameter_distance,
)
from .embedding import Embedding as Embedding
from .embedding import align as align
from .embedding import embed as embed
from .models import probabilities
from .snapshots import SnapshotFiles

# Files are read in slabs, for few and long reads; distances are taken in blocks that stay in a
# processor's cache: for 600 snapshots that is nine times as fast as a whole slab at once.
_SLAB_BYTES = 64 * 2**20
_BLOCK_BYTES = 4 * 2**20
_MEASURED = ("steps", "epochs", "l2", "parameter")

Function = Callable[[nn.Module, Tensor], Tensor]


class Position(Protocol):
    """What a callback is told (:class:`hilbertlib.training.Progress`)."""

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> int: ...


@dataclass(frozen=True)
class Trajectory:
    """Snapshots of one run.

    Attributes:
        steps: Optimizer steps before each snapshot, shape ``(S,)``, int64.
        epochs: The epoch of each snapshot, shape ``(S,)``, int64.
        outputs: The function on the fixed batch, shape ``(S, N, C)``.
        parameters: The flat trainable parameters, shape ``(S, P)``; None where not recorded.
        folder: The files behind the tensors, which then take no memory until they are read.
    """

    steps: Tensor
    epochs: Tensor
    outputs: Tensor
    parameters: Tensor | None
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.steps)

    @staticmethod
    def load(folder: str | Path) -> "Trajectory":
        """Open the snapshots that a :class:`Recorder` streamed to ``folder``.

        Raises:
            FileNotFoundError: If the folder holds no snapshots.
            ValueError: If a file is damaged.
        """
        files = SnapshotFiles.open(folder)
        steps, epochs = files.index()
        outputs = files.rows("outputs")
        assert outputs is not None  # every format has outputs
        return Trajectory(steps, epochs, outputs, files.rows("parameters"), files.folder)

    def l2(self, reduction: Reduction = "rms") -> Tensor:
        """L2 distance between the functions of every two snapshots, ``(S, S)``, float64."""
        return l2_matrix([self], reduction)

    def parameter(self) -> Tensor:
        """ℓ2 distance between the parameters of every two snapshots, ``(S, S)``, float64."""
        return parameter_matrix([self])

    def cumulative_squared_l2(self) -> Tensor:
        """Running sum of squared L2 distances between consecutive snapshots, ``(S,)``."""
        return cumulative_squared_l2(self.outputs)


def l2_matrix(trajectories: Sequence[Trajectory], reduction: Reduction = "rms") -> Tensor:
    """L2 distances between all snapshots of several runs, ``(S, S)`` with S their total number.

    Several runs in one matrix make one map of all of them (figure 1). The matrix is summed up
    over blocks of examples in float64, so that the outputs need not fit into memory.

    Args:
        trajectories: Runs whose functions were recorded on one batch.
        reduction: As for :func:`hilbertlib.distance.l2_distance`.

    Raises:
        ValueError: If there is no run, or the outputs differ in shape or are not finite.

    >>> steps = torch.arange(2)
    >>> a = Trajectory(steps, steps, torch.tensor([[[0.0]], [[1.0]]]), parameters=None)
    >>> b = Trajectory(steps, steps, torch.tensor([[[0.0]], [[3.0]]]), parameters=None)
    >>> l2_matrix([a, b]).tolist()[0]
    [0.0, 1.0, 0.0, 3.0]
    """
    shapes = {tuple(t.outputs.shape[1:]) for t in trajectories}
    if len(shapes) != 1:
        raise ValueError(
            f"expected one or more runs with outputs on one batch, got shapes {sorted(shapes)}"
        )
    n = next(iter(shapes))[0]
    total: Tensor | float = 0.0
    for block in _blocks(trajectories, "outputs"):
        distances = pairwise_l2(block, reduction=reduction)
        # A mean over examples is the sum of the blocks' means, weighted by their examples.
        total = total + (distances.square() if reduction == "rms" else distances) * (
            block.shape[1] / n
        )
    assert isinstance(total, Tensor)
    return total.sqrt() if reduction == "rms" else total


def parameter_matrix(trajectories: Sequence[Trajectory]) -> Tensor:
    """ℓ2 distances between the parameters of all snapshots of several runs, ``(S, S)``.

    Summed up over blocks of coordinates in float64: 600 snapshots of a million parameters need
    well under a gigabyte.

    Raises:
        ValueError: If a run has no parameters recorded, or their numbers differ.
    """
    sizes = {None if t.parameters is None else t.parameters.shape[1] for t in trajectories}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            "expected one or more runs, all with the same number of recorded parameters, "
            f"got {', '.join(sorted(map(str, sizes))) or 'none'}"
        )
    total: Tensor | float = 0.0
    for block in _blocks(trajectories, "parameters"):
        total = total + pairwise_parameter_distance(block).square()
    assert isinstance(total, Tensor)
    return total.sqrt()


def cumulative_squared_l2(outputs: Sequence[Tensor] | Tensor) -> Tensor:
    """Running sum of squared L2 distances between consecutive functions (figure C.7).

    Brownian motion makes it grow in a straight line; a function that settles, level off.

    Args:
        outputs: Outputs on one batch, shape ``(S, N, *C)``.

    Returns:
        Shape ``(S,)``, float64, starting with 0.

    >>> cumulative_squared_l2(torch.tensor([[[0.0]], [[1.0]], [[3.0]]])).tolist()
    [0.0, 1.0, 5.0]
    """
    if len(outputs) == 0:
        raise ValueError("expected at least one snapshot, got none")
    squares = [l2_distance(f.double(), g.double()).square() for f, g in pairwise(outputs)]
    return torch.stack([torch.zeros((), dtype=torch.float64), *squares]).cumsum(0)


class Recorder:
    """A callback that keeps snapshots of a model while it trains.

    Give it to :func:`hilbertlib.training.train` as ``on_epoch`` or ``on_step``, or call
    :meth:`record` in a loop of your own. The function is read in evaluation mode: BatchNorm's
    buffers, gradients and training mode stay as they were.

    Args:
        model: The model to watch.
        x_eval: The fixed batch on which functions are compared, shape ``(N, ...)``.
        every: Keep the snapshots whose step is a multiple of this.
        parameters: Whether to keep the parameters too.
        folder: Stream the snapshots to files here in place of memory. What was written survives
            an interruption at any moment.
        resume: Continue the snapshots in ``folder``: steps that it holds are skipped.
        function: What to record; default the softmax outputs.

    Raises:
        ValueError: If ``every`` is under 1 or the batch is empty.
        FileExistsError: If ``folder`` holds snapshots and ``resume`` is not set.

    >>> model = nn.Linear(4, 3)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> x, y = torch.rand(20, 4), torch.arange(20) % 3
    >>> recorder = Recorder(model, x)
    >>> for step in range(3):
    ...     recorder.record(step, epoch=0)
    ...     optimizer.zero_grad()
    ...     nn.functional.cross_entropy(model(x), y).backward()
    ...     _ = optimizer.step()
    >>> trajectory = recorder.trajectory()
    >>> trajectory.outputs.shape, trajectory.parameters.shape
    (torch.Size([3, 20, 3]), torch.Size([3, 15]))
    >>> embed(trajectory.l2()).points.shape  # a map of the run in function space
    (3, 2)
    """

    def __init__(
        self,
        model: nn.Module,
        x_eval: Tensor,
        *,
        every: int = 1,
        parameters: bool = True,
        folder: str | Path | None = None,
        resume: bool = False,
        function: Function = probabilities,
    ) -> None:
        if every < 1:
            raise ValueError(f"expected every of at least 1, got {every}")
        if len(x_eval) == 0:
            raise ValueError("expected at least one example to compare functions on, got none")
        self.model, self.x_eval, self.every = model, x_eval, every
        self.function, self._with_parameters = function, parameters
        self._files = None if folder is None else SnapshotFiles.create(folder, resume)
        self._resumed_at = -1 if self._files is None else self._files.last_step
        self._positions: list[tuple[int, int]] = []
        self._outputs: list[Tensor] = []
        self._parameters: list[Tensor] = []

    def __call__(self, progress: Position) -> None:
        """Keep a snapshot if the step is due."""
        if progress.step % self.every == 0:
            self.record(progress.step, progress.epoch)

    def record(self, step: int, epoch: int) -> None:
        """Keep a snapshot now; a step that is kept already is skipped.

        Raises:
            ValueError: If the step lies before the last one: a new run needs a new recorder.
        """
        last = self._positions[-1][0] if self._positions else self._resumed_at
        if step == last or step <= self._resumed_at:
            return
        if step < last:
            raise ValueError(
                f"expected a step after {last}, got {step}; a new run needs a new recorder"
            )
        outputs = self.function(self.model, self.x_eval).detach().cpu()
        flat = flat_parameters(self.model).cpu() if self._with_parameters else None
        if self._files is not None:
            self._files.append(step, epoch, outputs, flat)
        else:
            self._outputs.append(outputs)
            if flat is not None:
                self._parameters.append(flat)
        self._positions.append((step, epoch))

    def state_dict(self) -> dict[str, Any]:
        """The snapshots held in memory, to go on later; those in a folder are safe there."""
        return {
            "positions": list(self._positions),
            "outputs": list(self._outputs),
            "parameters": list(self._parameters),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._positions = [tuple(position) for position in state["positions"]]
        self._outputs, self._parameters = list(state["outputs"]), list(state["parameters"])

    def trajectory(self) -> Trajectory:
        """The snapshots so far.

        Raises:
            ValueError: If there are none.
        """
        if self._files is not None:
            return Trajectory.load(self._files.folder)
        if not self._positions:
            raise ValueError("expected at least one snapshot, got none: train first")
        steps, epochs = torch.tensor(self._positions).T
        parameters = torch.stack(self._parameters) if self._with_parameters else None
        return Trajectory(steps, epochs, torch.stack(self._outputs), parameters)


@dataclass
class Movement:
    """A callback that measures how far a model moves between calls, and stores no snapshots.

    As ``on_step`` it measures single updates, as ``on_epoch`` whole epochs; with
    ``reference="first"`` the distance from where it began: the three scales of figure 2.

    Attributes:
        steps: The optimizer's steps before each distance was measured.
        epochs: The epoch in which each was.
        l2: L2 distance between the functions on ``x_eval``.
        parameter: ℓ2 distance between the parameters.

    Raises:
        ValueError: If ``reference`` is unknown or ``every`` under 1.

    >>> from hilbertlib.data import load
    >>> from hilbertlib.training import train
    >>> digits = load("digits").subset(200, seed=0)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> moved = Movement(model, digits.x_test)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> _ = train(model, digits, optimizer, epochs=2, on_epoch=moved)
    >>> moved.epochs, len(moved.l2), len(moved.parameter)
    ([1, 2], 2, 2)
    """

    model: nn.Module
    x_eval: Tensor
    reference: str = "previous"
    every: int = 1
    function: Function = probabilities
    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    l2: list[float] = field(default_factory=list)
    parameter: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.reference not in ("previous", "first"):
            raise ValueError(f"expected reference 'previous' or 'first', got {self.reference!r}")
        if self.every < 1:
            raise ValueError(f"expected every of at least 1, got {self.every}")
        self._from: tuple[Tensor, Tensor] | None = None

    def __call__(self, progress: Position) -> None:
        """Measure the distance since the last call that was due."""
        if progress.step % self.every:
            return
        outputs = self.function(self.model, self.x_eval).detach().double()
        now = outputs, flat_parameters(self.model).double()
        if self._from is not None:
            self.steps.append(progress.step)
            self.epochs.append(progress.epoch)
            then = [tensor.to(outputs.device) for tensor in self._from]
            self.l2.append(float(l2_distance(now[0], then[0])))
            self.parameter.append(float(parameter_distance(now[1], then[1])))
        if self._from is None or self.reference == "previous":
            self._from = now

    def state_dict(self) -> dict[str, Any]:
        """What was measured and from where the next distance counts, to go on later."""
        kept = {name: list(getattr(self, name)) for name in _MEASURED}
        return {**kept, "from": None if self._from is None else list(self._from)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        for name in _MEASURED:
            setattr(self, name, list(state[name]))
        self._from = None if state["from"] is None else tuple(state["from"])


def flat_parameters(model: nn.Module) -> Tensor:
    """A copy of the trainable parameters as one vector, shape ``(P,)``; buffers left out."""
    with torch.no_grad():
        return torch.cat([p.reshape(-1) for p in model.parameters() if p.requires_grad])


def _blocks(trajectories: Sequence[Trajectory], kind: str) -> Iterator[Tensor]:
    """The second axis of all runs' snapshots in pieces of bounded size: ``(S, width, ...)``."""
    first: Tensor = getattr(trajectories[0], kind)
    column_bytes = 8 * sum(map(len, trajectories)) * first[0, 0].numel()  # in float64
    slab, block = (max(1, size // column_bytes) for size in (_SLAB_BYTES, _BLOCK_BYTES))
    for low in range(0, first.shape[1], slab):
        rows = torch.cat([_read(t, kind, low, low + slab) for t in trajectories])
        yield from rows.split(block, dim=1)


def _read(trajectory: Trajectory, kind: str, low: int, high: int) -> Tensor:
    if trajectory.folder is not None:
        # The run may have gone on since the trajectory was loaded.
        return SnapshotFiles.open(trajectory.folder).columns(kind, low, high)[: len(trajectory)]
    rows: Tensor = getattr(trajectory, kind)
    return rows[:, low:high]
