"""Learning tasks one after another without forgetting: section 3.1 of the paper.

Four ways to remember, behind one small protocol (:class:`.Method`), for :func:`.train_tasks` or a
loop of one's own. Definitions differ between sources by factors of two and by which Fisher
information is meant, so a λ compares only within one definition; each is written out below.

>>> from hilbertlib.data import load, permute_pixels
>>> from hilbertlib.models import mlp, seeded
>>> digits = load("digits")
>>> tasks = [digits, permute_pixels(digits, seed=1)]
>>> model = seeded(lambda: mlp((64, 50, 10)), seed=0)
>>> method = L2Memory(capacity=200)
>>> history = train_tasks(
...     model, tasks, method, lambda: torch.optim.Adam(model.parameters()), epochs=2
... )
>>> history.accuracy.shape, len(method.memory)
(torch.Size([2, 2]), 200)
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ._checks import at_least_one, at_least_zero, known, positive
from ._likelihood import Kind, warn_of_probabilities
from .distance import l2_distance
from .fisher import fisher_diagonal
from .models import evaluating, logits
from .task_sequence import LossFunction
from .task_sequence import Method as Method  # their place in the public interface
from .task_sequence import TaskHistory as TaskHistory
from .task_sequence import train_tasks as train_tasks
from .working_memory import Storage as Storage
from .working_memory import WorkingMemory as WorkingMemory
from .working_memory import diagonal_storage as diagonal_storage
from .working_memory import example_storage as example_storage
from .working_memory import mlp_parameters as mlp_parameters

Norm = Literal["rms", "squared", "mean_norm"]
OutputSpace = Literal["probabilities", "logits"]
Tasks = Literal["all", "last"]


class _Remembering(Method):
    """A method with a working memory."""

    def __init__(
        self, capacity: int, seed: int, batch: int | None, function: Callable[..., Tensor]
    ) -> None:
        if batch is not None:
            at_least_one(batch=batch)
        self.memory = WorkingMemory(capacity, seed)
        self.batch = batch
        self._function = function
        self._random = np.random.RandomState([seed, 1])

    def begin_task(self, model: nn.Module, task: int, tasks: int) -> None:
        super().begin_task(model, task, tasks)
        self.memory.check(tasks)

    def end_task(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        def function(chosen: Tensor) -> Tensor:
            z = logits(model, chosen)
            warn_of_probabilities(z)
            return self._function(z)

        self.memory.add(x, y, function)
        super().end_task(model, x, y)

    def drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and outputs: the whole memory, or a batch of it."""
        memory = self.memory
        if self.batch is None or self.batch >= len(memory):
            return memory.x, memory.y, memory.outputs
        index = torch.from_numpy(self._random.choice(len(memory), self.batch, replace=False))
        index = index.to(memory.x.device)
        return memory.x[index], memory.y[index], memory.outputs[index]

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes


class L2Memory(_Remembering):
    """The paper's regularizer: ``λ/2 · ‖f_θ − f_remembered‖`` over a working memory.

    The network is run in evaluation mode, as it was when its outputs were remembered.

    Args:
        capacity: Examples in the memory.
        lam: λ ≥ 0; the paper's 1.3 is for the norm.
        norm: ``"rms"``: the L2 distance as :func:`hilbertlib.distance.l2_distance` has it.
            ``"squared"``: its square. ``"mean_norm"``: the mean of the examples' norms.
        space: Whether f is the softmax ``"probabilities"`` or the ``"logits"``.
        batch: Draw so many examples anew at each step; default the whole memory, as in the paper.
        seed: Decides what is remembered and drawn.

    Raises:
        ValueError: If a number is out of range or a name unknown.

    >>> model, method = nn.Linear(4, 3), L2Memory(capacity=10)
    >>> x, y = torch.rand(20, 4), torch.arange(20) % 3
    >>> method.begin_task(model, task=0, tasks=2)
    >>> method.end_task(model, x, y)  # remembers the function
    >>> method.penalty(model).item()  # it has not moved yet
    0.0
    """

    def __init__(
        self,
        capacity: int = 1024,
        lam: float = 1.3,
        norm: Norm = "rms",
        space: OutputSpace = "probabilities",
        batch: int | None = None,
        seed: int = 0,
    ) -> None:
        at_least_zero(lam=lam)
        known("norm", norm, get_args(Norm))
        known("space", space, get_args(OutputSpace))
        super().__init__(capacity, seed, batch, _softmax if space == "probabilities" else _same)
        self.lam, self.norm = lam, norm

    def penalty(self, model: nn.Module) -> Tensor | None:
        if self.lam == 0 or len(self.memory) == 0:
            return (
                None  # not 0: weight decay moves a parameter whose gradient is 0, not one without
            )
        x, _, remembered = self.drawn()
        with evaluating(model), torch.enable_grad():
            now = self._function(model(x))
        if self.norm == "squared":
            return self.lam / 2 * l2_distance(now, remembered).square()
        return self.lam / 2 * l2_distance(now, remembered, self.norm)


class Replay(_Remembering):
    """Retraining on the memory: every k steps one more step, down the loss on remembered examples.

    The paper's control for its regularizer, which sees the same examples.

    Args:
        capacity: Examples in the memory.
        every: k ≥ 1; the paper found 10 best. Counted anew in each task.
        batch: As for :class:`L2Memory`.
        loss_function: Of outputs ``(M, C)`` and labels ``(M,)``.
        seed: Decides what is remembered and drawn.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        capacity: int = 1024,
        every: int = 10,
        batch: int | None = None,
        loss_function: LossFunction = F.cross_entropy,
        seed: int = 0,
    ) -> None:
        at_least_one(every=every)
        super().__init__(capacity, seed, batch, _softmax)
        self.every, self.loss_function = every, loss_function
        self._steps = 0

    def begin_task(self, model: nn.Module, task: int, tasks: int) -> None:
        super().begin_task(model, task, tasks)
        self._steps = 0

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._steps += 1
        if len(self.memory) == 0 or self._steps % self.every != 0:
            return
        x, y, _ = self.drawn()
        optimizer.zero_grad()
        self.loss_function(model(x), y).backward()
        optimizer.step()


class _Anchored(Method):
    """A penalty ``scale · Σ_i importance_i (θ_i − anchor_i)²`` over the trainable parameters."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.importance: Tensor | None = None
        self.anchor: Tensor | None = None
        self.constant = 0.0

    def begin_task(self, model: nn.Module, task: int, tasks: int) -> None:
        super().begin_task(model, task, tasks)
        self._theta(model)

    def penalty(self, model: nn.Module) -> Tensor | None:
        if self.scale == 0 or self.importance is None or self.anchor is None:
            return None
        square = (self.importance * (self._theta(model) - self.anchor).square()).sum()
        return self.scale * (square + self.constant)

    def _theta(self, model: nn.Module) -> Tensor:
        theta = _flat(model)
        if self.anchor is not None and len(theta) != len(self.anchor):
            raise ValueError(
                f"expected the model that was remembered, with {len(self.anchor)} trainable "
                f"parameters, got one with {len(theta)}"
            )
        return theta

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.importance, self.anchor) if t is not None)


class EWC(_Anchored):
    """Elastic weight consolidation: ``λ/2 · Σ_i F_i (θ_i − θ_i,A)²``, F the Fisher's diagonal.

    The Fisher information is a mean over examples, of the network in evaluation mode
    (:func:`hilbertlib.fisher.fisher_diagonal`). Other sources leave out the ½, or sum.

    Args:
        lam: λ ≥ 0.
        fisher: ``"true"``: exact over the network's own labels. ``"sampled"``: one label drawn
            from them. ``"empirical"``: the labels of the data.
        tasks: ``"all"``: the penalties of all earlier tasks are summed. ``"last"``: only that of
            the task before.
        examples: Draw so many of a task's examples for its Fisher; default all.
        seed: Decides which examples and labels are drawn.

    Raises:
        ValueError: If a number is out of range or a name unknown.

    The sum over tasks is kept as one quadratic, exactly: two numbers a parameter however many
    tasks.

    >>> model, method = nn.Linear(4, 3), EWC(lam=500.0, fisher="empirical")
    >>> method.begin_task(model, task=0, tasks=2)
    >>> method.end_task(model, torch.rand(20, 4), torch.arange(20) % 3)
    >>> method.nbytes  # two float32 for each of 15 parameters
    120
    """

    def __init__(
        self,
        lam: float = 500.0,
        fisher: Kind = "true",
        tasks: Tasks = "all",
        examples: int | None = None,
        seed: int = 0,
    ) -> None:
        at_least_zero(lam=lam)
        known("fisher", fisher, get_args(Kind))
        known("tasks", tasks, get_args(Tasks))
        if examples is not None:
            at_least_one(examples=examples)
        super().__init__(lam / 2)
        self.fisher, self.tasks, self.examples = fisher, tasks, examples
        self._random = np.random.RandomState(seed)

    def end_task(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        theta, state = self._theta(model).detach(), self._random.get_state()
        try:
            importance = self._diagonal(model, x, y)
        except BaseException:
            self._random.set_state(state)
            raise
        if self.tasks == "last" or self.importance is None or self.anchor is None:
            self.importance, self.anchor = importance, theta
        else:
            # a (θ − s)² + b (θ − t)² = (a + b) (θ − m)² + a b / (a + b) (s − t)²,
            # with m the weighted mean. Where a + b = 0 any m will do.
            total = self.importance + importance
            weight = torch.where(total > 0, importance / total, 0.0)
            gap = theta - self.anchor
            self.constant += float((self.importance * weight * gap.square()).sum())
            self.importance, self.anchor = total, self.anchor + weight * gap
        super().end_task(model, x, y)

    def _diagonal(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.examples is not None:
            index = torch.from_numpy(self._random.permutation(len(x))[: self.examples])
            x, y = x[index.to(x.device)], y[index.to(y.device)]
        generator = torch.Generator(x.device).manual_seed(int(self._random.randint(2**31)))
        return fisher_diagonal(
            model, x,
            kind=self.fisher, targets=y if self.fisher == "empirical" else None,
            generator=generator,
        )  # fmt: skip


class SynapticIntelligence(_Anchored):
    """Synaptic intelligence: ``c · Σ_i Ω_i (θ_i − θ_i,A)²``, with Ω from the path of learning.

    Along each task a parameter's share in lowering the loss is added up, ``ω_i = −Σ g_i Δθ_i``,
    with g the gradient of the task's own loss (without the penalty) and Δθ the step made. At its
    end ``Ω_i += max(0, ω_i) / (Δ_i² + ξ)``, Δ the parameter's change over the task. While a task
    is learned ω and the task's first parameters are kept too, which ``nbytes`` leaves out.

    Args:
        c: Strength, at least 0.
        xi: ξ > 0, which the paper calls ε.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, c: float = 0.1, xi: float = 0.1) -> None:
        at_least_zero(c=c)
        positive(xi=xi)
        super().__init__(c)
        self.xi = xi
        self._path: list[Tensor] = []

    def begin_task(self, model: nn.Module, task: int, tasks: int) -> None:
        super().begin_task(model, task, tasks)
        self._start = _flat(model).detach()
        self._path = [torch.zeros_like(p) for p in _trained(model)]

    def before_step(self, model: nn.Module) -> None:
        if not self._path:
            raise ValueError("call begin_task before a task's first step")
        if len(_trained(model)) != len(self._path):
            raise ValueError(
                f"expected the {len(self._path)} parameters trained at the task's start, got "
                f"{len(_trained(model))}: freeze or free them between tasks"
            )
        # Copies: the penalty's gradient is added to .grad, and the step moves the parameters.
        self._before = [
            (p.detach().clone(), torch.zeros_like(p) if p.grad is None else p.grad.clone())
            for p in _trained(model)
        ]

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        for path, p, (theta, g) in zip(self._path, _trained(model), self._before, strict=True):
            path.addcmul_(g, p.detach() - theta, value=-1)

    def end_task(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        if not self._path:
            raise ValueError("call begin_task before a task's first step")
        theta, path = self._theta(model).detach(), torch.cat([w.reshape(-1) for w in self._path])
        gained = path.clamp(min=0) / ((theta - self._start).square() + self.xi)
        self.importance = gained if self.importance is None else self.importance + gained
        self.anchor, self._path = theta, []
        super().end_task(model, x, y)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("expected a model with trainable parameters, got none")
    return parameters


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.reshape(-1) for p in _trained(model)])


def _softmax(z: Tensor) -> Tensor:
    return z.softmax(dim=1)


def _same(z: Tensor) -> Tensor:
    return z
