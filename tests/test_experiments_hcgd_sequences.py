"""Figure 6 at a tiny size, and its claims on records made by hand."""

from dataclasses import replace

import pytest
import torch

from hilbertlib.data import load
from hilbertlib.experiments import hcgd_sequences as sequences
from hilbertlib.experiments.common import live_record
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.models import LSTMClassifier, seeded
from hilbertlib.records import Record, Table, judge

TINY = replace(
    sequences.LIVE, epochs=2, tail=1, images=60, batch_size=30, validation_size=10,
    hidden=8, pool=2, corrections=(1, 3),
)  # fmt: skip
ARMS = ["SGD", "Adam", "SGD+HC, n = 1", "SGD+HC, n = 3", "Adam+HC", "SGD at ε + 2η"]


@pytest.fixture(scope="module")
def record() -> Record:
    return sequences.run(TINY, [0, 1])


def test_the_tables_are_as_documented(record):
    assert sequences.arms(TINY) == ARMS
    assert set(record.tables) == {"curve", "runs", "cells"}
    assert len(record["curve"]) == len(ARMS) * 2 * 2
    for row in record["runs"].rows():
        curve = record["curve"].where(arm=row["arm"], seed=row["seed"]).rows()
        assert row["final"] == curve[-1]["test_accuracy"]
        assert row["final_train"] == curve[-1]["train_accuracy"]
        whole = (curve[0]["test_accuracy"] + curve[1]["test_accuracy"]) / 2
        assert row["whole"] == pytest.approx(whole, rel=1e-5)


def test_a_seed_repeats_exactly(record):
    again = sequences.run(TINY, [1])
    for name in ("curve", "runs"):
        assert again[name].rows() == record[name].where(seed=1).rows()


def test_what_each_arm_trains_with():
    model = LSTMClassifier(4)
    made = {arm: sequences.optimizer(sequences.PAPER, arm, model) for arm in (
        "SGD", "Adam", "SGD+HC, n = 10", "Adam+HC", "SGD at ε + 9η",
    )}  # fmt: skip
    rates = [o.param_groups[0]["lr"] for o in made.values()]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.19])
    assert {o.param_groups[0]["weight_decay"] for o in made.values()} == {1e-4}
    leashed = {a: o for a, o in made.items() if isinstance(o, HilbertConstrained)}
    assert [o.param_groups[0]["corrections"] for o in leashed.values()] == [10, 1]
    assert isinstance(leashed["Adam+HC"].base, torch.optim.Adam)


def test_without_a_leash_corrections_are_the_control():
    """From the second correction on −ηJ is added: with λ = 0 that is SGD at ε + (n − 1)η."""
    free = replace(TINY, lam=0.0)
    corrected, control = (
        sequences.measure(free, arm, 0)["curve"] for arm in ("SGD+HC, n = 3", "SGD at ε + 2η")
    )
    for a, b in zip(corrected, control, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_the_seed_moves_the_pixels_and_pooling_averages_them():
    plain, pooled = (sequences.sequences(replace(TINY, pool=k), 0) for k in (1, 2))
    assert pooled.shape == (1, 4, 4)
    torch.testing.assert_close(pooled.x_train.mean((1, 2, 3)), plain.x_train.mean((1, 2, 3)))
    other = sequences.sequences(TINY, 1)
    assert not torch.equal(other.x_train, pooled.x_train)
    torch.testing.assert_close(
        other.x_test.flatten(1).sort()[0], pooled.x_test.flatten(1).sort()[0]
    )


def test_a_run_that_diverges_is_recorded():
    rows = sequences.measure(replace(TINY, lr=1e30, clip_norm=None), "SGD+HC, n = 1", 0)
    assert rows["runs"] == [{"whole": 0.1, "final": 0.1, "final_train": 0.1, "diverged": True}]


def test_the_settings_of_the_paper():
    assert sequences.arms(sequences.PAPER) == sequences.arms(sequences.SMALLER)
    assert len(sequences.arms(sequences.PAPER)) == 8
    assert (sequences.PAPER.lr, sequences.PAPER.adam_lr, sequences.PAPER.hidden) == (
        0.01,
        0.01,
        128,
    )
    assert (sequences.PAPER.lam, sequences.PAPER.inner_lr) == (0.5, 0.02)
    model = seeded(lambda: LSTMClassifier(sequences.PAPER.hidden), 0)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


FINAL = {
    "SGD": 0.5, "Adam": 0.9, "SGD+HC, n = 1": 0.6, "SGD+HC, n = 5": 0.7, "SGD+HC, n = 10": 0.8,
    "Adam+HC": 0.92, "SGD at ε + 4η": 0.6, "SGD at ε + 9η": 0.6,
}  # fmt: skip


def judged(leave_out: str = "", **changed: float) -> dict[str, str]:
    runs = [
        {"arm": arm, "seed": seed, "final": value}
        for arm, value in {**FINAL, **changed}.items()
        for seed in (0, 1)
        if not leave_out or leave_out not in arm
    ]
    made = live_record(
        "hcgd_sequences", {"runs": Table.from_rows(runs)},
        config={}, seeds=[0, 1], dataset=load("digits"), seconds=0.0,
    )  # fmt: skip
    return {claim.id: judge(claim, made).word for claim in sequences.CLAIMS}


def test_the_claims_hold_where_they_should():
    assert set(judged().values()) == {"reproduced"}


def test_corrections_that_were_not_run_count_as_not_tested():
    words = judged(leave_out="n = 10")
    assert words["seq-more-corrections"] == words["seq-adam"] == "partly"
    assert words["seq-hcgd-sgd"] == "reproduced"


@pytest.mark.parametrize(
    ("claim", "arm", "value", "word"),
    [
        ("seq-hcgd-sgd", "SGD+HC, n = 1", 0.5, "inconclusive"),
        ("seq-more-corrections", "SGD+HC, n = 10", 0.65, "partly"),
        ("seq-adam", "Adam", 0.75, "partly"),
        ("seq-adam", "Adam", 0.5, "inconclusive"),
        ("seq-adam-hc", "Adam+HC", 0.9, "inconclusive"),
        ("book-seq-rate", "SGD at ε + 9η", 0.8, "partly"),
    ],
)
def test_each_claim_can_fail(claim, arm, value, word):
    assert judged(**{arm: value})[claim] == word


def test_the_claims_are_judged_on_a_run(record):
    for claim in sequences.CLAIMS:
        judge(claim, record)
