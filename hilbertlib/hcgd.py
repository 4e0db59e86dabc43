"""Hilbert-constrained gradient descent around any torch optimizer: Algorithms 1 and 2 of the paper.

The base optimizer proposes a step. Each correction then moves the parameters down the gradient
of λ times the L2 distance between the function before the step and the function after it.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ._passes import BufferGuard, Checkpoint, RandomState, checked, over_ranks, trustworthy
from ._settings import Norm, Outputs, Velocity, check_group, complete, output_functions

Moving = list[tuple[dict[str, Any], Tensor]]  # parameters, each with its group

# torch's optimizers whose weight_decay is a part of the gradient, unless the group says otherwise.
_optim = torch.optim
_COUPLED = (
    SGD, _optim.ASGD, _optim.Adam, _optim.Adamax, _optim.NAdam, _optim.RAdam, _optim.RMSprop,
    _optim.Adagrad, _optim.Adadelta,
)  # fmt: skip


class Before(NamedTuple):
    """The function before a step: its outputs, the random state to replay, who evaluated it."""

    outputs: Tensor
    random: RandomState
    given: bool


class HilbertConstrained(Optimizer):
    """Limit how far each step of ``base`` moves the function.

    With Δθ⁰ the step that ``base`` proposes from θ, D the distance between f(θ) and f(θ + Δθ) on
    X_V and J the gradient that ``base`` was given, the corrections are ::

        Δθ¹ = Δθ⁰ − η λ ∇D(Δθ⁰)                         (Algorithm 1)
        Δθʲ = Δθʲ⁻¹ − η (J + λ ∇D(Δθʲ⁻¹))   j = 2 … n   (Algorithm 2, lines 14 to 18)

    J has the base's sign (``maximize``) and its weight decay, unless that is decoupled as AdamW's.
    Where Δf = 0 the gradient of D is taken as 0. λ = 0 with n = 1 is exactly ``base``.

    The hyperparameters live in ``param_groups``, so ``state_dict`` and schedulers see them; ``lam``
    and ``inner_lr`` may differ between groups. Parameters without ``.grad`` take no part. A step
    leaves ``.grad`` as it was, and every buffer of every module that ``outputs`` calls. Both
    passes of a distance draw the same dropout masks (see also :meth:`one_mask`), and the random
    numbers go on afterwards as after one pass. A copy of the parameters and of the state is kept,
    to go back to if a step fails. Compile the model or the output function, not the step.

    Args:
        base: Any torch optimizer; one that needs a closure, as LBFGS, gets that of :meth:`step`.
        lam: λ ≥ 0. With one correction only ``lam * inner_lr`` matters (section 3.3: 0.01).
        inner_lr: η ≥ 0, the learning rate of a correction.
        corrections: n ≥ 1. The paper's listing counts to n − 1; its text and code mean n.
        norm: ``"rms"``: ``D = sqrt(mean_i |Δf_i|²)``, equation 1 and the algorithms. Its gradient
            does not shrink with the step: it can overshoot a short one. ``"squared"``:
            ``D = mean_i |Δf_i|²``, equation 2.
        absorb: Whether SGD's velocity takes up the corrections, so that the next proposal starts
            from the corrected step (section 3.2). Other optimizers' state is left alone.
        velocity: Which momentum SGD follows: ``"torch"``: v ← βv + J, θ ← θ − εv; ``"paper"``:
            v ← βv + εJ, θ ← θ − v. They differ only where ε changes on the way. Where ε starts
            near 0 (warm-up) take ``"paper"``: torch's v absorbs a correction divided by ε.
        distributed: Under an initialized process group, take D over the examples of all ranks:
            sums of squares and their gradients are reduced before the root.

    Attributes:
        distances: D of the last step: of the proposal, then after each correction but the last.

    Raises:
        TypeError: If ``base`` is not an optimizer, or is constrained already.
        ValueError: If a hyperparameter is out of range, ``base`` is differentiable, or ``absorb``
            is asked of an SGD with Nesterov momentum, whose velocity is not its step.

    >>> model = torch.nn.Linear(2, 3)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> optimizer = HilbertConstrained(sgd, lam=0.5, inner_lr=0.02)
    >>> x, y, x_v = torch.rand(8, 2), torch.arange(8) % 3, torch.rand(16, 2)
    >>> torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> optimizer.step(lambda: model(x_v).softmax(dim=1))
    """

    distances: tuple[float, ...] = ()
    _mask: RandomState | None = None
    _verified = False

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
        if not isinstance(base, Optimizer) or isinstance(base, HilbertConstrained):
            raise TypeError(f"expected a torch optimizer as base, got {type(base).__name__}")
        self.base = base
        self.distributed = distributed
        self._prepare()
        defaults = {
            "lam": lam, "inner_lr": inner_lr, "corrections": corrections,
            "norm": norm, "absorb": absorb, "velocity": velocity, "velocity_lr": None,
        }  # fmt: skip
        for group in base.param_groups:
            check_group({**defaults, **group}, isinstance(base, SGD))
        state, groups = base.state, base.param_groups
        super().__init__(groups, {**base.defaults, **defaults})
        # One state and one list of groups for both, so that whoever changes one changes both.
        self.state, self.param_groups = state, groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the base optimizer, with this one's hyperparameters where not given."""
        if any(param_group is group for group in self.base.param_groups):  # on construction
            super().add_param_group(param_group)
            return
        check_group({**self.defaults, **param_group}, isinstance(self.base, SGD))
        self.base.add_param_group(param_group)
        complete(self.param_groups, self.defaults)

    def _prepare(self) -> None:
        self._start, self._buffers_kept = Checkpoint(), BufferGuard()
        closure = inspect.signature(self.base.step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is inspect.Parameter.empty

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base": self.base, "distributed": self.distributed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()
        self.base.__setstate__({"state": self.state, "param_groups": self.param_groups})
        complete(self.param_groups, self.defaults)  # a state of the bare base has none of ours

    @contextmanager
    def one_mask(self) -> Iterator[None]:
        """Let the corrections of the next step draw the dropout masks of the pass in this block.

        Algorithm 2 has one mask a step. Without this one mask serves a step's corrections and
        another the training batch. Needed where ``current`` comes from a network with dropout.
        """
        self._mask = RandomState({p.device for g in self.param_groups for p in g["params"]})
        try:
            yield
        except BaseException:
            self._mask = None
            raise

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
                classifier the softmax probabilities. It is called more than once and must use the
                same X_V each time. Or n of them, a fresh X_V a correction.
            closure: Evaluated first, with gradients enabled; its value is returned.
            current: f(X_V) before the step where it is known already, such as the training
                batch's own outputs: saves the pass. Compared with ``outputs()`` the first time.
                Its graph is not held.

        Raises:
            TypeError: If ``outputs`` is neither callable nor a sequence of callables, or does not
                return a floating-point tensor.
            ValueError: If there is no gradient, or a hyperparameter, the number of callables or
                the outputs do not fit.
            FloatingPointError: If outputs, before or after the proposal, are not finite.

        Parameters, optimizer state, buffers and random state are unchanged when a step is refused.
        """
        n, norm = self._check()
        functions = output_functions(outputs, n)
        if closure is None and self._needs_closure:
            raise TypeError(f"{type(self.base).__name__} needs a closure: step(outputs, closure)")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = self._moving()
        leashed = any(group["lam"] * group["inner_lr"] > 0 for group, _ in moving)
        self._start.take(self, [p for _, p in moving])
        self.distances = ()
        try:
            before = self._before(functions, current, moving) if leashed else []
            after = _random_state(moving)
            # J is added again from the second correction on, with the weight decay of θ: it is
            # read before the parameters move.
            again = [self._gradient(g, p) for g, p in moving] if n > 1 else []
            self._propose(closure, loss)
            # λ = 0 with n = 1 is the base optimizer to the last bit, random numbers included.
            for j in range(n):
                if leashed:
                    scale, pull = self._pull(functions[j], before[j % len(before)], norm, moving)
                    self._correct(
                        moving, pull, [scale * g["lam"] * g["inner_lr"] for g, _ in moving]
                    )
                if j > 0:
                    self._correct(moving, again, [g["inner_lr"] for g, _ in moving])
            after.restore()
        except BaseException:
            self._start.restore()
            raise
        self._mask = None
        return loss

    def _check(self) -> tuple[int, Norm]:
        """n and the norm, which are one for all groups; every group's values in range."""
        for group in self.param_groups:
            check_group(group, isinstance(self.base, SGD))
        shared = {(group["corrections"], group["norm"]) for group in self.param_groups}
        if len(shared) != 1:
            raise ValueError(
                "expected the same corrections and norm in all parameter groups, got "
                f"{sorted(shared)}"
            )
        return next(iter(shared))

    def _moving(self) -> Moving:
        """The parameters that the base optimizer will move, each with its group."""
        moving = [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not moving:
            raise ValueError("no parameter has a gradient: call loss.backward() before step")
        return moving

    def _gradient(self, group: dict[str, Any], p: Tensor) -> Tensor:
        """J as the base optimizer uses it: its sign, and its weight decay unless decoupled."""
        assert p.grad is not None
        gradient = -_dense(p.grad) if group.get("maximize") else _dense(p.grad)
        decay = group.get("weight_decay", 0)
        decoupled = group.get("decoupled_weight_decay", not isinstance(self.base, _COUPLED))
        return gradient.add(p.detach(), alpha=float(decay)) if decay and not decoupled else gradient

    def _before(
        self, functions: list[Outputs], current: Tensor | None, moving: Moving
    ) -> list[Before]:
        """f(X_V) at θ for each X_V, without a graph."""
        one = len(set(map(id, functions))) == 1
        if current is not None and not one:
            raise ValueError("current belongs to one output function, got several")
        found, entry = [], _random_state(moving)
        for function in functions[:1] if one else functions:
            random = self._mask or _random_state(moving)
            if current is None or not self._verified:
                with torch.no_grad(), self._buffers_kept(function, (p for _, p in moving)):
                    outputs = _evaluate(function, random)
            if current is not None:
                if not self._verified:
                    self._verify(checked(current), outputs, random)
                    random.restore()
                outputs = checked(current)
            # A copy: the outputs may be a view of the parameters, or of a CUDA graph's memory.
            found.append(Before(outputs.detach().clone(), random, current is not None))
        if self._mask is not None:
            entry.restore()
        return found

    def _verify(self, current: Tensor, outputs: Tensor, random: RandomState) -> None:
        """Refuse a ``current`` that ``outputs()`` does not return; done once."""
        self._check_draws(random)
        if current.shape != outputs.shape or not torch.allclose(
            current.double(), outputs.double(), rtol=1e-2, atol=1e-3, equal_nan=True
        ):
            raise ValueError(
                f"current, of shape {tuple(current.shape)}, is not what the output function "
                f"returns, of shape {tuple(outputs.shape)}: they must be one function on one batch"
            )
        self._verified = True

    def _check_draws(self, before: RandomState) -> None:
        if self._mask is None and not before.is_now():
            raise ValueError(
                "the output function draws random numbers (dropout?), and current was drawn with "
                "others: compute it within `with optimizer.one_mask():`"
            )

    def _pull(
        self, function: Outputs, before: Before, norm: Norm, moving: Moving
    ) -> tuple[float, list[Tensor]]:
        """∇D at the parameters as they now are: a scale and what it multiplies."""
        with torch.enable_grad(), self._buffers_kept(function, (p for _, p in moving)):
            now = _evaluate(function, before.random)
            if now.shape != before.outputs.shape:
                raise ValueError(
                    f"expected outputs of shape {tuple(before.outputs.shape)} as before the step, "
                    f"got {tuple(now.shape)}"
                )
            if not now.requires_grad:
                raise ValueError(
                    "expected outputs that depend on the parameters, got some without gradient: "
                    "does the output function use no_grad, detach or NumPy?"
                )
            difference = now.to(torch.promote_types(now.dtype, torch.float32)) - before.outputs
            # vector_norm has subgradient 0 at 0; the root of a sum has none.
            length = torch.linalg.vector_norm(difference)
            # One that was frozen after backward() has a gradient still, which the base follows.
            pulled = [p for _, p in moving if p.requires_grad]
            gradients = torch.autograd.grad(length, pulled, allow_unused=True) if pulled else ()
            found = dict(zip(pulled, gradients, strict=True))
        if all(g is None for g in found.values()):
            raise ValueError(
                "expected outputs that depend on the parameters that this step moves, got some "
                "that depend on none of them: are they another model's?"
            )
        if before.given:
            self._check_draws(before.random)
        gradient = [
            torch.zeros_like(p) if (g := found.get(p)) is None else _dense(g) for _, p in moving
        ]
        total, n = length.item(), len(now)
        if self.distributed:
            gradient, total, n = over_ranks(gradient, total, n)
        trustworthy(total, gradient, before.outputs, now)
        self.distances += (total * total / n if norm == "squared" else total / math.sqrt(n),)
        return (2 * total / n if norm == "squared" else 1 / math.sqrt(n)), gradient

    def _propose(self, closure: Callable[[], Any] | None, loss: Any) -> None:
        """The base optimizer's own step, which leaves ``.grad`` and its settings as they were.

        For the paper's velocity the first ε is held as torch's, and the gradient is scaled with
        what ε is now over that one: v / ε₀ ← β v / ε₀ + (ε / ε₀) J, θ ← θ − ε₀ (v / ε₀).
        """
        given: list[tuple[Tensor, Tensor]] = []
        settings: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for group in self.param_groups if isinstance(self.base, SGD) else []:
            lr = held = float(group["lr"])
            if group["velocity"] == "paper" and group["momentum"]:
                held = group["velocity_lr"] = group["velocity_lr"] or lr or 1.0
            # Nesterov too gets copies: torch may write its direction into .grad.
            if held != lr or group["nesterov"]:
                ratio = lr / held if held else 1.0
                settings.append((group, {name: group[name] for name in ("lr", "weight_decay")}))
                group.update(lr=held, weight_decay=group["weight_decay"] * ratio)
                for p in group["params"]:
                    if p.grad is not None:
                        given.append((p, p.grad))
                        p.grad = p.grad * ratio
        try:
            if closure is None:
                self.base.step()
            else:
                known = [loss]  # the evaluation that was made already; some bases make more
                self.base.step(lambda: known.pop() if known else closure())
        finally:
            for group, values in settings:
                group.update(values)
            for p, grad in given:
                p.grad = grad

    @torch.no_grad()
    def _correct(self, moving: Moving, pull: list[Tensor], factors: list[float]) -> None:
        """θ ← θ − factor · pull, and v ← v + factor · pull where SGD's velocity absorbs it."""
        parameters = [p for _, p in moving]
        for start, stop in _runs(moving):
            group, factor, some = moving[start][0], factors[start], pull[start:stop]
            torch._foreach_add_(parameters[start:stop], some, alpha=-factor)
            if isinstance(self.base, SGD) and group["absorb"] and group["momentum"]:
                # torch's buffer is v / ε. With ε = 0 no velocity gives this step.
                unit = float(group["velocity_lr"] or group["lr"])
                if unit > 0:
                    states = [self.state[p] for p in parameters[start:stop]]
                    for state in states:  # torch's first velocity is the gradient, sparse or not
                        state["momentum_buffer"] = _dense(state["momentum_buffer"])
                    buffers = [state["momentum_buffer"] for state in states]
                    torch._foreach_add_(buffers, some, alpha=factor / unit)


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


def _evaluate(function: Outputs, random: RandomState) -> Tensor:
    """What an output function returns from a random state."""
    random.restore()
    # Within autocast, the cache may hold the parameters as they were, or without gradient.
    torch.clear_autocast_cache()
    return checked(function())


def _runs(moving: Moving) -> Iterator[tuple[int, int]]:
    """Where the parameters of each group start and stop."""
    start = 0
    for _, members in itertools.groupby(moving, key=lambda member: id(member[0])):
        stop = start + len(list(members))
        yield start, stop
        start = stop


def _random_state(moving: Moving) -> RandomState:
    return RandomState({p.device for _, p in moving})


def _dense(gradient: Tensor) -> Tensor:
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
