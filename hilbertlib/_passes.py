"""Extra forward passes that leave no trace: buffers as they were, the same dropout masks again."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


class BufferGuard:
    """Puts every buffer of every module that runs in a block back, bit for bit.

    BatchNorm's running statistics and ``num_batches_tracked`` are buffers. The modules are found
    when they first run, so nobody has to name them. That one time compiled code runs eagerly:
    a hook on all modules, registered anew each time, would make it compile again and again.
    """

    def __init__(self) -> None:
        self._roots: list[nn.Module] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The block to guard.

        Raises:
            TypeError: If a ``DistributedDataParallel`` runs inside: its reducer waits for a
                backward pass that never comes.
        """
        if self._roots is None:
            with self._finding() as kept:
                yield
        else:
            kept = [(b, b.detach().clone()) for root in self._roots for b in root.buffers()]
            try:
                yield
            finally:
                _put_back(kept)

    @contextmanager
    def _finding(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        kept: list[tuple[Tensor, Tensor]] = []
        roots: list[nn.Module] = []
        inside: set[int] = set()

        def keep(module: nn.Module, _inputs: object) -> None:
            if isinstance(module, nn.parallel.DistributedDataParallel):
                raise TypeError(
                    "expected the wrapped network in an output function, got its "
                    "DistributedDataParallel; call model.module(x), corrections are reduced here"
                )
            if id(module) not in inside:
                roots.append(module)
                inside.update(map(id, module.modules()))
                kept.extend((b, b.detach().clone()) for b in module.buffers())

        hook = register_module_forward_pre_hook(keep)
        try:
            with torch.compiler.set_stance("force_eager"):
                yield kept
            self._roots = roots
        finally:
            hook.remove()
            _put_back(kept)


def _put_back(kept: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)


class RandomState:
    """The state of the random number generators of some devices, to be replayed."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._gpus = sorted({d.index or 0 for d in devices if d.type == "cuda"})
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(gpu) for gpu in self._gpus]

    def restore(self) -> None:
        """Make the generators continue from this state."""
        torch.set_rng_state(self._cpu)
        for gpu, state in zip(self._gpus, self._cuda, strict=True):
            torch.cuda.set_rng_state(state, gpu)


def checked_tensor(out: object, when: str) -> Tensor:
    """``out`` if a distance can be taken of it.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If it holds no example.
        FloatingPointError: If it is not finite; the message says ``when``.
    """
    if not isinstance(out, Tensor):
        raise TypeError(
            f"expected the output function to return a tensor, got {type(out).__name__}"
        )
    if out.ndim == 0 or out.numel() == 0:
        raise ValueError(
            f"expected outputs (N, *C) of at least one example, got shape {tuple(out.shape)}"
        )
    if not bool(out.isfinite().all()):
        raise FloatingPointError(f"expected finite outputs {when}, got NaN or infinity")
    return out
