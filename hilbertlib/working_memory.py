"""A working memory of earlier tasks (section 3.1), and what remembering costs in bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ._checks import at_least_one


class WorkingMemory:
    """Examples of earlier tasks, equally many of each, with the network's outputs on them.

    The outputs are those at the end of the example's own task. Each new task takes an equal
    share, and those before it give up examples drawn at random.

    Args:
        capacity: Examples at most; the paper keeps 1,024.
        seed: Decides which examples are kept.

    Attributes:
        tasks: Number of tasks remembered.
        share: Examples of each.
        x: The inputs, shape ``(M, ...)``, ordered by task.
        y: Their labels, shape ``(M,)``.
        outputs: The outputs on them, shape ``(M, *C)``.

    Raises:
        ValueError: If the capacity is below 1.

    >>> memory = WorkingMemory(capacity=10)
    >>> for task in range(3):
    ...     memory.add(torch.rand(50, 4), torch.zeros(50, dtype=torch.int64), lambda x: x[:, :2])
    >>> len(memory), memory.share, memory.outputs.shape
    (9, 3, torch.Size([9, 2]))
    """

    def __init__(self, capacity: int = 1024, seed: int = 0) -> None:
        at_least_one(capacity=capacity)
        self.capacity = capacity
        self.tasks = self.share = 0
        # Its stream is the same in every version: a seed names the same examples everywhere.
        self._random = np.random.RandomState(seed)
        self._kept: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return self.tasks * self.share

    def check(self, tasks: int) -> None:
        """Refuse more tasks than there is room for.

        Raises:
            ValueError: If fewer than one example of each would be left.
        """
        if tasks > self.capacity:
            raise ValueError(
                f"a memory of {self.capacity} examples cannot hold one of each of {tasks} tasks: "
                f"expected a capacity of at least {tasks}"
            )

    def add(self, x: Tensor, y: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        """Remember a task that has just been learned.

        Args:
            x, y: Its training examples, shape ``(N, ...)``, and labels, shape ``(N,)``. With
                fewer than its share, every task's share shrinks to N.
            function: What to remember of the network: ``(M, ...)`` to outputs ``(M, *C)``. Called
                once, without gradients.

        Raises:
            ValueError: If there is no room for another task; the batch is empty; ``x`` and ``y``
                do not match; or the outputs are not one for each example, or not finite. The
                memory is then unchanged.
        """
        self.check(self.tasks + 1)
        if y.ndim != 1 or len(y) == 0 or len(x) != len(y):
            raise ValueError(
                "expected one label for each of one or more examples, got shapes "
                f"{tuple(x.shape)} and {tuple(y.shape)}"
            )
        share = min(self.capacity // (self.tasks + 1), len(x), self.share or self.capacity)
        state = self._random.get_state()
        index = torch.from_numpy(self._random.permutation(len(x))[:share]).to(x.device)
        new_x = x[index]
        try:
            with torch.no_grad():
                outputs = function(new_x).clone()
            if len(outputs) != share or not outputs.isfinite().all():
                raise ValueError(
                    f"expected finite outputs on {share} examples, got shape "
                    f"{tuple(outputs.shape)}, or NaN or inf"
                )
            new = (new_x, y[index], outputs)
            # In the order they were drawn, any first part of a task is a random sample of it.
            kept = [t.unflatten(0, (self.tasks, -1))[:, :share].flatten(0, 1) for t in self._kept]
            self._kept = tuple(map(torch.cat, zip(kept, new, strict=True))) if kept else new
        except BaseException:
            self._random.set_state(state)
            raise
        self.tasks, self.share = self.tasks + 1, share

    @property
    def x(self) -> Tensor:
        return self._filled()[0]

    @property
    def y(self) -> Tensor:
        return self._filled()[1]

    @property
    def outputs(self) -> Tensor:
        return self._filled()[2]

    def _filled(self) -> tuple[Tensor, ...]:
        if not self._kept:
            raise ValueError("the memory is empty: add a task first")
        return self._kept

    @property
    def nbytes(self) -> int:
        """Bytes that its inputs, labels and outputs take as they are held."""
        return sum(t.nbytes for t in self._kept)


@dataclass(frozen=True)
class Storage:
    """How much a method keeps from task to task: ``numbers`` of them, in ``bytes``."""

    numbers: int
    bytes: int

    def images(self, pixels: int = 784) -> float:
        """As many numbers as the pixels of so many images."""
        return self.numbers / pixels


def mlp_parameters(sizes: Sequence[int]) -> int:
    """Number of weights and biases of a multilayer perceptron.

    Raises:
        ValueError: If a size is below 1, or there are not two: inputs and outputs.

    >>> mlp_parameters((784, 400, 400, 10))
    478410
    """
    if len(sizes) < 2:
        raise ValueError(f"expected the sizes of inputs and outputs at least, got {tuple(sizes)}")
    for size in sizes:
        at_least_one(size=size)
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


def diagonal_storage(parameters: int, number_bytes: int = 4) -> Storage:
    """EWC's store, or SI's: the old value of each parameter and its importance.

    Raises:
        ValueError: If a number is below 1.

    For the network of section 3.1 the paper has 1,148,820 numbers, or 1,465 images, and 15,489
    images for 2,000 units a layer. These are for inputs of 32 x 32 = 1,024 pixels; with MNIST's
    784 they are fewer:

    >>> diagonal_storage(mlp_parameters((1024, 400, 400, 10)))
    Storage(numbers=1148820, bytes=4595280)
    >>> ours = diagonal_storage(mlp_parameters((784, 400, 400, 10)))
    >>> ours, int(ours.images())
    (Storage(numbers=956820, bytes=3827280), 1220)
    >>> int(diagonal_storage(mlp_parameters((784, 2000, 2000, 10))).images())
    14265
    """
    at_least_one(parameters=parameters, number_bytes=number_bytes)
    return Storage(2 * parameters, 2 * parameters * number_bytes)


def example_storage(
    examples: int = 1024,
    inputs: int = 784,
    outputs: int = 10,
    input_bytes: int = 1,
    output_bytes: int = 4,
) -> Storage:
    """A working memory's store: inputs and remembered outputs. A pixel of MNIST is one byte.

    Raises:
        ValueError: If a number is below 1.

    >>> example_storage()
    Storage(numbers=813056, bytes=843776)
    """
    at_least_one(
        examples=examples, inputs=inputs, outputs=outputs, input_bytes=input_bytes,
        output_bytes=output_bytes,
    )  # fmt: skip
    return Storage(
        examples * (inputs + outputs), examples * (inputs * input_bytes + outputs * output_bytes)
    )
