"""Hilbert-constrained gradient descent around any torch optimizer: Algorithms 1 and 2 of the paper.

The base optimizer proposes a step. Each correction then moves the parameters down the gradient
of λ times the L2 distance between the function before the step and the function after it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ._passes import BufferGuard, RandomState, checked_tensor

Norm = Literal["rms", "squared"]
Velocity = Literal["torch", "paper"]
Outputs = Callable[[], Tensor]


class HilbertConstrained(Optimizer):
    """Limit how far each step of ``base`` moves the function.

    With Δθ⁰ the step that ``base`` proposes from θ, D the distance between f(θ) and f(θ + Δθ) on
    X_V and J the gradient that ``base`` was given, the corrections are ::

        Δθ¹ = Δθ⁰ − η λ ∇D(Δθ⁰)                         (Algorithm 1)
        Δθʲ = Δθʲ⁻¹ − η (J + λ ∇D(Δθʲ⁻¹))   j = 2 … n   (Algorithm 2, lines 14 to 18)

    All hyperparameters live in ``param_groups``, so ``state_dict`` and schedulers see them;
    ``lam`` and ``inner_lr`` may differ between groups. A step leaves ``.grad`` and all buffers
    as they were. Both passes of a distance use the same dropout masks.

    Args:
        base: Any torch optimizer that needs no closure of its own (all but LBFGS).
        lam: λ ≥ 0. With one correction only ``lam * inner_lr`` matters (section 3.3: 0.01).
        inner_lr: η ≥ 0, the learning rate of a correction.
        corrections: n ≥ 1. The paper's listing counts to n − 1; its text and code mean n.
        norm: ``"rms"``: D = sqrt(mean_i |Δf_i|²), equation 1 and the algorithms. Its gradient
            does not shrink with the step: it can overshoot a short one. ``"squared"``: D =
            mean_i |Δf_i|², equation 2.
        absorb: Whether SGD's velocity takes up the corrections, so that the next proposal starts
            from the corrected step (section 3.2). Other optimizers' state is left alone.
        velocity: Which momentum SGD follows: ``"torch"``: v ← βv + J, θ ← θ − εv; ``"paper"``:
            v ← βv + εJ, θ ← θ − v. They differ only where ε changes on the way.
        distributed: Under an initialized process group, take D over the examples of all ranks:
            sums of squares and their gradients are reduced before the root.

    Raises:
        TypeError: If ``base`` is not an optimizer, or LBFGS.
        ValueError: If a hyperparameter is out of range, or ``absorb`` is asked of an SGD with
            Nesterov momentum, whose velocity is not its step.

    >>> model = torch.nn.Linear(2, 3)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> optimizer = HilbertConstrained(sgd, lam=0.5, inner_lr=0.02)
    >>> x, y, x_v = torch.rand(8, 2), torch.arange(8) % 3, torch.rand(16, 2)
    >>> torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> optimizer.step(lambda: model(x_v).softmax(dim=1))
    """

    def __init__(
        self,
        base: Optimizer,
        lam: float = 0.5,
        inner_lr: float = 0.02,
        corrections: int = 1,
        norm: Norm = "rms",
        *,
        absorb: bool = True,
        velocity: Velocity = "torch",
        distributed: bool = True,
    ) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"expected a torch optimizer as base, got {type(base).__name__}")
        if isinstance(base, torch.optim.LBFGS):
            raise TypeError("LBFGS takes many steps in one; HilbertConstrained cannot correct them")
        self.base = base
        self.distributed = distributed
        self._buffers_kept = BufferGuard()
        self._trusted: tuple[int, ...] | None = None  # shape of a `current` that was verified
        defaults = {
            "lam": lam, "inner_lr": inner_lr, "corrections": corrections,
            "norm": norm, "absorb": absorb, "velocity": velocity, "velocity_lr": None,
        }  # fmt: skip
        for group in base.param_groups:
            _check_group({**defaults, **group}, isinstance(base, SGD))
        super().__init__(base.param_groups, defaults)
        self._share()

    def _share(self) -> None:
        """One list of groups and one state for both, so that whoever changes one changes both."""
        self.param_groups = self.base.param_groups
        self.state = self.base.state
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the base optimizer, with this one's hyperparameters where not given."""
        if param_group not in self.base.param_groups:  # else: torch's constructor, on its way
            self.base.add_param_group(param_group)
            self._share()
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, with this one's hyperparameters in its groups."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume. A state of the bare base optimizer keeps this one's hyperparameters."""
        self.base.load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        own = {"base": self.base, "distributed": self.distributed}
        return {**super().__getstate__(), **own, "_buffers_kept": BufferGuard(), "_trusted": None}

    def step(  # type: ignore[override]
        self,
        outputs: Outputs | Sequence[Outputs] | None = None,
        closure: Callable[[], Any] | None = None,
        *,
        current: Tensor | None = None,
    ) -> Any:
        """Propose a step with the base optimizer and correct it.

        Args:
            outputs: Returns f(X_V) at the parameters as they then are, shape ``(N, *C)``: for a
                classifier the softmax probabilities. Or n of them, a fresh X_V a correction.
            closure: Evaluated first, with gradients enabled; its value is returned.
            current: f(X_V) before the step where it is known already, such as the training
                batch's own outputs: saves the pass. Compared with ``outputs()`` once.

        Raises:
            TypeError: If ``outputs`` is neither callable nor a sequence of callables.
            ValueError: If there is no gradient, or a hyperparameter, the number of callables or
                the outputs do not fit.
            FloatingPointError: If the outputs before the step are not finite; or those after the
                proposed step, which then stands uncorrected.

        Except in that last case, parameters and state are unchanged when a step is refused.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        n, norm = self._check()
        functions = _functions(outputs, n)
        moving = self._moving()
        parameters = [p for _, p in moving]
        leashed = any(group["lam"] * group["inner_lr"] > 0 for group in self.param_groups)
        devices = {p.device for p in parameters}
        before = self._before(functions, current, devices) if leashed else []
        # J is added again from the second correction on. Where weight decay is part of the base
        # optimizer's gradient it is part of J, and must be read before the parameters move.
        repeated = [self._gradient(g, p) * g["inner_lr"] for g, p in moving] if n > 1 else []
        self._rescale_velocity()
        self.base.step()
        if not leashed and n == 1:
            return loss

        after = RandomState(devices)
        total: list[Tensor] | None = None
        try:
            for j in range(n):
                if leashed:
                    change = self._pull(
                        functions[j], *before[min(j, len(before) - 1)], norm, moving
                    )
                else:
                    change = [torch.zeros_like(p) for p in parameters]
                with torch.no_grad():
                    if j > 0:
                        torch._foreach_add_(change, repeated)
                    torch._foreach_sub_(parameters, change)
                    total = change if total is None else list(torch._foreach_add(total, change))
        finally:
            after.restore()
        self._absorb(moving, total)
        return loss

    def _check(self) -> tuple[int, Norm]:
        """n and the norm, which are one for all groups; every group's values in range."""
        for group in self.param_groups:
            _check_group(group, isinstance(self.base, SGD))
        shared = {(group["corrections"], group["norm"]) for group in self.param_groups}
        if len(shared) != 1:
            raise ValueError(
                f"corrections and norm must be the same in all parameter groups, got {shared}"
            )
        return next(iter(shared))

    def _moving(self) -> list[tuple[dict[str, Any], Tensor]]:
        """The parameters that the base optimizer will move, each with its group."""
        moving = [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not moving:
            raise ValueError("no parameter has a gradient: call loss.backward() before step")
        return moving

    def _gradient(self, group: dict[str, Any], p: Tensor) -> Tensor:
        """J as the base optimizer uses it: its sign, and its weight decay unless decoupled."""
        assert p.grad is not None
        gradient = -p.grad if group.get("maximize") else p.grad.detach()
        decay = group.get("weight_decay", 0)
        decoupled = group.get("decoupled_weight_decay", isinstance(self.base, torch.optim.AdamW))
        return gradient.add(p.detach(), alpha=decay) if decay and not decoupled else gradient

    def _before(
        self, functions: list[Outputs], current: Tensor | None, devices: set[torch.device]
    ) -> list[tuple[Tensor, RandomState]]:
        """f(X_V) at θ and the random state it was drawn from, for each X_V; no graph is held."""
        if current is not None and len(set(map(id, functions))) > 1:
            raise ValueError("current belongs to one output function, got several")
        known: list[tuple[Tensor, RandomState]] = []
        with torch.no_grad(), self._buffers_kept():
            # One X_V for all corrections needs one pass.
            for function in functions if len(set(map(id, functions))) > 1 else functions[:1]:
                state = RandomState(devices)
                if current is None:
                    known.append((checked_tensor(function(), "before the step"), state))
                    continue
                current = checked_tensor(current.detach(), "before the step")
                if self._trusted != tuple(current.shape):
                    self._verify(function, current)
                    state.restore()
                known.append((current, state))
        return known

    def _verify(self, function: Outputs, current: Tensor) -> None:
        now = checked_tensor(function(), "before the step")
        if now.shape != current.shape or not torch.allclose(
            now.float(), current.float(), rtol=1e-2, atol=1e-3
        ):
            raise ValueError(
                f"current, of shape {tuple(current.shape)}, is not what the output function "
                f"returns, of shape {tuple(now.shape)}: they must be one function on one batch, "
                "without dropout"
            )
        self._trusted = tuple(current.shape)

    def _pull(
        self,
        function: Outputs,
        before: Tensor,
        state: RandomState,
        norm: Norm,
        moving: list[tuple[dict[str, Any], Tensor]],
    ) -> list[Tensor]:
        """η λ ∇D at the parameters as they are, one tensor a parameter."""
        state.restore()
        with torch.enable_grad(), self._buffers_kept():
            now = checked_tensor(function(), "after the proposed step (it stands, uncorrected)")
            if now.shape != before.shape:
                raise ValueError(
                    f"expected outputs of shape {tuple(before.shape)} as before the step, "
                    f"got {tuple(now.shape)}"
                )
            difference = now.to(torch.promote_types(now.dtype, torch.float32)) - before
            # vector_norm has subgradient 0 at 0; the root of a sum has none.
            length = torch.linalg.vector_norm(difference)
            found = torch.autograd.grad(length, [p for _, p in moving], allow_unused=True)
        gradients = [
            torch.zeros_like(p) if g is None else g for g, (_, p) in zip(found, moving, strict=True)
        ]
        scale = self._reduce(gradients, length.detach(), len(before), norm)
        return [
            g * (scale * group["inner_lr"] * group["lam"])
            for g, (group, _) in zip(gradients, moving, strict=True)
        ]

    def _reduce(self, gradients: list[Tensor], length: Tensor, n: int, norm: Norm) -> float:
        """What turns the gradients of ‖f − f₀‖ over all entries into those of D.

        Over several ranks the gradients become those of the joined batch, in place.
        """
        total, count = length.item(), float(n)
        dist = torch.distributed
        if self.distributed and dist.is_available() and dist.is_initialized():
            sums = torch.stack([length.double() ** 2, length.new_tensor(n).double()])
            dist.all_reduce(sums)
            total, count = math.sqrt(sums[0].item()), sums[1].item()
            for g in gradients:
                # The gradient of the sum of squares is 2 · length · g on each rank, and these add.
                g.mul_(length.item() / total if total else 0.0)
                dist.all_reduce(g)
        return 2 * total / count if norm == "squared" else 1 / math.sqrt(count)

    def _rescale_velocity(self) -> None:
        """The paper's velocity has ε inside: keep ε · buffer where ε has changed since."""
        for group in self.param_groups:
            last, lr = group["velocity_lr"], float(group["lr"])
            if group["velocity"] == "paper" and last is not None and last != lr and lr > 0:
                for p in group["params"]:
                    if (buffer := self.state[p].get("momentum_buffer")) is not None:
                        buffer.mul_(last / lr)
            group["velocity_lr"] = lr

    def _absorb(
        self, moving: list[tuple[dict[str, Any], Tensor]], total: list[Tensor] | None
    ) -> None:
        """v ← v + η g (Algorithm 2, lines 13 and 18); torch's buffer is v / ε."""
        assert total is not None
        if not isinstance(self.base, SGD):
            return
        for (group, p), change in zip(moving, total, strict=True):
            buffer = self.state[p].get("momentum_buffer")
            if group["absorb"] and group["momentum"] and buffer is not None and group["lr"] > 0:
                buffer.add_(change, alpha=1 / float(group["lr"]))


class HCGD(HilbertConstrained):
    """The paper's optimizer by name: SGD with its velocity, constrained (Algorithm 2).

    Args:
        params: As for :class:`torch.optim.SGD`.
        lr: ε.
        momentum: β.
        weight_decay: Added to the gradient, and so part of J.
        lam, inner_lr, corrections, norm: As for :class:`HilbertConstrained`; the defaults are
            the paper's.

    >>> model = torch.nn.Linear(2, 3)
    >>> optimizer = HCGD(model.parameters(), lr=0.1, momentum=0.9)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        lam: float = 0.5,
        inner_lr: float = 0.02,
        corrections: int = 1,
        norm: Norm = "rms",
        *,
        absorb: bool = True,
        velocity: Velocity = "paper",
        distributed: bool = True,
    ) -> None:
        base = SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(
            base, lam, inner_lr, corrections, norm,
            absorb=absorb, velocity=velocity, distributed=distributed,
        )  # fmt: skip


def _functions(outputs: Outputs | Sequence[Outputs] | None, n: int) -> list[Outputs]:
    """One output function for each of the n corrections."""
    if callable(outputs):
        return [outputs] * n
    if not isinstance(outputs, Sequence) or not all(map(callable, outputs)):
        raise TypeError(
            "step needs an output function that returns f(X_V), such as lambda: "
            f"model(x_v).softmax(dim=1), or a list of {n}; got {type(outputs).__name__}"
        )
    if len(outputs) != n:
        raise ValueError(f"expected {n} output functions, one a correction, got {len(outputs)}")
    return list(outputs)


def _check_group(group: dict[str, Any], sgd: bool) -> None:
    for name, symbol in (("lam", "λ"), ("inner_lr", "η")):
        value = group[name]
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise ValueError(f"expected a finite {name} ({symbol}) of at least 0, got {value!r}")
    n = group["corrections"]
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"expected an integer corrections (n) of at least 1, got {n!r}")
    for name, kind in (("norm", Norm), ("velocity", Velocity)):
        if group[name] not in get_args(kind):
            raise ValueError(
                f"expected {name} {' or '.join(map(repr, get_args(kind)))}, got {group[name]!r}"
            )
    if sgd and group["absorb"] and group["nesterov"]:
        raise ValueError("Nesterov's velocity is not its step; pass absorb=False to keep it apart")
    if group["velocity"] == "paper" and not sgd:
        raise ValueError("velocity='paper' is a form of SGD's momentum; the base is not SGD")
