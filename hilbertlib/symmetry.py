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

    Args:
        model: A multilayer perceptron.
        order: A permutation of ``0 … H-1``, shape ``(H,)``: unit ``i`` of the copy is unit
            ``order[i]`` of the original.
        layer: Which hidden layer.

    Raises:
        ValueError: If ``order`` is not a permutation of the layer's units, or there is no such
            layer.
        TypeError: If ``model`` is not a multilayer perceptron.

    >>> from hilbertlib.models import mlp
    >>> model, x = mlp((4, 3, 2)), torch.rand(5, 4)
    >>> twin = permute_hidden(model, torch.tensor([2, 0, 1]))
    >>> torch.allclose(twin(x), model(x), atol=1e-6), torch.equal(twin[1].bias, model[1].bias)
    (True, False)
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

    Args:
        model: A multilayer perceptron with ReLU.
        factors: Shape ``(H,)``, positive: ``relu(c·z) = c·relu(z)`` needs ``c > 0``.
        layer: Which hidden layer.

    Raises:
        ValueError: If a factor is not positive and finite, or their number is not that of the
            units.
        TypeError: If an activation is not ReLU, or ``model`` is not a multilayer perceptron.

    >>> from hilbertlib.models import mlp
    >>> model, x = mlp((4, 3, 2)), torch.rand(5, 4)
    >>> twin = rescale_hidden(model, torch.tensor([0.5, 2.0, 8.0]))
    >>> torch.allclose(twin(x), model(x), atol=1e-6)
    True
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

    Args:
        model: A multilayer perceptron; it is not changed.
        target: Another of the same sizes.
        sweeps: Rounds over the hidden layers at most.

    Raises:
        ValueError: If the two networks have different shapes.
        TypeError: If they are not multilayer perceptrons.

    >>> from hilbertlib.models import mlp
    >>> model = mlp((4, 3, 2))
    >>> twin = permute_hidden(model, torch.tensor([2, 0, 1]))
    >>> torch.equal(match_hidden(twin, model)[1].weight, model[1].weight)
    True
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

    Args:
        a, b: Of one architecture; buffers are taken from ``a``.
        t: 0 gives ``a``, 1 gives ``b``; values outside continue the line.

    Raises:
        ValueError: If the parameters differ in name or shape.

    >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> middle = interpolate(a, b, 0.5)
    >>> torch.allclose(middle.weight, (a.weight + b.weight) / 2)
    True
    """
    theirs = dict(b.named_parameters())
    ours = dict(a.named_parameters())
    if {n: p.shape for n, p in ours.items()} != {n: p.shape for n, p in theirs.items()}:
        raise ValueError("expected two networks with the same parameter names and shapes")
    between = copy.deepcopy(a)
    for name, p in between.named_parameters():
        p.lerp_(theirs[name], t)
    return between
