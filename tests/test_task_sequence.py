"""The training loop over tasks against its twin, and whether the methods do what they are for."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hilbertlib.data import Dataset, load, permute_pixels
from hilbertlib.forgetting import EWC, L2Memory, Replay, SynapticIntelligence, WorkingMemory
from hilbertlib.hcgd import HCGD
from hilbertlib.models import mlp, seeded
from hilbertlib.task_sequence import Method, TaskHistory, train_tasks
from hilbertlib.training import train


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
        model, TASKS[:2], method, lambda: torch.optim.SGD(model.parameters(), lr=0.1),
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


def slow_train(model, tasks, optimizer, epochs, batch_size, seed, after_step=lambda *_: None):
    """Accuracies and epochs' losses of training on one task after another, plainly written."""
    order = torch.Generator().manual_seed(seed)
    table, losses = [], []
    for number, task in enumerate(tasks):
        losses.append([])
        step = 0
        for _ in range(epochs):
            shuffled, total = torch.randperm(len(task.y_train), generator=order).tolist(), 0.0
            while shuffled:
                batch, shuffled = shuffled[:batch_size], shuffled[batch_size:]
                optimizer.zero_grad()
                loss = F.cross_entropy(model(task.x_train[batch]), task.y_train[batch])
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(batch)
                step += 1
                after_step(number, step)
            losses[-1].append(total / len(task.y_train))
        row = []
        for other in tasks:
            with torch.no_grad():
                z = model(other.x_test)
            right = sum(int(a.argmax()) == int(b) for a, b in zip(z, other.y_test, strict=True))
            row.append(right / len(other.y_test))
        table.append(row)
    return table, losses


def test_the_loop_equals_its_twin():
    model, twin = net(), net()
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    found = train_tasks(model, TASKS, None, lambda: adam, epochs=3, batch_size=4, seed=7)
    accuracy, losses = slow_train(
        twin, TASKS, torch.optim.Adam(twin.parameters(), lr=0.05), 3, batch_size=4, seed=7
    )
    assert found.accuracy.tolist() == accuracy
    assert found.accuracy.dtype == found.loss.dtype == torch.float64
    torch.testing.assert_close(found.loss, torch.tensor(losses, dtype=torch.float64))
    assert torch.equal(found.penalty, torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(flat(model), flat(twin))
    other = net()
    train_tasks(other, TASKS, None, lambda: torch.optim.Adam(other.parameters(), lr=0.05),
                epochs=3, batch_size=4, seed=7)  # fmt: skip
    assert not torch.equal(flat(other), flat(model))  # a fresh state for each task


def test_ten_epochs_of_batches_of_128_from_seed_0_by_default():
    many, ends, tables = [tiny(0, n=150)], [], []
    for options in ({}, {"epochs": 10, "batch_size": 128, "seed": 0}):
        model = net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        tables.append(train_tasks(model, many, None, lambda o=sgd: o, **options))
        ends.append(flat(model))
    assert torch.equal(*ends)
    assert tables[0].loss.shape == (1, 10)


def test_the_penalty_is_reported_as_a_mean_over_examples():
    model, seen = net(), []

    class Counted(Method):
        def penalty(self, model):
            seen.append(float(len(seen)))
            return sum(p.sum() for p in model.parameters()) * 0 + seen[-1]

    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    found = train_tasks(model, TASKS[:2], Counted(), lambda: sgd, epochs=1, batch_size=4)
    means = [[(4 * a + 4 * b + 2 * c) / 10] for a, b, c in (seen[:3], seen[3:])]
    torch.testing.assert_close(found.penalty, torch.tensor(means, dtype=torch.float64))


def test_what_was_kept_and_what_was_lost():
    accuracy = torch.tensor([[0.9, 0.2, 0.1], [0.7, 0.8, 0.1], [0.5, 0.7, 0.6]])
    history = TaskHistory(accuracy.double(), torch.zeros(3, 1), torch.zeros(3, 1))
    assert history.average == pytest.approx(0.6)
    assert history.forgetting == pytest.approx((0.4 + 0.1) / 2)
    two = TaskHistory(accuracy[:2, :2], torch.zeros(2, 1), torch.zeros(2, 1))
    assert two.forgetting == pytest.approx(0.2)
    with pytest.raises(AttributeError):
        two.loss = torch.ones(2, 1)
    one = TaskHistory(accuracy[:1, :1], torch.zeros(1, 1), torch.zeros(1, 1))
    assert one.forgetting == 0.0
    assert one.average == pytest.approx(0.9)


STRONG = {
    "none": lambda: None,
    "l2": lambda: L2Memory(9, lam=50.0),
    "replay": lambda: Replay(9, every=1),
    "ewc": lambda: EWC(lam=1e3),
    "si": lambda: SynapticIntelligence(c=1e3),
}


@pytest.mark.parametrize("name", STRONG)
def test_the_first_task_is_plain_training_whatever_the_method(name):
    """Bit for bit that of the library's other loop, with dropout, momentum and weight decay."""

    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 20), nn.Dropout(), nn.Linear(20, 3))

    ends = []
    for loop in (
        lambda m, o: train(m, TASKS[0], o, epochs=3, batch_size=4, seed=5),
        lambda m, o: train_tasks(m, TASKS[:1], STRONG[name](), lambda: o, epochs=3,
                                 batch_size=4, seed=5),
    ):  # fmt: skip
        model = seeded(build, seed=0).double()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        ends.append((loop(model, sgd), flat(model)))
    (plain, theta), (ours, same) = ends
    assert torch.equal(theta, same)
    assert ours.accuracy.tolist() == [[plain.test_accuracy[-1]]]
    assert ours.loss[0].tolist() == pytest.approx(plain.train_loss, rel=1e-12)


class PartlyUsed(nn.Module):
    """A layer that the loss does not reach: it has no gradient, so weight decay leaves it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x.flatten(1))


@pytest.mark.parametrize("name", ["l2", "replay", "ewc", "si"])
def test_a_strength_of_zero_is_plain_training_bit_for_bit(name):
    zero = {
        "l2": lambda: L2Memory(9, lam=0.0),
        "replay": lambda: Replay(9, every=1000),
        "ewc": lambda: EWC(lam=0.0),
        "si": lambda: SynapticIntelligence(c=0.0),
    }

    def end(method):
        model = seeded(PartlyUsed, seed=0).double()
        adam = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.3)
        found = train_tasks(model, TASKS, method, lambda: adam, epochs=2, batch_size=4)
        return flat(model), found

    (plain, a), (weak, b), (strong, _) = end(None), end(zero[name]()), end(STRONG[name]())
    assert torch.equal(plain, weak)
    assert torch.equal(a.accuracy, b.accuracy)
    assert torch.equal(a.loss, b.loss)
    assert not torch.equal(plain, strong)


@pytest.mark.parametrize("every", [1, 2])
def test_replay_equals_its_twin_in_the_loop(every):
    model, twin = net(), net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_tasks(model, TASKS, Replay(9, every=every, seed=3), lambda: sgd, epochs=2, batch_size=4)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    memories = []  # what is held while task 0, 1, 2 is learned
    memory = WorkingMemory(9, seed=3)
    for task in TASKS:
        memories.append((memory.x, memory.y) if len(memory) else None)
        memory.add(task.x_train, task.y_train, lambda x: x[:, 0, 0])

    def after_step(number, step):
        if memories[number] is not None and step % every == 0:
            x, y = memories[number]
            plain.zero_grad()
            F.cross_entropy(twin(x), y).backward()
            plain.step()

    slow_train(twin, TASKS, plain, 2, batch_size=4, seed=0, after_step=after_step)
    assert torch.equal(flat(model), flat(twin))


def test_dropout_follows_the_seed_and_the_global_stream_is_left_alone():
    def trained(seed):
        torch.manual_seed(99)
        model = seeded(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 20), nn.Dropout(), nn.Linear(20, 3)), 0
        ).double()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        train_tasks(model, TASKS[:1], None, lambda: sgd, epochs=2, batch_size=10, seed=seed)
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
    train_tasks(model.eval(), TASKS[:1], None, lambda: sgd, epochs=2, batch_size=10,
                on_epoch=lambda *_: model.eval())  # fmt: skip
    assert modes == [False, True, True, False]  # the check, two steps and an evaluation


def test_another_loss_function():
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    before = flat(model)
    train_tasks(model, TASKS, None, lambda: sgd, epochs=1, loss_function=lambda z, y: 0 * z.sum())
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
            model, digit_tasks(), method, lambda o=adam: o, epochs=6, batch_size=64
        ).accuracy
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
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"method": None, "make_optimizer": lambda: sgd, "epochs": 1, **changes}
    return train_tasks(model, options.pop("tasks", TASKS), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "^expected at least one task, got none$"),
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
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        run(method=method)
    assert str(raised.value) == (
        "expected task 3 next, got 0: a method remembers the tasks of one run; make a new one for "
        "another"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": EWC},
            r"^expected a method such as L2Memory\(\), or None, as the third argument, got <class",
        ),
        ({"method": lambda: None}, "third argument, got <function"),
        (
            {"make_optimizer": torch.optim.SGD(net().parameters(), lr=0.1)},
            r"a function that makes an optimizer, such as lambda: Adam\(model.parameters\(\)\), "
            "got SGD$",
        ),
        ({"make_optimizer": 0.1}, "a function that makes an optimizer, .*, got float$"),
        ({"make_optimizer": lambda: 0.1}, "make_optimizer to return an optimizer, got float$"),
        (
            {"tasks": TASKS[0]},
            r"^expected a sequence of tasks, such as \[digits, permuted\], got a Dataset$",
        ),
    ],
)
def test_arguments_of_another_type(changes, message):
    with pytest.raises(TypeError, match=message):
        run(**changes)


def test_an_optimizer_that_does_not_fit():
    model = net()
    before = flat(model)
    for parameters, message in (
        (net().parameters(), "an optimizer over the model's parameters, got one over others$"),
        (model.parameters(), "whose step takes no outputs, got HCGD: hilbertlib.training.train"),
    ):
        optimizer = HCGD(parameters, lr=0.1)
        with pytest.raises(ValueError, match=message):
            run(model=model, make_optimizer=lambda o=optimizer: o)
    assert torch.equal(flat(model), before)
    # One over some of the parameters is what a user may want.
    run(model=model, make_optimizer=lambda: torch.optim.SGD([model[1].bias], lr=0.1))
    changed = (flat(model) != before).nonzero().ravel().tolist()
    assert changed == [20, 21, 22, 23, 24]


def test_a_model_whose_outputs_do_not_fit():
    for layers, message in (
        ([nn.Linear(4, 2)], r"outputs of shape \(N, 3\), one for each class, got \(1, 2\) for one"),
        ([nn.Linear(4, 3), nn.Flatten(0)], r"of shape \(N, 3\), one for each class, got \(3,\)"),
    ):
        model = nn.Sequential(nn.Flatten(), *layers).double()
        before = flat(model)
        with pytest.raises(ValueError, match=message):
            run(model=model)
        assert torch.equal(flat(model), before)
    run(model=seeded(lambda: mlp((4, 5)), 0).double())  # more outputs than classes


def test_divergence():
    model = net()
    before = flat(model)
    with pytest.raises(FloatingPointError, match="the loss became nan; try a smaller learning"):
        run(model=model, loss_function=lambda z, y: z.sum() * math.nan)
    assert torch.equal(flat(model), before)

    class Infinite(Method):
        def penalty(self, model):
            return model[1].bias.sum() * math.inf

    with pytest.raises(FloatingPointError, match=r"the penalty became -?inf; try a weaker one, or"):
        run(model=model, method=Infinite())
    assert torch.equal(flat(model), before)


def test_one_memory_serves_one_method():
    assert isinstance(L2Memory(4).memory, WorkingMemory)
    assert L2Memory(4).memory is not L2Memory(4).memory
