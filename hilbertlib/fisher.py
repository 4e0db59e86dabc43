"""The Fisher information of a network's outputs: products with it, and its diagonal.

With z_i the outputs on example i, J_i their Jacobian and a likelihood P(y|z), the Fisher
information is ``F = (1/N) Σ_i J_iᵀ B_i J_i``, where B_i is a small matrix over the outputs. Neither
F nor any N x P matrix is built (P parameters, N examples).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ._checks import at_least_one
from ._likelihood import (
    Kind,
    Likelihood,
    check_arguments,
    check_outputs,
    chosen_parameters,
    residual_factor,
)
from .models import evaluating, logits


class Fisher:
    """The Fisher information at a model's present parameters, as an operator: ``F @ v``.

    The network is linearized once, with one forward pass; each product then costs little more
    than a gradient. The operator stays that of the parameters it was built at. The model is run
    in the mode it is in: in training mode BatchNorm uses the statistics of the batch ``x`` (and
    the parameters' effect on them counts) and dropout draws one mask for all products; in
    evaluation mode BatchNorm uses its running statistics. No buffer of the model changes. Tied
    parameters count once. On CUDA a recurrent network must be built on with cuDNN disabled.

    Args:
        model: Its outputs are the logits of a classifier, shape ``(N, C)``, or the means of a
            Gaussian, shape ``(N, *D)``.
        x: Inputs, shape ``(N, ...)``.
        likelihood: ``"softmax"``: y is a class. ``"gaussian"``: y is normal around the outputs.
        kind: Whose y the Fisher is an average over. ``"true"``: exact, over the model's own
            distribution; needs no labels. ``"sampled"``: ``samples`` draws from it, one set for
            the operator's life. ``"empirical"``: the given ``targets``.
        targets: For the empirical Fisher: classes, shape ``(N,)``; or values, shaped as outputs.
        samples: Draws for each example.
        variance: The Gaussian's variance.
        parameters: Those of the model's parameters that F is over; default all trainable ones.
        generator: For the draws; default torch's global one.

    Attributes:
        parameters: The parameters, in the order of a vector's entries.
        outputs: The outputs on ``x``.
        size: P, the length of a vector.

    Raises:
        ValueError: If a batch is empty, the outputs do not fit the likelihood or are not finite,
            or another argument is out of range.
        TypeError: If the inputs, the outputs or the targets are not a tensor.

    >>> model = nn.Linear(2, 3)
    >>> fisher = Fisher(model, torch.rand(8, 2))
    >>> (fisher @ torch.ones(fisher.size)).shape
    torch.Size([9])
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        *,
        likelihood: Likelihood = "softmax",
        kind: Kind = "true",
        targets: Tensor | None = None,
        samples: int = 1,
        variance: float = 1.0,
        parameters: Iterable[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_arguments(x, likelihood, kind, targets, samples, variance)
        chosen = chosen_parameters(model, parameters)
        self._names, self.parameters = list(chosen), list(chosen.values())
        self.size = sum(p.numel() for p in self.parameters)

        # Clones: the optimizer's next step must not reach into what is held here, nor a BatchNorm
        # in training mode into the model's buffers.
        held = {n: p.detach().clone() for n, p in chosen.items()}
        rest = dict(model.named_parameters()) | dict(model.named_buffers())

        def network(p: dict[str, Tensor]) -> Tensor:
            others = {n: t.detach().clone() for n, t in rest.items() if n not in p}
            return functional_call(model, (p, others), (x,))

        self._dtype = self.parameters[0].dtype
        # The fused attention kernels cannot be differentiated twice, the plain one can.
        with sdpa_kernel(SDPBackend.MATH):
            outputs, self._pull = vjp(network, held)[:2]
            self.outputs = check_outputs(outputs, len(x), likelihood)
            # w -> Jᵀw is linear in w, so its own vjp is v -> Jv, held like it. Forward mode would
            # run the network again for each product, and needs a rule for each of its layers.
            self._push = vjp(self._pull, torch.zeros_like(self.outputs))[1]

        self._variance = variance
        self._p: Tensor | None = None
        self._factor: Tensor | None = None
        if kind != "true":
            self._factor = residual_factor(
                self.outputs, likelihood, kind, targets, samples, variance, generator
            )
        elif likelihood == "softmax":
            self._p = self.outputs.softmax(dim=1)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """``F v``, shape ``(P,)``."""
        with torch.no_grad():
            u = self._times_b(self._jacobian_times(vector)) / len(self.outputs)  # v -> BJv / N
            g = self._pull(u)[0]  # -> JᵀBJv / N
            return self.flatten(g[name] for name in self._names)

    def kl(self, delta: Tensor) -> Tensor:
        """``½ Δᵀ F Δ``: the KL divergence that a small update Δ causes, in nats (equation 4).

        Exact to second order for the true Fisher. Shape ``()``.
        """
        with torch.no_grad():
            u = self._jacobian_times(delta)
            return (u * self._times_b(u)).sum() / (2 * len(u))

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """One vector, shape ``(P,)``, of tensors shaped like the parameters."""
        return torch.cat([t.to_dense().reshape(-1) for t in tensors])  # an embedding's: sparse

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector, one shaped like each parameter."""
        parts = self._checked(vector).split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def _jacobian_times(self, vector: Tensor) -> Tensor:
        tangent = dict(zip(self._names, self.unflatten(vector), strict=True))
        return self._push((tangent,))[0]

    def _times_b(self, u: Tensor) -> Tensor:
        if self._factor is not None:  # B = Σ_s r_s r_sᵀ
            along = torch.einsum("snd,nd->sn", self._factor, u.flatten(1))
            return torch.einsum("sn,snd->nd", along, self._factor).view_as(u)
        if self._p is not None:  # B = diag p − p pᵀ
            return self._p * (u - (self._p * u).sum(dim=1, keepdim=True))
        return u / self._variance

    def _checked(self, vector: Tensor) -> Tensor:
        if vector.shape != (self.size,) or vector.dtype != self._dtype:
            raise ValueError(
                f"expected a vector of shape ({self.size},) and {self._dtype}, one entry for each "
                f"parameter; got {tuple(vector.shape)}, {vector.dtype}"
            )
        return vector


def fisher_vector_product(
    model: nn.Module,
    x: Tensor,
    vector: Tensor,
    *,
    likelihood: Likelihood = "softmax",
    kind: Kind = "true",
    targets: Tensor | None = None,
    samples: int = 1,
    variance: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One product of the Fisher information with ``vector``, shape ``(P,)`` (equation 7, with 1/N).

    For more than one at the same parameters build a :class:`Fisher` and hold it. Arguments and
    errors are its.

    >>> model = nn.Linear(2, 1)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> fisher_vector_product(model, x, torch.ones(3), likelihood="gaussian")
    tensor([1.0000, 3.0000, 2.5000])
    """
    fisher = Fisher(
        model, x, likelihood=likelihood, kind=kind, targets=targets,
        samples=samples, variance=variance, generator=generator,
    )  # fmt: skip
    return fisher @ vector


def fisher_diagonal(
    model: nn.Module,
    x: Tensor,
    *,
    likelihood: Likelihood = "softmax",
    kind: Kind = "true",
    targets: Tensor | None = None,
    samples: int = 1,
    variance: float = 1.0,
    generator: torch.Generator | None = None,
    chunk: int = 16,
) -> Tensor:
    """Diagonal of the Fisher information over all trainable parameters, shape ``(P,)``.

    The model is run in evaluation mode: a batch's statistics would tie its examples together. A
    network all of whose trainable parameters belong to linear layers costs about a gradient for
    each draw (each class, for the true Fisher); others the gradients of single examples,
    ``chunk`` of them in memory at once.

    Arguments and errors are those of :class:`Fisher`.

    >>> model = nn.Linear(2, 3)
    >>> fisher_diagonal(model, torch.rand(8, 2)).shape
    torch.Size([9])
    """
    check_arguments(x, likelihood, kind, targets, samples, variance)
    at_least_one(chunk=chunk)
    chosen = chosen_parameters(model, None)
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):
        outputs = check_outputs(logits(model, x), len(x), likelihood)
        factor = residual_factor(outputs, likelihood, kind, targets, samples, variance, generator)
        layers = _linear_layers(model, x[:2], chosen)
        if layers is not None:
            total = _linear_diagonal(model, layers, x, factor, chosen)
        else:
            total = _example_diagonal(model, x, factor.reshape(-1, *outputs.shape), chosen, chunk)
    return torch.cat([total[name].reshape(-1) for name in chosen]) / len(x)


def _example_diagonal(
    model: nn.Module, x: Tensor, factor: Tensor, chosen: dict[str, Tensor], chunk: int
) -> dict[str, Tensor]:
    """Σ_i Σ_s (J_iᵀ r_is)², from the gradients of single examples."""
    held = {name: p.detach() for name, p in chosen.items()}

    def squares(example: Tensor, residual: Tensor) -> dict[str, Tensor]:
        pull = vjp(lambda p: functional_call(model, p, (example[None],)), held)[1]
        return {name: g.square() for name, g in pull(residual[None])[0].items()}

    total = {name: torch.zeros_like(p) for name, p in held.items()}
    for part, residuals in zip(x.split(chunk), factor.split(chunk, dim=1), strict=True):
        for residual in residuals:
            for name, g in vmap(squares)(part, residual).items():
                total[name] += g.sum(dim=0)
    return total


def _linear_diagonal(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    x: Tensor,
    factor: Tensor,
    chosen: dict[str, Tensor],
    rows: int = 1024,
) -> dict[str, Tensor]:
    """The same where only linear layers are trained: example i's gradient is δ_i a_iᵀ.

    So the sum of squares is ``(δ²)ᵀ(a²)``: one matrix product and no gradient of one example.
    """
    total = {name: torch.zeros_like(p) for name, p in chosen.items()}
    for part, residuals in zip(x.split(rows), factor.split(rows, dim=1), strict=True):
        calls, outputs = _record(model, layers, part)
        ends = [calls[name][0][1] for name in layers]
        for residual in residuals:
            deltas = torch.autograd.grad(
                outputs, ends, residual.view_as(outputs), retain_graph=True
            )
            for name, delta in zip(layers, deltas, strict=True):
                squared, prefix = delta.square(), f"{name}." if name else ""
                if f"{prefix}weight" in total:
                    total[f"{prefix}weight"] += squared.T @ calls[name][0][0].square()
                if f"{prefix}bias" in total:
                    total[f"{prefix}bias"] += squared.sum(dim=0)
    return total


def _linear_layers(
    model: nn.Module, x: Tensor, chosen: dict[str, Tensor]
) -> dict[str, nn.Linear] | None:
    """The linear layers by name, if they hold every trainable parameter and are each used once."""
    layers = {
        name: m
        for name, m in model.named_modules()
        if type(m) is nn.Linear and any(p.requires_grad for p in m.parameters())
    }
    owned = [p for m in layers.values() for p in m.parameters() if p.requires_grad]
    # A tied parameter is owned twice; one of another kind of layer, never.
    if len(owned) != len(chosen) or {id(p) for p in owned} != {id(p) for p in chosen.values()}:
        return None
    calls, _ = _record(model, layers, x)
    for name in layers:
        if len(calls[name]) != 1 or calls[name][0][0].shape[:-1] != (len(x),):
            return None
    return layers


def _record(
    model: nn.Module, layers: dict[str, nn.Linear], x: Tensor
) -> tuple[dict[str, list[tuple[Tensor, Tensor]]], Tensor]:
    """Inputs and outputs of each call of each layer, and the model's outputs with their graph."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def hook_for(name: str) -> object:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            calls[name].append((inputs[0].detach(), output))
            return output.clone()  # an in-place activation would overwrite what is kept

        return hook

    handles = [m.register_forward_hook(hook_for(name)) for name, m in layers.items()]  # type: ignore[arg-type]
    try:
        with torch.enable_grad():
            return calls, model(x)
    finally:
        for handle in handles:
            handle.remove()
