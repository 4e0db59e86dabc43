"""The training loop over tasks against its twin, and whether the methods do what they are for."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hilbertlib.data import Dataset, load, permute_pixels
from hilbertlib.forgetting import EWC, L2Memory, Replay, SynapticIntelligence, WorkingMemory
from hilbertlib.models import mlp, seeded
from hilbertlib.task_sequence import Method, train_tasks


def tiny(seed: int, n: int = 10, size: int = 2) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, size, size, dtype=torch.float64, generator=generator)
    y = torch.arange(n) % 3
    return Dataset(f"tiny {seed}", x, y, x[:7] + 0.1, y[:7], ("a", "b", "c"), f"{seed:064x}")


TASKS = [tiny(seed) for seed in range(3)]


def net() -> nn.Module:
    return seeded(lambda: mlp((4, 5, 3), "tanh"), seed=0).double()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in model.parameters()])


class Recorded(Method):
    """Writes down each call; its penalty is ½|θ|²."""

    def __init__(self) -> None:
        self.calls: list = []

    def begin_task(self, model, task, tasks):
        super().begin_task(model, task, tasks)
        self.calls.append(("begin", task, tasks))

    def before_step(self, model):
        self.gradient = [p.grad.clone() for p in model.parameters()]
        self.theta = [p.detach().clone() for p in model.parameters()]
        self.calls.append("before")

    def penalty(self, model):
        self.calls.append("penalty")
        return sum(p.square().sum() for p in model.parameters()) / 2

    def after_step(self, model, optimizer):
        # SGD at 0.1 on the loss plus the penalty; before_step saw the loss alone.
        for p, theta, g in zip(model.parameters(), self.theta, self.gradient, strict=True):
            torch.testing.assert_close(p.detach(), theta - 0.1 * (g + theta), rtol=1e-12, atol=0)
        self.calls.append(("after", type(optimizer).__name__))

    def end_task(self, model, x, y):
        super().end_task(model, x, y)
        self.calls.append(("end", len(x), y.tolist()))


def test_the_protocol():
    model, method, epochs = net(), Recorded(), []
    train_tasks(
        model, TASKS[:2], lambda: torch.optim.SGD(model.parameters(), lr=0.1), method,
        epochs=2, batch_size=4, on_epoch=lambda task, epoch: epochs.append((task, epoch)),
    )  # fmt: skip
    steps = ["before", "penalty", ("after", "SGD")] * 6  # batches of 4, 4 and 2, twice
    labels = [i % 3 for i in range(10)]
    assert method.calls == [
        ("begin", 0, 2), *steps, ("end", 10, labels),
        ("begin", 1, 2), *steps, ("end", 10, labels),
    ]  # fmt: skip
    assert epochs == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert method.finished == 2


def slow_train(model, tasks, optimizer, epochs, batch_size, seed):
    order = torch.Generator().manual_seed(seed)
    table = []
    for task in tasks:
        for _ in range(epochs):
            shuffled = torch.randperm(len(task.y_train), generator=order).tolist()
            while shuffled:
                batch, shuffled = shuffled[:batch_size], shuffled[batch_size:]
                optimizer.zero_grad()
                F.cross_entropy(model(task.x_train[batch]), task.y_train[batch]).backward()
                optimizer.step()
        row = []
        for other in tasks:
            with torch.no_grad():
                z = model(other.x_test)
            right = sum(int(a.argmax()) == int(b) for a, b in zip(z, other.y_test, strict=True))
            row.append(right / len(other.y_test))
        table.append(row)
    return table


def test_the_loop_equals_its_twin():
    model, twin = net(), net()
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    found = train_tasks(model, TASKS, lambda: adam, epochs=3, batch_size=4, seed=7)
    expected = slow_train(
        twin, TASKS, torch.optim.Adam(twin.parameters(), lr=0.05), 3, batch_size=4, seed=7
    )
    assert found.tolist() == expected
    assert found.dtype == torch.float64
    assert torch.equal(flat(model), flat(twin))
    other = net()
    train_tasks(other, TASKS, lambda: torch.optim.Adam(other.parameters(), lr=0.05),
                epochs=3, batch_size=4, seed=7)  # fmt: skip
    assert not torch.equal(flat(other), flat(model))  # a fresh state for each task


def test_every_method_sees_the_same_batches():
    """Methods too weak to matter end where none does."""
    ends = []
    weak = [None, L2Memory(9, lam=0.0), EWC(lam=0.0), SynapticIntelligence(c=0.0),
            Replay(9, every=1000)]  # fmt: skip
    for method in weak:
        model = net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        train_tasks(model, TASKS, lambda o=sgd: o, method, epochs=2, batch_size=4)
        ends.append(flat(model))
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_dropout_follows_the_seed_and_the_global_stream_is_left_alone():
    def trained(seed):
        torch.manual_seed(99)
        model = seeded(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 20), nn.Dropout(), nn.Linear(20, 3)), 0
        ).double()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        train_tasks(model, TASKS[:1], lambda: sgd, epochs=2, batch_size=10, seed=seed)
        return flat(model), torch.rand(1)

    first, after = trained(0)
    torch.rand(3)
    again, after_again = trained(0)
    assert torch.equal(first, again)
    assert torch.equal(after, after_again)
    assert not torch.equal(first, trained(1)[0])
    torch.manual_seed(99)
    assert torch.equal(after, torch.rand(1))


def test_training_mode_even_if_a_callback_leaves_another():
    modes = []
    model = net()
    model.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    train_tasks(model.eval(), TASKS[:1], lambda: sgd, epochs=2, batch_size=10,
                on_epoch=lambda *_: model.eval())  # fmt: skip
    assert modes == [True, True, False]  # two steps and an evaluation


def test_another_loss_function():
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    before = flat(model)
    train_tasks(model, TASKS, lambda: sgd, epochs=1, loss_function=lambda z, y: 0 * z.sum())
    assert torch.equal(flat(model), before)


def digit_tasks() -> list[Dataset]:
    digits = load("digits")
    return [digits, *(permute_pixels(digits, seed) for seed in (1, 2))]


@pytest.fixture(scope="module")
def accuracies():
    methods = {
        "adam": None,
        "l2": L2Memory(300, lam=4.0),
        "replay": Replay(300, every=1),
        "ewc": EWC(lam=20.0, examples=300),
        "si": SynapticIntelligence(c=5.0),
    }
    out = {}
    for name, method in methods.items():
        model = seeded(lambda: mlp((64, 50, 10)), seed=0)
        adam = torch.optim.Adam(model.parameters(), lr=3e-3)
        out[name] = train_tasks(
            model, digit_tasks(), lambda o=adam: o, method, epochs=6, batch_size=64
        )
    return out


def test_without_a_method_the_first_of_permuted_tasks_is_forgotten(accuracies):
    adam = accuracies["adam"]
    assert float(adam[0, 0]) > 0.9
    assert float(adam.diagonal().min()) > 0.9
    assert float(adam[2, 0]) < 0.75


@pytest.mark.parametrize("name", ["l2", "replay", "ewc", "si"])
def test_each_method_remembers_more(accuracies, name):
    assert float(accuracies[name][2, 0]) > float(accuracies["adam"][2, 0]) + 0.1
    assert float(accuracies[name].diagonal().min()) > 0.7  # and still learns


# --- bad input -------------------------------------------------------------------------------


def run(**changes):
    model = changes.pop("model", net())
    sgd = torch.optim.SGD(model.parameters(), lr=changes.pop("lr", 0.1))
    options = {"tasks": TASKS, "make_optimizer": lambda: sgd, "epochs": 1, **changes}
    return train_tasks(model, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "at least one task, got none"),
        ({"tasks": [tiny(0), tiny(1, size=3)]}, r"tasks of one shape .* got \[\(\(1, 2, 2\), 3\)"),
        ({"epochs": 0}, "epochs of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size of at least 1, got 0"),
        ({"method": L2Memory(2)}, "cannot hold one of each of 3 tasks"),
    ],
)
def test_bad_input(changes, message):
    model = net()
    before = flat(model)
    with pytest.raises(ValueError, match=message):
        run(model=model, **changes)
    assert torch.equal(flat(model), before)


def test_tasks_with_other_classes():
    four = copy.copy(tiny(1))
    object.__setattr__(four, "classes", ("a", "b", "c", "d"))
    with pytest.raises(ValueError, match=r"number of classes, got .*3\), \(\(1, 2, 2\), 4\)\]"):
        run(tasks=[tiny(0), four])


def test_a_method_is_for_one_run():
    method = EWC()
    run(method=method)
    with pytest.raises(ValueError, match="expected task 3 next, got 0"):
        run(method=method)


def test_divergence():
    with pytest.raises(FloatingPointError, match="the loss became nan; try a smaller learning"):
        run(loss_function=lambda z, y: z.sum() * math.nan)


def test_one_memory_serves_one_method():
    assert isinstance(L2Memory(4).memory, WorkingMemory)
    assert L2Memory(4).memory is not L2Memory(4).memory
