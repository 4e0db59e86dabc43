"""Read MNIST and CIFAR-10 from a local file, or download them and check what came.

Nothing is unpickled: a local file is a NumPy archive opened with ``allow_pickle=False``, and
CIFAR-10 is downloaded in its *binary* form (torchvision's class for it unpickles).
"""

import errno
import gzip
import http.client
import os
import socket
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIGITS = tuple("0123456789")
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
TIMEOUT = 30.0  # seconds without a byte
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Arrays:
    """A data set as it is stored: images ``(N, channels, height, width)`` and labels ``(N,)``,
    all uint8; ``verified`` when the archive it came from had the right checksum."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    verified: bool


def read_mnist(folder: str | None = None) -> Arrays:
    """MNIST from ``folder`` (default: ``HILBERT_DATA``), else downloaded as four IDX files."""
    if local := _local_file("mnist", folder):
        return _read_npz(local, image=(28, 28))
    from torchvision.datasets import MNIST

    found = []
    for filename, md5 in MNIST.resources:
        urls = [mirror + filename for mirror in MNIST.mirrors]
        found.append(_read_idx(_download("mnist", filename, urls, md5)))
    x_train, y_train, x_test, y_test = found
    return Arrays(x_train[:, None], y_train, x_test[:, None], y_test, verified=True)


def read_cifar10(folder: str | None = None) -> Arrays:
    """CIFAR-10 from ``folder`` (default: ``HILBERT_DATA``), else downloaded in binary form."""
    if local := _local_file("cifar10", folder):
        return _read_npz(local, image=(32, 32, 3))
    return _read_cifar10_archive(
        _download("cifar10", CIFAR10_URL.rsplit("/", 1)[1], [CIFAR10_URL], CIFAR10_MD5)
    )


def _local_file(name: str, folder: str | None) -> Path | None:
    given = folder if folder is not None else os.environ.get("HILBERT_DATA")
    if not given:
        return None
    path = Path(given).expanduser() / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. HILBERT_DATA (or `folder`) must name a folder that holds "
            f"{name}.npz with {', '.join(_KEYS)}; unset it to download {name}, or use "
            'load("digits"), which needs no file'
        )
    return path


def _read_npz(path: Path, image: tuple[int, ...]) -> Arrays:
    """Read Keras's layout: uint8 images ``(N, *image)``, labels ``(N,)`` or ``(N, 1)``."""
    advice = "fetch the file again, or unset HILBERT_DATA to download the data set"
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with stored:
            missing = [key for key in _KEYS if key not in stored.files]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}")
            x_train, y_train, x_test, y_test = (stored[key] for key in _KEYS)
        return Arrays(
            _images(x_train, "x_train", image),
            _labels(y_train, "y_train", len(x_train)),
            _images(x_test, "x_test", image),
            _labels(y_test, "y_test", len(x_test)),
            verified=False,
        )
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged or not what it should be ({error}). Expected a NumPy archive with "
            f"uint8 images (N, {', '.join(map(str, image))}) and labels 0 to 9 in "
            f"{', '.join(_KEYS)}; {advice}"
        ) from error


def _images(x: np.ndarray, key: str, image: tuple[int, ...]) -> np.ndarray:
    if x.dtype != np.uint8 or x.shape[1:] != image or len(x) == 0:
        raise ValueError(f"{key} is {x.dtype} {x.shape}")
    # Keras stores the channels last; a grey image has no channel axis.
    return x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _labels(y: np.ndarray, key: str, n: int) -> np.ndarray:
    if y.shape not in ((n,), (n, 1)) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{key} is {y.dtype} {y.shape} for {n} images")
    if y.min() < 0 or y.max() > 9:
        raise ValueError(f"{key} runs from {y.min()} to {y.max()}")
    return y.reshape(n).astype(np.uint8)


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file: two zero bytes, the type (8: uint8), the rank, big-endian sizes, the data."""
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3]
    shape = tuple(np.frombuffer(data, ">u4", count=rank, offset=4))
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read_cifar10_archive(path: Path) -> Arrays:
    """Records of 1 + 3,072 bytes: the label, then red, green and blue planes of 32x32."""

    def records(archive: tarfile.TarFile, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for name in names:
            file = archive.extractfile(f"cifar-10-batches-bin/{name}.bin")
            assert file is not None  # the archive's checksum was right
            parts.append(np.frombuffer(file.read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32))
        rows = np.concatenate(parts)
        return np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32), rows[:, 0].copy()

    with tarfile.open(path) as archive:
        x_train, y_train = records(archive, [f"data_batch_{i}" for i in range(1, 6)])
        x_test, y_test = records(archive, ["test_batch"])
    return Arrays(x_train, y_train, x_test, y_test, verified=True)


def _cache_folder(name: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hilbertlib" / name


def _download(name: str, filename: str, urls: Sequence[str], md5: str, attempts: int = 3) -> Path:
    """Fetch one file with a progress bar unless it is there already, and check its MD5.

    Each address is tried in turn, the whole round ``attempts`` times.
    """
    from torchvision.datasets.utils import check_integrity

    target = _cache_folder(name) / filename
    if check_integrity(target, md5):
        return target
    advice = (
        f"set HILBERT_DATA to a folder that holds {name}.npz ({', '.join(_KEYS)}), or use "
        'load("digits"), which needs no network'
    )
    failures = []
    for attempt in range(attempts):
        for url in urls:
            try:
                _fetch(url, target, md5)
                return target
            # A refused host is an OSError, one that breaks off an HTTPException, a wrong checksum
            # torchvision's RuntimeError.
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in _NO_ROOM:
                    raise OSError(
                        error.errno,
                        f"could not write {filename} ({error.strerror}). Make room there, name "
                        f"another folder with XDG_CACHE_HOME, {advice}",
                        str(target.parent),
                    ) from error
                failures.append(f"{url}: {error}")
        if attempt + 1 < attempts:
            time.sleep(2.0**attempt)
    raise ConnectionError(
        f"could not download {filename} for {name} after {attempts} attempts "
        f"({'; '.join(dict.fromkeys(failures))}). Try again later, {advice}"
    )


def _fetch(url: str, target: Path, md5: str) -> None:
    """torchvision's download into a folder of its own: the file is there whole or not at all."""
    from torchvision.datasets.utils import download_url

    target.parent.mkdir(parents=True, exist_ok=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision would wait for a silent host for ever
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
            download_url(url, folder, target.name, md5)
            os.replace(Path(folder) / target.name, target)
    finally:
        socket.setdefaulttimeout(patience)
