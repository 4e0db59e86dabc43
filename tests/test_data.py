"""Data sets: the fixed split, local files good and bad, a faked download, and seeded changes."""

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import signal
import socket
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hilbertlib import datafiles
from hilbertlib.data import EXACT_CHECKSUMS, Dataset, content_checksum, load, permute_pixels

DIGITS = load("digits")
# Each npz is far smaller than the real one: only the layout of one example is fixed.
SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3)}


def made(name, n=12, m=5, seed=0):
    random = np.random.RandomState(seed)
    image = SHAPES[name]
    return {
        "x_train": random.randint(0, 256, (n, *image)).astype(np.uint8),
        "y_train": random.randint(0, 10, n).astype(np.uint8),
        "x_test": random.randint(0, 256, (m, *image)).astype(np.uint8),
        "y_test": random.randint(0, 10, m).astype(np.uint8),
    }


# --- digits -----------------------------------------------------------------------------------


def test_digits_are_split_once_and_for_all():
    assert DIGITS.x_train.shape == (1297, 1, 8, 8)
    assert DIGITS.x_test.shape == (500, 1, 8, 8)
    assert (DIGITS.x_train.min(), DIGITS.x_train.max()) == (0, 1)
    assert DIGITS.checksum == "ea8335ff31825d4b36eec38701098e5d5dc199eec18c978d16b6b9f73d9047f7"
    assert DIGITS.note == ""
    assert DIGITS.shape == (1, 8, 8)


def test_digits_are_scikit_learns_each_used_once():
    from sklearn.datasets import load_digits

    everything = torch.cat([DIGITS.x_train, DIGITS.x_test]).reshape(-1, 64) * 16
    ours = sorted(map(tuple, everything.tolist()))
    assert ours == sorted(map(tuple, load_digits().data.tolist()))


def test_digits_are_stratified():
    train, test = Counter(DIGITS.y_train.tolist()), Counter(DIGITS.y_test.tolist())
    for digit in range(10):
        assert test[digit] / (train[digit] + test[digit]) == pytest.approx(500 / 1797, abs=0.005)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="one of digits, mnist, cifar10; got 'fashion'"):
        load("fashion")


# --- local files ------------------------------------------------------------------------------


def test_mnist_from_a_local_file(tmp_path, monkeypatch):
    arrays = made("mnist")
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("HILBERT_DATA", str(tmp_path))
    data = load("mnist")
    assert data.x_train.shape == (12, 1, 28, 28)
    assert data.x_train.dtype == torch.float32
    np.testing.assert_array_equal(data.x_train[:, 0].numpy() * 255, arrays["x_train"])
    np.testing.assert_array_equal(data.y_test.numpy(), arrays["y_test"])
    assert "12 training and 5 test examples" in data.note


def test_cifar10_from_a_local_file_moves_the_channels_first(tmp_path):
    arrays = made("cifar10")
    arrays["y_train"] = arrays["y_train"][:, None].astype(np.int64)  # as Keras has it
    np.savez_compressed(tmp_path / "cifar10.npz", **arrays)
    data = load("cifar10", folder=str(tmp_path))
    assert data.x_test.shape == (5, 3, 32, 32)
    assert data.x_train[3, 2, 7, 9] == np.float32(arrays["x_train"][3, 7, 9, 2]) / np.float32(255)
    assert data.y_train.tolist() == arrays["y_train"][:, 0].tolist()
    assert data.classes[0] == "airplane"
    assert "not known to be exactly CIFAR10" in data.note


def test_an_exact_copy_needs_no_note(tmp_path, monkeypatch):
    np.savez(tmp_path / "mnist.npz", **made("mnist"))
    checksum = load("mnist", folder=str(tmp_path)).checksum
    monkeypatch.setitem(EXACT_CHECKSUMS, "mnist", checksum)
    assert load("mnist", folder=str(tmp_path)).note == ""


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mnist\.npz does not exist.*unset it to download"):
        load("mnist", folder=str(tmp_path))


def damaged(name, kind):
    """The bytes of a file that is wrong in one way."""
    arrays = made(name)
    if kind == "keys":
        del arrays["y_test"]
    if kind == "image shape":
        arrays["x_test"] = arrays["x_test"][:, :-1]
    if kind == "image type":
        arrays["x_train"] = arrays["x_train"] / 255
    if kind == "no images":
        arrays["x_test"], arrays["y_test"] = arrays["x_test"][:0], arrays["y_test"][:0]
    if kind == "lengths":
        arrays["y_train"] = arrays["y_train"][:-1]
    if kind == "label type":
        arrays["y_train"] = arrays["y_train"] * 0.5
    if kind == "label range":
        arrays["y_train"] = arrays["y_train"] + 5
    if kind == "pickle":
        arrays["y_train"] = np.array([{"a": 1}], dtype=object)
    buffer = io.BytesIO()
    if kind == "bare array":
        np.save(buffer, arrays["x_train"])
    else:
        np.savez(buffer, **arrays)
    content = buffer.getvalue()
    if kind == "truncated":
        return content[: len(content) // 2]
    if kind == "flipped":  # inside the first array's data, which its CRC then contradicts
        return content[:1000] + bytes([content[1000] ^ 255]) + content[1001:]
    if kind == "empty":
        return b""
    return b"<html>not found</html>" if kind == "text" else content


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize(
    "kind",
    ["keys", "image shape", "image type", "no images", "lengths", "label type", "label range",
     "pickle", "bare array", "truncated", "flipped", "empty", "text"],
)  # fmt: skip
def test_a_damaged_file_is_named_with_what_was_expected(tmp_path, name, kind):
    (tmp_path / f"{name}.npz").write_bytes(damaged(name, kind))
    with pytest.raises(ValueError, match=rf"{name}\.npz is damaged.*Expected.*fetch the file"):
        load(name, folder=str(tmp_path))


# --- downloads --------------------------------------------------------------------------------


def idx(array):
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def cifar_archive(arrays, path):
    def records(x, y):
        planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        return np.concatenate([y[:, None], planes], axis=1).tobytes()

    names = [f"data_batch_{i}" for i in range(1, 6)]
    parts = np.array_split(np.arange(len(arrays["x_train"])), 5)
    with tarfile.open(path, "w:gz") as archive:
        for name, index in [*zip(names, parts, strict=True), ("test_batch", None)]:
            if index is None:
                content = records(arrays["x_test"], arrays["y_test"])
            else:
                content = records(arrays["x_train"][index], arrays["y_train"][index])
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Faked addresses: what is in ``served`` arrives, everything else is an unreachable host."""
    served, asked = {}, []

    def download_url(url, root, filename, md5):
        asked.append(url)
        content = served.get(filename)
        if content is None:
            raise OSError("no route to host")
        if isinstance(content, list):  # fails so many times first
            if content:
                raise content.pop()
            content = served[filename] = served[f"{filename} then"]
        (Path(root) / filename).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    monkeypatch.setattr(datafiles.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("HILBERT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return served, asked


def test_mnist_downloaded_is_mnist_from_a_file(tmp_path, no_network):
    served, _ = no_network
    arrays = made("mnist")
    for split, prefix in (("train", "train"), ("test", "t10k")):
        served[f"{prefix}-images-idx3-ubyte.gz"] = idx(arrays[f"x_{split}"])
        served[f"{prefix}-labels-idx1-ubyte.gz"] = idx(arrays[f"y_{split}"])
    data = load("mnist")
    np.savez(tmp_path / "mnist.npz", **arrays)
    local = load("mnist", folder=str(tmp_path))
    assert data.checksum == local.checksum
    assert torch.equal(data.x_train, local.x_train)
    assert torch.equal(data.y_test, local.y_test)
    assert data.note == ""  # the archive's checksum vouches for it
    assert (tmp_path / "cache/hilbertlib/mnist/train-images-idx3-ubyte.gz").exists()


def test_cifar10_downloaded_is_cifar10_from_a_file(tmp_path, no_network):
    served, _ = no_network
    arrays = made("cifar10", n=13)
    cifar_archive(arrays, tmp_path / "archive")
    served["cifar-10-binary.tar.gz"] = (tmp_path / "archive").read_bytes()
    data = load("cifar10")
    np.savez(tmp_path / "cifar10.npz", **arrays)
    local = load("cifar10", folder=str(tmp_path))
    assert data.checksum == local.checksum
    assert torch.equal(data.x_train, local.x_train)
    assert data.y_train.tolist() == arrays["y_train"].tolist()


def test_a_download_is_tried_again(tmp_path, no_network):
    served, asked = no_network
    cifar_archive(made("cifar10"), tmp_path / "archive")
    name = "cifar-10-binary.tar.gz"
    served[name] = [RuntimeError("File not found or corrupted."), OSError("connection reset")]
    served[f"{name} then"] = (tmp_path / "archive").read_bytes()
    assert len(load("cifar10").y_train) == 12
    assert len(asked) == 3


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_no_network_gives_one_error_that_says_how_to_go_on(no_network, name):
    _, asked = no_network
    with pytest.raises(ConnectionError, match=r"no route to host.*set HILBERT_DATA.*digits"):
        load(name)
    assert len(set(asked)) * 3 == len(asked)  # every mirror, three rounds


class Host:
    """A web server on this machine that gives one archive, in whichever way ``says`` asks."""

    def __init__(self, content: bytes) -> None:
        self.content, self.says, self.asked = content, [], 0
        host = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                # torchvision asks twice: where the address leads, then for the file.
                host.asked += 1
                how = host.says[0] if host.says else "whole"
                if host.asked % 2 == 0 and host.says:
                    host.says.pop(0)
                if how == "busy":
                    host.asked = 0
                    host.says.pop(0)
                    return self.send_error(503)
                sent = host.content[::-1] if how == "wrong" else host.content
                self.send_response(200)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                if how in ("truncated", "silent", "interrupted"):
                    sent = sent[: len(sent) // 2]
                with contextlib.suppress(OSError):
                    self.wfile.write(sent)
                    self.wfile.flush()
                if host.asked % 2 == 0 and how == "interrupted":
                    host.waiting.wait(0.3)
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                if host.asked % 2 == 0 and how in ("silent", "interrupted"):
                    host.waiting.wait(5)
                return None

            def log_message(self, *_):
                pass

        self.waiting = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/cifar-10-binary.tar.gz"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.waiting.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def host(tmp_path, monkeypatch):
    """torchvision's own downloader, and a host that has the archive."""
    cifar_archive(made("cifar10"), tmp_path / "archive")
    content = (tmp_path / "archive").read_bytes()
    host = Host(content)
    monkeypatch.setattr(datafiles, "CIFAR10_URL", host.url)
    monkeypatch.setattr(datafiles, "CIFAR10_MD5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(datafiles.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("HILBERT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    host.folder = tmp_path / "cache" / "hilbertlib" / "cifar10"
    yield host
    host.close()


def test_a_download_shows_a_bar_and_is_made_once(host, capfd):
    assert len(load("cifar10").y_train) == 12
    assert "100%" in capfd.readouterr().err
    assert [f.name for f in host.folder.iterdir()] == ["cifar-10-binary.tar.gz"]
    asked = host.asked
    assert len(load("cifar10").y_train) == 12
    assert host.asked == asked


@pytest.mark.parametrize("how", ["busy", "truncated", "wrong", "silent"])
def test_a_second_attempt_mends_a_broken_download(host, how, monkeypatch):
    monkeypatch.setattr(datafiles, "TIMEOUT", 0.3)
    host.says = [how]
    assert len(load("cifar10").y_train) == 12
    assert host.says == []
    assert [f.name for f in host.folder.iterdir()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize(
    ("how", "said"), [("busy", "503"), ("truncated", "corrupted"), ("wrong", "corrupted")]
)
def test_a_host_that_never_gives_the_file_leaves_nothing_and_one_error(host, how, said):
    host.says = [how] * 3
    with pytest.raises(ConnectionError, match=rf"3 attempts.*{said}.*HILBERT_DATA.*digits"):
        load("cifar10")
    assert list(host.folder.iterdir()) == []


def test_a_host_that_is_down_is_named(host):
    host.close()
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1.*refused.*Try again later"):
        load("cifar10")


def test_a_damaged_file_in_the_cache_is_fetched_again(host):
    host.folder.mkdir(parents=True)
    (host.folder / "cifar-10-binary.tar.gz").write_bytes(host.content[: len(host.content) // 2])
    assert len(load("cifar10").y_train) == 12
    assert (host.folder / "cifar-10-binary.tar.gz").read_bytes() == host.content


def test_an_interrupted_download_leaves_no_half_file(host):
    host.says = ["interrupted"]
    # Where the tests run in the background, Python found SIGINT ignored and left it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load("cifar10")
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(host.folder.iterdir()) == []
    assert socket.getdefaulttimeout() is None
    assert len(load("cifar10").y_train) == 12


def test_a_full_disk_is_told_at_once_with_what_to_do(host, monkeypatch):
    def full(url, root, filename, md5):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", full)
    with pytest.raises(OSError, match=r"No space left.*XDG_CACHE_HOME.*cifar10") as caught:
        load("cifar10")
    assert caught.value.errno == errno.ENOSPC
    assert list(host.folder.iterdir()) == []


# --- data sets made from others ---------------------------------------------------------------


@given(n=st.integers(1, 1297), seed=st.integers(0, 2**32 - 1))
def test_a_subset_has_distinct_examples_with_their_labels(n, seed):
    numbered = replace(
        DIGITS,
        x_train=torch.arange(1297.0)[:, None].expand(1297, 64).reshape(-1, 1, 8, 8),
    )
    chosen = numbered.subset(n, seed)
    index = chosen.x_train[:, 0, 0, 0].long()
    assert len(set(index.tolist())) == n
    assert torch.equal(chosen.y_train, DIGITS.y_train[index])
    assert torch.equal(chosen.x_test, DIGITS.x_test)


@pytest.mark.parametrize("n", [0, -1, 1298])
def test_a_subset_of_impossible_size_is_refused(n):
    with pytest.raises(ValueError, match=f"from 1 to 1297 training examples, got {n}"):
        DIGITS.subset(n, 0)


@given(fraction=st.floats(0, 1), seed=st.integers(0, 1000))
def test_shuffled_labels_keep_their_counts_and_touch_only_the_fraction(fraction, seed):
    shuffled = DIGITS.shuffle_labels(fraction, seed)
    assert Counter(shuffled.y_train.tolist()) == Counter(DIGITS.y_train.tolist())
    changed = int((shuffled.y_train != DIGITS.y_train).sum())
    assert changed <= round(fraction * 1297)
    # A shuffled label is right by chance one time in ten, so most of them change.
    assert changed >= 0.8 * fraction * 1297 - 15
    assert torch.equal(shuffled.y_test, DIGITS.y_test)
    assert torch.equal(shuffled.x_train, DIGITS.x_train)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction from 0 to 1"):
        DIGITS.shuffle_labels(fraction, 0)


def test_permuted_pixels_are_one_permutation_of_every_image_and_channel():
    pixels = torch.arange(64.0).reshape(1, 1, 8, 8)
    data = replace(
        DIGITS,
        x_train=torch.cat([pixels, pixels + 100], dim=1),
        y_train=torch.zeros(1, dtype=torch.int64),
        x_test=torch.cat([pixels, pixels + 100], dim=1) + 1000,
        y_test=torch.zeros(1, dtype=torch.int64),
    )
    permuted = permute_pixels(data, seed=3)
    first, second = permuted.x_train[0].flatten(1)
    assert sorted(first.tolist()) == pixels.flatten().tolist()
    assert first.tolist() != pixels.flatten().tolist()
    assert torch.equal(second, first + 100)
    assert torch.equal(permuted.x_test, permuted.x_train + 1000)
    assert not torch.equal(permute_pixels(data, seed=4).x_train, permuted.x_train)


def test_one_seed_names_the_same_draw_on_every_machine():
    # NumPy's frozen stream: these values must never change, or records lose their meaning.
    assert DIGITS.subset(5, 0).checksum[:8] == "c37cac8d"
    assert DIGITS.shuffle_labels(0.4, 0).checksum[:8] == "0364ec62"
    assert permute_pixels(DIGITS, 0).checksum[:8] == "d135fc3f"


def test_what_was_changed_is_in_the_name_and_the_checksum():
    made_from = [
        DIGITS, DIGITS.subset(9, 0), DIGITS.subset(9, 1), DIGITS.shuffle_labels(0.4, 0),
        permute_pixels(DIGITS, 0), permute_pixels(DIGITS.subset(9, 0), 0),
    ]  # fmt: skip
    assert len({data.checksum for data in made_from}) == len(made_from)
    assert made_from[1].name == "digits (9 examples)"
    assert made_from[3].name == "digits (40% of labels shuffled)"
    assert made_from[5].name == "digits (9 examples) (pixels permuted, seed 0)"


def test_a_changed_data_set_keeps_its_note(tmp_path):
    np.savez(tmp_path / "mnist.npz", **made("mnist"))
    data = load("mnist", folder=str(tmp_path))
    assert permute_pixels(data.subset(3, 0), 0).note == data.note != ""


@given(st.lists(st.integers(0, 255), min_size=2, max_size=8), st.integers(0, 7))
def test_the_checksum_is_over_type_shape_and_values(values, position):
    array = np.array(values, dtype=np.uint8)
    same = content_checksum(array)
    assert content_checksum(array.copy()) == same
    other = array.copy()
    other[position % len(other)] ^= 1
    assert content_checksum(other) != same
    assert content_checksum(array.astype(np.int16)) != same
    assert content_checksum(array[None]) != same


def test_to_moves_and_converts_the_inputs_only():
    moved = DIGITS.to("cpu", torch.float64)
    assert moved.x_train.dtype == moved.x_test.dtype == torch.float64
    assert moved.y_train.dtype == torch.int64
    assert DIGITS.to("cpu").x_train.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": torch.zeros(3, dtype=torch.int64)}, "one label for each"),
        ({"x_test": torch.zeros(0, 1, 8, 8), "y_test": torch.zeros(0).long()}, "one or more test"),
        ({"y_train": torch.full((1297,), 10)}, "labels from 0 to 9, got 10 to 10"),
        ({"y_train": torch.full((1297,), -1)}, "labels from 0 to 9, got -1 to -1"),
        ({"y_train": torch.zeros(1297)}, "int64 labels"),
        ({"x_train": torch.zeros(1297, 1, 8, 8, dtype=torch.uint8)}, "float inputs"),
        ({"x_train": torch.zeros(1297, 1, 9, 8)}, "inputs of one shape"),
    ],
)
def test_a_data_set_whose_parts_do_not_match_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DIGITS, **changes)


def test_a_data_set_is_frozen():
    with pytest.raises(AttributeError):
        DIGITS.name = "other"
    assert isinstance(DIGITS, Dataset)
