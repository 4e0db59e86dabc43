"""HCGD's arithmetic: against a model derived by hand, and a slow twin written from Algorithm 2."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hilbertlib.distance import l2_distance
from hilbertlib.hcgd import HCGD, HilbertConstrained

SGD = torch.optim.SGD


def network(seed: int = 0, sizes: tuple[int, ...] = (4, 6, 3)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def data(seed: int = 1, n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def probabilities_of(model: nn.Module, x: Tensor):
    return lambda: model(x).softmax(dim=1)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def run(model, optimizer, steps=4, n=1, fresh=False, schedule=None, x_v=None) -> Tensor:
    """Train for a few steps, X_V fixed or fresh for each correction."""
    for t in range(steps):
        if schedule is not None:
            for group in optimizer.param_groups:
                group["lr"] = schedule[t]
        x, y = data(100 + t)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if isinstance(optimizer, HilbertConstrained):
            seeds = [200 + 10 * t + j for j in range(n)] if fresh else [200 + t]
            functions = [probabilities_of(model, data(s)[0]) for s in seeds]
            optimizer.step(functions if fresh else functions[0])
        else:
            optimizer.step()
    return weights(model)


# --- the slow twin ---------------------------------------------------------------------------


def slow_gradient(model, before, x_v, norm) -> list[Tensor]:
    """∇D with the mean over examples written out."""
    now = model(x_v).softmax(dim=1)
    mean_square = sum((now[i] - before[i]).square().sum() for i in range(len(x_v))) / len(x_v)
    if mean_square.item() == 0:
        return [torch.zeros_like(p) for p in model.parameters()]
    distance = mean_square.sqrt() if norm == "rms" else mean_square
    return list(torch.autograd.grad(distance, list(model.parameters())))


def slow_twin(
    model, *, lam, eta, n, norm, beta=0.0, decay=0.0, velocity="paper", absorb=True, steps=4,
    fresh=False, schedule=(0.3,) * 4, sign=1.0, dampening=0.0,
) -> Tensor:  # fmt: skip
    """Algorithm 2, with n corrections rather than n − 1."""
    parameters = list(model.parameters())
    v = [torch.zeros_like(p) for p in parameters]
    for t in range(steps):
        epsilon = schedule[t]
        x, y = data(100 + t)
        loss = F.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, parameters)
        old = [p.detach().clone() for p in parameters]
        j_t = [sign * g + decay * p for g, p in zip(gradients, old, strict=True)]
        batches = [data(200 + 10 * t + k if fresh else 200 + t)[0] for k in range(n)]
        before = [model(b).softmax(dim=1).detach() for b in batches]
        for i, p in enumerate(parameters):
            share = 1.0 if t == 0 else 1 - dampening  # torch's first velocity is the gradient
            if velocity == "paper":
                v[i] = beta * v[i] + share * epsilon * j_t[i]
                step = v[i]
            else:
                v[i] = beta * v[i] + share * j_t[i]
                step = epsilon * v[i]
            p.data = old[i] - step
        for k in range(n):
            pull = slow_gradient(model, before[k], batches[k], norm)
            for i, p in enumerate(parameters):
                g = eta * (lam * pull[i] + (j_t[i] if k > 0 else 0.0))
                p.data = p.data - g
                if absorb:
                    v[i] = v[i] + (g if velocity == "paper" else g / epsilon)
    return weights(model)


@pytest.mark.parametrize("norm", ["rms", "squared"])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("foreach", [False, True])
def test_sgd_equals_the_slow_twin(norm, n, fresh, foreach):
    model, twin = network(), network()
    base = SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1, foreach=foreach)
    optimizer = HilbertConstrained(base, lam=0.7, inner_lr=0.2, corrections=n, norm=norm)
    ours = run(model, optimizer, n=n, fresh=fresh)
    slow = slow_twin(twin, lam=0.7, eta=0.2, n=n, norm=norm, beta=0.9, decay=0.1, fresh=fresh)
    torch.testing.assert_close(ours, slow, rtol=1e-11, atol=1e-12)


SCHEDULE = (0.3, 0.05, 0.05, 0.6)


@pytest.mark.parametrize("velocity", ["paper", "torch"])
@pytest.mark.parametrize("absorb", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.4])
@pytest.mark.parametrize("n", [1, 3])
def test_each_velocity_under_a_schedule_equals_the_slow_twin(velocity, absorb, dampening, n):
    model, twin = network(), network()
    base = SGD(
        model.parameters(), lr=0.3, momentum=0.8, weight_decay=0.05, dampening=dampening,
        maximize=True,
    )  # fmt: skip
    optimizer = HilbertConstrained(
        base, lam=0.7, inner_lr=0.1, corrections=n, absorb=absorb, velocity=velocity
    )
    ours = run(model, optimizer, n=n, schedule=SCHEDULE)
    slow = slow_twin(
        twin, lam=0.7, eta=0.1, n=n, norm="rms", beta=0.8, decay=0.05, velocity=velocity,
        absorb=absorb, schedule=SCHEDULE, sign=-1.0, dampening=dampening,
    )  # fmt: skip
    torch.testing.assert_close(ours, slow, rtol=1e-11, atol=1e-12)
    assert [g["lr"] for g in base.param_groups] == [0.6]
    assert [g["weight_decay"] for g in base.param_groups] == [0.05]


def test_the_two_velocities_differ_once_the_rate_changes_and_not_before():
    def trained(velocity, schedule):
        model = network()
        base = SGD(model.parameters(), lr=0.3, momentum=0.9)
        optimizer = HilbertConstrained(base, 0.5, 0.1, velocity=velocity)
        return run(model, optimizer, schedule=schedule)

    constant = (0.3,) * 4
    torch.testing.assert_close(
        trained("paper", constant), trained("torch", constant), rtol=1e-12, atol=1e-14
    )
    difference = trained("paper", SCHEDULE) - trained("torch", SCHEDULE)
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("at", [0, 1])
def test_the_papers_velocity_coasts_through_a_rate_of_zero(at):
    schedule = [0.3, 0.3, 0.2, 0.1]
    schedule[at] = 0.0
    model, twin = network(), network()
    optimizer = HCGD(model.parameters(), lr=schedule[0], momentum=0.9, lam=0.7, inner_lr=0.1)
    ours = run(model, optimizer, schedule=schedule)
    slow = slow_twin(twin, lam=0.7, eta=0.1, n=1, norm="rms", beta=0.9, schedule=schedule)
    torch.testing.assert_close(ours, slow, rtol=1e-11, atol=1e-12)


def test_torchs_velocity_at_a_rate_of_zero_absorbs_nothing():
    model = network()
    base = SGD(model.parameters(), lr=0.0, momentum=0.9)
    before = weights(model)
    optimizer = HilbertConstrained(base, lam=0.5, inner_lr=0.1, corrections=2)
    after = run(model, optimizer, steps=1, n=2)
    gradients = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(after, before - 0.1 * gradients)
    for p in model.parameters():
        assert torch.equal(base.state[p]["momentum_buffer"], p.grad)


def test_sgds_velocity_is_the_final_step():
    """Section 3.2: Δθ = −v after the corrections, whichever form v has."""
    for velocity in ("torch", "paper"):
        model = network()
        base = SGD(model.parameters(), lr=0.3, momentum=0.9)
        optimizer = HilbertConstrained(
            base, lam=0.5, inner_lr=0.1, corrections=3, velocity=velocity
        )
        for steps in (1, 1):
            before = weights(model)
            moved = run(model, optimizer, steps=steps, n=3) - before
            buffers = [base.state[p]["momentum_buffer"].reshape(-1) for p in model.parameters()]
            torch.testing.assert_close(moved, -0.3 * torch.cat(buffers), rtol=1e-10, atol=1e-13)


# --- derived by hand -------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["rms", "squared"])
@pytest.mark.parametrize("shape", ["(N,)", "(N, 1)"])
def test_a_linear_model_derived_by_hand(norm, shape):
    """f = A θ, so Δf = A Δθ: ∇ rms = AᵀAΔθ / (√N |AΔθ|), ∇ squared = 2 AᵀAΔθ / N."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    j = torch.randn(3, generator=generator, dtype=torch.float64)
    theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    theta.grad = j.clone()
    optimizer = HilbertConstrained(
        SGD([theta], lr=0.1), lam=0.5, inner_lr=0.2, corrections=2, norm=norm
    )
    optimizer.step(lambda: a @ theta if shape == "(N,)" else (a @ theta)[:, None])

    def gradient(delta):
        f = a @ delta
        return a.T @ f / (math.sqrt(7) * f.norm()) if norm == "rms" else 2 * a.T @ f / 7

    delta0 = -0.1 * j
    delta1 = delta0 - 0.2 * 0.5 * gradient(delta0)
    delta2 = delta1 - 0.2 * (j + 0.5 * gradient(delta1))
    torch.testing.assert_close(theta.detach(), delta2, rtol=1e-13, atol=0)
    distances = [(a @ d).square().sum().item() / 7 for d in (delta0, delta1)]
    if norm == "rms":
        distances = [math.sqrt(d) for d in distances]
    assert optimizer.distances == pytest.approx(distances, rel=1e-13)


def test_one_step_with_numbers_one_can_check_in_the_head():
    theta = nn.Parameter(torch.tensor([1.0, 1.0]))
    theta.grad = torch.tensor([3.0, 4.0])
    optimizer = HilbertConstrained(SGD([theta], lr=1.0), lam=2.0, inner_lr=0.5)
    # One example that sees θ itself: Δθ⁰ = −(3, 4), D = 5, ∇D = −(0.6, 0.8), ηλ = 1.
    optimizer.step(lambda: theta[None])
    torch.testing.assert_close(theta.detach(), torch.tensor([-1.4, -2.2]))
    assert optimizer.distances == (5.0,)


def test_where_the_function_does_not_move_the_gradient_is_zero():
    model, plain = network(), network()
    for m, kind in ((model, HilbertConstrained), (plain, None)):
        sgd = SGD(m.parameters(), lr=0.0)
        x, y = data()
        F.cross_entropy(m(x), y).backward()
        sgd.step() if kind is None else kind(sgd).step(probabilities_of(m, x))
    assert torch.equal(weights(model), weights(plain))


# --- λ = 0 -----------------------------------------------------------------------------------

BASES = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, maximize=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("lam", "inner_lr"), [(0.0, 0.1), (0.5, 0.0)])
def test_lambda_zero_is_exactly_the_base_optimizer(base, lam, inner_lr):
    model, plain = network(), network()
    optimizer = HilbertConstrained(BASES[base](model.parameters()), lam=lam, inner_lr=inner_lr)
    ours = run(model, optimizer)
    theirs = run(plain, BASES[base](plain.parameters()))
    assert torch.equal(ours, theirs)
    assert optimizer.distances == ()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("n", [2, 5])
def test_lambda_zero_with_n_corrections_is_a_larger_learning_rate(n):
    model, plain = network(), network()
    base = SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    ours = run(model, HilbertConstrained(base, 0.0, 0.02, corrections=n), n=n)
    theirs = run(plain, SGD(plain.parameters(), lr=0.1 + (n - 1) * 0.02, weight_decay=0.1))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 10), st.floats(0.001, 1), st.floats(0.1, 10))
def test_with_one_correction_lambda_folds_into_the_inner_rate(lam, eta, factor):
    def trained(lam, eta):
        model = network()
        return run(model, HilbertConstrained(SGD(model.parameters(), 0.1), lam, eta), steps=2)

    torch.testing.assert_close(
        trained(lam, eta), trained(lam * factor, eta / factor), rtol=1e-9, atol=1e-9
    )


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 10))
def test_the_norm_scales_with_the_outputs_and_its_square_with_their_square(factor):
    def correction(norm, scale):
        model, x = network(), data()[0]
        F.cross_entropy(model(x), data()[1]).backward()
        plain = weights(model) - 0.1 * torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        optimizer = HilbertConstrained(SGD(model.parameters(), 0.1), 0.5, 0.1, norm=norm)
        optimizer.step(lambda: scale * model(x).softmax(dim=1))
        return weights(model) - plain

    for norm, power in (("rms", 1), ("squared", 2)):
        torch.testing.assert_close(
            correction(norm, factor), factor**power * correction(norm, 1.0), rtol=1e-6, atol=1e-12
        )


# --- any base --------------------------------------------------------------------------------


def last_step_by_hand(make, coupled, sign=1.0, decay=0.0, n=2):
    """Two steps: the base's own, then one corrected by hand from the base's own proposal."""
    model, start = network(), network()
    base, other = make(model.parameters()), make(start.parameters())
    run(model, base, steps=1)
    run(start, other, steps=1)
    x, y = data(5)
    for m in (model, start):
        m.zero_grad()
        F.cross_entropy(m(x), y).backward()
    x_v = data(6)[0]
    optimizer = HilbertConstrained(base, lam=0.7, inner_lr=0.3, corrections=n)
    optimizer.step(probabilities_of(model, x_v))

    before = start(x_v).softmax(dim=1).detach()
    j = [sign * p.grad + (decay * p.detach() if coupled else 0) for p in start.parameters()]
    other.step()
    for k in range(n):
        pull = slow_gradient(start, before, x_v, "rms")
        for p, g, gradient in zip(start.parameters(), pull, j, strict=True):
            p.data = p.data - 0.3 * (0.7 * g + (gradient if k else 0))
    return model, base, start, other


@pytest.mark.parametrize(
    ("make", "coupled", "sign", "decay"),
    [
        (lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.5), True, 1, 0.5),
        (lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.5, maximize=True), True, -1, 0.5),
        (lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.5), False, 1, 0.5),
        (lambda p: torch.optim.NAdam(p, 0.05, weight_decay=0.5), True, 1, 0.5),
        (
            lambda p: torch.optim.NAdam(p, 0.05, weight_decay=0.5, decoupled_weight_decay=True),
            False, 1, 0.5,
        ),
        (lambda p: torch.optim.RMSprop(p, 0.05, weight_decay=0.5, momentum=0.5), True, 1, 0.5),
        (lambda p: torch.optim.Adagrad(p, 0.05, weight_decay=0.5), True, 1, 0.5),
        (lambda p: torch.optim.Adafactor(p, 0.05, weight_decay=0.5), False, 1, 0.5),
        (lambda p: torch.optim.Rprop(p, 0.05), False, 1, 0.0),
    ],
    ids=[
        "adam", "maximize", "adamw", "nadam", "nadamw", "rmsprop", "adagrad", "adafactor", "rprop",
    ],
)  # fmt: skip
def test_any_base_is_corrected_and_its_state_left_alone(make, coupled, sign, decay):
    model, base, expected, other = last_step_by_hand(make, coupled, sign, decay)
    torch.testing.assert_close(weights(model), weights(expected), rtol=1e-11, atol=1e-13)
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        for name, value in other.state[q].items():
            assert torch.equal(torch.as_tensor(base.state[p][name]), torch.as_tensor(value)), name


@pytest.mark.parametrize("foreach", [False, True])
def test_nesterov_keeps_its_velocity_and_the_users_gradient(foreach):
    def make(p):
        return SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=foreach)

    model, plain = network(), network()
    optimizer = HilbertConstrained(make(model.parameters()), lam=0.0, absorb=False)
    assert torch.equal(run(model, optimizer), run(plain, make(plain.parameters())))
    x, y = data(3)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    given = [p.grad for p in model.parameters()]
    values = [g.clone() for g in given]
    optimizer.step(probabilities_of(model, x))
    assert all(p.grad is g for p, g in zip(model.parameters(), given, strict=True))
    assert all(map(torch.equal, given, values))


def test_nesterov_at_a_rate_of_zero_only_gathers_velocity():
    model = network()
    sgd = SGD(model.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=0.1)
    optimizer = HilbertConstrained(sgd, absorb=False)
    before = weights(model)
    assert torch.equal(run(model, optimizer, steps=1), before)
    for p in model.parameters():
        velocity = sgd.state[p]["momentum_buffer"]
        torch.testing.assert_close(velocity, p.grad + 0.1 * p.detach(), rtol=1e-13, atol=1e-15)


def test_a_base_that_needs_a_closure_gets_it_and_one_evaluation_is_not_repeated():
    def make(p):
        return torch.optim.LBFGS(p, lr=0.2, max_iter=3)

    model, plain = network(), network()
    (x, y), x_v = data(), data(6)[0]
    calls = {"ours": 0, "plain": 0}

    def closure_of(m, name):
        def closure():
            calls[name] += 1
            m.zero_grad()
            loss = F.cross_entropy(m(x), y)
            loss.backward()
            return loss

        return closure

    before = plain(x_v).softmax(dim=1).detach()
    optimizer = HilbertConstrained(make(model.parameters()), lam=0.5, inner_lr=0.1)
    loss = optimizer.step(probabilities_of(model, x_v), closure_of(model, "ours"))
    assert loss == make(plain.parameters()).step(closure_of(plain, "plain"))
    assert calls["ours"] == calls["plain"] > 1
    for p, g in zip(plain.parameters(), slow_gradient(plain, before, x_v, "rms"), strict=True):
        p.data -= 0.05 * g
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-11, atol=1e-13)
    with pytest.raises(TypeError, match=r"LBFGS needs a closure: step\(outputs, closure\)"):
        optimizer.step(probabilities_of(model, x_v))


# --- groups and parameters -------------------------------------------------------------------


def test_groups_have_their_own_lambda_and_inner_rate():
    model, twin = network(), network()
    first, last = list(model[0].parameters()), list(model[2].parameters())
    sgd = SGD([{"params": first}, {"params": last, "inner_lr": 0.4, "lam": 0.3}], lr=0.1)
    optimizer = HilbertConstrained(sgd, lam=0.7, inner_lr=0.2, corrections=2)
    x, y = data()
    for m in (model, twin):
        F.cross_entropy(m(x), y).backward()
    optimizer.step(probabilities_of(model, x))
    before, settings_ = twin(x).softmax(dim=1).detach(), [(0.7, 0.2)] * 2 + [(0.3, 0.4)] * 2
    for p in twin.parameters():
        p.data -= 0.1 * p.grad
    for k in range(2):
        pull = slow_gradient(twin, before, x, "rms")
        for p, g, (lam, eta) in zip(twin.parameters(), pull, settings_, strict=True):
            p.data -= eta * (lam * g + k * p.grad)
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-12, atol=1e-14)


def test_a_group_without_leash_takes_no_part_in_one():
    model, plain = network(), network()
    for m in (model, plain):
        x, y = data()
        F.cross_entropy(m(x), y).backward()
    groups = [
        {"params": model[0].parameters(), "lam": 0.0},
        {"params": model[2].parameters()},
    ]
    HilbertConstrained(SGD(groups, lr=0.1), lam=0.7).step(probabilities_of(model, x))
    SGD(plain.parameters(), lr=0.1).step()
    assert torch.equal(model[0].weight, plain[0].weight)
    assert not torch.equal(model[2].weight, plain[2].weight)


def test_frozen_parameters_and_those_without_gradient_stay():
    model = network(sizes=(4, 5, 5, 3))
    model[0].weight.requires_grad_(False)
    x, y = data()
    F.cross_entropy(model(x), y).backward()
    model[2].bias.grad = None
    stay = [model[0].weight.clone(), model[2].bias.clone()]
    moved = model[2].weight.clone()
    optimizer = HilbertConstrained(
        torch.optim.Adam(model.parameters(), weight_decay=0.1), corrections=3
    )
    optimizer.step(probabilities_of(model, x))
    assert torch.equal(model[0].weight, stay[0])
    assert torch.equal(model[2].bias, stay[1])
    assert model[2].bias not in optimizer.state
    assert not torch.equal(model[2].weight, moved)


def test_a_parameter_that_the_outputs_do_not_use_moves_as_the_base_says_and_with_j():
    used, unused = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    used.grad, unused.grad = torch.ones(2).double(), torch.full((2,), 3.0).double()
    optimizer = HilbertConstrained(SGD([used, unused], lr=0.1), 0.5, 0.2, corrections=3)
    optimizer.step(lambda: used[None])
    torch.testing.assert_close(
        unused.detach(), torch.full((2,), 1 - 0.1 * 3 - 2 * 0.2 * 3).double()
    )
    assert not torch.equal(used, unused)


def test_one_gradient_for_two_parameters_is_not_scaled_twice():
    """Autograd may return the very same tensor for both."""
    a, b = (nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2))
    a.grad, b.grad = torch.ones(2).double(), torch.ones(2).double()
    HilbertConstrained(SGD([a, b], lr=0.5), lam=1.0, inner_lr=0.1).step(lambda: (a + b)[None])
    expected = torch.full((2,), -0.5 + 0.1 / math.sqrt(2)).double()
    torch.testing.assert_close(a.detach(), expected)
    torch.testing.assert_close(b.detach(), expected)


def test_tied_parameters_move_once():
    shared = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    x = torch.eye(3, dtype=torch.float64)
    (x @ shared @ shared).sum().backward()
    twin, gradient = shared.detach().clone().requires_grad_(), shared.grad
    HilbertConstrained(SGD([shared], 0.1), 0.5, 0.2).step(lambda: x @ shared @ shared)
    before = (twin @ twin).detach()
    twin.data -= 0.1 * gradient
    (g,) = torch.autograd.grad(l2_distance(twin @ twin, before), twin)
    torch.testing.assert_close(shared.detach(), twin.detach() - 0.1 * g)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"absorb": False}, {"velocity": "paper"}], ids=["torch", "apart", "paper"]
)
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_sparse_gradients(n, options, beta):
    dense, sparse = (nn.Embedding(5, 3, sparse=s).double() for s in (False, True))
    sparse.load_state_dict(dense.state_dict())
    index = torch.tensor([0, 2, 2])
    for table in (dense, sparse):
        sgd = SGD(table.parameters(), 0.1, momentum=beta)
        optimizer = HilbertConstrained(sgd, 0.5, 0.1, corrections=n, **options)
        for rate in (0.1, 0.05, 0.2):
            sgd.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            table(index).square().sum().backward()
            with pytest.raises(TypeError):
                optimizer.step(lambda: None)
            optimizer.step(lambda table=table: table(index))
    assert sparse.weight.grad.is_sparse
    torch.testing.assert_close(dense.weight, sparse.weight)


def test_outputs_that_are_a_view_of_the_parameters():
    theta = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    theta.grad = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    optimizer = HilbertConstrained(SGD([theta], lr=1.0))
    optimizer.step(lambda: theta)
    assert optimizer.distances == (5.0,)


def test_hcgd_by_name_is_sgd_with_the_papers_velocity():
    model, twin = network(), network()
    named = HCGD(
        model.parameters(), 0.2, 0.9, 0.01, lam=0.7, inner_lr=0.1, corrections=2, norm="squared"
    )
    sgd = SGD(twin.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    built = HilbertConstrained(sgd, 0.7, 0.1, 2, "squared", velocity="paper")
    assert torch.equal(run(model, named, n=2), run(twin, built, n=2))
    (group,) = named.param_groups
    expected = {
        "lr": 0.2, "momentum": 0.9, "weight_decay": 0.01, "lam": 0.7, "inner_lr": 0.1,
        "corrections": 2, "norm": "squared", "velocity": "paper", "absorb": True,
    }  # fmt: skip
    assert {name: group[name] for name in expected} == expected
    defaults = HCGD(model.parameters()).param_groups[0]
    expected = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "lam": 0.5, "inner_lr": 0.02,
                "corrections": 1, "norm": "rms", "velocity": "paper", "absorb": True}  # fmt: skip
    assert {name: defaults[name] for name in expected} == expected
    assert HCGD(model.parameters()).distributed is True
    assert HCGD(model.parameters(), distributed=False).distributed is False
    assert (
        HCGD(model.parameters(), absorb=False, velocity="torch").param_groups[0]["absorb"] is False
    )


def test_the_defaults_are_the_papers():
    (group,) = HilbertConstrained(SGD(network().parameters(), 0.1)).param_groups
    assert (group["lam"], group["inner_lr"], group["corrections"]) == (0.5, 0.02, 1)
    assert (group["norm"], group["absorb"], group["velocity"]) == ("rms", True, "torch")
    assert group["lam"] * group["inner_lr"] == 0.01
