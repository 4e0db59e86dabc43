"""One step under the microscope: how far the function moves for a unit of parameter change.

To first order a step Δθ moves the function by √(Δθᵀ G Δθ), with G = (1/N) Σ JᵢᵀJᵢ of the
probabilities' Jacobians. Its *exchange rate* is that over ‖Δθ‖: it depends on the direction, and on
where the network stands. Function distances are over softmax probabilities, in evaluation mode.
"""

import copy
import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from ..data import Dataset
from ..distance import l2_distance
from ..fisher import Fisher
from ..models import evaluating, probabilities, seeded, small_cnn
from ..natural_gradient import largest_eigenvalue
from ..training import train
from ..trajectory import flat_parameters


def trained_cnn(dataset: Dataset, seed: int, epochs: int = 4, batch_norm: bool = True) -> nn.Module:
    """A small convolutional network, trained as Figure 2's is: ε = 0.1, momentum, weight decay."""
    model = seeded(lambda: small_cnn(batch_norm=batch_norm), seed)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    train(model, dataset, sgd, epochs=epochs, batch_size=64, seed=seed)
    return model


def moved(model: nn.Module, direction: Tensor, length: float) -> nn.Module:
    """A copy whose trainable parameters went ``length`` along a direction, shape ``(P,)``."""
    there = copy.deepcopy(model)
    step = direction * (length / direction.norm())
    trained = [p for p in there.parameters() if p.requires_grad]
    with torch.no_grad():
        for p, part in zip(trained, step.split([p.numel() for p in trained]), strict=True):
            p.add_(part.view_as(p))
    return there


def rate(model: nn.Module, x: Tensor, direction: Tensor) -> float:
    """The exchange rate along a direction: L2 per ℓ2, in the limit of a short step.

    One product with the Jacobian, in forward mode.
    """
    named = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    parts = direction.split([p.numel() for p in named.values()])
    tangent = {n: part.view_as(p) for (n, p), part in zip(named.items(), parts, strict=True)}

    def function(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(model, parameters, (x,)).softmax(dim=1)

    with evaluating(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about how it makes its rules
        change = jvp(function, (named,), (tangent,))[1]
    return float(l2_distance(change, torch.zeros_like(change)) / direction.norm())


def largest_rate(model: nn.Module, x: Tensor) -> float:
    """The exchange rate in the direction that moves the function most: √ of G's top eigenvalue."""
    function = nn.Sequential(model, nn.Softmax(dim=1)).eval()
    return float(np.sqrt(largest_eigenvalue(Fisher(function, x, likelihood="gaussian"))))


def directions(model: nn.Module, dataset: Dataset, seed: int = 0) -> dict[str, Tensor]:
    """Three directions, each ``(P,)``: at random, down the loss of a batch, and of that batch's
    loss with its labels shuffled."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(dataset.x_train), generator=generator)[:64]
    x, y = dataset.x_train[index], dataset.y_train[index]
    wrong = y[torch.randperm(len(y), generator=generator)]
    return {
        "at random": torch.randn(len(flat_parameters(model)), generator=generator),
        "down the loss": -_gradient(model, x, y),
        "down a loss with shuffled labels": -_gradient(model, x, wrong),
    }


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    trained = [p for p in model.parameters() if p.requires_grad]
    with evaluating(model), torch.enable_grad():
        loss = nn.functional.cross_entropy(model(x), y)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, trained)])


def fan(
    model: nn.Module, dataset: Dataset, lengths: Sequence[float], seed: int = 0
) -> dict[str, np.ndarray]:
    """L2 distance after steps of these lengths in each direction, and for each direction the line
    that its exchange rate predicts (under the name with ``", predicted"``)."""
    x = dataset.x_test
    before = probabilities(model, x)
    out = {}
    for name, direction in directions(model, dataset, seed).items():
        there = [probabilities(moved(model, direction, d), x) for d in lengths]
        out[name] = np.array([float(l2_distance(p, before)) for p in there])
        out[f"{name}, predicted"] = rate(model, x, direction) * np.asarray(lengths)
    return out


def rates(model: nn.Module, dataset: Dataset, seed: int = 0) -> dict[str, float]:
    """The exchange rate of each direction, and the largest that any direction has."""
    found = {
        name: rate(model, dataset.x_test, d) for name, d in directions(model, dataset, seed).items()
    }
    return found | {"the largest there is": largest_rate(model, dataset.x_test)}


def stretched(model: nn.Module, factor: float) -> nn.Module:
    """A copy with the weights before each BatchNorm ``factor`` times as large.

    BatchNorm divides by what it finds: with its running statistics stretched alike (mean by the
    factor, variance by its square) the function is the same, up to the constant that keeps
    BatchNorm from dividing by zero.
    """
    there = copy.deepcopy(model)
    layers = list(there.modules())
    with torch.no_grad():
        for conv, norm in itertools.pairwise(layers):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert conv.bias is not None
                assert norm.running_mean is not None
                assert norm.running_var is not None
                for tensor, by in (
                    (conv.weight, factor), (conv.bias, factor),
                    (norm.running_mean, factor), (norm.running_var, factor**2),
                ):  # fmt: skip
                    tensor *= by
    return there


def first_layer_rate(model: nn.Module, x: Tensor, seed: int = 0) -> float:
    """The exchange rate of a random change of the first layer's weights alone."""
    generator = torch.Generator().manual_seed(seed)
    first = next(p for p in model.parameters() if p.requires_grad)
    flat = torch.zeros(len(flat_parameters(model)))
    flat[: first.numel()] = torch.randn(first.numel(), generator=generator)
    return rate(model, x, flat)
