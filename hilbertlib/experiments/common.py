"""What the experiments share: a record of a live run, and two arms seed by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..data import Dataset
from ..provenance import collect_provenance
from ..records import Record, Table


def live_record(
    name: str,
    tables: Mapping[str, Table],
    *,
    config: Any,
    seeds: Sequence[int],
    dataset: Dataset,
    seconds: float,
) -> Record:
    """The record of an experiment that a chapter has just run, at its small scale."""
    provenance = collect_provenance(
        config,
        list(seeds),
        dataset,
        device="cpu",
        seconds=seconds,
        departures=["small networks on small images, trained for seconds"],
        reduced=True,
    )
    return Record(name, "live", tables, provenance)


def paired(table: Table, arm: str, other: str, column: str) -> list[tuple[float, float]]:
    """A column of two arms, a pair for each seed that both have."""
    return [
        (float(a[column]), float(b[column]))
        for a in table.where(arm=arm).rows()
        for b in table.where(arm=other, seed=a["seed"]).rows()
    ]
