"""Train a network on one task after another, with any method against forgetting."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ._checks import at_least_one
from .data import Dataset
from .models import device_of, logits

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Method:
    """What is done against forgetting, as a training loop calls it. This one does nothing.

    A loop calls, for each task: :meth:`begin_task`; then at every step, when ``.grad`` holds the
    gradient of the task's own loss, :meth:`before_step`, adds the gradient of :meth:`penalty`,
    makes the optimizer's step and calls :meth:`after_step`; then :meth:`end_task`. A method
    remembers one run: make a new one for another.
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
    make_optimizer: Callable[[], Optimizer],
    method: Method | None = None,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    loss_function: LossFunction = F.cross_entropy,
    on_epoch: Callable[[int, int], object] | None = None,
) -> Tensor:
    """Train ``model`` in place on one task after another.

    Args:
        tasks: Data sets of one shape, such as digits with their pixels permuted.
        make_optimizer: Called at the start of each task: ``lambda: Adam(model.parameters())``
            begins each with a fresh state, ``lambda: adam`` keeps one throughout.
        method: What is done against forgetting; default nothing.
        epochs: Passes over each task.
        seed: Decides the batches (the same for every method) and dropout.
        on_epoch: Called with the task and the number of its finished epochs, after each.

    Returns:
        Test accuracies between 0 and 1, shape ``(T, T)``, float64: row i after task i, column j
        on task j.

    Raises:
        ValueError: If there is no task, their shapes differ, a number is out of range, or the
            method has no room for so many tasks; nothing has been trained then.
        FloatingPointError: If the loss becomes infinite or NaN.
    """
    _check_tasks(tasks, epochs, batch_size)
    method = Method() if method is None else method
    device = device_of(model)
    data = [task.to(device) for task in tasks]
    order = torch.Generator().manual_seed(seed)
    accuracies = torch.zeros(len(data), len(data), dtype=torch.float64)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout
        for t, task in enumerate(data):
            method.begin_task(model, t, len(data))
            optimizer = make_optimizer()
            for epoch in range(1, epochs + 1):
                model.train()
                shuffled = torch.randperm(len(task.y_train), generator=order).to(device)
                for index in shuffled.split(batch_size):
                    x, y = task.x_train[index], task.y_train[index]
                    _step(model, x, y, optimizer, method, loss_function)
                if on_epoch is not None:
                    on_epoch(t, epoch)
            method.end_task(model, task.x_train, task.y_train)
            for j, other in enumerate(data):
                right = logits(model, other.x_test).argmax(dim=1) == other.y_test
                accuracies[t, j] = right.double().mean()
    return accuracies


def _step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: Optimizer,
    method: Method,
    loss_function: LossFunction,
) -> None:
    loss = loss_function(model(x), y)
    if not math.isfinite(value := loss.item()):
        raise FloatingPointError(
            f"the loss became {value}; try a smaller learning rate, or a weaker penalty"
        )
    optimizer.zero_grad()
    loss.backward()
    method.before_step(model)
    penalty = method.penalty(model)
    if penalty is not None:
        penalty.backward()  # adds to .grad
    optimizer.step()
    method.after_step(model, optimizer)


def _check_tasks(tasks: Sequence[Dataset], epochs: int, batch_size: int) -> None:
    if len(tasks) == 0:
        raise ValueError("expected at least one task, got none")
    if len({(task.shape, len(task.classes)) for task in tasks}) != 1:
        raise ValueError(
            "expected tasks of one shape and number of classes, got "
            f"{[(task.shape, len(task.classes)) for task in tasks]}"
        )
    at_least_one(epochs=epochs, batch_size=batch_size)
