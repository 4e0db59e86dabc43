"""Data sets as plain tensors: small real digits that ship with scikit-learn, MNIST and CIFAR-10.

``load("digits")`` needs no network. ``load("mnist")`` and ``load("cifar10")`` read a local file
where the environment variable ``HILBERT_DATA`` names a folder, and download otherwise
(``hilbertlib.datafiles``). Every data set carries the checksum of its content, which each
result records.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .datafiles import DIGITS, Arrays, read_cifar10, read_mnist

NAMES = ("digits", "mnist", "cifar10")
_OBJECTS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# The SHA-256 over the content (see `content_checksum`) of the exact data sets.
EXACT_CHECKSUMS = {
    "mnist": "c8b623b600cf81c18f21927578884fdba4b830c0426d005b268b831ee5e8072b",
}


@dataclass(frozen=True)
class Dataset:
    """A labelled training and test set, held as tensors.

    Attributes:
        name: What the data are, with each change made to them: ``"mnist (5000 examples)"``.
        x_train: Training inputs in [0, 1], shape ``(N, channels, height, width)``, float32.
        y_train: Training labels, shape ``(N,)``, int64.
        x_test: Test inputs, shape ``(M, channels, height, width)``.
        y_test: Test labels, shape ``(M,)``.
        classes: The name of each class; a label is an index into it.
        checksum: SHA-256 of the content, in hexadecimal. A data set made from another has the
            checksum of that one's together with what was drawn.
        note: What a result must say about the data; empty for an exact, unchanged data set.

    Raises:
        ValueError: If inputs and labels do not match or a label is outside the classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    checksum: str
    note: str = ""

    def __post_init__(self) -> None:
        for split, x, y in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if len(x) == 0 or y.ndim != 1 or len(x) != len(y):
                raise ValueError(
                    f"{self.name}: expected one label for each of one or more {split} inputs, "
                    f"got x_{split} {tuple(x.shape)} and y_{split} {tuple(y.shape)}"
                )
            if not x.is_floating_point() or y.dtype != torch.int64:
                raise ValueError(
                    f"{self.name}: expected float inputs and int64 labels, "
                    f"got {x.dtype} and {y.dtype} ({split})"
                )
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"{self.name}: expected labels from 0 to {len(self.classes) - 1}, "
                    f"got {low} to {high} ({split})"
                )
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"{self.name}: expected training and test inputs of one shape, got "
                f"{tuple(self.x_train.shape[1:])} and {tuple(self.x_test.shape[1:])}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, ``(channels, height, width)``."""
        return tuple(self.x_train.shape[1:])

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Dataset":
        """The same data on ``device``, inputs as ``dtype`` where given."""
        return replace(
            self,
            x_train=self.x_train.to(device, dtype),
            y_train=self.y_train.to(device),
            x_test=self.x_test.to(device, dtype),
            y_test=self.y_test.to(device),
        )

    def subset(self, n: int, seed: int) -> "Dataset":
        """``n`` training examples drawn without replacement; the test set stays whole.

        Raises:
            ValueError: If ``n`` is not between 1 and the number of training examples.
        """
        size = len(self.y_train)
        if not 1 <= n <= size:
            raise ValueError(f"{self.name}: expected n from 1 to {size} training examples, got {n}")
        chosen = _random(seed).permutation(size)[:n]
        index = torch.from_numpy(chosen).to(self.y_train.device)
        return self._derived(
            f"{n} examples",
            chosen,
            x_train=self.x_train[index],
            y_train=self.y_train[index],
        )

    def shuffle_labels(self, fraction: float, seed: int) -> "Dataset":
        """Permute the labels of a random ``fraction`` of the training examples among themselves.

        The number of labels in each class stays the same, and about one in ten of the shuffled
        labels is right by chance. The test set is untouched.

        Raises:
            ValueError: If ``fraction`` is not between 0 and 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"{self.name}: expected a fraction from 0 to 1, got {fraction}")
        random = _random(seed)
        chosen = random.permutation(len(self.y_train))[: round(fraction * len(self.y_train))]
        source = random.permutation(chosen)
        y = self.y_train.clone()
        y[torch.from_numpy(chosen).to(y.device)] = self.y_train[
            torch.from_numpy(source).to(y.device)
        ]
        return self._derived(f"{fraction:.0%} of labels shuffled", chosen, source, y_train=y)

    def _derived(self, change: str, *drawn: np.ndarray, **tensors: Tensor) -> "Dataset":
        return replace(
            self,
            name=f"{self.name} ({change})",
            checksum=content_checksum(
                np.frombuffer(bytes.fromhex(self.checksum), dtype=np.uint8), *drawn
            ),
            **tensors,  # type: ignore[arg-type]
        )


def permute_pixels(dataset: Dataset, seed: int) -> Dataset:
    """Move the pixels of every image by one fixed random permutation, the same for all channels.

    A task of permuted MNIST (section 3.1): as hard as the original for a network without
    convolutions, and different from it in every pixel.

    >>> permute_pixels(load("digits"), seed=1).name
    'digits (pixels permuted, seed 1)'
    """
    channels, height, width = dataset.shape
    order = _random(seed).permutation(height * width)

    def permuted(x: Tensor) -> Tensor:
        index = torch.from_numpy(order).to(x.device)
        return x.flatten(2)[:, :, index].reshape(-1, channels, height, width)

    return dataset._derived(
        f"pixels permuted, seed {seed}",
        order,
        x_train=permuted(dataset.x_train),
        x_test=permuted(dataset.x_test),
    )


def load(name: str = "digits", folder: str | None = None) -> Dataset:
    """Load a data set by name: ``"digits"``, ``"mnist"`` or ``"cifar10"``.

    Args:
        name: ``"digits"``: scikit-learn's 1,797 handwritten digits of 8x8 pixels, always with
            the same 1,297 for training and 500 for testing, stratified by class. ``"mnist"``,
            ``"cifar10"``: the standard split.
        folder: Where ``mnist.npz`` and ``cifar10.npz`` (Keras's layout) are. Default: the
            environment variable ``HILBERT_DATA``; where that is not set either, the data are
            downloaded once to the user's cache folder.

    Raises:
        ValueError: If the name is unknown, or a file is damaged or holds something else.
        FileNotFoundError: If the folder lacks the file.
        ConnectionError: If a download fails.
        OSError: If there is no room for it.

    >>> digits = load("digits")
    >>> digits.x_train.shape, digits.y_test.shape
    (torch.Size([1297, 1, 8, 8]), torch.Size([500]))
    """
    if name == "digits":
        return _dataset(name, _digits(), scale=16, exact=True)
    if name == "mnist":
        arrays = read_mnist(folder)
        return _dataset(name, arrays, scale=255, exact=arrays.verified)
    if name == "cifar10":
        arrays = read_cifar10(folder)
        return _dataset(name, arrays, scale=255, exact=arrays.verified)
    raise ValueError(f"expected a data set's name, one of {', '.join(NAMES)}; got {name!r}")


def content_checksum(*arrays: np.ndarray) -> str:
    """SHA-256, in hexadecimal, over the type, shape and values of each array in turn."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _random(seed: int) -> np.random.RandomState:
    # RandomState's streams are frozen by NumPy's compatibility policy, those of Generator and of
    # torch are not: one seed names the same images in every version and on every machine.
    return np.random.RandomState(seed)


def _digits() -> Arrays:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundle = load_digits()
    x = bundle.images.astype(np.uint8)[:, None]
    y = bundle.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=500, random_state=0, stratify=y
    )
    return Arrays(x_train, y_train, x_test, y_test, verified=True)


def _dataset(name: str, arrays: Arrays, scale: int, exact: bool) -> Dataset:
    checksum = content_checksum(arrays.x_train, arrays.y_train, arrays.x_test, arrays.y_test)
    note = ""
    if not exact and checksum != EXACT_CHECKSUMS.get(name):
        note = (
            f"read from {name}.npz, whose content is not known to be exactly {name.upper()}: "
            f"{len(arrays.y_train)} training and {len(arrays.y_test)} test examples, "
            f"checksum {checksum[:12]}"
        )

    def inputs(x: np.ndarray) -> Tensor:
        # NumPy divides exactly rounded; torch may multiply by a rounded reciprocal.
        return torch.from_numpy(x.astype(np.float32) / np.float32(scale))

    def labels(y: np.ndarray) -> Tensor:
        return torch.from_numpy(y.astype(np.int64))

    return Dataset(
        name,
        inputs(arrays.x_train),
        labels(arrays.y_train),
        inputs(arrays.x_test),
        labels(arrays.y_test),
        classes=_OBJECTS if name == "cifar10" else DIGITS,
        checksum=checksum,
        note=note,
    )
