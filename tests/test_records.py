"""Records: a round trip loses nothing, a damaged file is named, a half-written one never exists."""

import json
import math
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertlib import provenance
from hilbertlib.data import load
from hilbertlib.provenance import describe_device, git_commit
from hilbertlib.records import (
    Provenance,
    Record,
    Table,
    collect_provenance,
    load_record,
    records_folder,
    save_record,
)

FROM = Provenance(
    config={"epochs": 10, "λ": 1.3, "widths": (32, 64), "note": None},
    seeds=[0, 1, 2],
    dataset="digits",
    dataset_checksum="ea83",
    device="cpu",
    versions={"torch": "2.6"},
    seconds=12.3456789,
    commit="abc123",
    departures=["8x8 digits in place of MNIST"],
    reduced=True,
)
TABLE = Table({"method": ["sgd", "hcgd"], "seed": [0, 0], "loss": [0.123456789, None]})
RECORD = Record("forgetting", "paper", {"accuracy": TABLE}, FROM)

finite = st.floats(allow_nan=False, allow_infinity=False)
cells = st.one_of(st.none(), st.booleans(), st.integers(-(10**15), 10**15), finite, st.text())
names = st.text(min_size=1, max_size=9)
tables = st.tuples(st.lists(names, min_size=1, max_size=4, unique=True), st.integers(0, 5)).flatmap(
    lambda shape: st.fixed_dictionaries(
        {name: st.lists(cells, min_size=shape[1], max_size=shape[1]) for name in shape[0]}
    ).map(Table)
)
settings_of_a_run = st.recursive(
    cells, lambda x: st.lists(x, max_size=3) | st.dictionaries(names, x, max_size=3), max_leaves=8
)
provenances = st.builds(
    Provenance,
    config=st.dictionaries(names, settings_of_a_run, max_size=3),
    seeds=st.lists(st.integers(0, 2**63), min_size=1, max_size=5, unique=True),
    dataset=st.text(),
    dataset_checksum=st.text(),
    dataset_note=st.text(),
    device=st.text(),
    versions=st.dictionaries(names, st.text(), max_size=3),
    seconds=st.floats(0, 1e9),
    commit=st.none() | st.text(),
    departures=st.lists(st.text(), min_size=1, max_size=3),
    reduced=st.booleans(),
)
records = st.builds(
    Record,
    experiment=st.from_regex(r"\A[a-z][a-z0-9_]{0,9}\Z"),
    scale=st.sampled_from(["live", "paper"]),
    tables=st.dictionaries(names, tables, min_size=1, max_size=3),
    provenance=provenances,
)


# --- the round trip ---------------------------------------------------------------------------


@given(records)
@settings(max_examples=60)
def test_a_round_trip_loses_nothing(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    loaded = load_record(save_record(record, path))
    assert loaded == record
    first = path.read_bytes()
    save_record(loaded, path)
    assert path.read_bytes() == first  # and the text is always the same, so that it diffs


def test_the_text_has_a_row_on_each_line(tmp_path):
    lines = save_record(RECORD, tmp_path / "r.json").read_text().splitlines()
    assert '    ["sgd", 0, 0.123457],' in lines
    assert '    ["hcgd", 0, null]' in lines
    assert '  "λ": 1.3,' in "\n".join(lines)
    assert json.loads("\n".join(lines))["format"] == "hilbertlib record 1"


def test_numbers_in_tables_are_compact_and_settings_are_exact(tmp_path):
    table = Table({"x": [1 / 3, 123456789.0, 1e-30 / 3, 2.0]})
    assert table["x"] == [0.333333, 123457000.0, 3.33333e-31, 2.0]
    made = replace(RECORD, provenance=replace(FROM, config={"lr": 1 / 3}))
    assert load_record(save_record(made, tmp_path / "r.json")).provenance.config["lr"] == 1 / 3


def test_folders_are_made_on_the_way_and_anyone_may_read(tmp_path):
    path = save_record(RECORD, tmp_path / "a" / "b" / "r.json")
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]


@pytest.mark.parametrize("where", ["os.replace", "os.fsync"])
def test_a_failed_write_leaves_the_old_record_and_nothing_else(tmp_path, monkeypatch, where):
    path = save_record(RECORD, tmp_path / "r.json")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(where, fail)
    with pytest.raises(OSError, match="no space left"):
        save_record(replace(RECORD, scale="live"), path)
    assert load_record(path) == RECORD
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


# --- damage -----------------------------------------------------------------------------------


def test_a_missing_record_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m hilbertlib run NAME"):
        load_record(tmp_path / "r.json")


@given(st.integers(0, 5000))
def test_a_record_cut_off_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "cut.json"
    content = save_record(RECORD, path).read_bytes().rstrip()
    path.write_bytes(content[: length % len(content)])
    with pytest.raises(ValueError, match=r"cut\.json is damaged or no record"):
        load_record(path)


@given(st.integers(0, 5000), st.integers(1, 255))
@settings(max_examples=200)
def test_a_flipped_byte_is_noticed_or_means_nothing(tmp_path_factory, position, flip):
    path = tmp_path_factory.getbasetemp() / "flipped.json"
    content = bytearray(save_record(RECORD, path).read_bytes())
    content[position % len(content)] ^= flip
    path.write_bytes(content)
    try:
        outcome = load_record(path)
    except ValueError as error:
        outcome = str(error)
    # A record that is read all the same is the same record: white space became other white space.
    assert outcome == RECORD or "flipped.json is damaged or no record" in outcome


def rewritten(path, change):
    """A record whose body was changed and whose checksum was made to match: wrong, not damaged."""
    from hilbertlib.records import _checksum

    body = json.loads(save_record(RECORD, path).read_text())
    body.pop("checksum")
    change(body)
    path.write_text(json.dumps({**body, "checksum": _checksum(body)}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(format="hilbertlib record 2"), "not a 'hilbertlib record 1'"),
        (lambda b: b.pop("tables"), "record: expected the keys"),
        (lambda b: b.update(extra=1), "record: expected the keys"),
        (lambda b: b["provenance"].pop("seeds"), "provenance: expected the keys"),
        (lambda b: b["provenance"].update(author=1), "provenance: expected the keys"),
        (lambda b: b["provenance"].update(seeds=[]), "one or more different seeds"),
        (lambda b: b["provenance"].update(seeds=[0.5]), "damaged or no record"),
        (lambda b: b["provenance"].update(commit=5), "a text for commit"),
        (lambda b: b.update(provenance=None), "damaged or no record"),
        (lambda b: b["tables"]["accuracy"]["rows"].append([1]), "not of 3 cells"),
        (lambda b: b["tables"]["accuracy"]["rows"].append([1, 2, {}]), "got dict"),
        (lambda b: b["tables"]["accuracy"].update(rows=7), "damaged or no record"),
        (lambda b: b["tables"].update(accuracy=[]), "damaged or no record"),
        (lambda b: b.update(tables=[]), "damaged or no record"),
        (lambda b: b.update(tables={}), "at least one table"),
        (lambda b: b.update(scale="huge"), "scale 'live' or 'paper'"),
        (lambda b: b.update(experiment="<script>"), "letters, digits and _"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_record(rewritten(tmp_path / "r.json", change))


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "7", '{"format": "hilbertlib record 1"}', "NaN", "[" * 100_000, "\x80"],
)
def test_any_other_text_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="damaged or no record"):
        load_record(path)


def test_an_edited_number_is_noticed(tmp_path):
    path = save_record(RECORD, tmp_path / "r.json")
    path.write_text(path.read_text().replace("0.123457", "0.923457"))
    with pytest.raises(ValueError, match="does not match its checksum"):
        load_record(path)


# --- tables -----------------------------------------------------------------------------------


def test_a_table_is_read_by_column_and_by_row():
    table = Table.from_rows(
        {"method": m, "seed": s, "loss": s + 0.5} for m in ("sgd", "adam") for s in range(3)
    )
    assert len(table) == 6
    assert table["seed"] == [0, 1, 2, 0, 1, 2]
    assert table.unique("method") == ["sgd", "adam"]
    assert table.where(method="adam", seed=2).rows() == [{"method": "adam", "seed": 2, "loss": 2.5}]
    assert table.where(loss=1.5)["method"] == ["sgd", "adam"]
    assert len(table.where(method="none")) == 0
    table["seed"].append(99)  # a copy
    assert len(table["seed"]) == 6


def test_a_row_is_found_by_the_number_it_was_made_from():
    table = Table({"lr": [1 / 3, 2 / 3]})
    assert len(table.where(lr=1 / 3)) == 1


def test_numbers_from_numpy_and_torch_become_plain():
    table = Table(
        {"a": np.arange(2), "b": torch.tensor([0.5, 1.5]), "c": [np.bool_(True), np.float32(0.1)]}
    )
    assert table.rows() == [{"a": 0, "b": 0.5, "c": True}, {"a": 1, "b": 1.5, "c": 0.1}]
    assert [type(c) for c in table["a"] + table["b"] + table["c"]] == [
        int, int, float, float, bool, float,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({}, ValueError, "one or more columns of one length"),
        ({"a": [1], "b": [1, 2]}, ValueError, r"got \{'a': 1, 'b': 2\}"),
        ({"": [1]}, ValueError, "a name for each column"),
        ({"a": [math.nan]}, ValueError, "write None where there is none"),
        ({"a": [torch.tensor(math.inf)]}, ValueError, "finite number, got inf"),
        ({"a": [[1]]}, TypeError, "got list"),
        ({"a": torch.zeros(2, 2)}, TypeError, "got Tensor"),
    ],
)
def test_impossible_tables_are_refused(columns, error, message):
    with pytest.raises(error, match=message):
        Table(columns)


@pytest.mark.parametrize("rows", [[], [{"a": 1}, {"b": 1}], [{"a": 1}, {"a": 1, "b": 2}]])
def test_rows_must_have_the_same_keys(rows):
    with pytest.raises(ValueError, match="rows with the same keys"):
        Table.from_rows(rows)


def test_names_that_are_not_there_are_named_with_those_that_are():
    with pytest.raises(KeyError, match="a column of method, seed, loss; got 'los'"):
        TABLE["los"]
    with pytest.raises(KeyError, match="a table of accuracy; got 'acc'"):
        RECORD["acc"]
    assert RECORD["accuracy"] is TABLE
    assert RECORD.seeds == [0, 1, 2]


@pytest.mark.parametrize(
    ("scale", "reduced", "expected"),
    [("paper", False, False), ("paper", True, True), ("live", False, True)],
)
def test_a_live_record_is_always_reduced(scale, reduced, expected):
    record = replace(RECORD, scale=scale, provenance=replace(FROM, reduced=reduced))
    assert record.reduced == expected


# --- provenance -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seeds": []}, ValueError, "different seeds"),
        ({"seeds": [1, 1]}, ValueError, "different seeds"),
        ({"seeds": [0.5]}, TypeError, "float"),
        ({"seconds": -1}, ValueError, "a time in seconds"),
        ({"seconds": math.nan}, ValueError, "a time in seconds"),
        ({"departures": []}, ValueError, "departures that make the setting a reduced one"),
        ({"dataset": None}, TypeError, "a text for dataset, got None"),
        ({"config": {"f": print}}, TypeError, r"config\.f: expected what JSON can hold"),
        ({"config": {"a": [0, math.inf]}}, TypeError, r"config\.a\[1\]: expected what JSON"),
        ({"config": {1: 2}}, TypeError, "texts as keys"),
        ({"config": [1]}, TypeError, "a mapping of settings"),
        ({"versions": {"torch": 2}}, TypeError, "texts as versions"),
    ],
)
def test_impossible_provenance_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        replace(FROM, **changes)


def test_provenance_is_collected_where_the_run_was(monkeypatch):
    @dataclass
    class Config:
        epochs: int = 3
        sizes: tuple[int, ...] = (64, 10)

    monkeypatch.setattr(provenance, "git_commit", lambda: "abc")
    data = load("digits").subset(9, 0)
    made = collect_provenance(Config(), np.arange(2), data, device="cpu", seconds=1.5)
    assert made.config == {"epochs": 3, "sizes": [64, 10]}
    assert made.seeds == [0, 1]
    assert (made.dataset, made.dataset_checksum) == (data.name, data.checksum)
    assert made.versions["torch"] == torch.__version__
    assert "CPU" in made.device
    assert made.commit == "abc"
    assert not made.reduced


def test_devices_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert describe_device("cuda:1") == "GPU 1"
    assert describe_device("meta") == "meta"


def test_the_commit_is_that_of_the_repository_that_tracks_the_package(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init")
    assert git_commit(package) is None  # in a repository, not tracked by it: as in a .venv there
    git("add", ".")
    git("commit", "-m", "first")
    assert git_commit(package) == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = True")
    assert git_commit(package) == git("rev-parse", "HEAD") + "+"


@pytest.mark.parametrize(
    ("direct_url", "expected"),
    [
        ('{"vcs_info": {"vcs": "git", "commit_id": "f00"}}', "f00"),
        ('{"dir_info": {}}', None),
        ("{", None),
        (None, None),
    ],
)
def test_else_it_is_what_pip_noted(tmp_path, monkeypatch, direct_url, expected):
    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return direct_url

    monkeypatch.setattr(provenance, "distribution", lambda name: Installed())
    assert git_commit(tmp_path) == expected


def test_without_git_or_pip_the_commit_is_unknown(tmp_path, monkeypatch):
    def missing(name):
        raise provenance.PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "distribution", missing)
    monkeypatch.setenv("PATH", "")
    assert git_commit(tmp_path) is None


def test_the_records_that_came_with_the_library_stand_in_for_a_missing_folder(
    tmp_path, monkeypatch
):
    """As pip installs them: outside of the package, and named in the list of its files."""
    site, share = tmp_path / "site", tmp_path / "share" / "hilbertlib" / "records"
    share.mkdir(parents=True)
    (share / "a-paper.json").touch()
    about = site / "hilbertlib_book-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Name: hilbertlib-book\nVersion: 0\n")
    (about / "RECORD").write_text("../share/hilbertlib/records/a-paper.json,,\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    assert records_folder("records") == share
    (tmp_path / "records").mkdir()
    assert records_folder("records") == Path("records")


def test_without_any_records_the_folder_is_the_one_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("hilbertlib.records.files", lambda _: None)
    assert records_folder(tmp_path / "none") == tmp_path / "none"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", 0), ("b", 0)], "1 seed"),
        ([("a", 0), ("a", 1), ("b", 0), ("b", 1)], "2 seeds"),
        ([("a", 0), ("a", 1), ("b", 1)], "1 to 2 seeds an arm"),
        ([("a", 0), ("a", 0)], "1 seed"),
    ],
)
def test_it_says_how_many_seeds_each_arm_has(rows, said):
    table = Table.from_rows([{"arm": arm, "seed": seed} for arm, seed in rows])
    assert Record("toy", "live", {"runs": table}, FROM).seeds_said == said
    no_arms = Record("toy", "live", {"runs": TABLE}, FROM)
    assert no_arms.seeds_said == "3 seeds"
