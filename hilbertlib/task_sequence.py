"""Train a network on one task after another, with any method against forgetting."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ._checks import at_least_one
from .data import Dataset
from .models import device_of, logits
from .training import _seeded_global_state, accuracy, takes_outputs

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TaskHistory:
    """What learning T tasks, each for E epochs, measured.

    Attributes:
        accuracy: Test accuracies between 0 and 1, shape ``(T, T)``, float64: row i after task i,
            column j on task j.
        loss: Mean training loss of each epoch, shape ``(T, E)``, float64; of the task alone, as
            the batches were met, before each step.
        penalty: What the method added to it, likewise; 0 where there was none.
    """

    accuracy: Tensor
    loss: Tensor
    penalty: Tensor

    @property
    def average(self) -> float:
        """Mean accuracy on all tasks at the end."""
        return float(self.accuracy[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean loss of accuracy on a task since it was learned, over all but the last; 0 for one.

        >>> accuracy = torch.tensor([[0.9, 0.1], [0.6, 0.8]])
        >>> history = TaskHistory(accuracy, torch.zeros(2, 1), torch.zeros(2, 1))
        >>> round(history.forgetting, 2), round(history.average, 2)
        (0.3, 0.7)
        """
        lost = self.accuracy.diagonal() - self.accuracy[-1]
        return float(lost[:-1].mean()) if len(lost) > 1 else 0.0


class Method:
    """What is done against forgetting, as a training loop calls it. This one does nothing.

    A loop calls, for each task: :meth:`begin_task`; then at every step, when ``.grad`` holds the
    gradient of the task's own loss, :meth:`before_step`, adds the gradient of :meth:`penalty`,
    makes the optimizer's step and calls :meth:`after_step`; then :meth:`end_task`. A method
    remembers one run: make a new one for another.

    :func:`train_tasks` is such a loop. Your own looks like this:

    >>> from hilbertlib.forgetting import EWC
    >>> model, method = nn.Linear(4, 3), EWC()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> tasks = [(torch.rand(20, 4), torch.arange(20) % 3) for _ in range(2)]
    >>> for number, (x, y) in enumerate(tasks):
    ...     method.begin_task(model, number, len(tasks))
    ...     for _ in range(5):
    ...         optimizer.zero_grad()
    ...         F.cross_entropy(model(x), y).backward()
    ...         method.before_step(model)
    ...         penalty = method.penalty(model)
    ...         if penalty is not None:
    ...             penalty.backward()  # adds to .grad
    ...         _ = optimizer.step()
    ...         method.after_step(model, optimizer)
    ...     method.end_task(model, x, y)
    >>> method.finished
    2
    """

    finished = 0
    """Number of tasks learned so far."""

    def begin_task(self, model: nn.Module, task: int, tasks: int) -> None:
        """Before the first step of task number ``task``, counted from 0, of ``tasks``.

        Raises:
            ValueError: If another task should come next, or there are too many.
        """
        if task != self.finished:
            raise ValueError(
                f"expected task {self.finished} next, got {task}: a method remembers the tasks of "
                "one run; make a new one for another"
            )
        if task >= tasks:
            raise ValueError(f"expected more than {task} tasks in all, got {tasks}")

    def before_step(self, model: nn.Module) -> None:
        """``.grad`` is the gradient of the present task's loss alone."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What is added to the loss, shape ``()``; None where there is nothing to add."""
        return None

    def after_step(self, model: nn.Module, optimizer: Optimizer) -> None:
        """The optimizer has made its step."""

    def end_task(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """The task with these training examples has been learned."""
        self.finished += 1

    @property
    def nbytes(self) -> int:
        """Bytes kept from task to task."""
        return 0


def train_tasks(
    model: nn.Module,
    tasks: Sequence[Dataset],
    method: Method | None,
    make_optimizer: Callable[[], Optimizer],
    *,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    loss_function: LossFunction = F.cross_entropy,
    on_epoch: Callable[[int, int], object] | None = None,
) -> TaskHistory:
    """Train ``model`` in place on one task after another.

    The first task is learned as :func:`hilbertlib.training.train` learns it with the same seed,
    bit for bit and whatever the method, since nothing is remembered yet.

    Args:
        tasks: Data sets of one shape, such as digits with their pixels permuted.
        method: What is done against forgetting; None for nothing.
        make_optimizer: Called at the start of each task: ``lambda: Adam(model.parameters())``
            begins each with a fresh state, ``lambda: adam`` keeps one throughout.
        epochs: Passes over each task; the paper's 10.
        batch_size: Examples of the task in each step.
        seed: Decides the batches (the same for every method) and dropout.
        loss_function: Of logits ``(B, C)`` and labels ``(B,)``.
        on_epoch: Called with the task and the number of its finished epochs, after each.

    Raises:
        TypeError: If ``method`` is no :class:`Method` or ``make_optimizer`` cannot be called.
        ValueError: If there is no task, their shapes differ, the model's outputs are not one for
            each class, a number is out of range, the method has no room for so many tasks, or the
            optimizer does not fit; nothing has been trained then.
        FloatingPointError: If the loss or the penalty becomes infinite or NaN.

    >>> from hilbertlib.data import load, permute_pixels
    >>> from hilbertlib.forgetting import Replay
    >>> digits = load("digits")
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> history = train_tasks(
    ...     model, [digits, permute_pixels(digits, seed=1)], Replay(capacity=100),
    ...     lambda: torch.optim.Adam(model.parameters(), lr=0.01), epochs=1,
    ... )
    >>> history.loss.shape  # two tasks, one epoch each
    torch.Size([2, 1])
    """
    method = Method() if method is None else method
    _check_run(tasks, method, make_optimizer, epochs, batch_size)
    _check_model(model, tasks[0])
    device = device_of(model)
    data = [task.to(device) for task in tasks]
    order = torch.Generator().manual_seed(seed)
    accuracies = torch.zeros(len(data), len(data), dtype=torch.float64)
    losses = torch.zeros(2, len(data), epochs, dtype=torch.float64)
    with _seeded_global_state(seed, device):  # dropout
        for t, task in enumerate(data):
            method.begin_task(model, t, len(data))
            optimizer = make_optimizer()
            _check_optimizer(optimizer, model)
            for epoch in range(epochs):
                model.train()
                shuffled = torch.randperm(len(task.y_train), generator=order).to(device)
                for index in shuffled.split(batch_size):
                    x, y = task.x_train[index], task.y_train[index]
                    values = _step(model, x, y, optimizer, method, loss_function)
                    share = len(index) / len(shuffled)
                    losses[:, t, epoch] += share * torch.tensor(values, dtype=torch.float64)
                if on_epoch is not None:
                    on_epoch(t, epoch + 1)
            method.end_task(model, task.x_train, task.y_train)
            for j, other in enumerate(data):
                accuracies[t, j] = accuracy(model, other.x_test, other.y_test)
    return TaskHistory(accuracies, *losses)


def _step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: Optimizer,
    method: Method,
    loss_function: LossFunction,
) -> tuple[float, float]:
    """One step; the loss and the penalty before it."""
    loss = loss_function(model(x), y)
    if not math.isfinite(value := loss.item()):
        raise FloatingPointError(f"the loss became {value}; try a smaller learning rate")
    optimizer.zero_grad()
    loss.backward()
    method.before_step(model)
    penalty, added = method.penalty(model), 0.0
    if penalty is not None:
        if not math.isfinite(added := penalty.item()):
            raise FloatingPointError(
                f"the penalty became {added}; try a weaker one, or a smaller learning rate"
            )
        penalty.backward()  # adds to .grad
    optimizer.step()
    method.after_step(model, optimizer)
    return value, added


def _check_run(
    tasks: Sequence[Dataset], method: object, make_optimizer: object, epochs: int, batch_size: int
) -> None:
    if not isinstance(method, Method):
        raise TypeError(
            f"expected a method such as L2Memory(), or None, as the third argument, got {method!r}"
        )
    if isinstance(make_optimizer, Optimizer) or not callable(make_optimizer):
        raise TypeError(
            "expected a function that makes an optimizer, such as "
            f"lambda: Adam(model.parameters()), got {type(make_optimizer).__name__}"
        )
    if isinstance(tasks, Dataset):
        raise TypeError("expected a sequence of tasks, such as [digits, permuted], got a Dataset")
    if len(tasks) == 0:
        raise ValueError("expected at least one task, got none")
    if len({(task.shape, len(task.classes)) for task in tasks}) != 1:
        raise ValueError(
            "expected tasks of one shape and number of classes, got "
            f"{[(task.shape, len(task.classes)) for task in tasks]}"
        )
    at_least_one(epochs=epochs, batch_size=batch_size)


def _check_model(model: nn.Module, task: Dataset) -> None:
    shape = tuple(logits(model, task.x_train[:1]).shape)
    if len(shape) != 2 or shape[1] < len(task.classes):
        raise ValueError(
            f"expected outputs of shape (N, {len(task.classes)}), one for each class, got "
            f"{shape} for one example"
        )


def _check_optimizer(optimizer: object, model: nn.Module) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"expected make_optimizer to return an optimizer, got {type(optimizer).__name__}"
        )
    own = {id(p) for p in model.parameters()}
    if not own.intersection(id(p) for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("expected an optimizer over the model's parameters, got one over others")
    if takes_outputs(optimizer):
        raise ValueError(
            f"expected an optimizer whose step takes no outputs, got {type(optimizer).__name__}: "
            "hilbertlib.training.train has a loop for it"
        )
