"""Train a classifier, the same way for every optimizer: same batches, same initialization.

An optimizer whose ``step`` takes ``outputs`` (:class:`hilbertlib.hcgd.HilbertConstrained`) gets
its validation batches X_V here: examples of the training set that are not in the batch.
"""

import inspect
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints import load_checkpoint, save_checkpoint
from .data import Dataset
from .models import device_of, has_dropout, logits
from .models import probabilities as probabilities  # its place in the public interface

CorrectionData = Literal["fresh", "same", "batch"]
Outputs = Callable[[], Tensor]


@dataclass
class History:
    """What a run measured: one entry an epoch in each list.

    The training loss and accuracy are means over the epoch's batches as they were met, before
    each step; the test loss and accuracy are those after the epoch. ``initial_test_loss`` and
    ``initial_test_accuracy`` are those before the first step. Losses are in nats, accuracies
    between 0 and 1; ``seconds`` are those of training, without evaluation and callbacks.
    """

    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    initial_test_loss: float = math.nan
    initial_test_accuracy: float = math.nan

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.test_accuracy)


@dataclass(frozen=True)
class Progress:
    """Where a run is, as callbacks are told: after ``step`` steps, in (or after) ``epoch``.

    Before the first step both are 0 and ``loss``, that of the last batch, is NaN.
    """

    step: int
    epoch: int
    loss: float
    history: History


Callback = Callable[[Progress], object]


class DivergenceError(FloatingPointError):
    """The training loss is no longer finite; ``step`` and ``epoch`` say when that was found."""

    def __init__(self, step: int, epoch: int, loss: float, learning_rate: float) -> None:
        self.step, self.epoch = step, epoch
        super().__init__(
            f"the training loss became {loss} at step {step} (epoch {epoch}) with learning rate "
            f"{learning_rate:g}; try a smaller one"
        )


def train(
    model: nn.Module,
    dataset: Dataset,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
    validation_size: int = 256,
    correction_data: CorrectionData = "fresh",
    loss_function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    clip_norm: float | None = None,
    scheduler: Any = None,
    on_step: Callback | None = None,
    on_epoch: Callback | None = None,
    device: str | torch.device | None = None,
    history: History | None = None,
    checkpoint: str | Path | None = None,
) -> History:
    """Train ``model`` in place and return what was measured.

    The batches depend on ``seed`` alone, whatever the optimizer, and so does dropout; the global
    random state is left as it was. The last, smaller batch of an epoch is used.

    Args:
        optimizer: Any torch optimizer over the model's parameters. If its ``step`` takes
            ``outputs``, it is given the softmax outputs on X_V.
        validation_size: Number of examples in X_V, drawn from the training set without the
            examples of the batch (section 4 of the paper: 256).
        correction_data: ``"fresh"``: a new X_V for every correction (Algorithm 2). ``"same"``:
            one X_V for all corrections of a step. ``"batch"``: X_V is the training batch, whose
            outputs are not computed again.
        loss_function: Maps logits ``(B, C)`` and labels ``(B,)`` to their mean loss.
        clip_norm: Clip the gradient to this ℓ2 norm before each step.
        scheduler: A torch learning-rate scheduler, stepped once an epoch.
        on_step: Called before the first step and after each.
        on_epoch: Called before the first epoch and after each.
        device: Where to train; ``"auto"`` takes a GPU where there is one. Default: where the
            model is.
        history: An empty one to fill. When the run is interrupted (Ctrl-C) or diverges it holds
            every finished epoch.
        checkpoint: A file that holds the run after each finished epoch. Where it is there
            already, the run goes on from it, bit for bit as if it had never stopped on a CPU;
            callbacks go on too, if they have a ``state_dict`` and a ``load_state_dict``.

    Raises:
        ValueError: If ``epochs``, ``batch_size``, ``validation_size`` or ``correction_data`` is
            out of range, ``history`` is not empty, or the checkpoint is damaged or of another
            run. The model is then unchanged.
        DivergenceError: If the loss becomes infinite or NaN.
    """
    n = len(dataset.y_train)
    history = History() if history is None else history
    check_run(epochs, batch_size)
    if history.epochs:
        raise ValueError(f"expected an empty history, got one of {history.epochs} epochs")
    validation = None
    if takes_outputs(optimizer):
        validation = _Validation(n, batch_size, validation_size, correction_data, seed)
    # The batch's own outputs save the pass at the old parameters, unless dropout redraws them.
    reuse = (
        correction_data == "batch"
        and "current" in inspect.signature(optimizer.step).parameters
        and not has_dropout(model)
    )
    if device is not None:
        model.to(resolve_device(device))
    device = device_of(model)
    data = dataset.to(device)

    def report(callback: Callback | None, step: int, epoch: int, loss: float) -> None:
        if callback is not None:
            callback(Progress(step, epoch, loss, history))

    order = torch.Generator().manual_seed(seed)
    step = 0
    with _seeded_global_state(seed, device):
        saved = None
        if checkpoint is not None:
            run = _Resumable(
                model, optimizer, scheduler, history, order, validation, (on_step, on_epoch), device
            )
            about = {"seed": seed, "batch_size": batch_size, "examples": n}
            saved = _Checkpoint(Path(checkpoint), run, about)
            step = saved.resume()
        if step == 0:
            history.initial_test_loss, history.initial_test_accuracy = evaluate(
                model, data.x_test, data.y_test, loss_function
            )
            report(on_step, 0, 0, math.nan)
            report(on_epoch, 0, 0, math.nan)
        for epoch in range(history.epochs + 1, epochs + 1):
            loss_sum, correct, seconds = 0.0, 0, 0.0
            for index, rest in batches(n, batch_size, order):
                started = time.perf_counter()
                step += 1
                x, y = data.x_train[index], data.y_train[index]
                model.train()
                optimizer.zero_grad()
                predicted = model(x)
                loss = loss_function(predicted, y)
                value = loss.item()
                if not math.isfinite(value):
                    raise DivergenceError(step, epoch, value, optimizer.param_groups[0]["lr"])
                loss.backward()
                loss_sum += value * len(y)
                correct += int((predicted.argmax(dim=1) == y).sum())
                known = predicted.detach().softmax(dim=1)
                del predicted, loss  # free their graph before the corrections build theirs
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                if validation is None:
                    optimizer.step()
                else:
                    outputs = validation.outputs(model, data.x_train, index, rest, optimizer)
                    reused = {"current": known} if reuse else {}
                    optimizer.step(outputs, **reused)  # type: ignore[arg-type]
                seconds += time.perf_counter() - started
                report(on_step, step, epoch, value)
            if scheduler is not None:
                scheduler.step()
            test_loss, test_accuracy = evaluate(model, data.x_test, data.y_test, loss_function)
            history.train_loss.append(loss_sum / n)
            history.train_accuracy.append(correct / n)
            history.test_loss.append(test_loss)
            history.seconds.append(seconds)
            history.test_accuracy.append(test_accuracy)  # last: it counts as the epoch's end
            report(on_epoch, step, epoch, value)
            if saved is not None:
                saved.save(step)
    return history


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss_function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[float, float]:
    """Mean loss and accuracy of ``model`` on inputs ``x`` and labels ``y``, in evaluation mode."""
    predicted = logits(model, x)
    y = y.to(predicted.device)
    correct = (predicted.argmax(dim=1) == y).sum()
    return float(loss_function(predicted, y)), int(correct) / len(y)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the examples that ``model`` classifies rightly, between 0 and 1."""
    return evaluate(model, x, y)[1]


def batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of a shuffled training set: for each batch its indices, and all the others.

    >>> index, rest = next(batches(5, 2, torch.Generator().manual_seed(0)))
    >>> sorted(torch.cat([index, rest]).tolist())
    [0, 1, 2, 3, 4]
    """
    order = torch.randperm(n, generator=generator)
    for low in range(0, n, batch_size):
        high = min(low + batch_size, n)
        # A view that starts after the batch and wraps around to its beginning.
        yield order[low:high], torch.cat([order[high:], order[:low]])


def takes_outputs(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer corrects its steps in function space: its ``step`` takes outputs."""
    return "outputs" in inspect.signature(optimizer.step).parameters


def resolve_device(device: str | torch.device) -> torch.device:
    """The device by name; ``"auto"`` is a GPU where there is one, else the CPU.

    Raises:
        ValueError: If it is a GPU and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"expected a device that is here, got {device}: torch finds no GPU")
    return found


def check_run(epochs: int, batch_size: int) -> None:
    """Raise a ValueError unless there is at least one epoch of batches of at least one example."""
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"expected epochs and batch_size of at least 1, got {epochs} and {batch_size}"
        )


class _Validation:
    """Draws X_V for a constrained optimizer, from a stream of its own: it never moves a batch."""

    def __init__(
        self, n: int, batch_size: int, size: int, correction_data: CorrectionData, seed: int
    ) -> None:
        if correction_data not in get_args(CorrectionData):
            raise ValueError(
                f"expected correction_data {', '.join(map(repr, get_args(CorrectionData)))}, "
                f"got {correction_data!r}"
            )
        available = n - min(batch_size, n)
        if correction_data != "batch" and not 1 <= size <= available:
            raise ValueError(
                f"expected validation_size from 1 to {available}, the training examples outside a "
                f"batch, got {size}; or take the batch itself: correction_data='batch'"
            )
        self.size = size
        self.correction_data = correction_data
        self.random = np.random.default_rng([seed, 1])

    def outputs(
        self,
        model: nn.Module,
        x_train: Tensor,
        batch: Tensor,
        rest: Tensor,
        optimizer: torch.optim.Optimizer,
    ) -> Outputs | list[Outputs]:
        """The output function on X_V, or one for each correction."""

        def on(index: Tensor) -> Outputs:
            x = x_train[index]
            return lambda: model(x).softmax(dim=1)

        if self.correction_data == "batch":
            return on(batch)
        if self.correction_data == "same":
            return on(self._draw(rest))
        corrections = optimizer.param_groups[0].get("corrections", 1)
        return [on(self._draw(rest)) for _ in range(corrections)]

    def _draw(self, rest: Tensor) -> Tensor:
        # Generator.choice without shuffling takes time in the size drawn, not in len(rest).
        chosen = self.random.choice(len(rest), self.size, replace=False, shuffle=False)
        return rest[torch.from_numpy(chosen)]


@dataclass
class _Resumable:
    """Everything that a run's next epoch depends on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    history: History
    order: torch.Generator
    validation: _Validation | None
    callbacks: tuple[Callback | None, ...]
    device: torch.device

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "history": asdict(self.history),
            "order": self.order.get_state(),
            "validation": None
            if self.validation is None
            else self.validation.random.bit_generator.state,
            "random": torch.get_rng_state(),
            "gpu_random": self._gpu.get_state() if self._gpu else None,
            "callbacks": [c.state_dict() for c in self._keeping],
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for name, value in state["history"].items():
            setattr(self.history, name, value)
        self.order.set_state(state["order"])
        if self.validation is not None:
            self.validation.random.bit_generator.state = state["validation"]
        torch.set_rng_state(state["random"])
        if self._gpu and state["gpu_random"] is not None:
            self._gpu.set_state(state["gpu_random"])
        for callback, kept in zip(self._keeping, state["callbacks"], strict=True):
            callback.load_state_dict(kept)

    @property
    def _gpu(self) -> torch.Generator | None:
        if self.device.type != "cuda":
            return None
        return torch.cuda.default_generators[self.device.index or 0]

    @property
    def _keeping(self) -> list[Any]:
        return [c for c in self.callbacks if hasattr(c, "load_state_dict")]


@dataclass
class _Checkpoint:
    """A run in a file, with what tells it from another run."""

    path: Path
    run: _Resumable
    about: dict[str, int]

    def resume(self) -> int:
        """Go on from the file where there is one; the number of steps that were made."""
        if not self.path.exists():
            return 0
        state = load_checkpoint(self.path)
        if state.get("about") != self.about:
            raise ValueError(
                f"{self.path} belongs to another run: expected {self.about}, got "
                f"{state.get('about')}; delete it to begin anew"
            )
        self.run.load(state["run"])
        return int(state["step"])

    def save(self, step: int) -> None:
        save_checkpoint(self.path, {"about": self.about, "step": step, "run": self.run.state()})


@contextmanager
def _seeded_global_state(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global state: seed it for the run, and give it back after."""
    gpus = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield
