"""A result with its provenance, as text that diffs: what an experiment writes and the book reads.

A record is the tables behind a figure and everything needed to judge and repeat them. It is one
JSON file with a table's row on each line, written whole or not at all, checked when it is read,
and never a pickle. The rule that turns a record into a verdict is in :mod:`hilbertlib.verdicts`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal, get_args

from .checkpoints import write_whole
from .provenance import Cell, Provenance, cell, collect_provenance
from .verdicts import (
    Claim,
    Interval,
    MissingTableError,
    Part,
    Verdict,
    Word,
    judge,
    seed_interval,
    seeds_said,
)

__all__ = [
    "Claim", "Interval", "Part", "Provenance", "Record", "Table", "Verdict", "Word",
    "collect_provenance", "judge", "load_record", "records_folder", "save_record",
    "seed_interval",
]  # fmt: skip

Scale = Literal["live", "paper"]
_FORMAT = "hilbertlib record 1"
_SHIPPED = "share/hilbertlib/records/*.json"  # as pyproject.toml installs them


@dataclass(frozen=True)
class Table:
    """Named columns of one length; a cell is a number, a text, a truth value or None.

    Numbers that are not integers are rounded to six significant digits when the table is made, so
    that a table in memory equals the one read back. A value that is not there is None: NaN and
    infinity are refused.

    Raises:
        ValueError: If the columns differ in length, there are none, or a number is not finite.
        TypeError: If a cell is none of the above.

    >>> table = Table({"method": ["sgd", "hcgd"], "loss": [0.5, 0.25]})
    >>> table.where(method="hcgd")["loss"]
    [0.25]
    """

    columns: Mapping[str, Sequence[Cell]]

    def __post_init__(self) -> None:
        columns = {name: [cell(c) for c in v] for name, v in self.columns.items()}
        lengths = {name: len(cells) for name, cells in columns.items()}
        if not columns or len(set(lengths.values())) != 1:
            raise ValueError(f"expected one or more columns of one length, got {lengths}")
        if not all(isinstance(name, str) and name for name in columns):
            raise ValueError(f"expected a name for each column, got {list(columns)}")
        object.__setattr__(self, "columns", columns)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Table":
        """A table from one mapping a row, all with the same keys.

        Raises:
            ValueError: If there is no row or the keys differ.
        """
        listed = list(rows)
        if not listed or any(row.keys() != listed[0].keys() for row in listed):
            raise ValueError(
                "expected one or more rows with the same keys, "
                f"got {sorted({tuple(row) for row in listed})}"
            )
        return cls({name: [row[name] for row in listed] for name in listed[0]})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column: str) -> list[Any]:
        """The cells of a column, as a list of its own."""
        if column not in self.columns:
            raise KeyError(f"expected a column of {', '.join(self.columns)}; got {column!r}")
        return list(self.columns[column])

    def rows(self) -> list[dict[str, Any]]:
        """The table as one dictionary a row."""
        names = list(self.columns)
        cells = zip(*self.columns.values(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in cells]

    def where(self, **values: Cell) -> "Table":
        """The rows in which each named column has the given value; perhaps none."""
        wanted = {name: cell(value) for name, value in values.items()}
        given = [self[name] for name in wanted]
        kept = [
            i for i in range(len(self))
            if all(column[i] == value for column, value in zip(given, wanted.values(), strict=True))
        ]  # fmt: skip
        return Table({name: [cells[i] for i in kept] for name, cells in self.columns.items()})

    def unique(self, column: str) -> list[Any]:
        """The different values of a column in the order in which they first occur."""
        return list(dict.fromkeys(self[column]))


@dataclass(frozen=True)
class Record:
    """The result of an experiment.

    Attributes:
        experiment: Its name, as the command line knows it.
        scale: ``"live"`` or ``"paper"``.
        tables: The tables behind its figure, by name.
        provenance: Where they come from.

    Raises:
        ValueError: If the name or the scale is impossible, or there is no table.
    """

    experiment: str
    scale: Scale
    tables: Mapping[str, Table]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.experiment.replace("_", "").isalnum():
            raise ValueError(
                f"expected letters, digits and _ as an experiment's name, got {self.experiment!r}"
            )
        if self.scale not in get_args(Scale):
            raise ValueError(f"expected scale 'live' or 'paper', got {self.scale!r}")
        if not self.tables:
            raise ValueError("expected at least one table, got none")
        object.__setattr__(self, "tables", dict(self.tables))

    def __getitem__(self, table: str) -> Table:
        if table not in self.tables:
            raise MissingTableError(f"expected a table of {', '.join(self.tables)}; got {table!r}")
        return self.tables[table]

    @property
    def seeds(self) -> list[int]:
        """The seeds that were run."""
        return list(self.provenance.seeds)

    @property
    def seeds_said(self) -> str:
        """The number of seeds in words, "5 seeds", or "1 to 2 seeds an arm" where they differ."""
        ran: dict[Any, set[Any]] = {}
        for table in self.tables.values():
            if {"arm", "seed"} <= set(table.columns):
                for arm, seed in zip(table["arm"], table["seed"], strict=True):
                    ran.setdefault(arm, set()).add(seed)
        counts = sorted({len(seeds) for seeds in ran.values()}) or [len(self.seeds)]
        if counts[0] < counts[-1]:
            return f"{counts[0]} to {counts[-1]} seeds an arm"
        return seeds_said(counts[0])

    @property
    def reduced(self) -> bool:
        """Whether the setting is too small to refute the paper, as it always is at live scale."""
        return self.scale == "live" or self.provenance.reduced


def save_record(record: Record, path: str | Path) -> Path:
    """Write a record whole or not at all: to a temporary file beside it, which then takes its name.

    Returns:
        The path written.
    """
    return write_whole(path, lambda file: file.write(_to_text(record).encode()))


def load_record(path: str | Path) -> Record:
    """Read a record and check all of it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, was edited, or is no record.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no record {path}; make it with `python -m hilbertlib run NAME`"
        )
    try:
        body = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if not isinstance(body, dict) or body.get("format") != _FORMAT:
            raise ValueError(f"it is not a {_FORMAT!r}")
        checksum = body.pop("checksum", None)
        if checksum != _checksum(body):
            raise ValueError("its content does not match its checksum")
        return _from_body(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or no record ({error}); restore it or run the experiment again"
        ) from error


def records_folder(folder: str | Path = "records") -> Path:
    """``folder`` where it exists, else the folder of the records that came with the library.

    A chapter that runs in an empty folder, on a hosted machine, finds the book's records there.
    """
    if Path(folder).is_dir():
        return Path(folder)
    try:
        installed = files("hilbertlib-book") or []
    except PackageNotFoundError:
        installed = []
    shipped = [Path(str(f.locate())).resolve() for f in installed if f.match(_SHIPPED)]
    return shipped[0].parent if shipped and shipped[0].exists() else Path(folder)


def _to_text(record: Record) -> str:
    body = _to_body(record)
    # json.dumps indents every cell of a table or none: the tables are laid out here, a row a line.
    head = {key: value for key, value in body.items() if key != "tables"}
    opening = json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    tables = ",\n".join(_table_text(name, table) for name, table in body["tables"].items())
    return f'{opening},\n "tables": {{\n{tables}\n }},\n "checksum": "{_checksum(body)}"\n}}\n'


def _table_text(name: str, table: Mapping[str, Any]) -> str:
    rows = ",\n".join(f"    {_dense(row)}" for row in table["rows"])
    columns = _dense(table["columns"])
    return f'  {_dense(name)}: {{\n   "columns": {columns},\n   "rows": [\n{rows}\n   ]\n  }}'


def _to_body(record: Record) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "experiment": record.experiment,
        "scale": record.scale,
        "provenance": asdict(record.provenance),
        "tables": {
            name: {
                "columns": list(table.columns),
                "rows": [list(row) for row in zip(*table.columns.values(), strict=True)],
            }
            for name, table in record.tables.items()
        },
    }


def _from_body(body: dict[str, Any]) -> Record:
    _expect_keys(body, {"format", "experiment", "scale", "provenance", "tables"}, "record")
    tables = {}
    for name, table in body["tables"].items():
        _expect_keys(table, {"columns", "rows"}, f"table {name!r}")
        names, rows = table["columns"], table["rows"]
        if any(len(row) != len(names) for row in rows):
            raise ValueError(f"table {name!r} has rows that are not of {len(names)} cells")
        tables[name] = Table({key: [row[i] for row in rows] for i, key in enumerate(names)})
    _expect_keys(body["provenance"], {f.name for f in fields(Provenance)}, "provenance")
    return Record(body["experiment"], body["scale"], tables, Provenance(**body["provenance"]))


def _expect_keys(found: Mapping[str, Any], expected: set[str], where: str) -> None:
    if set(found) != expected:
        raise ValueError(f"{where}: expected the keys {sorted(expected)}, got {sorted(found)}")


def _checksum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _dense(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
