"""Each method against forgetting against its definition, written out in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertlib.fisher import fisher_diagonal
from hilbertlib.forgetting import (
    EWC,
    L2Memory,
    Method,
    Replay,
    SynapticIntelligence,
    WorkingMemory,
)
from hilbertlib.models import mlp, seeded


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def net(seed: int = 0) -> nn.Module:
    return seeded(lambda: mlp((4, 5, 3), "tanh"), seed).double()


def task(seed: int, n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(seed, n, 4), (torch.arange(n) + seed) % 3


def move(model: nn.Module, seed: int, size: float = 0.3) -> None:
    """Stands for training: every parameter moves."""
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(size * draw(100 * seed + i, *p.shape))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in model.parameters()])


def learn(method: Method, model: nn.Module, number: int, tasks: int = 8) -> None:
    method.begin_task(model, number, tasks)
    move(model, number + 1)
    method.end_task(model, *task(number))


def gradient(value: torch.Tensor, model: nn.Module) -> torch.Tensor:
    grads = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    pairs = zip(grads, model.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).ravel() for g, p in pairs])


def number_of(value: torch.Tensor) -> float:
    return float(value.detach())


def numerical_gradient(function, model: nn.Module, step: float = 1e-6) -> torch.Tensor:
    out = []
    with torch.no_grad():
        for p in model.parameters():
            for entry in p.view(-1):
                middle = float(entry)
                values = []
                for side in (step, -step):
                    entry.fill_(middle + side)
                    values.append(float(function().detach()))
                entry.fill_(middle)
                out.append((values[0] - values[1]) / (2 * step))
    return torch.tensor(out, dtype=torch.float64)


METHODS = {
    "none": Method,
    "l2": lambda: L2Memory(12),
    "replay": lambda: Replay(12),
    "ewc": EWC,
    "si": SynapticIntelligence,
}


# --- what all have in common -----------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_first_task_has_no_penalty_and_leaves_something_behind(name):
    method, model = METHODS[name](), net()
    method.begin_task(model, 0, 2)
    assert method.penalty(model) is None
    assert method.nbytes == 0
    move(model, 1)
    method.end_task(model, *task(0))
    assert method.finished == 1
    assert method.nbytes == {"none": 0, "l2": 12 * (32 + 8 + 24), "replay": 12 * (32 + 8 + 24)}.get(
        name, 2 * 43 * 8
    )


@pytest.mark.parametrize("name", METHODS)
def test_tasks_come_in_order_and_once(name):
    method, model = METHODS[name](), net()
    with pytest.raises(ValueError, match="expected task 0 next, got 1: a method remembers"):
        method.begin_task(model, 1, 3)
    learn(method, model, 0)
    with pytest.raises(ValueError, match="expected task 1 next, got 0: a method remembers"):
        method.begin_task(model, 0, 3)
    learn(method, model, 1)
    assert method.finished == 2
    assert type(method).finished == 0


@pytest.mark.parametrize("name", ["l2", "ewc", "si"])
def test_a_penalty_is_zero_where_it_was_anchored_and_grows_away_from_it(name):
    method, model = METHODS[name](), net()
    method.begin_task(model, 0, 2)
    for _ in range(3):  # a path of learning, for those that follow it
        F.cross_entropy(model(task(0)[0]), task(0)[1]).backward()
        method.before_step(model)
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        method.after_step(model, None)
    method.end_task(model, *task(0))
    at = method.penalty(model)
    assert at.shape == ()
    assert number_of(at) == 0
    assert not gradient(at, model).any()  # the norm's subgradient, too
    values = []
    for _ in range(3):
        move(model, 5, 0.05)
        values.append(number_of(method.penalty(model)))
    assert 0 < values[0] < values[1] < values[2]


@pytest.mark.parametrize("name", METHODS)
def test_there_is_a_task_after_the_number_of_tasks(name):
    method, model = METHODS[name](), net()
    learn(method, model, 0)
    with pytest.raises(ValueError, match="expected more than 1 tasks in all, got 1"):
        method.begin_task(model, 1, 1)
    method.begin_task(model, 1, 2)


@pytest.mark.parametrize("method", [L2Memory(8, lam=0.0), EWC(lam=0.0), SynapticIntelligence(c=0)])
def test_a_strength_of_zero_adds_nothing(method):
    model = net()
    learn(method, model, 0)
    move(model, 3)
    assert method.penalty(model) is None
    assert method.nbytes > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_model_without_trainable_parameters(name):
    method, model = METHODS[name](), net().requires_grad_(False)
    if name in ("ewc", "si"):
        with pytest.raises(
            ValueError, match=r"^expected a model with trainable parameters, got none$"
        ):
            learn(method, model, 0)
        assert method.finished == 0


# --- L2 memory -------------------------------------------------------------------------------


def slow_l2(now: torch.Tensor, then: torch.Tensor, norm: str) -> float:
    squares = [
        sum((float(a) - float(b)) ** 2 for a, b in zip(p, q, strict=True))
        for p, q in zip(now, then, strict=True)
    ]
    if norm == "mean_norm":
        return sum(map(math.sqrt, squares)) / len(squares)
    mean = sum(squares) / len(squares)
    return mean if norm == "squared" else math.sqrt(mean)


@pytest.mark.parametrize("space", ["probabilities", "logits"])
@pytest.mark.parametrize("norm", ["rms", "squared", "mean_norm"])
def test_the_l2_penalty_is_half_lambda_times_the_distance(norm, space):
    method, model = L2Memory(8, lam=1.3, norm=norm, space=space, seed=3), net()
    twin = WorkingMemory(8, seed=3)  # remembers inputs only; its outputs are computed below
    models = []
    for number in range(2):
        learn(method, model, number)
        twin.add(*task(number), lambda x: x)
        models.append(copy.deepcopy(model))
    move(model, 9)

    def function(network, x):
        return network(x).softmax(1) if space == "probabilities" else network(x)

    with torch.no_grad():
        x = twin.x
        then = torch.cat([function(m, p) for m, p in zip(models, x.split(4), strict=True)])
        now = function(model, x)
    penalty = method.penalty(model)
    assert number_of(penalty) == pytest.approx(1.3 / 2 * slow_l2(now, then, norm), rel=1e-12)
    torch.testing.assert_close(
        gradient(penalty, model),
        numerical_gradient(lambda: method.penalty(model), model),
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip


def test_the_papers_numbers_are_the_defaults():
    method = L2Memory()
    assert (method.memory.capacity, method.lam, method.norm) == (1024, 1.3, "rms")
    assert method.batch is None
    assert Replay().memory.capacity == 1024
    assert (Replay().every, Replay().batch) == (10, None)
    assert EWC().scale == 250
    assert (EWC().tasks, EWC().fisher, EWC().examples) == ("all", "true", None)
    assert SynapticIntelligence().scale == SynapticIntelligence().xi == 0.1


def test_remembered_and_present_outputs_are_those_of_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    model.double()
    model(task(0)[0])
    method = L2Memory(6)
    method.begin_task(model, 0, 2)
    method.end_task(model, *task(0))
    buffers = [b.clone() for b in model.buffers()]
    assert number_of(method.penalty(model)) == 0
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))


def test_a_batch_of_the_memory():
    method, model = L2Memory(10, batch=3, seed=1), net()
    learn(method, model, 0)
    twin = copy.deepcopy(method)
    seen = []
    for _ in range(400):
        x, y, outputs = method.drawn()
        assert x.shape == (3, 4)
        where = [int((method.memory.x == row).all(1).nonzero()) for row in x]
        assert torch.equal(outputs, method.memory.outputs[where])
        assert torch.equal(y, method.memory.y[where])
        assert len(set(where)) == 3
        seen += where
    counts = torch.bincount(torch.tensor(seen), minlength=10)
    assert counts.min() > 80
    assert counts.max() < 160
    assert torch.equal(twin.drawn()[0], twin.memory.x[seen[:3]])  # the seed decides
    for batch in (10, 11, None):
        twin.batch = batch
        assert twin.drawn()[0] is twin.memory.x


@pytest.mark.parametrize("name", ["l2", "replay"])
def test_a_memory_too_small_for_the_tasks_is_refused_before_the_first(name):
    method = L2Memory(2) if name == "l2" else Replay(2)
    method.begin_task(net(), 0, 2)
    with pytest.raises(ValueError, match="cannot hold one of each of 3 tasks"):
        method.begin_task(net(), 0, 3)


@pytest.mark.parametrize("build", [L2Memory, Replay])
def test_the_seed_is_0_by_default_and_decides_what_is_kept_and_drawn(build):
    def drawn(**options):
        method = build(10, batch=3, **options)
        learn(method, net(), 0)
        return method.memory.x, method.drawn()[0]

    for a, b, c in zip(drawn(), drawn(seed=0), drawn(seed=1), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


# --- replay ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "every"), [(None, 3), (4, 3), (4, 2)])
def test_replay_takes_a_step_on_the_memory_every_k_steps(batch, every):
    method, model = Replay(10, every=every, batch=batch, seed=2), net()
    learn(method, model, 0)
    twin, other = copy.deepcopy(model), copy.deepcopy(method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    method.begin_task(model, 1, 2)
    x, y = task(1)
    for step in range(1, 9):
        for m, o in ((model, optimizer), (twin, plain)):
            o.zero_grad()
            F.cross_entropy(m(x), y).backward()
            o.step()
        method.after_step(model, optimizer)
        if step in {3: (3, 6), 2: (2, 4, 6, 8)}[every]:
            a, b, _ = other.drawn()
            plain.zero_grad()
            F.cross_entropy(twin(a), b).backward()
            plain.step()
        assert torch.equal(flat(model), flat(twin))
    method.after_step(model, optimizer)  # a ninth step
    method.end_task(model, x, y)
    method.begin_task(model, 2, 3)
    before = flat(model)
    for _ in range(every - 1):  # counted anew
        method.after_step(model, optimizer)
        assert torch.equal(flat(model), before)
    method.after_step(model, optimizer)
    assert not torch.equal(flat(model), before)


def test_replay_without_a_memory_and_with_another_loss():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = Replay(6, every=1, loss_function=lambda z, y: 0 * z.sum())
    method.begin_task(model, 0, 2)
    before = flat(model)
    method.after_step(model, optimizer)
    assert torch.equal(flat(model), before)
    method.end_task(model, *task(0))
    method.begin_task(model, 1, 2)
    method.after_step(model, optimizer)
    assert torch.equal(flat(model), before)
    method.loss_function = F.cross_entropy
    method.after_step(model, optimizer)
    assert not torch.equal(flat(model), before)


# --- EWC -------------------------------------------------------------------------------------


def slow_diagonal(model, x, y, kind, seed=None):
    """Mean over examples of E_y[(∂ log P(y|x) / ∂θ)²], one gradient at a time."""
    total = 0.0
    log_p = model(x).log_softmax(dim=1)
    chance = log_p.detach().exp()
    for i in range(len(x)):
        if kind == "true":
            weighted = [(float(chance[i, c]), c) for c in range(3)]
        else:
            weighted = [(1.0, int(y[i]))]
        for weight, c in weighted:
            g = torch.autograd.grad(log_p[i, c], list(model.parameters()), retain_graph=True)
            total = total + weight * torch.cat([v.ravel() for v in g]).square()
    return total / len(x)


@pytest.mark.parametrize("tasks", ["all", "last"])
@pytest.mark.parametrize("kind", ["true", "empirical"])
def test_ewc_equals_the_sum_over_tasks(kind, tasks):
    method, model = EWC(lam=7.0, fisher=kind, tasks=tasks), net()
    remembered = []
    for number in range(4):
        learn(method, model, number)
        diagonal = slow_diagonal(model, *task(number), kind)
        remembered.append((diagonal, flat(model)))
        if tasks == "last":
            remembered = remembered[-1:]
        for seed in (number + 20, number + 21):
            move(model, seed, 0.1)
            penalty = method.penalty(model)
            expected = sum(
                float(f) * (float(t) - float(a)) ** 2
                for fisher, anchor in remembered
                for f, t, a in zip(fisher, flat(model), anchor, strict=True)
            )
            assert number_of(penalty) == pytest.approx(7.0 / 2 * expected, rel=1e-10)
            slope = sum(7.0 * f * (flat(model) - a) for f, a in remembered)
            torch.testing.assert_close(gradient(penalty, model), slope, rtol=1e-9, atol=1e-12)
    assert method.nbytes == 2 * 43 * 8  # however many tasks


@given(st.integers(0, 10**6), st.integers(2, 6))
@settings(max_examples=25)
def test_the_merged_quadratic_is_the_sum(seed, count):
    """Also where an importance is zero, in one task or in all."""
    model = nn.Linear(5, 1, bias=False).double()
    method = EWC(lam=2.0)
    parts = []
    for i in range(count):
        importance = draw(seed + i, 5).clamp(min=0)
        importance[0] = 0.0
        theta = draw(seed + 100 + i, 5)
        with torch.no_grad():
            model.weight.copy_(theta[None])
        parts.append((importance, theta))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hilbertlib.forgetting.fisher_diagonal", lambda *_, f=importance, **__: f)
            method.end_task(model, torch.zeros(1, 5), torch.zeros(1))
    with torch.no_grad():
        model.weight.copy_(draw(seed + 200, 1, 5))
    expected = sum(float((f * (flat(model) - t).square()).sum()) for f, t in parts)
    assert number_of(method.penalty(model)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_ewc_draws_examples_and_labels_by_its_seed():
    def learned(**options):
        method, model = EWC(**options), net()
        learn(method, model, 0)
        return method.importance

    x, y = task(0)
    model = net()
    move(model, 1)
    everything = slow_diagonal(model, x, y, "empirical")
    torch.testing.assert_close(learned(fisher="empirical", examples=100), everything)
    # Which example was drawn shows in the Fisher of one.
    single = [slow_diagonal(model, x[i : i + 1], y[i : i + 1], "empirical") for i in range(12)]
    found = learned(fisher="empirical", examples=1, seed=4)
    assert sum(torch.allclose(found, s, rtol=1e-9) for s in single) == 1
    assert torch.equal(found, learned(fisher="empirical", examples=1, seed=4))
    firsts = {tuple(learned(fisher="empirical", examples=1, seed=s).tolist()) for s in range(8)}
    assert len(firsts) > 3
    sampled = learned(fisher="sampled", seed=0)
    assert torch.equal(sampled, learned(fisher="sampled", seed=0))
    assert torch.equal(sampled, learned(fisher="sampled"))
    assert not torch.allclose(sampled, learned(fisher="sampled", seed=1))
    # Without a number of examples they are all there, in the order they came.
    assert torch.equal(learned(), fisher_diagonal(model, x))
    assert not torch.allclose(sampled, learned(fisher="true"))


@pytest.mark.parametrize("build", [EWC, SynapticIntelligence])
def test_another_model_is_refused(build):
    method, model, other = build(), net(), nn.Linear(4, 3).double()
    learn(method, model, 0)
    for call in (
        lambda: method.penalty(other),
        lambda: method.begin_task(other, 1, 2),
        lambda: method.end_task(other, *task(1)),
    ):
        if build is SynapticIntelligence:  # as if it had been frozen within the task
            method.begin_task(model, 1, 2)
        with pytest.raises(
            ValueError,
            match="the model that was remembered, with 43 trainable parameters, got one with 15",
        ):
            call()
    assert method.finished == 1
    assert len(method.anchor) == len(method.importance) == 43


def test_a_refused_fisher_changes_nothing():
    method, twin = (EWC(fisher="sampled", examples=5) for _ in range(2))
    model = net()
    for each in (method, twin):
        each.begin_task(model, 0, 2)
    with pytest.raises(ValueError, match="not finite"):
        method.end_task(model, torch.full((12, 4), math.nan, dtype=torch.float64), task(0)[1])
    assert (method.finished, method.importance, method.nbytes) == (0, None, 0)
    for each in (method, twin):
        each.end_task(model, *task(0))
    assert torch.equal(method.importance, twin.importance)  # the random stream is where it was


# --- synaptic intelligence -------------------------------------------------------------------


class Point(nn.Module):
    """Two parameters, so that a path can be followed by hand."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_si_by_hand():
    model, method = Point(0.0, 1.0), SynapticIntelligence(c=0.5, xi=0.1)
    method.begin_task(model, 0, 2)
    for g, step in (((2.0, 1.0), (-0.2, 0.3)), ((1.0, -1.0), (-0.1, 0.1))):
        model.theta.grad = torch.tensor(g, dtype=torch.float64)
        method.before_step(model)
        model.theta.grad.fill_(99.0)  # a penalty's gradient, added later, plays no part
        with torch.no_grad():
            model.theta.add_(torch.tensor(step, dtype=torch.float64))
        method.after_step(model, None)
    method.end_task(model, torch.zeros(1), torch.zeros(1))
    # ω = −(2·−0.2 + 1·−0.1) = 0.5 and −(1·0.3 − 1·0.1) = −0.2, which counts as 0; Δ = −0.3, 0.4.
    torch.testing.assert_close(method.importance.tolist(), [0.5 / (0.09 + 0.1), 0.0])
    torch.testing.assert_close(method.anchor.tolist(), [-0.3, 1.4])
    with torch.no_grad():
        model.theta.copy_(torch.tensor([0.7, 5.0]))
    penalty = method.penalty(model)
    assert number_of(penalty) == pytest.approx(0.5 * 0.5 / 0.19 * 1.0)
    torch.testing.assert_close(gradient(penalty, model).tolist(), [0.5 / 0.19, 0.0])


def test_si_adds_the_importance_of_each_task_and_anchors_at_the_last():
    method, model = SynapticIntelligence(c=2.0, xi=0.3), net()
    expected, anchor = torch.zeros(43, dtype=torch.float64), flat(model)
    clipped, optimizer = 0, torch.optim.Adam(model.parameters(), lr=0.05)
    for number in range(3):
        method.begin_task(model, number, 3)
        start, path = flat(model), torch.zeros(43, dtype=torch.float64)
        x, y = task(number)
        for _ in range(4):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            g, before = torch.cat([p.grad.ravel() for p in model.parameters()]), flat(model)
            method.before_step(model)
            penalty = method.penalty(model)
            if penalty is not None:
                assert number_of(penalty) == pytest.approx(
                    2.0 * float((expected * (flat(model) - anchor).square()).sum()), rel=1e-12
                )
                penalty.backward()
            optimizer.step()
            method.after_step(model, optimizer)
            for i in range(43):
                path[i] -= g[i] * (flat(model)[i] - before[i])
        method.end_task(model, x, y)
        clipped += int((path < 0).sum())
        anchor = flat(model)
        for i in range(43):
            expected[i] += max(0.0, float(path[i])) / (float(anchor[i] - start[i]) ** 2 + 0.3)
        torch.testing.assert_close(method.importance, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(method.anchor, anchor)
    assert clipped > 0


def test_si_where_a_parameter_has_no_gradient_or_is_frozen():
    model = net()
    model[1].bias.requires_grad_(False)
    method = SynapticIntelligence()
    method.begin_task(model, 0, 1)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    method.before_step(model)
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(1.0)
    method.after_step(model, None)
    method.end_task(model, *task(0))
    sizes = [20, 15, 3]  # first weight, last weight, last bias
    first, last, bias = method.importance.split(sizes)
    assert not first.any()
    assert not bias.any()
    torch.testing.assert_close(last, torch.full((15,), 1 / 1.1, dtype=torch.float64))


def test_si_refuses_a_parameter_frozen_within_a_task():
    method, model = SynapticIntelligence(), net()
    method.begin_task(model, 0, 1)
    model[3].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="the 4 parameters trained at the task's start, got 3: "):
        method.before_step(model)


def test_si_needs_the_start_of_a_task():
    method, model = SynapticIntelligence(), net()
    for _ in range(2):
        for call in (lambda: method.before_step(model), lambda: method.end_task(model, *task(0))):
            with pytest.raises(ValueError, match=r"^call begin_task before a task's first step$"):
                call()
        learn(method, model, method.finished)


@pytest.mark.parametrize("method", [L2Memory(8), Replay(8)])
def test_probabilities_in_place_of_logits(method):
    model = nn.Sequential(net(), nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match="look like probabilities, but logits are expected"):
        learn(method, model, 0)


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: L2Memory(0), "capacity of at least 1, got 0"),
        (lambda: L2Memory(lam=-1.0), "finite lam of at least 0, got -1.0"),
        (lambda: L2Memory(norm="l1"), "expected norm 'rms' or 'squared' or 'mean_norm', got 'l1'"),
        (lambda: L2Memory(space="pixels"), "expected space 'probabilities' or 'logits', got"),
        (lambda: L2Memory(batch=0), "batch of at least 1, got 0"),
        (lambda: Replay(every=0), "every of at least 1, got 0"),
        (lambda: Replay(batch=-1), "batch of at least 1, got -1"),
        (lambda: EWC(lam=math.nan), "finite lam of at least 0, got nan"),
        (lambda: EWC(fisher="exact"), "expected fisher 'true' or 'sampled' or 'empirical', got"),
        (lambda: EWC(tasks="first"), "expected tasks 'all' or 'last', got 'first'"),
        (lambda: EWC(examples=0), "examples of at least 1, got 0"),
        (lambda: SynapticIntelligence(c=-0.1), "finite c of at least 0, got -0.1"),
        (lambda: SynapticIntelligence(xi=0.0), "expected a positive xi, got 0.0"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
