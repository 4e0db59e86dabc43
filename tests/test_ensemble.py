"""Many seeds at once give what a loop gives."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hilbertlib.data import load
from hilbertlib.ensemble import train_many
from hilbertlib.models import mlp, seeded, small_cnn
from hilbertlib.training import DivergenceError, train
from hilbertlib.trajectory import flat_parameters

SMALL = load("digits").subset(150, 0)
EXACT = SMALL.to("cpu", torch.float64)
SEEDS = [4, 0, 9]


def models(build=lambda: mlp((64, 8, 10), "tanh"), dtype=torch.float64):
    return [seeded(build, seed).to(dtype) for seed in SEEDS]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


@pytest.mark.parametrize(
    "make_optimizer",
    [sgd, lambda p: torch.optim.SGD(p, lr=0.3), lambda p: torch.optim.Adam(p, lr=0.01)],
)
@pytest.mark.parametrize("build", [lambda: mlp((64, 8, 10), "tanh"), small_cnn])
def test_it_equals_the_loop(make_optimizer, build):
    together, alone = models(build), models(build)
    seen_together, seen_alone = [[], [], []], [[], [], []]

    def watch(model, seen):
        return lambda p: seen.append((p.step, p.epoch, p.loss, flat_parameters(model)))

    histories = train_many(
        together, EXACT, make_optimizer, epochs=2, batch_size=40, seeds=SEEDS,
        on_step=[watch(m, seen) for m, seen in zip(together, seen_together, strict=True)],
    )  # fmt: skip
    for i, seed in enumerate(SEEDS):
        expected = train(
            alone[i], EXACT, make_optimizer(list(alone[i].parameters())), epochs=2, batch_size=40,
            seed=seed, on_step=watch(alone[i], seen_alone[i]),
        )  # fmt: skip
        torch.testing.assert_close(together[i].state_dict(), alone[i].state_dict())
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            assert getattr(histories[i], name) == pytest.approx(getattr(expected, name), rel=1e-9)
        assert histories[i].initial_test_loss == pytest.approx(expected.initial_test_loss)
        assert histories[i].initial_test_accuracy == expected.initial_test_accuracy
        assert len(histories[i].seconds) == 2
        for ours, theirs in zip(seen_together[i], seen_alone[i], strict=True):
            assert ours[:2] == theirs[:2]
            assert ours[2] == pytest.approx(theirs[2], nan_ok=True)
            torch.testing.assert_close(ours[3], theirs[3])


def test_frozen_parameters_stay():
    made = models()
    for model in made:
        model[1].weight.requires_grad_(False)
    before = [model[1].weight.clone() for model in made]
    train_many(made, EXACT, sgd, epochs=1, seeds=SEEDS)
    for model, weight in zip(made, before, strict=True):
        assert torch.equal(model[1].weight, weight)
        assert not model[1].weight.requires_grad
        assert model[1].bias.requires_grad


def test_afterwards_the_models_are_their_own():
    made = models()
    train_many(made, EXACT, sgd, epochs=1, seeds=SEEDS)
    other = flat_parameters(made[1])
    with torch.no_grad():
        made[0][1].weight.add_(1)
    assert torch.equal(flat_parameters(made[1]), other)
    assert made[0][1].weight.untyped_storage().nbytes() == made[0][1].weight.numel() * 8


def test_an_interrupted_run_leaves_the_models_whole():
    made = models()

    def interrupt(progress):
        if progress.epoch == 1:
            raise KeyboardInterrupt

    callbacks = [interrupt, lambda _: None, lambda _: None]
    before = flat_parameters(made[0])
    with pytest.raises(KeyboardInterrupt):
        train_many(made, EXACT, sgd, epochs=3, seeds=SEEDS, on_epoch=callbacks)
    assert not torch.equal(flat_parameters(made[0]), before)
    assert made[0][1].weight.untyped_storage().nbytes() == made[0][1].weight.numel() * 8


def test_divergence_is_found():
    poisoned = replace(EXACT, x_train=torch.full_like(EXACT.x_train, math.inf))
    with pytest.raises(DivergenceError, match="became nan at step 1"):
        train_many(models(), poisoned, sgd, epochs=1, seeds=SEEDS)


class Constrained(torch.optim.SGD):
    def step(self, outputs, closure=None):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "at least 1"),
        ({"batch_size": 0}, ValueError, "at least 1"),
        ({"seeds": [1]}, ValueError, r"a seed and a callback each, got \[3, 1\]"),
        ({"models": [], "seeds": []}, ValueError, "one or more models"),
        ({"on_epoch": []}, ValueError, r"got \[3, 3, 0\]"),
        ({"models": [*models()[:2], mlp((64, 9, 10))]}, ValueError, "different shapes"),
        (
            {"models": models(lambda: small_cnn(batch_norm=True))},
            ValueError,
            "running_mean",
        ),
        (
            {"models": models(lambda: nn.Sequential(nn.Dropout(), mlp((64, 10))))},
            ValueError,
            "got dropout: use train",
        ),
        ({"make_optimizer": lambda p: Constrained(p, lr=0.1)}, TypeError, "by itself"),
    ],
)
def test_what_cannot_be_stacked_is_refused_before_anything_changes(options, error, message):
    options = {"models": models(), "make_optimizer": sgd, "epochs": 1, "seeds": SEEDS, **options}
    made, make_optimizer = options.pop("models"), options.pop("make_optimizer")
    before = [flat_parameters(model) for model in made]
    with pytest.raises(error, match=message):
        train_many(made, EXACT, make_optimizer, **options)
    assert all(torch.equal(flat_parameters(m), b) for m, b in zip(made, before, strict=True))
