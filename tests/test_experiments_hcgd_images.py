"""Figure 5 at a tiny size, and its claims on records made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hilbertlib.data import load
from hilbertlib.experiments import hcgd_images as images
from hilbertlib.experiments.common import live_record
from hilbertlib.experiments.constrained import by_epoch
from hilbertlib.experiments.runner import HERE
from hilbertlib.figures.images import falling
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.records import Record, Table, judge
from hilbertlib.training import History

TINY = replace(images.LIVE, epochs=3, drop=2, tail=1, images=80, batch_size=40, validation_size=20)


@pytest.fixture(scope="module")
def record() -> Record:
    return images.run(TINY, [0, 1])


def test_the_tables_are_as_documented(record):
    assert set(record.tables) == {"curve", "runs", "cells"}
    assert len(record["curve"]) == 4 * 2 * 3
    assert len(record["runs"]) == 4 * 2
    for row in record["runs"].rows():
        curve = record["curve"].where(arm=row["arm"], seed=row["seed"]).rows()
        assert row["final"] == curve[-1]["test_accuracy"]
        assert row["final_train"] == curve[-1]["train_accuracy"]
        early = (curve[0]["test_accuracy"] + curve[1]["test_accuracy"]) / 2
        assert row["early"] == pytest.approx(early, rel=1e-5)
        assert row["diverged"] is False
    assert record.reduced


def test_a_seed_repeats_exactly(record):
    again = images.run(TINY, [1])
    for name in ("curve", "runs"):
        assert again[name].rows() == record[name].where(seed=1).rows()


def test_arms_differ_in_rate_and_leash():
    model = images.network(TINY)
    made = {arm: images.optimizer(TINY, arm, model) for arm in images.arms(TINY)}
    assert {a: o.param_groups[0]["lr"] for a, o in made.items()} == {
        "SGD": 0.1, "HCGD": 0.1, "HCGD, higher ε": 0.3, "SGD, higher ε": 0.3,
    }  # fmt: skip
    leashed = {arm for arm, o in made.items() if isinstance(o, HilbertConstrained)}
    assert leashed == {"HCGD", "HCGD, higher ε"}


def test_the_rate_falls_after_the_epoch_that_is_named(monkeypatch):
    rates = []

    def train(model, dataset, optimizer, *, epochs, scheduler, **_: object) -> History:
        for _epoch in range(epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return History()

    monkeypatch.setattr("hilbertlib.experiments.constrained.train", train)
    images.measure(TINY, "SGD", 0)
    assert rates == pytest.approx([0.1, 0.1, 0.01])


def test_a_run_that_diverges_is_recorded():
    rows = images.measure(replace(TINY, lr=1e30), "SGD", 0, HERE)
    assert rows["runs"] == [{"early": 0.1, "final": 0.1, "final_train": 0.1, "diverged": True}]


def test_the_settings_of_the_paper():
    for config, size in ((images.PAPER, 256), (images.SMALLER, 128)):
        assert (config.scale, config.dataset) == ("paper", "cifar10")
        assert (config.lam, config.inner_lr, config.validation_size) == (0.5, 0.02, size)
        assert config.drop / config.epochs == 150 / 200
    assert not images.PAPER.departures
    assert images.SMALLER.reduced
    outputs = images.network(images.PAPER)(torch.zeros(2, 3, 32, 32))
    assert outputs.shape == (2, 10)


USUAL = {
    "SGD": (0.80, 0.90, 1.00),  # early, final, final_train
    "HCGD": (0.82, 0.90, 0.99),
    "HCGD, higher ε": (0.8, 0.91, 0.98),
    "SGD, higher ε": (0.75, 0.89, 0.97),
}


def judged(**changed: tuple[float, float, float]) -> dict[str, str]:
    runs = [
        {"arm": arm, "seed": seed, **dict(zip(("early", "final", "final_train"), v, strict=True))}
        for arm, v in {**USUAL, **changed}.items()
        for seed in (0, 1)
    ]
    made = live_record(
        "hcgd_images", {"runs": Table.from_rows(runs)},
        config={}, seeds=[0, 1], dataset=load("digits"), seconds=0.0,
    )  # fmt: skip
    return {claim.id: judge(claim, made).word for claim in images.CLAIMS}


def test_the_claims_hold_where_they_should():
    assert set(judged().values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "arm", "values", "word"),
    [
        ("hcgd-early", "HCGD", (0.8, 0.9, 0.99), "inconclusive"),
        ("hcgd-final", "HCGD", (0.82, 0.91, 0.99), "inconclusive"),
        ("hcgd-higher-rate", "HCGD, higher ε", (0.8, 0.91, 1.0), "partly"),
        ("hcgd-higher-rate", "HCGD, higher ε", (0.8, 0.9, 1.0), "inconclusive"),
        ("book-images-rate", "SGD, higher ε", (0.75, 0.92, 0.97), "inconclusive"),
    ],
)
def test_each_claim_can_fail(claim, arm, values, word):
    assert judged(**{arm: values})[claim] == word
    assert claim in {c.id for c in images.CLAIMS}


def test_the_figure_draws_what_the_record_holds(record):
    figure, said = falling(record)
    drawn = [t for t in figure.data if t.name]
    assert [t.name for t in drawn[:4]] == [
        "SGD, ε = 0.1", "HCGD, ε = 0.1", "HCGD, ε = 0.3", "SGD, ε = 0.3",
    ]  # fmt: skip
    for trace, column in ((drawn[0], "test_accuracy"), (drawn[4], "train_accuracy")):
        np.testing.assert_allclose(trace.y, by_epoch(record, "SGD", column).mean(0))
    assert said.startswith("2 seeds; test images right at the end: SGD ")
    part = replace(
        record, tables={name: table.where(arm="SGD") for name, table in record.tables.items()}
    )
    fewer, said = falling(part)
    assert len(fewer.data) == len(figure.data)  # a switch between records needs the same curves
    assert "HCGD" not in said


def test_the_claims_are_judged_on_a_run(record):
    for claim in images.CLAIMS:
        assert judge(claim, record).word != "not tested"
