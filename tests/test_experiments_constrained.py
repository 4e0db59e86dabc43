"""A run as a curve, and what becomes of one that diverges."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hilbertlib.data import load
from hilbertlib.experiments.common import live_record
from hilbertlib.experiments.constrained import (
    Training,
    by_epoch,
    curve,
    end,
    mean,
    rows,
    some,
    without_denormals,
)
from hilbertlib.experiments.runner import HERE, Place
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.models import mlp, seeded
from hilbertlib.records import Table
from hilbertlib.training import History

DATA = load("digits").subset(100, seed=0)
SHORT = Training(epochs=3, batch_size=32, validation_size=16)


def trained(lr: float, config: Training = SHORT, place: Place = HERE, leash: bool = False) -> list:
    model = seeded(lambda: mlp((64, 8, 10)), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer = HilbertConstrained(optimizer) if leash else optimizer
    return curve(model, DATA, optimizer, config, 0, place)


def test_a_curve_has_a_row_an_epoch():
    found = trained(0.1)
    assert [row["epoch"] for row in found] == [1, 2, 3]
    assert not any(row["diverged"] for row in found)
    assert found == trained(0.1)


@pytest.mark.parametrize("leash", [False, True])
def test_a_run_that_diverges_knows_nothing_from_there_on(leash):
    found = trained(1e30, leash=leash)
    assert [row["diverged"] for row in found] == [True] * 3
    assert {row["test_accuracy"] for row in found} == {0.1}
    assert {row["train_loss"] for row in found} == {math.log(10)}


def test_what_was_finished_before_the_divergence_is_kept():
    # The last step of an epoch may spoil the network: then its test loss is the first to tell.
    history = History([1.0, 0.9], [0.5, 0.6], [1.0, math.nan], [0.7, 0.1], [1.0, 1.0])
    found = rows(history, 3, classes=10)
    assert [row["test_accuracy"] for row in found] == [0.7, 0.1, 0.1]
    assert [row["diverged"] for row in found] == [False, True, True]
    assert end(found, 2) == {"final": 0.1, "final_train": 0.1, "diverged": True}
    assert mean(found, "test_accuracy") == pytest.approx(0.3)


def test_a_killed_run_goes_on_where_it_stood(tmp_path):
    trained(0.1, replace(SHORT, epochs=2), Place(folder=tmp_path))
    assert (tmp_path / "run.pt").exists()
    assert trained(0.1, place=Place(folder=tmp_path)) == trained(0.1)


def test_a_column_of_an_arm_by_seed_and_epoch():
    curve = Table.from_rows(
        [
            {"arm": "SGD", "seed": seed, "epoch": epoch, "test_accuracy": seed + epoch / 10}
            for seed in (3, 5)
            for epoch in (1, 2, 3)
        ]
    )
    record = live_record(
        "hcgd_images", {"curve": curve}, config={}, seeds=[3, 5], dataset=DATA, seconds=0.0
    )
    found = by_epoch(record, "SGD", "test_accuracy")
    np.testing.assert_allclose(found, [[3.1, 3.2, 3.3], [5.1, 5.2, 5.3]])
    assert by_epoch(record, "HCGD", "test_accuracy").shape == (0, 0)


def test_every_seed_takes_the_same_images():
    assert some(DATA, SHORT) is DATA
    part = some(DATA, replace(SHORT, images=7))
    assert len(part.y_train) == 7
    assert torch.equal(part.x_train, some(DATA, replace(SHORT, images=7)).x_train)
    assert torch.equal(part.x_test, DATA.x_test)


@pytest.mark.parametrize("before", [False, True])
def test_numbers_too_small_are_flushed_in_the_block_only(before):
    def halved() -> float:
        return float(torch.tensor(torch.finfo(torch.float32).tiny) / 2)

    assert torch.set_flush_denormal(before)
    try:
        with without_denormals():
            assert halved() == 0
        assert (halved() == 0) == before
    finally:
        torch.set_flush_denormal(False)
