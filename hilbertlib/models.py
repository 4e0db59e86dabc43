"""The networks of the paper and of the book, and how to read a classifier's function.

The paper names its architectures without their widths; what it leaves open is chosen here and
said in each docstring. All of them return logits.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

M = TypeVar("M", bound=nn.Module)
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(sizes: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """A multilayer perceptron, ``sizes`` from the number of inputs to that of classes.

    The input is flattened first. The paper's network for permuted MNIST (section 3.1) is
    ``mlp((784, 400, 400, 10))``; the nonlinearity, here ReLU, is our choice.

    Raises:
        ValueError: If fewer than two sizes are given, one is not positive, or the activation is
            neither ``"relu"`` nor ``"tanh"``.

    >>> mlp((64, 32, 10))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"expected at least two positive layer sizes, got {tuple(sizes)}")
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"expected activation {' or '.join(map(repr, _ACTIVATIONS))}, got {activation!r}"
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def small_cnn(classes: int = 10, width: int = 16, batch_norm: bool = False) -> nn.Sequential:
    """A convolutional network for the 8x8 digits: two layers of 3x3 filters, then one linear.

    Small enough to train in seconds on one core; the live stand-in for :func:`cnn4`.

    >>> small_cnn()(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    return nn.Sequential(
        *_conv(1, width, batch_norm),
        nn.MaxPool2d(2),
        *_conv(width, 2 * width, batch_norm),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * 2 * 2, classes),
    )


def cnn4(
    shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    widths: Sequence[int] = (32, 32, 64, 64),
    hidden: int = 256,
    batch_norm: bool = True,
) -> nn.Sequential:
    """The network of figures 1 to 3: four convolutional layers with BatchNorm, two fully connected.

    The paper gives no more than that. Our choices: 3x3 filters with padding, ``widths`` of the
    four layers, 2x2 max pooling after the second and the fourth, BatchNorm between convolution
    and ReLU, ``hidden`` units in the first fully connected layer, no dropout. For CIFAR-10's
    3x32x32 that makes 1,117,354 parameters, for MNIST's 1x28x28 (``shape=(1, 28, 28)``) 871,018.

    Args:
        shape: One input: ``(channels, height, width)``.
        batch_norm: False for the network of figures A.4 and A.5.

    Raises:
        ValueError: If ``shape`` or ``widths`` has the wrong length, or the image is under 4x4.
    """
    if len(shape) != 3 or min(shape[1:]) < 4 or shape[0] < 1:
        raise ValueError(
            f"expected shape (channels, height, width) of at least 4x4 pixels, got {tuple(shape)}"
        )
    if len(widths) != 4:
        raise ValueError(f"expected the widths of four layers, got {tuple(widths)}")
    channels, height, width = shape
    a, b, c, d = widths
    net = nn.Sequential(
        *_conv(channels, a, batch_norm),
        *_conv(a, b, batch_norm),
        nn.MaxPool2d(2),
        *_conv(b, c, batch_norm),
        *_conv(c, d, batch_norm),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(d * (height // 4) * (width // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
    return _channels_last(net)


def squeezenet_cifar(classes: int = 10, dropout: float = 0.5) -> nn.Module:
    """SqueezeNet v1.1 with BatchNorm for 3x32x32 images: the network of figure 5.

    torchvision's SqueezeNet v1.1, changed in three ways. A BatchNorm follows every convolution
    but the last (the paper's "with batch normalization" says no more). The first convolution has
    stride 1 and padding 1 in place of stride 2: made for 224x224 images, it would leave a single
    pixel of a 32x32 one. The logits pass through no ReLU: with it, all of them were 0 for good
    within an epoch at the paper's larger learning rate of 0.3.
    """
    from torchvision.models.squeezenet import Fire, squeezenet1_1

    net = squeezenet1_1(num_classes=classes, dropout=dropout)
    first = nn.Conv2d(3, 64, kernel_size=3, padding=1)
    nn.init.kaiming_uniform_(first.weight)  # as torchvision initializes its own
    nn.init.zeros_(first.bias)  # type: ignore[arg-type]
    net.features[0] = _normalized(first)
    net.classifier[2] = nn.Identity()
    for module in net.features:
        if isinstance(module, Fire):
            module.squeeze = _normalized(module.squeeze)
            module.expand1x1 = _normalized(module.expand1x1)
            module.expand3x3 = _normalized(module.expand3x3)
    return _channels_last(net)


class LSTMClassifier(nn.Module):
    """One LSTM layer read out at the last step: the network of figure 6.

    The paper: a single layer of 128 hidden units fed one pixel at a time. Our choices: PyTorch's
    default initialization, zero initial state, and one linear layer on the last hidden state.

    Args:
        hidden: Number of hidden units.
        classes: Number of classes.
        inputs: Numbers that enter at each step: the channels of an image.
    """

    def __init__(self, hidden: int = 128, classes: int = 10, inputs: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, inputs, ...)``, read pixel by pixel."""
        pixels = x.flatten(2).transpose(1, 2)  # (N, time, inputs)
        states, _ = self.lstm(pixels)  # (N, time, hidden)
        return self.readout(states[:, -1])


def seeded(build: Callable[[], M], seed: int) -> M:
    """Build a model from ``seed``, leaving the global random state as it was.

    >>> a, b = (seeded(lambda: mlp((4, 2)), seed=7) for _ in range(2))
    >>> torch.equal(a[1].weight, b[1].weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed the GPUs too, which fork_rng leaves out here.
        torch.default_generator.manual_seed(seed)
        return build()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; every module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def logits(model: nn.Module, x: Tensor, batch_size: int | None = None) -> Tensor:
    """The model's outputs ``(N, C)`` in evaluation mode, without gradients, batch by batch.

    Buffers (BatchNorm's running statistics) and training mode stay as they were. The batches are
    of 128 examples on a CPU, where the activations of larger ones fall out of the cache (1,024 at
    once take :func:`cnn4` 1.7 times as long), and of 1,024 elsewhere.

    Raises:
        ValueError: If ``x`` is empty.
    """
    if len(x) == 0:
        raise ValueError("expected at least one example, got an empty batch")
    device = device_of(model)
    batch_size = batch_size or (128 if device.type == "cpu" else 1024)
    with evaluating(model):
        return torch.cat([model(part.to(device)) for part in x.split(batch_size)])


def probabilities(model: nn.Module, x: Tensor, batch_size: int | None = None) -> Tensor:
    """The classifier's function on ``x``: softmax outputs, shape ``(N, C)``.

    What every function-space distance in the paper is taken over. In evaluation mode, without
    gradients; buffers and training mode stay as they were.

    >>> outputs = probabilities(mlp((64, 32, 10)), torch.rand(5, 1, 8, 8))
    >>> outputs.shape, torch.allclose(outputs.sum(dim=1), torch.ones(5))
    (torch.Size([5, 10]), True)
    """
    return logits(model, x, batch_size).softmax(dim=1)


def measured_statistics(model: M, x: Tensor, batch_size: int) -> M:
    """A copy whose BatchNorm layers have measured their running statistics on images ``x``.

    Before training those are 0 and 1, whatever the images are, and a network is read with them.
    Here they become the mean over all batches, each with the same weight. No parameter changes, and
    a network without such layers is copied as it is.

    Args:
        x: Inputs ``(N, ...)``, on the model's device.
        batch_size: How many of them pass at once; each batch needs two or more.

    Raises:
        ValueError: If ``x`` is empty.
    """
    if len(x) == 0:
        raise ValueError("expected at least one example, got an empty batch")
    there = copy.deepcopy(model)
    layers = [m for m in there.modules() if isinstance(m, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    with evaluating(there):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches, in place of the last few
            layer.train()
        for batch in x.split(batch_size):
            there(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return there


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def has_dropout(model: nn.Module) -> bool:
    """Whether a layer of the model is dropout, so that two passes in training mode differ."""
    return any(
        (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, nn.RNNBase) and module.dropout > 0)
        for module in model.modules()
    )


def _conv(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    norm: list[nn.Module] = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), *norm, nn.ReLU()]


def _channels_last(net: M) -> M:
    """The same network with its filters laid out channels last, which convolutions pass on.

    Outputs differ by rounding alone. On a CPU a training step of :func:`squeezenet_cifar` takes
    0.7 of the time, one of :func:`cnn4` 0.9, and a forward pass 0.4 and 0.6.
    """
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _normalized(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
