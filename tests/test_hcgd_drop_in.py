"""HCGD as a drop-in optimizer: it leaves no trace, resumes, works with closures, and refuses."""

import copy
import io
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hilbertlib.hcgd import HCGD, HilbertConstrained

X = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
XV = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network(*extra: nn.Module, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), *extra, nn.Linear(6, 3)).double()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


def backward(model: nn.Module, x: torch.Tensor = X, y: torch.Tensor = Y) -> None:
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def momentum(model: nn.Module, **options) -> HilbertConstrained:
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return HilbertConstrained(sgd, **options)


def adam(model: nn.Module, **options) -> HilbertConstrained:
    return HilbertConstrained(torch.optim.Adam(model.parameters(), lr=0.01), **options)


def steps(model: nn.Module, optimizer: HilbertConstrained, n: int, x_v=XV) -> torch.Tensor:
    for _ in range(n):
        backward(model)
        optimizer.step(lambda: model(x_v).softmax(1))
    return flat(model)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[bytes]:
    """All that a refused step must leave as it was, in order."""
    state = optimizer.state_dict()
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    for key in sorted(state["state"]):
        for name, value in state["state"][key].items():
            tensors.append(torch.as_tensor(value))
            assert isinstance(name, str)
    held = [t.detach().numpy().tobytes() for t in tensors if t is not None]
    groups = repr([{k: v for k, v in g.items() if k != "params"} for g in state["param_groups"]])
    return [*held, torch.get_rng_state().numpy().tobytes(), groups.encode()]


# --- buffers ---------------------------------------------------------------------------------


def test_buffers_of_batchnorm_are_bit_identical():
    model = network(nn.BatchNorm1d(6))
    optimizer = momentum(model, corrections=3)
    for k in range(3):
        backward(model)
        before = {n: b.clone() for n, b in model.named_buffers()}
        tensors = list(model.buffers())
        optimizer.step([lambda x=x: model(x).softmax(1) for x in (XV, XV[:9], XV[3:])])
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, before[name]), name
        assert all(a is b for a, b in zip(model.buffers(), tensors, strict=True))
        assert model[2].num_batches_tracked == k + 1  # the training passes alone
    assert model.training


def test_batchnorm_is_the_same_network_in_every_pass_of_a_step():
    """In training mode f(X_V) is normalized by X_V itself, whatever the running statistics."""
    model, twin = network(nn.BatchNorm1d(6)), network(nn.BatchNorm1d(6))
    for m in (model, twin):
        backward(m)
    momentum(model, lam=0.7, inner_lr=0.3).step(lambda: model(XV).softmax(1))
    start = copy.deepcopy(twin)
    torch.optim.SGD(twin.parameters(), lr=0.1, weight_decay=0.01).step()
    difference = twin(XV).softmax(1) - start(XV).softmax(1).detach()
    d = difference.square().sum(1).mean().sqrt()
    pull = torch.autograd.grad(d, list(twin.parameters()))
    for p, q, g in zip(model.parameters(), twin.parameters(), pull, strict=True):
        torch.testing.assert_close(p.detach(), q.detach() - 0.21 * g, rtol=1e-10, atol=1e-12)


def test_a_model_that_appears_later_is_kept_too():
    model = network()
    optimizer = momentum(model)
    steps(model, optimizer, 1)
    norm = nn.BatchNorm1d(3).double()
    backward(model)
    optimizer.step(lambda: norm(model(XV)))
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_var, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("reuse", [False, True])
def test_a_model_that_joins_later_is_kept_too(reuse):
    """One output function, the same code, calls one module more."""
    models = [nn.Linear(5, 3).double()]
    optimizer = momentum(models[0])

    def outputs():
        return sum(m(XV) for m in models)

    for _ in range(3):
        optimizer.zero_grad()
        f = outputs()
        f.square().mean().backward()
        buffers = [b.clone() for m in models for b in m.buffers()]
        optimizer.step(outputs, current=f if reuse else None)
        assert all(map(torch.equal, buffers, (b for m in models for b in m.buffers())))
        if len(models) == 1:
            models.append(nn.BatchNorm1d(5).double())
            models[0] = nn.Linear(5, 5).double()
            optimizer.add_param_group({"params": [p for m in models for p in m.parameters()]})


def test_a_module_without_parameters_that_new_code_calls_is_kept_too():
    model, norm = network(), nn.BatchNorm1d(3, affine=False).double()
    optimizer = momentum(model)
    for outputs in (lambda: model(XV), lambda: model(XV), lambda: norm(model(XV))):
        optimizer.zero_grad()
        f = outputs()
        f.square().mean().backward()
        buffers = [b.clone() for b in norm.buffers()]
        optimizer.step(outputs, current=f)
        assert all(map(torch.equal, buffers, norm.buffers()))
    assert norm.num_batches_tracked == 1


def test_a_graph_from_before_the_step_can_still_go_backward():
    """Putting a buffer back must not count as a modification of it."""
    norm, head = nn.BatchNorm1d(5).double(), nn.Linear(5, 3).double()
    z = X.clone().requires_grad_()
    norm.eval()
    kept = norm(z).square().sum()  # its graph holds the running statistics
    norm.train()
    backward(head)
    momentum(head).step(lambda: head(norm(XV)))
    kept.backward()
    torch.testing.assert_close(z.grad, 2 * X, rtol=1e-4, atol=1e-4)


# --- random numbers --------------------------------------------------------------------------


class Masks:
    """Collects the mask of a Dropout layer at every pass."""

    def __init__(self, layer: nn.Dropout) -> None:
        self.seen: list[torch.Tensor] = []
        layer.register_forward_hook(lambda _m, _x, out: self.seen.append(out == 0))


@pytest.mark.parametrize("fresh", [False, True])
def test_both_passes_of_a_distance_draw_one_dropout_mask(fresh):
    model = network(nn.Dropout(0.5))
    masks, optimizer = Masks(model[2]), momentum(model, corrections=3)
    backward(model)
    masks.seen.clear()
    batches = (XV, XV[:10], XV[:5]) if fresh else (XV,)
    functions = [lambda x=x: model(x).softmax(1) for x in batches]
    optimizer.step(functions if fresh else functions[0])
    before, after = (
        (masks.seen[:3], masks.seen[3:]) if fresh else (masks.seen[:1] * 3, masks.seen[1:])
    )
    assert len(after) == 3
    assert all(map(torch.equal, before, after))
    assert before[0].any()
    if fresh:
        assert not torch.equal(before[0][:5], before[2])  # each X_V has a mask of its own


def test_the_random_numbers_go_on_as_after_one_pass():
    for n, passes in ((1, 1), (4, 1), (2, 2)):
        model = network(nn.Dropout(0.5))
        backward(model)
        torch.manual_seed(7)
        for _ in range(passes):
            model(XV)
        expected = torch.rand(3)
        torch.manual_seed(7)
        functions = [lambda m=model: m(XV).softmax(1) for _ in range(passes)]
        momentum(model, corrections=n).step(functions[0] if passes == 1 else functions)
        assert torch.equal(torch.rand(3), expected)


def test_one_mask_for_the_whole_step():
    model = network(nn.Dropout(0.5))
    masks, optimizer = Masks(model[2]), momentum(model, corrections=2)
    for _ in range(2):
        model.zero_grad()
        masks.seen.clear()
        with optimizer.one_mask():
            logits = model(X)
        torch.rand(5)  # drawn in between
        F.cross_entropy(logits, Y).backward()
        state = torch.get_rng_state()
        optimizer.step(lambda: model(XV[:20]).softmax(1))
        assert torch.equal(torch.get_rng_state(), state)
        assert len(masks.seen) == 4
        assert all(torch.equal(m, masks.seen[0]) for m in masks.seen)
    first = masks.seen[0]
    backward(model)  # without the block the next step has a mask of its own again
    optimizer.step(lambda: model(XV[:20]).softmax(1))
    assert not torch.equal(masks.seen[-1], first)
    assert not torch.equal(masks.seen[-1], masks.seen[4])


def test_a_pass_that_failed_leaves_no_mask():
    model = network(nn.Dropout(0.5))
    masks, optimizer = Masks(model[2]), momentum(model)
    torch.manual_seed(5)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), optimizer.one_mask():
        model(X[:, :2])
    backward(model)  # its mask is the one that the failed pass would have drawn
    optimizer.step(lambda: model(X).softmax(1))
    assert torch.equal(masks.seen[1], masks.seen[2])
    assert not torch.equal(masks.seen[0], masks.seen[1])


def test_lambda_zero_draws_no_random_numbers():
    model = network(nn.Dropout(0.5))
    backward(model)
    state = torch.get_rng_state()
    momentum(model, lam=0.0).step(lambda: model(XV).softmax(1))
    assert torch.equal(torch.get_rng_state(), state)


# --- .grad and accumulation ------------------------------------------------------------------


@pytest.mark.parametrize("velocity", ["torch", "paper"])
def test_the_users_gradient_is_left_as_it_was(velocity):
    model = network()
    optimizer = momentum(model, corrections=2, velocity=velocity)
    for rate in (0.1, 0.01):
        optimizer.param_groups[0]["lr"] = rate
        backward(model)
        given = [(p.grad, p.grad.clone()) for p in model.parameters()]
        optimizer.step(lambda: model(XV).softmax(1))
        for p, (grad, value) in zip(model.parameters(), given, strict=True):
            assert p.grad is grad
            assert torch.equal(grad, value)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (
        0.01, 0.01,
    )  # fmt: skip


def test_accumulated_gradients_are_those_of_the_whole_batch():
    halves, whole = network(), network()
    backward(whole)
    halves.zero_grad()
    for part in (slice(0, 10), slice(10, 20)):
        (F.cross_entropy(halves(X[part]), Y[part]) / 2).backward()
    for m in (halves, whole):
        momentum(m, corrections=2).step(lambda m=m: m(XV).softmax(1))
    torch.testing.assert_close(flat(halves), flat(whole), rtol=1e-12, atol=1e-14)


# --- as a torch optimizer --------------------------------------------------------------------


def test_it_is_an_optimizer_and_shares_its_groups_with_the_base():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lam": 0.0},
        {"params": model[2].parameters(), "lr": 0.01},
    ]
    base = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    optimizer = HilbertConstrained(base, lam=0.7, inner_lr=0.03, norm="squared")
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert [g["lam"] for g in optimizer.param_groups] == [0.0, 0.7]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.01]
    assert all(g["inner_lr"] == 0.03 and g["norm"] == "squared" for g in base.param_groups)
    assert optimizer.defaults["momentum"] == 0.9  # schedulers that cycle momentum look there
    backward(model)
    optimizer.zero_grad()
    assert model[0].weight.grad is None


def test_wrapping_keeps_what_the_base_has_learned():
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model)
    sgd.step()
    buffer = sgd.state[model[0].weight]["momentum_buffer"]
    optimizer = HilbertConstrained(sgd)
    assert optimizer.state[model[0].weight]["momentum_buffer"] is buffer


def test_groups_may_join_later():
    model = network()
    optimizer = HilbertConstrained(torch.optim.SGD(model[0].parameters(), lr=0.1), lam=0.9)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.2, "lam": 0.1})
    assert len(optimizer.base.param_groups) == len(optimizer.param_groups) == 2
    assert [g["lam"] for g in optimizer.param_groups] == [0.9, 0.1]
    assert optimizer.param_groups[1]["inner_lr"] == 0.02
    assert optimizer.param_groups[1]["momentum"] == 0
    before = model[2].weight.clone()
    steps(model, optimizer, 1)
    assert (model[2].weight != before).all()
    with pytest.raises(ValueError, match="finite lam"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lam": -1.0})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("make", [momentum, adam])
@pytest.mark.parametrize("disk", [False, True])
def test_it_resumes_bit_for_bit(make, disk):
    straight = network(nn.Dropout(0.2))
    options = {"velocity": "paper"} if make is momentum else {}
    optimizer = make(straight, lam=0.3, inner_lr=0.05, corrections=2, **options)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.3)

    def go(model, optimizer, schedule):
        for _ in range(3):
            steps(model, optimizer, 1)
            schedule.step()
        return flat(model)

    go(straight, optimizer, schedule)
    saved = [straight.state_dict(), optimizer.state_dict(), schedule.state_dict(),
             torch.get_rng_state()]  # fmt: skip
    if disk:
        torch.save(saved, file := io.BytesIO())
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    else:
        saved = copy.deepcopy(saved)
    expected = go(straight, optimizer, schedule)

    resumed = network(nn.Dropout(0.2), seed=9)
    other = make(resumed)  # with other hyperparameters, which the state replaces
    again = torch.optim.lr_scheduler.StepLR(other, 2, 0.3)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    torch.set_rng_state(saved[3])
    assert other.param_groups is other.base.param_groups
    assert other.state is other.base.state
    assert other.param_groups[0]["lam"] == 0.3
    assert torch.equal(go(resumed, other, again), expected)


def test_a_state_of_the_bare_optimizer_can_go_on_on_a_leash():
    model, twin = network(), network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model)
    sgd.step()
    twin.load_state_dict(model.state_dict())
    optimizer = momentum(twin, lam=0.4)
    optimizer.load_state_dict(copy.deepcopy(sgd.state_dict()))
    (group,) = optimizer.param_groups
    assert (group["lam"], group["weight_decay"]) == (0.4, 0)
    expected = steps(model, HilbertConstrained(sgd, lam=0.4), 1)
    assert torch.equal(steps(twin, optimizer, 1), expected)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_whole_and_apart(how):
    model = network()
    optimizer = HCGD(model.parameters(), 0.1, 0.9, lam=0.4, distributed=False)
    steps(model, optimizer, 2)
    twin_model, twin = how((model, optimizer))
    assert isinstance(twin, HCGD)
    assert twin.param_groups is twin.base.param_groups
    assert twin.state is twin.base.state
    assert twin.distributed is False
    before = flat(twin_model)
    steps(model, optimizer, 1)
    assert torch.equal(flat(twin_model), before)
    steps(twin_model, twin, 1)
    assert torch.equal(flat(twin_model), flat(model))


@pytest.mark.parametrize("on_base", [False, True])
def test_schedulers_set_the_rate_and_cycle_the_momentum(on_base):
    model, twin = network(), network()
    optimizer, other = momentum(model), momentum(twin)
    plain = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = cycle(optimizer.base if on_base else optimizer, max_lr=0.5, total_steps=6)
    expected = cycle(plain, max_lr=0.5, total_steps=6)
    for _ in range(4):
        now = {name: plain.param_groups[0][name] for name in ("lr", "momentum")}
        assert {name: optimizer.param_groups[0][name] for name in now} == now
        other.param_groups[0].update(now)
        assert torch.equal(steps(model, optimizer, 1), steps(twin, other, 1))
        plain.step()
        schedule.step()
        expected.step()


def test_a_schedule_of_lambda_is_one_line():
    model = network()
    optimizer = momentum(model)
    for group in optimizer.param_groups:
        group["lam"] = np.float64(0.25)
        group["corrections"] = np.int64(2)
    assert steps(model, optimizer, 1).isfinite().all()
    assert len(optimizer.distances) == 2


# --- closures --------------------------------------------------------------------------------


def test_closures_run_first_with_gradients_and_their_value_is_returned():
    model, other = network(), network()
    optimizer = momentum(model)

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(lambda: model(XV).softmax(1), closure)
    steps(other, momentum(other), 1)
    assert torch.equal(loss, F.cross_entropy(network()(X), Y))
    assert torch.equal(flat(model), flat(other))
    backward(model)
    assert optimizer.step(lambda: model(XV).softmax(1)) is None


def test_a_base_may_evaluate_the_closure_again():
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([closure(), closure()])
            return super().step()

    model, seen, calls = network(), [], itertools.count()

    def closure():
        backward(model)
        return next(calls)

    loss = HilbertConstrained(Twice(model.parameters(), lr=0.1)).step(
        lambda: model(XV).softmax(1), closure
    )
    assert (loss, seen) == (0, [[0, 1]])


def test_hooks_and_no_grad_around_the_step_do_not_matter():
    model, other = network(), network()
    optimizer = momentum(model)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.base.register_step_post_hook(lambda *_: calls.append("base"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    backward(model)
    with torch.no_grad():
        optimizer.step(lambda: model(XV).softmax(1))
    assert calls == ["before", "base", "after"]
    assert torch.equal(flat(model), steps(other, momentum(other), 1))


# --- reuse of the training batch's forward ---------------------------------------------------


def test_the_training_batchs_own_outputs_save_a_pass():
    model, other = network(), network()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    optimizer = momentum(model, corrections=2)
    for k in range(3):
        model.zero_grad()
        calls.clear()
        logits = model(X)
        F.cross_entropy(logits, Y).backward()
        optimizer.step(lambda: model(X).softmax(1), current=logits.softmax(1))
        assert len(calls) == (4 if k == 0 else 3)  # compared once, then trusted
    steps(other, momentum(other, corrections=2), 3, x_v=X)
    torch.testing.assert_close(flat(model), flat(other), rtol=1e-12, atol=1e-14)


def test_reuse_with_dropout_needs_one_mask_and_has_it():
    model = network(nn.Dropout(0.5))
    optimizer = momentum(model)
    masks = Masks(model[2])
    for _ in range(2):
        model.zero_grad()
        masks.seen.clear()
        with optimizer.one_mask():
            logits = model(X)
        F.cross_entropy(logits, Y).backward()
        optimizer.step(lambda: model(X).softmax(1), current=logits.softmax(1))
        assert all(torch.equal(m, masks.seen[0]) for m in masks.seen)
    model.zero_grad()
    logits = model(X)
    F.cross_entropy(logits, Y).backward()
    before = everything(model, optimizer)
    message = (
        r"^the output function draws random numbers \(dropout\?\), and current was drawn with "
        r"others: compute it within `with optimizer.one_mask\(\):`$"
    )
    with pytest.raises(ValueError, match=message):
        optimizer.step(lambda: model(X).softmax(1), current=logits.softmax(1))
    assert everything(model, optimizer) == before
    fresh = momentum(model)
    with pytest.raises(ValueError, match=message):
        fresh.step(lambda: model(X).softmax(1), current=logits.softmax(1))


def test_the_graph_of_current_is_not_held():
    model = network()
    optimizer = momentum(model)
    backward(model)
    alive = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive.append(1)
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    for _ in range(2):
        current = Watched.apply(model(X)).softmax(1)
        saved = current.grad_fn
        backward(model)
        optimizer.step(lambda: model(X).softmax(1), current=current)
        assert current.grad_fn is saved
    held = [v for v in vars(optimizer).values() if isinstance(v, torch.Tensor)]
    assert held == []


@pytest.mark.parametrize(
    ("size", "off", "fits"),
    [
        (0.0, 9e-4, True),  # what half precision may change, say
        (0.0, 2e-3, False),
        (1e6, 9e3, True),
        (1e6, -9e3, True),
        (1e6, 1.1e4, False),
        (1.0, 0.5, False),
    ],
)
def test_current_is_what_the_function_returns_up_to_rounding(size, off, fits):
    theta = nn.Parameter(torch.full((1, 3), size, dtype=torch.float64))
    theta.grad = torch.ones(1, 3, dtype=torch.float64)
    current, optimizer = theta.detach() + off, HilbertConstrained(torch.optim.SGD([theta], 0.1))
    if fits:
        optimizer.step(lambda: theta, current=current)
    else:
        with pytest.raises(ValueError, match="one function on one batch"):
            optimizer.step(lambda: theta, current=current)


def test_current_must_be_what_the_function_returns():
    model = network()
    optimizer = momentum(model, corrections=2)
    backward(model)
    before = everything(model, optimizer)
    each = [lambda: model(X), lambda: model(XV)]
    with pytest.raises(ValueError, match=r"^current belongs to one output function, got several$"):
        optimizer.step(each, current=model(X))
    with pytest.raises(ValueError, match=r"shape \(30, 3\), is not what .*\(20, 3\)"):
        optimizer.step(lambda: model(X), current=model(XV))
    with pytest.raises(ValueError, match="one function on one batch"):
        optimizer.step(lambda: model(X).softmax(1), current=model(X))  # logits
    with pytest.raises(TypeError, match=r"floating-point outputs.*got list"):
        optimizer.step(lambda: model(X), current=[1.0])
    assert everything(model, optimizer) == before
    optimizer.step(lambda: model(X), current=model(X))
    with pytest.raises(ValueError, match=r"shape \(30, 3\) as before the step, got \(20, 3\)"):
        optimizer.step(lambda: model(X), current=model(XV))  # trusted by now, but it must fit


def test_outputs_that_are_not_numbers_are_not_taken_for_another_functions():
    model = network()
    optimizer = momentum(model)
    backward(model)
    nan = model(X) * math.nan
    with pytest.raises(FloatingPointError, match=r"got NaN or infinity before the step$"):
        optimizer.step(lambda: model(X) * math.nan, current=nan)


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lam": -1.0}, r"finite lam \(λ\) of at least 0, got -1.0"),
        ({"lam": math.nan}, r"lam \(λ\) of at least 0, got nan"),
        ({"lam": math.inf}, "finite lam.*got inf"),
        ({"lam": True}, "finite lam.*got True"),
        ({"inner_lr": -0.1}, r"inner_lr \(η\) of at least 0, got -0.1"),
        ({"inner_lr": "0.1"}, r"inner_lr \(η\).*got '0.1'"),
        ({"inner_lr": None}, r"inner_lr \(η\).*got None"),
        ({"corrections": 0}, r"corrections \(n\) of at least 1, got 0"),
        ({"corrections": 1.5}, r"integer corrections \(n\).*1.5"),
        ({"corrections": True}, r"integer corrections \(n\).*True"),
        ({"norm": "l1"}, "expected norm 'rms' or 'squared', got 'l1'"),
        ({"velocity": "fast"}, "expected velocity 'torch' or 'paper', got 'fast'"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_at_once_and_in_the_groups(values, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        momentum(model, **values)
    optimizer = momentum(model)
    steps(model, optimizer, 1)
    optimizer.param_groups[0].update(values)
    backward(model)
    before, calls = everything(model, optimizer), []
    with pytest.raises(ValueError, match=message):
        optimizer.step(lambda: model(XV).softmax(1), lambda: calls.append(1))
    assert everything(model, optimizer) == before
    assert not calls


def late(value):
    """Outputs that are fine before the proposal and not after it."""

    def outputs_of(model):
        calls = itertools.count()
        return lambda: value(model) if next(calls) else model(XV).softmax(1)

    return outputs_of


def interrupted(_model):
    raise KeyboardInterrupt


BEFORE_THE_STEP = "expected finite outputs, got NaN or infinity before the step"


@pytest.mark.parametrize("make", [momentum, adam])
@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        (lambda m: None, TypeError, r"output function.*or a list of 1; got NoneType"),
        (lambda m: torch.ones(3, 2), TypeError, "needs an output function.*got Tensor"),
        (lambda m: [1], TypeError, "needs an output function.*got list"),
        (lambda m: [], ValueError, "expected 1 output functions, one a correction, got 0"),
        (lambda m: [m, m], ValueError, "expected 1 output functions, one a correction, got 2"),
        (lambda m: lambda: [1.0], TypeError, r"floating-point outputs of shape \(N.*got list"),
        (lambda m: lambda: m(XV).argmax(1), TypeError, r"floating-point outputs.*torch.int64"),
        (lambda m: lambda: m(XV)[:0], ValueError, r"one example, got shape \(0, 3\)"),
        (lambda m: lambda: m(XV).sum(), ValueError, r"shape \(N, \*C\).*got shape \(\)"),
        (lambda m: lambda: m(XV) * math.nan, FloatingPointError, BEFORE_THE_STEP),
        (lambda m: lambda: m(XV) / 0, FloatingPointError, BEFORE_THE_STEP),
        (
            lambda m: lambda: m(XV).detach(), ValueError,
            r"^expected outputs that depend on the parameters, got some without gradient: does the "
            r"output function use no_grad, detach or NumPy\?$",
        ),
        (lambda m: lambda: interrupted(m), KeyboardInterrupt, None),
        (late(lambda m: m(XV) * math.inf), FloatingPointError, "after the proposed step: is the l"),
        (late(lambda m: m(X).softmax(1)), ValueError, r"\(30, 3\) as before the step, got \(20, 3"),
        (late(lambda m: m(XV).softmax(1).tolist()), TypeError, "got list"),
        (late(interrupted), KeyboardInterrupt, None),
        (late(lambda m: 1e200 * m(XV)), FloatingPointError, "some too far apart"),
        (
            late(lambda m: (m(XV).softmax(1) * torch.rand(1) * 0).sqrt()), FloatingPointError,
            "finite gradient of the distance: the outputs are not differentiable here",
        ),
    ],
)  # fmt: skip
def test_a_refused_step_changes_nothing(make, outputs, error, message):
    model = network(nn.BatchNorm1d(6), nn.Dropout(0.1))
    optimizer = make(model)
    for k in range(2):  # before the base optimizer has any state, and after
        backward(model)
        before = everything(model, optimizer)
        with pytest.raises(error, match=message):
            optimizer.step(outputs(model))
        assert everything(model, optimizer) == before
        if k == 0:
            assert len(optimizer.state) == 0
            optimizer.step(lambda: model(XV).softmax(1))


def test_after_a_refusal_training_goes_on_as_if_nothing_had_been():
    model, other = network(), network()
    optimizer = momentum(model, velocity="paper", corrections=2)
    for k in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (k + 1)
        backward(model)
        with pytest.raises(FloatingPointError):
            optimizer.step(late(lambda m: m(XV) * math.nan)(model))
        optimizer.step(lambda: model(XV).softmax(1))
    twin = momentum(other, velocity="paper", corrections=2)
    for k in range(4):
        twin.param_groups[0]["lr"] = 0.1 / (k + 1)
        steps(other, twin, 1)
    assert torch.equal(flat(model), flat(other))


def test_other_ways_to_ask_for_the_impossible():
    model = network()
    for wrong in (model, momentum(model)):
        with pytest.raises(
            TypeError, match=rf"^expected a torch optimizer as base, got {type(wrong).__name__}$"
        ):
            HilbertConstrained(wrong)
    apart = r"^Nesterov's velocity is not its step; pass absorb=False to keep it apart$"
    nesterov = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    with pytest.raises(ValueError, match=apart):
        HilbertConstrained(nesterov)
    form = r"^velocity='paper' is a form of SGD's momentum; the base is not SGD$"
    with pytest.raises(ValueError, match=form):
        adam(model, velocity="paper")
    differentiable = torch.optim.SGD(model.parameters(), lr=0.1, differentiable=True)
    with pytest.raises(
        ValueError,
        match=r"^expected a base with differentiable=False: no graph is kept of a step$",
    ):
        HilbertConstrained(differentiable)
    optimizer = momentum(model)
    with pytest.raises(
        ValueError, match=r"^no parameter has a gradient: call loss.backward\(\) before step$"
    ):
        optimizer.step(lambda: model(XV))
    one = [nn.Parameter(torch.ones(1))]
    with pytest.raises(ValueError, match=apart):
        optimizer.add_param_group({"params": one, "momentum": 0.9, "nesterov": True})
    with pytest.raises(ValueError, match=form):
        adam(model).add_param_group({"params": one, "velocity": "paper"})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": one, "corrections": 3})
    backward(model)
    with pytest.raises(
        ValueError, match=r"^expected the same corrections and norm in all parameter groups, got "
        r"\[\(1, 'rms'\), \(3, 'rms'\)\]$",
    ):  # fmt: skip
        optimizer.step(lambda: model(XV))
    assert momentum(model).distributed is True
    with pytest.raises(
        TypeError, match=r"^step needs an output function that returns f\(X_V\), such as lambda: "
        r"model\(x_v\)\.softmax\(dim=1\), or a list of 1; got NoneType$",
    ):  # fmt: skip
        momentum(model).step()
