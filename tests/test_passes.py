"""Extra passes leave no trace: buffers, random numbers, and what a failed step goes back to."""

import gc
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hilbertlib._passes import (
    BufferGuard,
    Checkpoint,
    RandomState,
    checked,
    over_ranks,
    trustworthy,
)

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Counter(nn.Module):
    """A module whose buffers change in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("in_place", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("empty", None)

    def forward(self, x):
        self.in_place += 1
        self.replaced = self.replaced + 1
        return x


def values(module: nn.Module) -> dict[str, list]:
    return {name: b.tolist() for name, b in module.named_buffers()}


def test_buffers_are_put_back_in_place_and_replaced_ones_as_they_were():
    counter = Counter()
    before, tensors = values(counter), list(counter.buffers())
    with BufferGuard()():
        counter(X)
        counter(X)
        assert counter.in_place.tolist() == counter.replaced.tolist() == [2, 2]
    assert values(counter) == before
    assert all(a is b for a, b in zip(counter.buffers(), tensors, strict=True))
    assert counter.empty is None
    counter(X)  # and the ordinary class is back
    assert counter.in_place.tolist() == [1, 1]


def test_buffers_are_put_back_when_the_pass_fails():
    counter, call = Counter(), nn.Module.__call__
    failing = nn.Sequential(counter, nn.Linear(99, 1))
    with pytest.raises(RuntimeError), BufferGuard()():
        failing(X)
    assert counter.in_place.tolist() == counter.replaced.tolist() == [0, 0]
    assert nn.Module.__call__ is call


def test_buffers_of_modules_that_are_reached_from_within_are_kept():
    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = nn.BatchNorm1d(3)

        def forward(self, x):
            self.student.running_mean += 1  # without calling it
            return x

    teacher = Teacher()
    with BufferGuard()():
        teacher(X)
        nn.BatchNorm1d(3)(X)
    assert teacher.student.running_mean.tolist() == [0, 0, 0]


def test_buffers_that_are_lent_to_one_call_are_not_left_in_the_module():
    norm = nn.BatchNorm1d(3)
    own = norm.running_mean
    lent = {"running_mean": torch.ones(3), "running_var": torch.ones(3)}
    with BufferGuard()():
        torch.func.functional_call(norm, lent, (X,))
    assert norm.running_mean is own
    assert own.tolist() == [0, 0, 0]
    assert lent["running_mean"].tolist() == [1, 1, 1]


def test_nested_blocks_and_other_threads():
    outer, inner, elsewhere = Counter(), Counter(), Counter()
    with BufferGuard()():
        outer(X)
        with BufferGuard()():
            inner(X)
            assert outer.in_place.tolist() == [1, 1]
        assert inner.in_place.tolist() == [0, 0]
        inner(X)
        thread = threading.Thread(target=elsewhere, args=(X,))
        thread.start()
        thread.join()
    assert outer.in_place.tolist() == inner.in_place.tolist() == [0, 0]
    assert elsewhere.in_place.tolist() == [1, 1]  # its training pass is none of ours


def test_a_watched_call_gets_its_keywords():
    class Scaled(nn.Module):
        def forward(self, x, *, by=1.0):
            return x * by

    scaled, heard = Scaled(), []
    with BufferGuard()():
        assert torch.equal(scaled(X, by=3.0), 3 * X)
        thread = threading.Thread(target=lambda: heard.append(scaled(X, by=2.0)))
        thread.start()
        thread.join()
    assert torch.equal(heard[0], 2 * X)


def test_a_buffer_that_a_pass_takes_away_comes_back():
    class Spent(Counter):
        def forward(self, x):
            del self.in_place
            return x

    spent = Spent()
    tensor = spent.in_place
    with BufferGuard()():
        spent(X)
        assert not hasattr(spent, "in_place")
    assert spent.in_place is tensor


def test_watching_ends_once_everything_that_is_trained_was_called():
    first, second, later = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    parameters = [*first.parameters(), *second.parameters()]
    guard, call, watched = BufferGuard(), nn.Module.__call__, []

    def outputs(*modules):
        watched.append(nn.Module.__call__ is not call)
        for module in modules:
            module(X)

    def other(*modules):
        outputs(*modules)

    for function, modules in (
        (outputs, [first]), (outputs, [first, second]), (outputs, [first, second]),
        (other, [later]), (other, [first, later]), (outputs, [second]),
    ):  # fmt: skip
        with guard(function, parameters):
            function(*modules)
    # second is missing in the first block, and the code of `other` is new in the fourth
    assert watched == [True, True, False, True, False, False]
    for module in (first, second, later):
        assert module.num_batches_tracked == 0


def test_a_guard_does_not_keep_modules_alive():
    guard = BufferGuard()
    with guard():
        nn.BatchNorm1d(3)(X)
    gc.collect()
    assert len(guard._called) == 0


def test_submodules_are_called_as_ever():
    call, seen = nn.Module.__call__, []

    class Inside(nn.Module):
        def forward(self, x):
            seen.append(nn.Module.__call__)
            return x

    with BufferGuard()():
        nn.Sequential(Inside())(X)
        assert nn.Module.__call__ is not call
    assert seen == [call]
    assert nn.Module.__call__ is call


def test_random_state():
    state = RandomState([torch.device("cpu")])
    assert state.is_now()
    first = torch.rand(3)
    assert not state.is_now()
    state.restore()
    assert state.is_now()
    assert torch.equal(torch.rand(3), first)


def test_random_state_of_gpus(monkeypatch):
    """On two GPUs that are not there."""
    states = {0: torch.zeros(3), 1: torch.ones(3)}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda gpu: states[gpu].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, gpu: states.update({gpu: state}))
    one = RandomState([torch.device("cuda"), torch.device("cpu"), torch.device("cuda:1")])
    both = RandomState([torch.device("cuda:1"), torch.device("cuda:0")])
    states[0] += 5
    assert one.is_now()
    assert not both.is_now()
    states[1] += 5
    assert not one.is_now()
    one.restore()
    assert [state.tolist() for state in states.values()] == [[5, 5, 5], [1, 1, 1]]
    both.restore()
    assert [state.tolist() for state in states.values()] == [[0, 0, 0], [1, 1, 1]]


def test_a_checkpoint_goes_back_on_everything_in_place():
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    optimizer.state[p] = {
        "tensor": torch.ones(2), "list": [torch.ones(1)], "dict": {"a": torch.ones(1)},
        "tuple": (torch.ones(1), 2), "step": 3, "set": {1}, "own": SimpleNamespace(seen=[1]),
    }  # fmt: skip
    checkpoint = Checkpoint()
    checkpoint.take(optimizer, [p])
    torch.rand(1)
    before = torch.get_rng_state()
    state = optimizer.state[p]
    with torch.no_grad():
        p += 1
        for t in (state["tensor"], state["list"][0], state["dict"]["a"], state["tuple"][0]):
            t += 1
    state.update(step=4, new=5)
    state["set"].add(2)
    state["own"].seen.append(2)
    optimizer.state[nn.Parameter(torch.ones(1))] = {"x": 1}
    optimizer.param_groups[0].update(lr=7.0, extra=1)
    groups, held = optimizer.param_groups, optimizer.state
    checkpoint.restore()
    assert p.tolist() == [1, 1]
    assert list(optimizer.state) == [p]
    state = optimizer.state[p]
    assert state.keys() == {"tensor", "list", "dict", "tuple", "step", "set", "own"}
    assert state["tensor"].tolist() == [1, 1]
    assert state["list"][0].item() == state["dict"]["a"].item() == state["tuple"][0].item() == 1
    assert (state["step"], state["set"], state["tuple"][1]) == (3, {1}, 2)
    assert state["own"].seen == [1]
    assert (optimizer.param_groups[0]["lr"], "extra" in optimizer.param_groups[0]) == (0.1, False)
    assert optimizer.param_groups[0]["params"] == [p]
    assert groups is optimizer.param_groups
    assert held is optimizer.state
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_uses_its_memory_again():
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    optimizer.state[p] = {"momentum_buffer": torch.ones(2)}
    checkpoint, places = Checkpoint(), []
    for _ in range(2):
        checkpoint.take(optimizer, [p])
        places.append([copied.data_ptr() for copied in checkpoint._memory])
    assert len(set(places[0])) == 2
    assert places[0] == places[1]


def test_checked():
    assert checked(X) is X
    assert checked(X[:, 0]) is not None
    with pytest.raises(TypeError, match=r"floating-point outputs of shape \(N, \*C\), got int"):
        checked(3)
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        checked(torch.ones(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"with at least one example, got shape \(0,\)"):
        checked(torch.ones(0))
    with pytest.raises(ValueError, match=r"got shape \(3, 0\)"):
        checked(torch.ones(3, 0))
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        checked(torch.tensor(1.0))


def test_alone_nothing_is_reduced():
    gradient = [torch.ones(2)]
    assert over_ranks(gradient, 2.0, 3) == (gradient, 2.0, 3)
    assert over_ranks(gradient, 2.0, 3)[0] is gradient


def test_trustworthy():
    good, bad = torch.ones(2), torch.tensor([1.0, float("inf")])
    trustworthy(1.0, [good], good, good)
    trustworthy(0.0, [good], bad, bad)  # it is the length that is looked at first
    inf = float("inf")
    for length, before, now, where in (
        (inf, bad, good, "got NaN or infinity before the step"),
        (
            float("nan"), good, bad,
            "got NaN or infinity after the proposed step: is the learning rate too large?",
        ),
        (inf, good, good, "got some too far apart, or NaN or infinity on another rank"),
    ):  # fmt: skip
        with pytest.raises(FloatingPointError) as raised:
            trustworthy(length, [good], before, now)
        assert str(raised.value) == f"expected finite outputs, {where}"
    with pytest.raises(FloatingPointError) as raised:
        trustworthy(1.0, [good, bad], good, good)
    assert str(raised.value) == (
        "expected a finite gradient of the distance: the outputs are not differentiable here"
    )


def test_over_ranks_sums_squares_and_their_gradients(monkeypatch):
    """The other rank has 5 examples at a distance of 4 and its own gradients."""
    dist, theirs = torch.distributed, {
        torch.float64: iter([torch.tensor([16.0, 5.0]), torch.tensor([1.0, 2.0, 3.0]) * 4 / 5]),
        torch.float32: iter([torch.tensor([[10.0]]) * 4 / 5]),
    }  # fmt: skip
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda t: t.add_(next(theirs[t.dtype]).view_as(t)))
    mine = [
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        torch.tensor(10.0),
        torch.tensor([5.0], dtype=torch.float64),
    ]
    gradient, total, n = over_ranks(mine, 3.0, 2)
    assert (total, n) == (5.0, 7)  # sqrt(3² + 4²)
    assert [g.dtype for g in gradient] == [g.dtype for g in mine]
    expected = [[[0.6 + 0.8, 1.6]], 6.0 + 8.0, [3.0 + 2.4]]
    for g, value in zip(gradient, expected, strict=True):
        torch.testing.assert_close(g, torch.tensor(value, dtype=g.dtype))


def test_over_ranks_where_nothing_moved(monkeypatch):
    dist = torch.distributed
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda t: t)
    gradient, total, n = over_ranks([torch.ones(2)], 0.0, 3)
    assert gradient[0].tolist() == [0, 0]
    assert (total, n) == (0.0, 3)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    assert over_ranks(given := [torch.ones(2)], 2.0, 3) == (given, 2.0, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_state_on_a_gpu():
    state = RandomState([torch.device("cuda"), torch.device("cuda:0")])
    first = torch.rand(3, device="cuda")
    assert not state.is_now()
    state.restore()
    assert state.is_now()
    assert torch.equal(torch.rand(3, device="cuda"), first)
