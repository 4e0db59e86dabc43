"""Train the same small network from many seeds at once, as one batched computation.

A small network spends its time on overhead: ten of them, stacked with ``torch.func.vmap``, take
one pass through Python instead of ten. The result is that of :func:`hilbertlib.training.train`
in a loop, up to rounding.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .data import Dataset
from .models import has_dropout
from .training import (
    Callback,
    DivergenceError,
    History,
    Progress,
    batches,
    check_run,
    takes_outputs,
)


def train_many(
    models: Sequence[nn.Module],
    dataset: Dataset,
    make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    *,
    epochs: int,
    seeds: Sequence[int],
    batch_size: int = 128,
    on_step: Sequence[Callback] | None = None,
    on_epoch: Sequence[Callback] | None = None,
) -> list[History]:
    """Train ``models`` of one architecture in place, each with the batches of its own seed.

    Args:
        models: Built by the caller, for instance with :func:`hilbertlib.models.seeded`. Without
            buffers (BatchNorm) and dropout.
        make_optimizer: From stacked parameters ``(S, ...)`` to an optimizer that treats each
            number by itself: SGD, with or without momentum, or Adam.
        seeds: One for the batches of each model, as in :func:`hilbertlib.training.train`.
        on_step, on_epoch: A callback for each model, called as ``train`` would.

    Returns:
        The history of each model. ``seconds`` are an equal share of the time of all.

    Raises:
        ValueError: If an option is out of range, the numbers of models, seeds and callbacks
            differ, or the models cannot be stacked.
        TypeError: If the optimizer looks at more than one number at a time.
        DivergenceError: If the loss of a model becomes infinite or NaN.

    >>> from hilbertlib.data import load
    >>> from hilbertlib.models import mlp, seeded
    >>> models = [seeded(lambda: mlp((64, 16, 10)), seed) for seed in range(3)]
    >>> histories = train_many(
    ...     models, load("digits"), lambda stacked: torch.optim.Adam(stacked, lr=0.01),
    ...     epochs=5, seeds=range(3),
    ... )
    >>> min(history.test_accuracy[-1] for history in histories) > 0.8
    True
    """
    n = len(dataset.y_train)
    check_run(epochs, batch_size)
    _check_models(models, seeds, on_step, on_epoch)
    parameters, _ = stack_module_state(list(models))  # name: (S, *shape)
    optimizer = make_optimizer([p for p in parameters.values() if p.requires_grad])
    if takes_outputs(optimizer):
        raise TypeError(
            "expected an optimizer that treats each number by itself; a distance between functions "
            "would mix the models: use train() in a loop"
        )
    data = dataset.to(next(iter(parameters.values())).device)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def forward(stacked: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(skeleton, stacked, (x,))

    def report(callbacks: Sequence[Callback] | None, step: int, epoch: int, losses: Tensor) -> None:
        if callbacks is not None:
            for callback, loss, history in zip(callbacks, losses.tolist(), histories, strict=True):
                callback(Progress(step, epoch, loss, history))

    histories = [History() for _ in models]
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    step, losses = 0, torch.full((len(models),), math.nan)
    with _views(models, parameters):
        for history, result in zip(histories, _evaluate(forward, parameters, data), strict=True):
            history.initial_test_loss, history.initial_test_accuracy = result
        report(on_step, 0, 0, losses)
        report(on_epoch, 0, 0, losses)
        for epoch in range(1, epochs + 1):
            seconds = 0.0
            loss_sums = torch.zeros(len(models), dtype=torch.float64)
            correct = torch.zeros(len(models), dtype=torch.int64)
            for together in zip(*(batches(n, batch_size, order) for order in orders), strict=True):
                started = time.perf_counter()
                step += 1
                index = torch.stack([index for index, _ in together])  # (S, B)
                x, y = data.x_train[index], data.y_train[index]
                optimizer.zero_grad()
                predicted = vmap(forward)(parameters, x)  # (S, B, C)
                batch_losses = vmap(F.cross_entropy)(predicted, y)  # (S,)
                losses = batch_losses.detach().cpu()
                if not losses.isfinite().all():
                    bad = next(loss for loss in losses.tolist() if not math.isfinite(loss))
                    raise DivergenceError(step, epoch, bad, optimizer.param_groups[0]["lr"])
                # No parameter is shared: the gradient of the sum holds each model's own.
                batch_losses.sum().backward()
                optimizer.step()
                loss_sums += losses.double() * index.shape[1]
                correct += (predicted.argmax(dim=2) == y).sum(dim=1).cpu()
                seconds += time.perf_counter() - started
                report(on_step, step, epoch, losses)
            tested = _evaluate(forward, parameters, data)
            for i, (history, (test_loss, test_accuracy)) in enumerate(
                zip(histories, tested, strict=True)
            ):
                history.train_loss.append(float(loss_sums[i]) / n)
                history.train_accuracy.append(int(correct[i]) / n)
                history.test_loss.append(test_loss)
                history.seconds.append(seconds / len(models))
                history.test_accuracy.append(test_accuracy)
            report(on_epoch, step, epoch, losses)
    return histories


@torch.no_grad()
def _evaluate(
    forward: Callable[..., Tensor], parameters: dict[str, Tensor], data: Dataset
) -> list[tuple[float, float]]:
    """Mean test loss and accuracy of each model."""
    one_input = vmap(forward, in_dims=(0, None))
    predicted = torch.cat([one_input(parameters, x) for x in data.x_test.split(1024)], dim=1)
    losses = vmap(F.cross_entropy, in_dims=(0, None))(predicted, data.y_test)
    correct = (predicted.argmax(dim=2) == data.y_test).sum(dim=1)
    return [
        (loss, int(c) / len(data.y_test)) for loss, c in zip(losses.tolist(), correct, strict=True)
    ]


@contextmanager
def _views(models: Sequence[nn.Module], parameters: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the models' parameters are views of the stacked ones, so that callbacks see every
    step; afterwards, interrupted or not, their own again."""
    own = [dict(model.named_parameters()) for model in models]
    for i, named in enumerate(own):
        for name, parameter in named.items():
            parameter.data = parameters[name].data[i]
    try:
        yield
    finally:
        for named in own:
            for parameter in named.values():
                parameter.data = parameter.data.clone()


def _check_models(
    models: Sequence[nn.Module],
    seeds: Sequence[int],
    on_step: Sequence[Callback] | None,
    on_epoch: Sequence[Callback] | None,
) -> None:
    lengths = [len(models), len(seeds), *(len(c) for c in (on_step, on_epoch) if c is not None)]
    if not models or len(set(lengths)) != 1:
        raise ValueError(
            f"expected one or more models with a seed and a callback each, got {lengths}"
        )
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in models]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("expected models of one architecture, got parameters of different shapes")
    buffers = [name for name, _ in models[0].named_buffers()]
    if buffers or has_dropout(models[0]):
        raise ValueError(
            "expected models without buffers and dropout, got "
            f"{', '.join(buffers) or 'dropout'}: use train() in a loop"
        )
