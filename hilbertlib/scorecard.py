"""Claims and what the records say of them, as tables for a page."""

import html
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .claims import CLAIMS, OURS, verdicts
from .experiments.catalogue import EXPERIMENTS, NAMES, VIEWS
from .records import Claim, Interval, Record, Table, Verdict, Word
from .verdicts import printed

_WORDS: tuple[Word, ...] = ("reproduced", "partly", "inconclusive", "not reproduced", "not tested")


def verdict_table(
    judged: Iterable[tuple[Claim, Verdict]],
    experiments: bool = False,
    paper: Mapping[str, Verdict] | None = None,
) -> str:
    """HTML: each claim with its reading and margin, what was measured, and the verdict.

    Args:
        experiments: Whether to name each claim's experiment in place of where it stands.
        paper: By id, the verdict on a record at the paper's scale, or nearer to it; a second row
            for each that was measured there.
    """
    rows = ""
    for claim, verdict in judged:
        rows += _row(claim, verdict, claim.experiment if experiments else claim.where)
        there = (paper or {}).get(claim.id)
        if there is not None and there.word != "not tested":
            where = "in a larger run, still reduced" if there.reduced else "at the paper's scale"
            rows += (
                f'<tr class="book-paper"><td>the same {where}</td>'
                f"<td>{_effects(claim, there)}</td><td>{_badge(claim, there)}</td></tr>"
            )
    head = "<thead><tr><th>claim</th><th>measured</th><th>verdict</th></tr></thead>"
    return f'<table class="book-verdicts">{head}<tbody>{rows}</tbody></table>'


def scorecard(records: Mapping[str, Record], ours: bool = False) -> str:
    """HTML: every claim of the paper, or every one of ours, judged on the paper-scale records.

    Args:
        records: By experiment (:func:`hilbertlib.claims.records_in`).
        ours: Whether to show the book's own claims in place of the paper's.

    Those that no record judges yet are folded away below the others.
    """
    said = verdicts(records)
    chosen = [(c, said[c.id]) for c in CLAIMS.values() if (c.where in OURS) == ours]
    tested = [pair for pair in chosen if pair[1].word != "not tested"]
    waiting = [pair for pair in chosen if pair[1].word == "not tested"]
    # Where our own claims stand is "this chapter", which would be the scorecard's.
    table = verdict_table(tested, experiments=ours) if tested else ""
    if waiting:
        table += (
            '<details class="book-waiting"><summary>Claims that wait for a record: '
            f"{len(waiting)}</summary>{verdict_table(waiting, experiments=ours)}</details>"
        )
    return table


def tally(records: Mapping[str, Record], seeds: int | None = None) -> dict[str, int]:
    """How many of the paper's claims have each verdict, all five words in the table's order.

    Args:
        records: By experiment.
        seeds: Judge on the first so many seeds of each record; default all.
    """
    if seeds is not None:
        records = {name: _first(record, seeds) for name, record in records.items()}
    words = [v.word for id, v in verdicts(records).items() if CLAIMS[id].where not in OURS]
    return {word: words.count(word) for word in _WORDS}


def _first(record: Record, seeds: int) -> Record:
    kept = record.seeds[:seeds]
    tables = {}
    for name, table in record.tables.items():
        chosen = [i for i, seed in enumerate(table["seed"]) if seed in kept]
        tables[name] = Table({key: [v[i] for i in chosen] for key, v in table.columns.items()})
    return replace(record, tables=tables, provenance=replace(record.provenance, seeds=kept))


def sources(records: Mapping[str, Record]) -> str:
    """HTML: each experiment with its record's setting and machine, or the command that makes it."""
    rows = "".join(_source(name, records.get(name)) for name in NAMES)
    head = "<thead><tr><th>experiment</th><th>record</th></tr></thead>"
    return f'<table class="book-verdicts book-sources">{head}<tbody>{rows}</tbody></table>'


def _row(claim: Claim, verdict: Verdict, where: str) -> str:
    return (
        f'<tr data-claim="{html.escape(claim.id)}"><td>{html.escape(claim.sentence)} '
        f"<small>({html.escape(where)})</small></td>"
        f"<td>{_effects(claim, verdict)}<br><small>{html.escape(claim.reading)}; "
        f"{claim.direction} {_margin(claim.margin)}</small></td>"
        f"<td>{_badge(claim, verdict)}</td></tr>"
    )


def _effects(claim: Claim, verdict: Verdict) -> str:
    effects = "<br>".join(
        html.escape(" ".join(filter(None, (name and f"{name}:", say(part.interval), claim.unit))))
        for name, part in verdict.parts.items()
    )
    return effects or "not measured"


def _badge(claim: Claim, verdict: Verdict) -> str:
    if claim.where in OURS:
        word = verdict.of_guess
        look = {"holds": "holds", "does not hold": "fails"}.get(word, "open")
    else:
        word = str(verdict) if verdict.word != "not tested" else verdict.word
        look = {"reproduced": "holds", "not reproduced": "fails"}.get(verdict.word, "open")
    return f'<span class="book-verdict {look}">{html.escape(word)}</span>'


def _source(name: str, record: Record | None) -> str:
    experiment = VIEWS.get(name) or EXPERIMENTS[name]
    command = f"python -m hilbertlib run {experiment.name} --scale paper"
    if record is None:
        said = f"none yet: <code>{command}</code>"
    else:
        p = record.provenance
        commits = ", ".join(c[:12] for c in (p.commit or "unknown").split(", "))
        what = [
            f"{record.seeds_said}, {p.seconds / 3600:.1f} hours on {p.device}",
            f"data {p.dataset}, checksum {p.dataset_checksum[:12]}",
            *([p.dataset_note] if p.dataset_note else []),
            f"code {commits}, torch {p.versions['torch']}",
        ]  # fmt: skip
        said = "<br>".join(map(html.escape, what))
        if "cells" in record.tables:
            said += _list("arms that were run", record["cells"].unique("arm"))
        said += _list("departs from the paper", p.departures)
        said += _list("left open by the paper, chosen here", p.config.get("choices", ()))
        if p.reduced:
            said += f"<br>reduced; in full: <code>{command} --device auto</code>"
    about = experiment.views.get(name, experiment)
    title = f"<b>{html.escape(name)}</b> <small>({html.escape(about.figures)})</small>"
    title += f"<br>{html.escape(about.title)}"
    if name in VIEWS:
        title += f" Measured in the run of {experiment.name}."
    return f"<tr><td>{title}</td><td>{said}</td></tr>"


def _list(title: str, texts: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<p>{title}:</p><ul>{items}</ul>" if items else ""


def say(interval: Interval) -> str:
    """A mean with its interval, in few digits."""
    if interval.n == 0:
        return "not measured"
    if interval.n == 1:
        return f"{printed(interval.mean)} (one seed: no interval)"
    low, high = printed(interval.low), printed(interval.high)
    return f"{printed(interval.mean)} [{low}, {high}]"


def _margin(margin: float | tuple[float, float]) -> str:
    if isinstance(margin, tuple):
        return f"{printed(margin[0])} to {printed(margin[1])}"
    return printed(margin)
