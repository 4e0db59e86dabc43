"""HCGD against a slow twin of Algorithm 2, a closed form, and what a drop-in optimizer owes."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hilbertlib.hcgd import HCGD, HilbertConstrained

X = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
XV = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network(seed: int = 0, *extra: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), *extra, nn.Linear(6, 3)).double()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


def backward(model: nn.Module, x: torch.Tensor = X, y: torch.Tensor = Y) -> None:
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def steps(model: nn.Module, optimizer: HilbertConstrained, n: int = 4, x_v=XV) -> torch.Tensor:
    for _ in range(n):
        backward(model)
        optimizer.step(lambda: model(x_v).softmax(1))
    return flat(model)


def state_of(optimizer) -> dict:
    return copy.deepcopy(optimizer.state_dict())


def same_state(a: dict, b: dict) -> bool:
    if a["param_groups"] != b["param_groups"] or a["state"].keys() != b["state"].keys():
        return False
    return all(
        torch.equal(v, b["state"][k][n]) if isinstance(v, torch.Tensor) else v == b["state"][k][n]
        for k, s in a["state"].items()
        for n, v in s.items()
    )


# --- the algorithm ---------------------------------------------------------------------------


def algorithm_2(w, rates, *, beta, eta, lam, n, decay, norm, fresh):
    """Algorithm 2 line by line, on a linear softmax classifier, with explicit Δθ and v."""
    v = torch.zeros_like(w)
    f = lambda weights, x: (x @ weights.T).softmax(1)  # noqa: E731
    for rate in rates:
        theta = w.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(X @ theta.T, Y), theta)
        gradient = gradient + decay * w  # J
        v = beta * v + rate * gradient
        delta = -v
        for j in range(n):
            x_v = XV.roll(j, 1) if fresh else XV
            d = delta.clone().requires_grad_()
            square = (f(w, x_v) - f(w + d, x_v)).pow(2).sum(1).mean()
            cost = lam * square if norm == "squared" else (lam**2 * square).sqrt()
            (g,) = torch.autograd.grad(cost, d)
            if j > 0:
                g = g + gradient
            delta = delta - eta * g
            v = v + eta * g
        w = w + delta
    return w


@pytest.mark.parametrize("norm", ["rms", "squared"])
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("fresh", [False, True])
def test_it_is_algorithm_2(n, norm, fresh):
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False).double()
    rates = [0.1, 0.1, 0.05, 0.2, 0.01]
    expected = algorithm_2(
        model.weight.detach().clone(), rates,
        beta=0.9, eta=0.03, lam=0.7, n=n, decay=0.01, norm=norm, fresh=fresh,
    )  # fmt: skip
    optimizer = HCGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01,
        lam=0.7, inner_lr=0.03, corrections=n, norm=norm,
    )  # fmt: skip
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        backward(model)
        batches = [XV.roll(j, 1) for j in range(n)]
        each = [lambda x=x: model(x).softmax(1) for x in batches]
        optimizer.step(each if fresh else lambda: model(XV).softmax(1))
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("norm", ["rms", "squared"])
def test_one_correction_of_a_linear_model_in_closed_form(norm):
    # f(x) = Wx, so f(θ+Δ) − f(θ) = Δx: D² = tr(Δ S Δᵀ) with S the second moment of X_V,
    # and ∇D² = 2ΔS, ∇D = ΔS / D.
    model = nn.Linear(5, 2, bias=False).double()
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones_like(before)
    delta = -0.1 * torch.ones_like(before)
    moment = XV.T @ XV / len(XV)
    distance = (delta @ moment * delta).sum().sqrt()
    pull = 2 * delta @ moment if norm == "squared" else delta @ moment / distance
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    HilbertConstrained(sgd, lam=0.5, inner_lr=0.02, norm=norm).step(lambda: model(XV))
    expected = before + delta - 0.5 * 0.02 * pull
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-12, atol=0)


BASES = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, maximize=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
}


@pytest.mark.parametrize("base", BASES)
def test_without_a_leash_it_is_the_base_optimizer_bit_for_bit(base):
    ours, theirs = network(), network()
    optimizer = HilbertConstrained(BASES[base](ours.parameters()), lam=0.0)
    plain = BASES[base](theirs.parameters())
    for rate in (0.1, 0.1, 0.03):
        for o in (optimizer, plain):
            if base != "tensor rate":
                o.param_groups[0]["lr"] = rate
        for model in (ours, theirs):
            backward(model)
        optimizer.step(lambda: ours(XV).softmax(1))
        plain.step()
    assert torch.equal(flat(ours), flat(theirs))


@pytest.mark.parametrize("base", BASES)
def test_around_any_optimizer_a_leash_shortens_a_long_step(base):
    moved = {}
    for lam in (0.0, 0.5):
        model = network()
        optimizer = HilbertConstrained(BASES[base](model.parameters()), lam)
        start = model(XV).softmax(1).detach()
        steps(model, optimizer, 1)
        moved[lam] = (model(XV).softmax(1) - start).pow(2).sum(1).mean()
    if base not in ("Adam", "AdamW", "tensor rate"):  # their first step is shorter than λη
        assert moved[0.5] < moved[0.0]
    assert moved[0.5] != moved[0.0]


@given(n=st.integers(1, 6), eta=st.floats(0, 0.2))
def test_a_slack_leash_with_more_corrections_is_a_larger_rate(n, eta):
    ours, theirs = network(), network()
    sgd = torch.optim.SGD(ours.parameters(), lr=0.1, weight_decay=0.02)
    optimizer = HilbertConstrained(sgd, lam=0.0, inner_lr=eta, corrections=n)
    plain = torch.optim.SGD(theirs.parameters(), lr=0.1 + (n - 1) * eta, weight_decay=0.02)
    for _ in range(3):
        for model in (ours, theirs):
            backward(model)
        optimizer.step(lambda: ours(XV).softmax(1))
        plain.step()
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-12, atol=1e-13)


@given(st.floats(0.1, 10))
def test_with_one_correction_only_the_product_of_lambda_and_eta_counts(share):
    a, b = network(), network()
    one = HilbertConstrained(BASES["momentum"](a.parameters()), 0.5, 0.02)
    two = HilbertConstrained(BASES["momentum"](b.parameters()), 0.5 * share, 0.02 / share)
    torch.testing.assert_close(steps(a, one), steps(b, two), rtol=1e-11, atol=1e-12)


def test_decoupled_weight_decay_is_no_part_of_the_repeated_gradient():
    for kind, coupled in ((torch.optim.Adam, True), (torch.optim.AdamW, False)):
        model, plain = network(), network()
        base = lambda m, k=kind: k(m.parameters(), lr=0.01, weight_decay=0.5)  # noqa: E731
        before = flat(model)
        optimizer = HilbertConstrained(base(model), lam=0.0, inner_lr=0.1, corrections=2)
        other = base(plain)
        for m in (model, plain):
            backward(m)
        gradient = torch.cat([p.grad.reshape(-1) for p in plain.parameters()])
        optimizer.step(lambda m=model: m(XV).softmax(1))
        other.step()
        repeated = gradient + (0.5 * before if coupled else 0)
        torch.testing.assert_close(flat(model), flat(plain) - 0.1 * repeated)


def test_maximizing_repeats_the_gradient_uphill():
    model, plain = network(), network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    optimizer = HilbertConstrained(sgd, lam=0.0, inner_lr=0.05, corrections=3)
    backward(model), backward(plain)
    optimizer.step(lambda: model(XV).softmax(1))
    torch.optim.SGD(plain.parameters(), lr=0.2, maximize=True).step()
    torch.testing.assert_close(flat(model), flat(plain))


# --- momentum --------------------------------------------------------------------------------


def test_the_velocity_is_the_corrected_step_and_adams_moments_are_left_alone():
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = HilbertConstrained(sgd, lam=2.0)
    before = flat(model)
    steps(model, optimizer, 1)
    velocity = torch.cat([sgd.state[p]["momentum_buffer"].reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(-0.1 * velocity, flat(model) - before)

    leashed, free = network(), network()
    adam = torch.optim.Adam(leashed.parameters())
    backward(leashed), backward(free)
    HilbertConstrained(adam, lam=5.0).step(lambda: leashed(XV).softmax(1))
    other = torch.optim.Adam(free.parameters())
    other.step()
    for p, q in zip(leashed.parameters(), free.parameters(), strict=True):
        assert torch.equal(adam.state[p]["exp_avg"], other.state[q]["exp_avg"])
        assert torch.equal(adam.state[p]["exp_avg_sq"], other.state[q]["exp_avg_sq"])
    assert not torch.equal(flat(leashed), flat(free))


def test_without_absorbing_the_velocity_is_plain_sgds():
    model, free = network(), network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    other = torch.optim.SGD(free.parameters(), lr=0.1, momentum=0.9)
    backward(model), backward(free)
    HilbertConstrained(sgd, lam=2.0, absorb=False).step(lambda: model(XV).softmax(1))
    other.step()
    for p, q in zip(model.parameters(), free.parameters(), strict=True):
        assert torch.equal(sgd.state[p]["momentum_buffer"], other.state[q]["momentum_buffer"])


def test_torchs_and_the_papers_velocity_differ_only_where_the_rate_changes():
    def run(velocity, rates):
        model = network()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = HilbertConstrained(sgd, velocity=velocity)
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            steps(model, optimizer, 1)
        return flat(model)

    assert torch.equal(run("torch", [0.1] * 3), run("paper", [0.1] * 3))
    assert (run("torch", [0.1, 0.01, 0.01]) - run("paper", [0.1, 0.01, 0.01])).norm() > 1e-3


def test_a_rate_of_zero_neither_moves_nor_divides():
    model = network()
    optimizer = HCGD(model.parameters(), lr=0.1, momentum=0.9, lam=0.0)
    optimizer.param_groups[0]["lr"] = 0.0  # a warm-up often starts there
    before = flat(model)
    steps(model, optimizer, 1)
    assert torch.equal(flat(model), before)
    optimizer.param_groups[0]["lr"] = 0.1
    assert steps(model, optimizer, 2).isfinite().all()


# --- leaving no trace ------------------------------------------------------------------------


def test_buffers_of_batchnorm_are_bit_identical():
    model = network(0, nn.BatchNorm1d(6))
    optimizer = HilbertConstrained(BASES["SGD"](model.parameters()), corrections=3)
    for _ in range(3):
        backward(model)
        before = {n: b.clone() for n, b in model.named_buffers()}
        optimizer.step(lambda: model(XV).softmax(1))
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, before[name]), name
    assert model[2].num_batches_tracked == 3  # the training passes alone
    assert model.training


def test_both_passes_of_a_distance_see_one_dropout_mask():
    model = network(0, nn.Dropout(0.5))
    seen = []
    model[2].register_forward_hook(
        lambda _m, inputs, out: seen.append((out == 0) & (inputs[0] != 0))
    )
    optimizer = HilbertConstrained(BASES["SGD"](model.parameters()), corrections=3)
    for fresh in (False, True):
        backward(model)
        seen.clear()
        if fresh:
            optimizer.step([lambda x=x: model(x).softmax(1) for x in (XV, XV[:10], XV[:5])])
            before, after = seen[:3], seen[3:]
        else:
            optimizer.step(lambda: model(XV).softmax(1))
            before, after = [seen[0]] * 3, seen[1:]
        assert len(after) == 3
        for a, b in zip(before, after, strict=True):
            assert torch.equal(a, b)
        assert seen[0].any()


def test_the_random_state_afterwards_is_that_after_one_pass():
    model = network(0, nn.Dropout(0.5))
    optimizer = HilbertConstrained(BASES["SGD"](model.parameters()), corrections=4)
    backward(model)
    torch.manual_seed(7)
    model(XV)
    expected = torch.rand(3)
    torch.manual_seed(7)
    optimizer.step(lambda: model(XV).softmax(1))
    assert torch.equal(torch.rand(3), expected)


def test_grad_is_left_as_it_was_and_accumulates():
    model = network()
    optimizer = HilbertConstrained(BASES["momentum"](model.parameters()), corrections=2)
    backward(model)
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step(lambda: model(XV).softmax(1))
    for p, g in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.grad, g)

    halves, whole = network(), network()
    backward(whole)
    halves.zero_grad()
    for part in (slice(0, 10), slice(10, 20)):
        (F.cross_entropy(halves(X[part]), Y[part]) / 2).backward()
    for m in (halves, whole):
        HilbertConstrained(BASES["SGD"](m.parameters())).step(lambda m=m: m(XV).softmax(1))
    torch.testing.assert_close(flat(halves), flat(whole), rtol=1e-12, atol=1e-14)


def test_frozen_and_unused_parameters_stay():
    model = network()
    spare = nn.Linear(2, 2).double()
    model[0].weight.requires_grad_(False)
    everything = [*model.parameters(), *spare.parameters()]
    optimizer = HilbertConstrained(torch.optim.SGD(everything, lr=0.1), corrections=2)
    frozen, unused = model[0].weight.clone(), flat(spare)
    backward(model)
    optimizer.step(lambda: model(XV).softmax(1))
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(flat(spare), unused)
    # a gradient in only one of the passes is no error
    spare.weight.grad = torch.ones_like(spare.weight)
    backward(model)
    optimizer.step(lambda: model(XV).softmax(1))
    assert (flat(spare) != unused).any()


# --- as a torch optimizer --------------------------------------------------------------------


def test_it_is_an_optimizer_and_its_groups_carry_everything():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lam": 0.0},
        {"params": model[2].parameters(), "lr": 0.01},
    ]
    base = torch.optim.SGD(groups, lr=0.1)
    optimizer = HilbertConstrained(base, lam=0.7, inner_lr=0.03, norm="squared")
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is base.param_groups
    assert [g["lam"] for g in optimizer.param_groups] == [0.0, 0.7]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.01]
    assert all(g["inner_lr"] == 0.03 and g["norm"] == "squared" for g in base.param_groups)
    optimizer.zero_grad()
    assert model[0].weight.grad is None


def test_lambda_of_each_group_is_its_own():
    free, leashed = network(), network()
    groups = [{"params": leashed[0].parameters(), "lam": 0.0}, {"params": leashed[2].parameters()}]
    optimizer = HilbertConstrained(torch.optim.SGD(groups, lr=0.1), lam=0.7)
    backward(free), backward(leashed)
    optimizer.step(lambda: leashed(XV).softmax(1))
    torch.optim.SGD(free.parameters(), lr=0.1).step()
    assert torch.equal(leashed[0].weight, free[0].weight)
    assert not torch.equal(leashed[2].weight, free[2].weight)


def test_groups_may_join_later():
    model = network()
    optimizer = HilbertConstrained(torch.optim.SGD(model[0].parameters(), lr=0.1), lam=0.9)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.2, "lam": 0.1})
    assert len(optimizer.base.param_groups) == 2
    assert optimizer.param_groups[1]["lam"] == 0.1
    assert optimizer.param_groups[1]["inner_lr"] == 0.02
    before = model[2].weight.clone()
    steps(model, optimizer, 1)
    assert (model[2].weight != before).all()


def test_schedulers_see_the_rate():
    model = network()
    optimizer = HilbertConstrained(BASES["momentum"](model.parameters()))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    for _ in range(4):
        steps(model, optimizer, 1)
        scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("base", ["momentum", "Adam"])
def test_it_resumes_bit_for_bit(base):
    def build(model):
        return HilbertConstrained(
            BASES[base](model.parameters()), lam=0.3, inner_lr=0.05, corrections=2
        )

    straight = network()
    optimizer = build(straight)
    steps(straight, optimizer, 3)
    saved = copy.deepcopy(straight.state_dict()), state_of(optimizer)
    steps(straight, optimizer, 3)

    resumed = network(seed=9)
    resumed.load_state_dict(saved[0])
    other = HilbertConstrained(BASES[base](resumed.parameters()))  # other hyperparameters
    other.load_state_dict(saved[1])
    assert other.param_groups is other.base.param_groups
    assert other.param_groups[0]["lam"] == 0.3
    steps(resumed, other, 3)
    assert torch.equal(flat(straight), flat(resumed))


def test_a_state_of_the_bare_optimizer_can_go_on_on_a_leash():
    model = network()
    sgd = BASES["momentum"](model.parameters())
    backward(model)
    sgd.step()
    optimizer = HilbertConstrained(BASES["momentum"](model.parameters()), lam=0.4)
    optimizer.load_state_dict(sgd.state_dict())
    assert optimizer.param_groups[0]["lam"] == 0.4
    assert steps(model, optimizer, 1).isfinite().all()


def test_a_copy_is_whole_and_apart():
    model = network()
    optimizer = HilbertConstrained(BASES["momentum"](model.parameters()), lam=0.4)
    steps(model, optimizer, 2)
    twin_model, twin = copy.deepcopy((model, optimizer))
    assert twin.param_groups is twin.base.param_groups
    before = flat(twin_model)
    steps(model, optimizer, 1)
    assert torch.equal(flat(twin_model), before)
    steps(twin_model, twin, 1)
    assert torch.equal(flat(twin_model), flat(model))


def test_closures_run_first_with_gradients_and_their_value_is_returned():
    model, other = network(), network()
    optimizer = HilbertConstrained(BASES["SGD"](model.parameters()))

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(lambda: model(XV).softmax(1), closure)
    steps(other, HilbertConstrained(BASES["SGD"](other.parameters())), 1)
    assert float(loss) == pytest.approx(float(F.cross_entropy(network()(X), Y)))
    assert torch.equal(flat(model), flat(other))
    backward(model)
    assert optimizer.step(lambda: model(XV).softmax(1)) is None


def test_the_training_batchs_own_outputs_save_a_pass():
    model, other = network(), network()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    optimizer = HilbertConstrained(BASES["momentum"](model.parameters()), corrections=2)
    for k in range(3):
        model.zero_grad()
        calls.clear()
        logits = model(X)
        F.cross_entropy(logits, Y).backward()
        optimizer.step(lambda: model(X).softmax(1), current=logits.softmax(1))
        assert len(calls) == (4 if k == 0 else 3)  # verified once, then trusted
    twin = HilbertConstrained(BASES["momentum"](other.parameters()), corrections=2)
    steps(other, twin, 3, x_v=X)
    torch.testing.assert_close(flat(model), flat(other), rtol=1e-12, atol=1e-14)


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lam": -1.0}, r"lam \(λ\) of at least 0, got -1.0"),
        ({"lam": math.nan}, r"lam \(λ\) of at least 0, got nan"),
        ({"lam": math.inf}, "finite lam"),
        ({"inner_lr": -0.1}, r"inner_lr \(η\) of at least 0, got -0.1"),
        ({"inner_lr": "0.1"}, r"inner_lr \(η\).*got '0.1'"),
        ({"corrections": 0}, r"corrections \(n\) of at least 1, got 0"),
        ({"corrections": 1.5}, r"integer corrections \(n\).*1.5"),
        ({"corrections": True}, r"integer corrections \(n\).*True"),
        ({"norm": "l1"}, "norm 'rms' or 'squared', got 'l1'"),
        ({"velocity": "fast"}, "velocity 'torch' or 'paper', got 'fast'"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_at_once_and_in_the_groups(values, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        HilbertConstrained(BASES["momentum"](model.parameters()), **values)
    optimizer = HilbertConstrained(BASES["momentum"](model.parameters()))
    steps(model, optimizer, 1)
    optimizer.param_groups[0].update(values)
    backward(model)
    before, state = flat(model), state_of(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step(lambda: model(XV).softmax(1))
    assert torch.equal(flat(model), before)
    optimizer.param_groups[0].update({k: 0.0 if k == "lam" else v for k, v in values.items()})
    assert state_of(optimizer)["state"].keys() == state["state"].keys()


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        (None, TypeError, "needs an output function.*got NoneType"),
        (torch.ones(3, 2), TypeError, "needs an output function.*got Tensor"),
        ([1, 2], TypeError, "needs an output function.*list of 2; got list"),
        ([lambda: XV], ValueError, "expected 2 output functions, one a correction, got 1"),
        (lambda: [1.0], TypeError, "to return a tensor, got list"),
        (lambda: torch.zeros(0, 3), ValueError, r"at least one example, got shape \(0, 3\)"),
        (lambda: torch.tensor(1.0), ValueError, r"got shape \(\)"),
        (lambda: torch.full((2, 3), math.nan), FloatingPointError, "before the step, got NaN"),
    ],
)
def test_a_refused_step_changes_nothing(outputs, error, message):
    model = network()
    optimizer = HilbertConstrained(BASES["momentum"](model.parameters()), corrections=2)
    steps(model, optimizer, 2)
    backward(model)
    before, state = flat(model), state_of(optimizer)
    with pytest.raises(error, match=message):
        optimizer.step(outputs)
    assert torch.equal(flat(model), before)
    assert same_state(state, state_of(optimizer))


def test_an_interrupt_in_the_first_pass_changes_nothing():
    model = network()
    optimizer = HilbertConstrained(BASES["Adam"](model.parameters()))
    backward(model)
    before, state = flat(model), state_of(optimizer)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(interrupted)
    assert torch.equal(flat(model), before)
    assert same_state(state, state_of(optimizer))


def test_other_ways_to_ask_for_the_impossible():
    model = network()
    with pytest.raises(TypeError, match="torch optimizer as base, got Sequential"):
        HilbertConstrained(model)
    with pytest.raises(TypeError, match="LBFGS takes many steps in one"):
        HilbertConstrained(torch.optim.LBFGS(model.parameters()))
    nesterov = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    with pytest.raises(ValueError, match="absorb=False"):
        HilbertConstrained(nesterov)
    assert HilbertConstrained(nesterov, absorb=False)
    with pytest.raises(ValueError, match="form of SGD's momentum"):
        HilbertConstrained(torch.optim.Adam(model.parameters()), velocity="paper")
    optimizer = HilbertConstrained(BASES["SGD"](model.parameters()))
    model.zero_grad()
    with pytest.raises(ValueError, match=r"call loss.backward\(\) before step"):
        optimizer.step(lambda: model(XV))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "corrections": 3})
    backward(model)
    with pytest.raises(ValueError, match="must be the same in all parameter groups"):
        optimizer.step(lambda: model(XV))


def test_current_must_be_what_the_function_returns():
    model = network()
    optimizer = HilbertConstrained(BASES["SGD"](model.parameters()), corrections=2)
    backward(model)
    before = flat(model)
    each = [lambda: model(X), lambda: model(XV)]
    with pytest.raises(ValueError, match="belongs to one output function, got several"):
        optimizer.step(each, current=model(X))
    with pytest.raises(ValueError, match=r"shape \(30, 3\), is not what .*\(20, 3\)"):
        optimizer.step(lambda: model(X), current=model(XV))
    with pytest.raises(ValueError, match="one function on one batch"):
        optimizer.step(lambda: model(X), current=model(X) + 1)
    assert torch.equal(flat(model), before)


def test_a_proposal_that_diverges_stands_uncorrected_and_says_so():
    model, free = network(), network()
    optimizer = HilbertConstrained(torch.optim.SGD(model.parameters(), lr=0.1))
    calls = []

    def outputs():
        calls.append(1)
        return model(XV).softmax(1) * (math.nan if len(calls) > 1 else 1.0)

    backward(model), backward(free)
    with pytest.raises(FloatingPointError, match="it stands, uncorrected"):
        optimizer.step(outputs)
    torch.optim.SGD(free.parameters(), lr=0.1).step()
    assert torch.equal(flat(model), flat(free))


def test_outputs_that_change_shape_are_named():
    model = network()
    optimizer = HilbertConstrained(torch.optim.SGD(model.parameters(), lr=0.1))
    batches = iter([XV, XV[:7]])
    backward(model)
    with pytest.raises(ValueError, match=r"shape \(30, 3\) as before the step, got \(7, 3\)"):
        optimizer.step(lambda: model(next(batches)).softmax(1))
