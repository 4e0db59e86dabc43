"""The training loop: one seed, the same batches for all; X_V outside the batch; errors; history."""

import math
from dataclasses import replace
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertlib.data import load
from hilbertlib.distance import l2_distance
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.models import mlp, seeded, small_cnn
from hilbertlib.training import (
    DivergenceError,
    History,
    accuracy,
    batches,
    evaluate,
    probabilities,
    resolve_device,
    takes_outputs,
    train,
)

SMALL = load("digits").subset(150, 0)
# Example i has the number i in every pixel, so that a batch can be read off its inputs.
NUMBERED = replace(
    SMALL, x_train=torch.arange(150.0)[:, None].expand(150, 64).reshape(150, 1, 8, 8)
)


def build(seed=0):
    return seeded(lambda: mlp((64, 8, 10)), seed)


def sgd(model, lr=0.1, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


class Seen(nn.Module):
    """A linear classifier that notes the examples it is asked for, in training mode."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.batches = []

    def forward(self, x):
        if self.training:
            self.batches.append(x[:, 0, 0, 0].long().tolist())
        return self.linear(x.flatten(1) / 1000)


class Constrained(torch.optim.SGD):
    """Takes outputs as a Hilbert-constrained optimizer does, and notes what came."""

    def __init__(self, params, corrections=1):
        super().__init__(params, lr=0.01)
        for group in self.param_groups:
            group["corrections"] = corrections
        self.given = []

    def step(self, outputs, closure=None):
        super().step(closure)
        self.given.append(outputs)
        for output in outputs if isinstance(outputs, list) else [outputs]:
            p = output()
            assert p.shape[1] == 10
            assert p.requires_grad
            torch.testing.assert_close(p.sum(1), torch.ones(len(p)))


def seen_batches(make_optimizer, seed=3, **options):
    model = seeded(Seen, 0)
    train(model, NUMBERED, make_optimizer(model), epochs=2, batch_size=32, seed=seed, **options)
    return model.batches


# --- batches ----------------------------------------------------------------------------------


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 99))
def test_an_epoch_meets_every_example_once(n, batch_size, seed):
    met = []
    for index, rest in batches(n, batch_size, torch.Generator().manual_seed(seed)):
        assert sorted([*index.tolist(), *rest.tolist()]) == list(range(n))
        met.append(index.tolist())
    assert sorted(chain.from_iterable(met)) == list(range(n))
    assert {len(b) for b in met[:-1]} <= {batch_size}
    assert 1 <= len(met[-1]) <= batch_size


def test_batches_do_not_depend_on_the_optimizer():
    plain = seen_batches(sgd)
    assert len(plain) == 2 * 5
    assert plain[:5] != plain[5:]
    assert seen_batches(lambda m: torch.optim.Adam(m.parameters())) == plain
    constrained = seen_batches(lambda m: Constrained(m.parameters()), validation_size=20)
    assert constrained[::2] == plain  # every other forward is a correction's
    assert seen_batches(sgd, seed=4) != plain


def test_a_run_does_not_depend_on_the_global_state_nor_change_it():
    def run(noise):
        torch.manual_seed(noise)
        model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)), 0)
        before = torch.get_rng_state()
        train(model, SMALL, sgd(model), epochs=1)
        assert torch.equal(torch.get_rng_state(), before)
        return model.state_dict()

    torch.testing.assert_close(run(1), run(2), rtol=0, atol=0)


# --- the optimizer's steps --------------------------------------------------------------------


def test_training_is_sgd_written_out():
    """The obvious twin: the same batches, the update by hand, in float64."""
    data = SMALL.to("cpu", torch.float64)
    model, twin = build().double(), build().double()
    history = train(model, data, sgd(model, momentum=0.9), epochs=2, batch_size=40, seed=5)

    generator = torch.Generator().manual_seed(5)
    velocity = [torch.zeros_like(p) for p in twin.parameters()]
    for epoch in range(2):
        order = torch.randperm(150, generator=generator)
        losses, right = [], 0
        for low in range(0, 150, 40):
            x, y = data.x_train[order[low : low + 40]], data.y_train[order[low : low + 40]]
            loss = F.cross_entropy(twin(x), y, reduction="sum")
            losses.append(loss.item())
            right += int((twin(x).argmax(1) == y).sum())
            for p, v, g in zip(
                twin.parameters(),
                velocity,
                torch.autograd.grad(loss / len(y), list(twin.parameters())),
                strict=True,
            ):
                v.mul_(0.9).add_(g)
                p.data -= 0.1 * v
        assert history.train_loss[epoch] == pytest.approx(sum(losses) / 150, rel=1e-12)
        assert history.train_accuracy[epoch] == right / 150
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-11, atol=1e-13)
    expected = F.cross_entropy(twin(data.x_test), data.y_test).item()
    assert history.test_loss[-1] == pytest.approx(expected, rel=1e-9)


def test_it_learns():
    model = build()
    history = train(model, load("digits"), sgd(model, momentum=0.9), epochs=6)
    assert history.initial_test_accuracy < 0.3
    assert history.test_accuracy[-1] > 0.85
    assert history.train_loss[-1] < history.train_loss[0]
    assert history.epochs == 6
    lists = (history.train_loss, history.train_accuracy, history.test_loss, history.seconds)
    assert [len(values) for values in lists] == [6, 6, 6, 6]
    assert min(history.seconds) > 0


def test_the_gradient_is_clipped():
    lengths = []

    def measure(progress):
        if progress.step:
            lengths.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())

    model = build()
    train(model, SMALL, sgd(model), epochs=1, clip_norm=0.01, on_step=measure)
    assert max(lengths) == pytest.approx(0.01, rel=1e-3)


def test_the_scheduler_steps_once_an_epoch():
    model = build()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    rates = []
    train(
        model, SMALL, optimizer, epochs=4, scheduler=scheduler,
        on_epoch=lambda _: rates.append(optimizer.param_groups[0]["lr"]),
    )  # fmt: skip
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


# --- X_V --------------------------------------------------------------------------------------


def test_an_optimizer_is_constrained_when_its_step_takes_outputs():
    model = build()
    optimizer = Constrained(model.parameters())
    assert takes_outputs(optimizer)
    assert not takes_outputs(sgd(model))
    # A scheduler wraps the step; the signature must be seen through it.
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert takes_outputs(optimizer)


@given(validation_size=st.integers(1, 118), seed=st.integers(0, 50))
@settings(max_examples=15)
def test_validation_batches_lie_outside_the_batch(validation_size, seed):
    seen = seen_batches(
        lambda m: Constrained(m.parameters()), seed=seed, validation_size=validation_size
    )
    for batch, validation in zip(seen[::2], seen[1::2], strict=True):
        assert len(set(validation)) == validation_size
        assert not set(validation) & set(batch)
    assert seen[1] != seen[3]


@pytest.mark.parametrize(
    ("correction_data", "passes", "different"), [("fresh", 3, 3), ("same", 1, 1), ("batch", 1, 1)]
)
def test_each_correction_gets_its_examples(correction_data, passes, different):
    seen = seen_batches(
        lambda m: Constrained(m.parameters(), corrections=3),
        validation_size=20,
        correction_data=correction_data,
    )
    for low in range(0, len(seen), 1 + passes):
        batch, *validation = seen[low : low + 1 + passes]
        assert len({tuple(v) for v in validation}) == different
        assert (validation[0] == batch) == (correction_data == "batch")


def test_the_constrained_optimizer_by_hand():
    """HilbertConstrained in the loop: the same steps as without it, for one X_V and for n."""
    data = SMALL.to("cpu", torch.float64)
    for n, correction_data in ((1, "batch"), (3, "batch")):
        model, twin = build().double(), build().double()
        hc = {"lam": 0.7, "inner_lr": 0.3, "corrections": n}
        train(
            model, data, HilbertConstrained(sgd(model), **hc),
            epochs=2, batch_size=150, correction_data=correction_data,
        )  # fmt: skip
        optimizer = HilbertConstrained(sgd(twin), **hc)
        for _ in range(2):  # one batch, of everything: its order moves rounding only
            optimizer.zero_grad()
            F.cross_entropy(twin(data.x_train), data.y_train).backward()
            optimizer.step(lambda net=twin: net(data.x_train).softmax(dim=1))
        torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("correction_data", ["fresh", "same", "batch"])
@pytest.mark.parametrize("dropout", [False, True])
def test_a_leash_shortens_the_path(correction_data, dropout):
    def net():
        layers = [nn.Linear(64, 16), nn.Dropout(0.2 * dropout), nn.Linear(16, 10)]
        return nn.Sequential(nn.Flatten(), *layers)

    def path(lam):
        model = seeded(net, 0)
        start = probabilities(model, SMALL.x_test)
        optimizer = HilbertConstrained(sgd(model), lam=lam, inner_lr=0.2, norm="squared")
        train(
            model, SMALL, optimizer,
            epochs=5, batch_size=50, validation_size=50, correction_data=correction_data,
        )  # fmt: skip
        return float(l2_distance(probabilities(model, SMALL.x_test), start))

    assert path(5.0) < path(0.0)


def test_the_batchs_own_outputs_are_not_computed_again():
    class Counts(nn.Linear):
        passes = 0

        def forward(self, x):
            self.passes += 1
            return super().forward(x.flatten(1))

    def passes(correction_data):
        model = Counts(64, 10)
        optimizer = HilbertConstrained(sgd(model))
        train(
            model, SMALL, optimizer, epochs=4, batch_size=50, validation_size=50,
            correction_data=correction_data,
        )  # fmt: skip
        return model.passes - 5 * 4  # less the evaluations: 500 examples in 4 batches, 5 times

    assert passes("fresh") == 12 * 3
    assert passes("batch") == 12 * 2 + 1  # one, to see that they are what is claimed


def test_a_plain_optimizer_needs_no_validation_examples():
    model = build()
    train(model, SMALL, sgd(model), epochs=1, batch_size=150, validation_size=10**6)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "at least 1, got 0 and 128"),
        ({"batch_size": 0}, "at least 1, got 1 and 0"),
        ({"validation_size": 0}, "from 1 to 22, .* got 0"),
        ({"validation_size": 23}, "correction_data='batch'"),
        ({"correction_data": "new"}, "'fresh', 'same', 'batch', got 'new'"),
        ({"history": History(test_accuracy=[0.5])}, "an empty history, got one of 1 epochs"),
    ],
)
def test_impossible_options_are_refused_before_anything_changes(options, message):
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        train(
            model, SMALL, Constrained(model.parameters()),
            **{"epochs": 1, "batch_size": 128, "validation_size": 10, **options},
        )  # fmt: skip
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_run_that_diverges_says_when_and_at_what_rate():
    model, history = build(), History()
    with pytest.raises(
        DivergenceError, match=r"at step \d+ \(epoch \d\) with learning rate 1e\+30"
    ):
        train(model, SMALL, sgd(model, lr=1e30), epochs=9, history=history)
    assert history.epochs < 9


def test_divergence_is_found_at_its_first_step():
    poisoned = replace(SMALL, x_train=torch.full_like(SMALL.x_train, math.inf))
    model = build()
    with pytest.raises(DivergenceError, match="became nan at step 1") as caught:
        train(model, poisoned, sgd(model), epochs=1)
    assert (caught.value.step, caught.value.epoch) == (1, 1)
    assert all(p.isfinite().all() for p in model.parameters())  # the step was not taken


def test_an_interrupted_run_keeps_its_finished_epochs():
    def interrupt(progress):
        if progress.step == 3 * 2 + 1:
            raise KeyboardInterrupt

    model, history = build(), History()
    with pytest.raises(KeyboardInterrupt):
        train(model, SMALL, sgd(model), epochs=9, batch_size=50, on_step=interrupt, history=history)
    assert history.epochs == 2
    assert len(history.train_loss) == len(history.test_loss) == len(history.seconds) == 2


# --- callbacks, evaluation, devices -----------------------------------------------------------


def test_callbacks_are_told_where_the_run_is():
    steps, epochs = [], []
    model = build()
    history = train(
        model, SMALL, sgd(model), epochs=2, batch_size=50,
        on_step=lambda p: steps.append((p.step, p.epoch, math.isnan(p.loss))),
        on_epoch=lambda p: epochs.append((p.step, p.epoch, p.history.epochs)),
    )  # fmt: skip
    assert steps == [(0, 0, True)] + [(i, 1 + (i > 3), False) for i in range(1, 7)]
    assert epochs == [(0, 0, 0), (3, 1, 1), (6, 2, 2)]
    assert history.epochs == 2


def test_evaluation_is_the_mean_loss_and_the_share_classified_rightly():
    model = seeded(lambda: small_cnn(batch_norm=True), 0)
    x, y = SMALL.x_test, SMALL.y_test
    loss, share = evaluate(model, x, y)
    assert model.training
    predicted = model.eval()(x)
    assert loss == pytest.approx(F.cross_entropy(predicted, y).item(), rel=1e-5)
    assert share == accuracy(model, x, y) == int((predicted.argmax(1) == y).sum()) / 500


def test_devices_by_name(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="got cuda: torch finds no GPU"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    model = build()
    train(model, SMALL, sgd(model), epochs=1, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_meets_the_same_batches():
    def run(device):
        model = build().double()
        data = SMALL.to("cpu", torch.float64)
        return train(model, data, sgd(model), epochs=2, device=device).train_loss

    assert run("cuda") == pytest.approx(run("cpu"), rel=1e-9)
