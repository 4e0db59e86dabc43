"""The whole list of claims, and what the records in the book say of them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hilbertlib import claims, data
from hilbertlib.experiments import catalogue, runner
from hilbertlib.experiments.runner import record_path
from hilbertlib.records import load_record, seed_interval
from hilbertlib.scorecard import say, scorecard, sources, tally, verdict_table

RECORDS = Path(__file__).resolve().parents[1] / "book" / "records"


def test_every_claim_has_a_name_of_its_own_and_an_experiment():
    ids = [claim.id for claim in catalogue.CLAIMS]
    assert len(set(ids)) == len(ids) == len(claims.CLAIMS)
    assert {claim.experiment for claim in catalogue.CLAIMS} <= set(catalogue.NAMES)
    assert set(claims.paper_claims()) < set(claims.CLAIMS)


def test_a_claim_says_what_would_count():
    for claim in claims.CLAIMS.values():
        assert claim.sentence.endswith("."), claim.id
        places = ("Fig", "section", "equation", "Appendix")
        assert claim.where in claims.OURS or claim.where.startswith(places), claim.where


def test_without_records_nothing_is_tested(tmp_path):
    assert claims.records_in(tmp_path) == {}
    words = claims.counts(claims.verdicts({}))
    assert words == {"not tested": len(claims.CLAIMS)}
    assert tally({})["not tested"] == len(claims.paper_claims())


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda p: p.stem)
def test_a_record_of_the_book_is_whole(path):
    record = load_record(path)
    assert path == record_path(RECORDS, record.experiment, record.scale)
    assert record.experiment in catalogue.NAMES
    experiment = catalogue.VIEWS.get(record.experiment) or catalogue.EXPERIMENTS[record.experiment]
    p = record.provenance
    assert p.commit
    assert "+" not in p.commit, "made by code that was never committed"
    configs = [experiment.live, experiment.paper, experiment.smaller]
    assert runner.identity(p.config) in [runner.identity(c) for c in configs if c is not None]
    cells = record["cells"]
    assert p.seconds == pytest.approx(sum(cells["seconds"]), rel=1e-3)
    assert set(cells["arm"]) <= set(experiment.arms(experiment.paper))


def test_the_records_are_small():
    assert sum(path.stat().st_size for path in RECORDS.glob("*.json")) < 8e6


def test_tables_hold_every_claim_and_escape_what_they_are_given():
    page = scorecard({}) + scorecard({}, ours=True)
    assert set(re.findall(r'data-claim="([^"]+)"', page)) == set(claims.CLAIMS)
    assert all(name in sources({}) for name in catalogue.NAMES)
    hostile = replace(claims.CLAIMS["forget-adam"], sentence="<script>alert(1)</script>.")
    assert "<script" not in verdict_table([(hostile, claims.verdicts({})["forget-adam"])])


def test_what_was_measured_comes_first_and_what_waits_is_folded():
    records = claims.records_in(RECORDS)
    page = scorecard(records)
    before, _, folded = page.partition('<details class="book-waiting">')
    verdicts = claims.verdicts(records)
    said = {id: v.word == "not tested" for id, v in verdicts.items()}
    for part, waits in ((before, False), (folded, True)):
        assert all(said[id] is waits for id in re.findall(r'data-claim="([^"]+)"', part))
    # A part of a claim may wait, such as an arm that has not been run; not all of them.
    for id, verdict in verdicts.items():
        assert said[id] or any(part.interval.n for part in verdict.parts.values())
    shown = [verdicts[id] for id in re.findall(r'data-claim="([^"]+)"', before)]
    waiting_parts = sum(not part.interval.n for v in shown for part in v.parts.values())
    assert before.count("not measured") == waiting_parts
    waiting = sum(said[id] for id in claims.paper_claims())
    assert f"wait for a record: {waiting}<" in folded or waiting == 0
    assert "this chapter" not in scorecard(records, ours=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([-0.031, -0.031], "−0.031 [−0.031, −0.031]"),
        ([5.5e-16], "5.5 · 10⁻¹⁶ (one seed: no interval)"),
        ([123456.0], "123,456 (one seed: no interval)"),
        ([2e9], "2 · 10⁹ (one seed: no interval)"),
        ([0.0], "0 (one seed: no interval)"),
    ],
)
def test_numbers_are_printed_as_numbers_and_not_as_code(values, said):
    assert say(seed_interval(values)) == said


def test_fewer_seeds_decide_less():
    records = claims.records_in(RECORDS)
    if not records:
        pytest.skip("no records yet")
    one = tally(records, seeds=1)
    assert one["reproduced"] == one["not reproduced"] == 0
    assert sum(one.values()) == len(claims.paper_claims())
    most = max(len(record.seeds) for record in records.values())
    assert tally(records, most) == tally(records)


def test_judging_needs_no_data(monkeypatch):
    """The book is built where only the digits are."""
    records = claims.records_in(RECORDS)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("data were read to judge a record")

    for name in ("read_mnist", "read_cifar10", "_digits"):
        monkeypatch.setattr(data, name, never)
    runner.dataset.cache_clear()
    claims.verdicts(records)
