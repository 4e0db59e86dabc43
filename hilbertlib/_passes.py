"""Extra forward passes that leave no trace: buffers put back, dropout masks drawn again."""

import copy
import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def buffers_kept() -> Iterator[None]:
    """Put every buffer of every module that is called in the block back, bit for bit.

    BatchNorm's running statistics and ``num_batches_tracked`` are buffers. Nobody names the
    modules: the outermost calls to modules are watched, in this thread. A module that is
    called from within another, and a compiler that traces one, meet the ordinary class.
    """
    call, here = nn.Module.__call__, threading.get_ident()
    kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
    replaced: dict[tuple[nn.Module, str], Tensor | None] = {}

    def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != here:
            return call(module, *args, **kwargs)
        buffers = [(m, name) for m in module.modules() for name in m._buffers]
        for m, name in buffers:
            if (buffer := m._buffers[name]) is not None and (m, name) not in kept:
                kept[m, name] = (buffer, buffer.detach().clone())
        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            return call(module, *args, **kwargs)
        finally:
            nn.Module.__call__ = watched  # type: ignore[method-assign, assignment]
            # Noted here, not at the end: `functional_call` lends buffers for one call only.
            for m, name in buffers:
                if (m, name) in kept and m._buffers.get(name) is not kept[m, name][0]:
                    replaced[m, name] = m._buffers.get(name)

    with _ONE_AT_A_TIME:
        nn.Module.__call__ = watched  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]
            for (m, name), (buffer, before) in kept.items():
                # Through .data: a graph that saved the buffer must not find it "modified".
                buffer.data.copy_(before)
                if (m, name) in replaced and m._buffers.get(name) is replaced[m, name]:
                    m._buffers[name] = buffer


class RandomState:
    """The state of the random number generators of the CPU and of the GPUs in use."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._gpus = sorted(
            {torch.cuda.current_device() if d.index is None else d.index
             for d in devices if d.type == "cuda"}
        )  # fmt: skip
        self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._gpus)]

    def restore(self) -> None:
        """Make the generators continue from this state."""
        torch.set_rng_state(self._states[0])
        for gpu, state in zip(self._gpus, self._states[1:], strict=True):
            torch.cuda.set_rng_state(state, gpu)

    def is_now(self) -> bool:
        """Whether nothing was drawn since."""
        now = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._gpus)]
        return all(map(torch.equal, self._states, now))


class Checkpoint:
    """Parameters, optimizer state, groups and random state, to go back to if a step fails."""

    def __init__(self, optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
        self._optimizer = optimizer
        self._parameters = [(p, p.detach().clone()) for p in parameters]
        self._state = {p: _copied(s) for p, s in optimizer.state.items()}
        self._groups = [
            {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
        ]
        self._random = RandomState({p.device for p, _ in self._parameters})

    def restore(self) -> None:
        """Put everything back, in place."""
        with torch.no_grad():
            for p, value in self._parameters:
                p.copy_(value)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        for group, values in zip(self._optimizer.param_groups, self._groups, strict=True):
            for name in group.keys() - values.keys() - {"params"}:
                del group[name]
            group.update(values)
        self._random.restore()


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return copy.deepcopy(value)


def checked(outputs: object) -> Tensor:
    """``outputs`` if a distance can be taken of it.

    Raises:
        TypeError: If it is not a tensor of floating-point numbers.
        ValueError: If it holds no example.
    """
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        got = outputs.dtype if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TypeError(f"expected floating-point outputs of shape (N, *C), got {got}")
    if outputs.ndim == 0 or outputs.numel() == 0:
        raise ValueError(
            "expected outputs of shape (N, *C) with at least one example, "
            f"got shape {tuple(outputs.shape)}"
        )
    return outputs


def over_ranks(gradient: list[Tensor], length: float, n: int) -> tuple[list[Tensor], float, int]:
    """The gradient of ‖f − f₀‖, ‖f − f₀‖ and the number of examples, for the joined batch.

    Lengths of parts do not add, nor do their gradients: squares do, and the gradient of a square
    is 2 · length · gradient. Unchanged where no process group is initialized.
    """
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return gradient, length, n
    sums = torch.tensor([length * length, n], dtype=torch.float64, device=gradient[0].device)
    dist.all_reduce(sums)
    total = math.sqrt(sums[0].item())
    joined: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(g.dtype for g in gradient):  # in the same order on every rank
        some = [i for i, g in enumerate(gradient) if g.dtype == dtype]
        flat = torch.cat([gradient[i].reshape(-1) for i in some]) * (length / total if total else 0)
        dist.all_reduce(flat)
        parts = flat.split([gradient[i].numel() for i in some])
        joined.update((i, part.view_as(gradient[i])) for i, part in zip(some, parts, strict=True))
    return [joined[i] for i in range(len(gradient))], total, int(sums[1].item())


def trustworthy(length: float, gradient: list[Tensor], before: Tensor, now: Tensor) -> None:
    """Refuse a correction that is not finite. All ranks agree, so that none waits for another.

    Raises:
        FloatingPointError: If outputs or gradients are not finite.
    """
    if not math.isfinite(length):
        if not bool(before.isfinite().all()):
            where = "got NaN or infinity before the step"
        elif not bool(now.isfinite().all()):
            where = "got NaN or infinity after the proposed step: is the learning rate too large?"
        else:
            where = "got some too far apart, or NaN or infinity on another rank"
        raise FloatingPointError(f"expected finite outputs, {where}")
    norms = [norm.to(gradient[0].device) for norm in torch._foreach_norm(gradient)]
    if not bool(torch.stack(norms).isfinite().all()):
        raise FloatingPointError(
            "expected a finite gradient of the distance: the outputs are not differentiable here"
        )
