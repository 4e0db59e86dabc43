"""Networks that differ in every parameter and compute the same function, and the line between two.

A multilayer perceptron here is an ``nn.Sequential`` whose ``nn.Linear`` layers are joined by
elementwise activations, as :func:`hilbertlib.models.mlp` builds it. Hidden layer ``k`` is the
output of the ``k``-th linear layer, counted from zero.
"""

import copy

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    odd = [
        type(m).__name__
        for m in model.modules()
        if not isinstance(m, (nn.Sequential, nn.Flatten, nn.Linear, nn.ReLU, nn.Tanh))
    ]
    if odd or len(layers) < 2:
        raise TypeError(
            "expected a multilayer perceptron: linear layers joined by ReLU or tanh, at least two; "
            f"got {len(layers)} linear layers"
            + (f" and {', '.join(sorted(set(odd)))}" if odd else "")
        )
    return layers


def _hidden(model: nn.Module, layer: int) -> tuple[nn.Linear, nn.Linear]:
    layers = _linear_layers(model)
    if not 0 <= layer < len(layers) - 1:
        raise ValueError(f"hidden layers are numbered 0 to {len(layers) - 2}, got {layer}")
    return layers[layer], layers[layer + 1]


@torch.no_grad()
def permute_hidden(model: nn.Module, order: Tensor, layer: int = 0) -> nn.Module:
    """A copy of ``model`` whose hidden units stand in another order; the function is the same.

    Parameters
    ----------
    model : multilayer perceptron
    order : Tensor of shape ``(H,)``
        A permutation of ``0 … H-1``: unit ``i`` of the copy is unit ``order[i]`` of the original.
    layer : int
        Which hidden layer.

    Raises
    ------
    ValueError
        ``order`` is not a permutation of the layer's units, or there is no such layer.
    TypeError
        ``model`` is not a multilayer perceptron.
    """
    twin = copy.deepcopy(model)
    into, out = _hidden(twin, layer)
    if not torch.equal(order.sort().values, torch.arange(into.out_features)):
        raise ValueError(
            f"expected a permutation of the {into.out_features} units of hidden layer {layer}, "
            f"got {order.tolist()}"
        )
    into.weight.copy_(into.weight[order])
    if into.bias is not None:
        into.bias.copy_(into.bias[order])
    out.weight.copy_(out.weight[:, order])
    return twin


@torch.no_grad()
def rescale_hidden(model: nn.Module, factors: Tensor, layer: int = 0) -> nn.Module:
    """A copy whose ReLU units are scaled on the way in and back on the way out; same function.

    Parameters
    ----------
    model : multilayer perceptron with ReLU
    factors : Tensor of shape ``(H,)``
        Positive: ``relu(c·z) = c·relu(z)`` needs ``c > 0``.

    Raises
    ------
    ValueError
        A factor is not positive and finite, or their number is not that of the units.
    TypeError
        An activation is not ReLU, or ``model`` is not a multilayer perceptron.
    """
    if any(isinstance(m, nn.Tanh) for m in model.modules()):
        raise TypeError("rescaling keeps the function only through ReLU; this network has tanh")
    twin = copy.deepcopy(model)
    into, out = _hidden(twin, layer)
    if factors.shape != (into.out_features,):
        raise ValueError(f"expected {into.out_features} factors, got shape {tuple(factors.shape)}")
    if not (factors.isfinite() & (factors > 0)).all():
        raise ValueError(f"factors must be positive and finite, got {factors.tolist()}")
    into.weight.mul_(factors[:, None])
    if into.bias is not None:
        into.bias.mul_(factors)
    out.weight.div_(factors)
    return twin


def match_hidden(model: nn.Module, target: nn.Module, sweeps: int = 20) -> nn.Module:
    """Reorder ``model``'s hidden units to bring its parameters as near as can be to ``target``'s.

    One hidden layer is solved exactly (an assignment problem); several are solved one after
    another until no layer changes, the weight matching of Ainsworth, Hayase and Srinivasa
    (2023), which finds a local optimum.

    Raises
    ------
    ValueError
        The two networks have different shapes.
    """
    shapes = [[tuple(p.shape) for p in m.parameters()] for m in (model, target)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected two networks of one shape, got {shapes[0]} and {shapes[1]}")
    goal = _linear_layers(target)
    for _ in range(sweeps):
        changed = False
        for layer in range(len(goal) - 1):
            into, out = _hidden(model, layer)
            # ‖a − b‖² over a unit's weights is smallest where their inner product is largest.
            gain = goal[layer].weight @ into.weight.T + goal[layer + 1].weight.T @ out.weight
            if into.bias is not None:
                gain = gain + torch.outer(goal[layer].bias, into.bias)
            _, columns = linear_sum_assignment(gain.detach().cpu().numpy(), maximize=True)
            order = torch.as_tensor(columns)
            if not torch.equal(order, torch.arange(len(order))):
                model, changed = permute_hidden(model, order, layer), True
        if not changed:
            break
    return model


@torch.no_grad()
def interpolate(a: nn.Module, b: nn.Module, t: float) -> nn.Module:
    """The network at ``(1 − t)·θ_a + t·θ_b``: a straight line in parameter space.

    Parameters
    ----------
    a, b : Module
        Of one architecture; buffers are taken from ``a``.
    t : float
        0 gives ``a``, 1 gives ``b``; values outside continue the line.

    Raises
    ------
    ValueError
        The parameters differ in name or shape.
    """
    theirs = dict(b.named_parameters())
    ours = dict(a.named_parameters())
    if {n: p.shape for n, p in ours.items()} != {n: p.shape for n, p in theirs.items()}:
        raise ValueError("expected two networks with the same parameter names and shapes")
    between = copy.deepcopy(a)
    for name, p in between.named_parameters():
        p.lerp_(theirs[name], t)
    return between
