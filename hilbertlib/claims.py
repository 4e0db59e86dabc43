"""Every claim of the paper, and our own, each with its test on a record; and what the records say.

The claims stand beside their experiments, where the tables are that they are judged on. Here they
are one mapping, :data:`CLAIMS`, from a claim's id to the :class:`hilbertlib.records.Claim`.
"""

from collections.abc import Mapping
from pathlib import Path

from .experiments import catalogue
from .experiments.runner import record_path
from .records import Claim, Record, Scale, Verdict, judge, load_record, records_folder

CLAIMS: Mapping[str, Claim] = {claim.id: claim for claim in catalogue.CLAIMS}
"""All claims by id, in the order of the paper's sections."""

OURS = ("this chapter", "our guess")
"""Where a claim stands that is the book's own, and not the paper's."""


def paper_claims() -> dict[str, Claim]:
    """The claims that the paper makes."""
    return {id: claim for id, claim in CLAIMS.items() if claim.where not in OURS}


def records_in(folder: str | Path, scale: Scale = "paper") -> dict[str, Record]:
    """The records of a folder at one scale, by experiment.

    Where there is no such folder they are those that were installed with the library.

    Raises:
        ValueError: If one is damaged.
    """
    folder = records_folder(folder)
    paths = {name: record_path(folder, name, scale) for name in catalogue.NAMES}
    return {name: load_record(path) for name, path in paths.items() if path.exists()}


def verdicts(records: Mapping[str, Record]) -> dict[str, Verdict]:
    """The verdict on every claim, by id: on the record of its experiment, or "not tested".

    >>> verdicts({})["forget-adam"].word
    'not tested'
    """
    return {id: judge(claim, records.get(claim.experiment)) for id, claim in CLAIMS.items()}


def counts(verdicts: Mapping[str, Verdict]) -> dict[str, int]:
    """How many verdicts there are of each word."""
    words = [verdict.word for verdict in verdicts.values()]
    return {word: words.count(word) for word in dict.fromkeys(words)}
