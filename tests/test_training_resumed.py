"""A run that goes on from its checkpoint is the run that never stopped."""

from dataclasses import asdict

import pytest
import torch

from hilbertlib.data import load
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.models import seeded, small_cnn
from hilbertlib.training import train
from hilbertlib.trajectory import Movement, Recorder


def network():
    net = small_cnn(width=4, batch_norm=True)
    return torch.nn.Sequential(*net[:-1], torch.nn.Dropout(0.2), net[-1])


def go(epochs, checkpoint=None, constrained=True, **options):
    digits = load("digits")
    model = seeded(network, 0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = HilbertConstrained(sgd, corrections=2) if constrained else sgd
    scheduler = torch.optim.lr_scheduler.StepLR(sgd, 2)
    steps, walk = Movement(model, digits.x_test[:50]), Recorder(model, digits.x_test[:50])
    history = train(
        model, digits, optimizer, epochs=epochs, batch_size=256, scheduler=scheduler,
        on_step=steps, on_epoch=walk, checkpoint=checkpoint, **options,
    )  # fmt: skip
    return model, history, steps, walk.trajectory()


def same(one, two):
    (model, history, steps, walk), (model2, history2, steps2, walk2) = one, two
    state, state2 = model.state_dict(), model2.state_dict()
    assert all(torch.equal(value, state2[name]) for name, value in state.items())
    first, second = asdict(history), asdict(history2)
    del first["seconds"], second["seconds"]
    assert first == second
    assert (steps.steps, steps.epochs, steps.l2, steps.parameter) == (
        steps2.steps, steps2.epochs, steps2.l2, steps2.parameter,
    )  # fmt: skip
    for name in ("steps", "epochs", "outputs", "parameters"):
        assert torch.equal(getattr(walk, name), getattr(walk2, name))


@pytest.mark.parametrize("constrained", [True, False])
def test_bit_for_bit(constrained, tmp_path):
    whole = go(4, constrained=constrained)
    path = tmp_path / "run.pt"
    for epochs in (1, 3, 4):
        last = go(epochs, path, constrained)
    same(whole, last)
    same(whole, go(4, path, constrained))  # nothing left to do


def test_another_runs_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    go(1, path)
    with pytest.raises(ValueError, match=r"belongs to another run: expected .*'seed': 1"):
        go(2, path, seed=1)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="damaged"):
        go(2, path)


def test_the_global_random_state_is_left_alone(tmp_path):
    go(1, tmp_path / "run.pt")
    before = torch.get_rng_state()
    go(2, tmp_path / "run.pt")
    assert torch.equal(torch.get_rng_state(), before)
