import errno
import os

import pytest
import torch

from hilbertlib.checkpoints import load_checkpoint, save_checkpoint, write_whole


def test_what_is_saved_is_read_back(tmp_path):
    state = {"theta": torch.arange(3.0), "rows": [{"a": 1, "b": None}], "large": 2**100}
    path = save_checkpoint(tmp_path / "deep" / "run.pt", state)
    found = load_checkpoint(path)
    assert torch.equal(found.pop("theta"), torch.arange(3.0))
    assert found == {"rows": [{"a": 1, "b": None}], "large": 2**100}
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = save_checkpoint(tmp_path / "run.pt", {"epoch": 1})

    def breaks(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, breaks)
    assert load_checkpoint(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_full_disk_names_the_file(tmp_path):
    path = save_checkpoint(tmp_path / "run.pt", {"epoch": 1})

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left.*before is unchanged.*run\.pt") as caught:
        write_whole(path, full)
    assert caught.value.errno == errno.ENOSPC
    assert load_checkpoint(path) == {"epoch": 1}


def test_what_is_not_there_damaged_or_code(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"theta": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"damaged or no checkpoint .* delete it"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="holds a list"):
        load_checkpoint(path)

    class Bomb:
        def __reduce__(self):
            return (print, ("boom",))

    torch.save({"state": Bomb()}, path)
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        load_checkpoint(path)
