"""Extra forward passes that leave no trace: buffers put back, dropout masks drawn again."""

import copy
import math
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_ordinary = nn.Module.__call__
_watchers: list["_Buffers"] = []
_owner = 0
_one_thread = threading.RLock()


class BufferGuard:
    """Puts every buffer of every module that is called in a block back, bit for bit.

    BatchNorm's running statistics and ``num_batches_tracked`` are buffers. Nobody names the
    modules: the outermost calls to modules are watched, in this thread, and the modules
    remembered. A module that is called from within another, and a compiler that traces one, meet
    the ordinary class. What a compiled function calls is out of sight: the first block is eager.
    """

    def __init__(self) -> None:
        self._called: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._owned: set[int] = set()
        self._seen: set[object] = set()

    @contextmanager
    def __call__(
        self, function: object = None, parameters: Iterable[Tensor] = ()
    ) -> Iterator[None]:
        """The block, in which ``function`` calls modules that own ``parameters``.

        Watching costs a small network dearly. It ends once the code of ``function`` has been
        watched and every parameter belongs to a module that was called.
        """
        code = getattr(function, "__code__", type(function))
        buffers = _Buffers(self._called)
        watch = code not in self._seen or any(id(p) not in self._owned for p in parameters)
        stance = nullcontext() if self._seen else torch.compiler.set_stance("force_eager")
        with _one_thread, stance:
            known = buffers.keep(self._called)
            if watch:
                _start_watching(buffers)
            try:
                yield
                self._seen.add(code)
            finally:
                if watch:
                    _stop_watching(buffers)
                    self._owned = {id(p) for m in self._called for p in m.parameters()}
                buffers.note_replaced(known)
                buffers.put_back()


def _start_watching(buffers: "_Buffers") -> None:
    global _ordinary, _owner
    if not _watchers:
        _ordinary, _owner = nn.Module.__call__, threading.get_ident()
        nn.Module.__call__ = _watched  # type: ignore[method-assign]
    _watchers.append(buffers)


def _stop_watching(buffers: "_Buffers") -> None:
    _watchers.remove(buffers)
    if not _watchers:
        nn.Module.__call__ = _ordinary  # type: ignore[method-assign]


def _watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """In place of ``nn.Module.__call__``: an outermost call."""
    if torch.compiler.is_compiling() or threading.get_ident() != _owner:
        return _ordinary(module, *args, **kwargs)
    noted = [(watcher, watcher.keep([module])) for watcher in _watchers]
    nn.Module.__call__ = _ordinary  # type: ignore[method-assign]
    try:
        return _ordinary(module, *args, **kwargs)
    finally:
        nn.Module.__call__ = _watched  # type: ignore[method-assign]
        for watcher, buffers in noted:
            # Now, not at the end: `functional_call` lends buffers for one call only.
            watcher.note_replaced(buffers)


class _Buffers:
    """Buffers as they were: which tensors, and what was in them."""

    def __init__(self, called: weakref.WeakSet[nn.Module]) -> None:
        self._called = called
        self._values: dict[int, tuple[Tensor, Tensor]] = {}
        self._replaced: dict[tuple[nn.Module, str], tuple[Tensor, Tensor | None]] = {}

    def keep(self, modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
        modules = list(modules)
        self._called.update(modules)
        found = [
            (m, name, buffer)
            for root in modules
            for m in root.modules()
            for name, buffer in m._buffers.items()
            if buffer is not None
        ]
        for _, _, buffer in found:
            if id(buffer) not in self._values:
                self._values[id(buffer)] = (buffer, buffer.detach().clone())
        return found

    def note_replaced(self, kept: list[tuple[nn.Module, str, Tensor]]) -> None:
        for m, name, buffer in kept:
            if (now := getattr(m, name, None)) is not buffer:
                first, _ = self._replaced.get((m, name), (buffer, None))
                self._replaced[m, name] = (first, now)

    def put_back(self) -> None:
        for buffer, value in self._values.values():
            # Through .data: a graph that saved the buffer must not find it "modified".
            buffer.data.copy_(value)
        for (m, name), (first, last) in self._replaced.items():
            if getattr(m, name, None) is last:
                m._buffers[name] = first


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
    """Parameters, optimizer state, groups and random state, to go back to if a step fails.

    The memory of one step's copies serves the next: to find it anew costs more than to copy.
    """

    def __init__(self) -> None:
        self._memory: list[Tensor] = []

    @torch.no_grad()
    def take(self, optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
        """Copy everything, in place of what was copied before."""
        self._optimizer = optimizer
        memory, self._memory = iter(self._memory), []
        self._parameters = [(p, self._copied(p, memory)) for p in parameters]
        self._state = {p: self._copied(state, memory) for p, state in optimizer.state.items()}
        self._groups = [
            {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
        ]
        self._random = RandomState({p.device for p, _ in self._parameters})

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back: parameters in place, state by the copies, which are given away."""
        for p, value in self._parameters:
            p.copy_(value)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        self._memory = []
        for group, values in zip(self._optimizer.param_groups, self._groups, strict=True):
            for name in group.keys() - values.keys() - {"params"}:
                del group[name]
            group.update(values)
        self._random.restore()

    def _copied(self, value: Any, memory: Iterator[Tensor]) -> Any:
        if isinstance(value, Tensor):
            old, value = next(memory, None), value.detach()
            fits = old is not None and (old.shape, old.dtype, old.device, old.layout) == (
                value.shape, value.dtype, value.device, value.layout,
            )  # fmt: skip
            self._memory.append(old.copy_(value) if fits and old is not None else value.clone())
            return self._memory[-1]
        if isinstance(value, dict):
            return {k: self._copied(v, memory) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copied(v, memory) for v in value)
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
