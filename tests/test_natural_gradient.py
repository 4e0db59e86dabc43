"""Natural gradient steps against dense solves in float64, and Algorithm 3 against them."""

import copy
import dataclasses
import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertlib.distance import kl_divergence
from hilbertlib.models import mlp, seeded
from hilbertlib.natural_gradient import (
    ConvergenceWarning,
    Fisher,
    Solution,
    conjugate_gradient,
    corrected_update,
    largest_eigenvalue,
    natural_step,
    natural_update,
)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, Y = draw(1, 12, 4), torch.arange(12) % 3


def net() -> nn.Module:
    return seeded(lambda: mlp((4, 5, 3), "tanh"), seed=0).double()


def backward(model: nn.Module, x: torch.Tensor = X, y: torch.Tensor = Y) -> torch.Tensor:
    """The gradient, flat; also left in ``.grad``."""
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return torch.cat([p.grad.ravel() for p in model.parameters()])


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in model.parameters()])


def dense(fisher: Fisher) -> torch.Tensor:
    return torch.stack([fisher @ e for e in torch.eye(fisher.size, dtype=torch.float64)], dim=1)


def spd(seed: int, size: int = 6) -> torch.Tensor:
    half = draw(seed, size, size)
    return half @ half.T + 0.1 * torch.eye(size, dtype=torch.float64)


# --- conjugate gradients ---------------------------------------------------------------------


def slow_cg(a: torch.Tensor, b: torch.Tensor, steps: int) -> torch.Tensor:
    """The definition: the k-th iterate minimizes ½xᵀAx − bᵀx over span(b, Ab, …, A^{k−1}b)."""
    basis, _ = torch.linalg.qr(
        torch.stack([torch.linalg.matrix_power(a, k) @ b for k in range(steps)], dim=1)
    )
    return basis @ torch.linalg.solve(basis.T @ a @ basis, basis.T @ b)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_each_iterate_is_the_best_of_its_krylov_space(steps):
    a, b = spd(0), draw(1, 6)
    found = conjugate_gradient(a.__matmul__, b, tol=0.0, max_iter=steps)
    torch.testing.assert_close(found.x, slow_cg(a, b, steps), rtol=1e-8, atol=1e-10)
    assert found.iterations == steps
    residual = float((b - a @ found.x).norm() / b.norm())
    assert found.residual == pytest.approx(residual, rel=1e-9)
    assert found.converged == (residual == 0)


@given(st.integers(0, 10**6), st.floats(0, 10))
@settings(max_examples=30)
def test_it_solves_the_damped_system(seed, damping):
    a, b = spd(seed), draw(seed + 1, 6)
    kept = b.clone()
    found = conjugate_gradient(a.__matmul__, b, damping=damping, tol=1e-10, max_iter=60)
    expected = torch.linalg.solve(a + damping * torch.eye(6, dtype=torch.float64), b)
    assert found.converged
    assert found.residual <= 2e-10
    torch.testing.assert_close(found.x, expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(b, kept)


def test_one_product_an_iteration_and_one_to_measure():
    calls = []
    found = conjugate_gradient(
        lambda v: calls.append(1) or 2 * v, torch.tensor([3.0, 4.0], dtype=torch.float64)
    )
    assert found.iterations == 1
    assert len(calls) == 2
    assert found.x.tolist() == [1.5, 2.0]
    assert found.residual == 0
    assert found.converged


def test_it_stops_at_the_tolerance():
    a, b = spd(0), draw(1, 6)
    loose = conjugate_gradient(a.__matmul__, b, tol=0.3)
    tight = conjugate_gradient(a.__matmul__, b, tol=1e-8)
    assert loose.iterations < tight.iterations
    assert loose.residual <= 0.3
    before = conjugate_gradient(a.__matmul__, b, tol=0.0, max_iter=loose.iterations - 1)
    assert before.residual > 0.3


def test_nothing_to_solve():
    def refuse(_):
        raise AssertionError("a product")

    found = conjugate_gradient(refuse, torch.zeros(3))
    assert found == Solution(found.x, 0, 0.0, True)
    assert found.x.tolist() == [0, 0, 0]


def test_a_singular_system_with_b_in_range_has_the_shortest_solution():
    a = torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64))
    b = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    found = conjugate_gradient(a.__matmul__, b)
    torch.testing.assert_close(found.x.tolist(), [1.0, 2.0, 0.0])


def test_a_singular_system_says_so():
    a = torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64))
    b = torch.ones(3, dtype=torch.float64)
    message = (
        r"^the system is singular along a direction of the right-hand side \(curvature 0\.0e\+00 "
        r"where the largest is 0\.0e\+00, iteration 1\): add damping; 0\.1 is common for a Fisher "
        r"information$"
    )
    with pytest.raises(torch.linalg.LinAlgError, match=message):
        conjugate_gradient(torch.zeros_like, b)
    with pytest.raises(
        torch.linalg.LinAlgError, match=r"^the system is singular .*, iteration 3\)"
    ):
        conjugate_gradient(a.__matmul__, b)
    damped = conjugate_gradient(a.__matmul__, b, damping=0.5)
    torch.testing.assert_close(damped.x.tolist(), [0.4, 1.0, 2.0])


def test_an_indefinite_matrix_says_so():
    a = torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64))
    message = (
        r"^the system is indefinite \(curvature -5\.0e-01 where the largest is 5\.0e-01, iteration "
        r"1\), which no Fisher information is: check the product, or add more damping than 5.0e-01$"
    )
    with pytest.raises(torch.linalg.LinAlgError, match=message):
        conjugate_gradient(a.__matmul__, torch.ones(2, dtype=torch.float64))
    damped = conjugate_gradient(a.__matmul__, torch.ones(2, dtype=torch.float64), damping=3.0)
    torch.testing.assert_close(damped.x.tolist(), [0.25, 1.0])
    # Found late, where the residual is small already.
    a = torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))
    with pytest.raises(
        torch.linalg.LinAlgError, match=r"^the system is indefinite .*, iteration 2\)"
    ):
        conjugate_gradient(a.__matmul__, torch.tensor([1.0, 1e-6], dtype=torch.float64), tol=1e-9)
    # Negative, but no more than rounding makes of a zero.
    a = torch.diag(torch.tensor([1.0, -1e-10], dtype=torch.float64))
    with pytest.raises(torch.linalg.LinAlgError, match=r"^the system is singular along"):
        conjugate_gradient(a.__matmul__, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_scale_of_the_matrix_does_not_matter(scale):
    a, b = spd(0) * scale, draw(1, 6)
    found = conjugate_gradient(a.__matmul__, b, tol=1e-10, max_iter=60)
    expected = torch.linalg.solve(spd(0), b)
    torch.testing.assert_close(found.x * scale, expected, rtol=1e-7, atol=1e-9)


def test_a_right_hand_side_of_one_entry():
    a = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = conjugate_gradient(a.__matmul__, b, tol=0.0, max_iter=1)
    torch.testing.assert_close(found.x.tolist(), [0.25, 0.0])
    assert found.residual == pytest.approx(0.25)
    assert found.converged is False


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_it_ends_by_itself_when_nothing_of_b_is_left(scale):
    eigenvalues = torch.logspace(0, -2, 50) * scale
    b = torch.randn(50, generator=torch.Generator().manual_seed(0))
    found = conjugate_gradient(
        lambda v: eigenvalues * v, b, damping=0.1 * scale, tol=0.0, max_iter=5000
    )
    assert found.iterations < 1000
    torch.testing.assert_close(found.x, b / (eigenvalues + 0.1 * scale), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("left", "converged"), [(0.5, True), (0.75, False)])
def test_converged_is_measured_and_allows_twice_the_tolerance(left, converged):
    """A product that changes after the iteration, as rounding changes it, is found out."""
    calls = []

    def product(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return v if len(calls) == 1 else v * (1 - left)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = conjugate_gradient(product, torch.ones(4, dtype=torch.float64), tol=0.25)
    assert found.residual == left
    assert found.converged is converged
    assert len(caught) == (not converged)


def test_250_products_unless_told():
    a = torch.logspace(0, 8, 600, dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="stopped after 250 iterations"):
        found = conjugate_gradient(a.mul, torch.ones(600, dtype=torch.float64))
    assert found.iterations == 250


def test_a_solution_is_not_changed():
    found = conjugate_gradient(lambda v: v, torch.ones(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.residual = 0.0


def test_gradients_do_not_flow_into_the_solution():
    factor = torch.tensor(2.0, requires_grad=True)
    found = conjugate_gradient(lambda v: v * factor, torch.ones(2, requires_grad=True))
    assert found.x.tolist() == [0.5, 0.5]
    assert not found.x.requires_grad


@pytest.mark.parametrize("scale", [1.0, 1.13, 1.52, 1.78, 1.91])
def test_rounding_left_over_is_no_singular_system(scale):
    """Far past convergence, in float32, the residual is noise outside the range."""
    model, x = net().float(), X.float()
    gradient = backward(model, x) * scale
    fisher = Fisher(model, x)
    with pytest.warns(ConvergenceWarning, match="use float64"):
        found = conjugate_gradient(fisher.__matmul__, gradient, tol=1e-12, max_iter=2000)
    assert found.residual < 2e-3
    assert found.iterations < 2000
    outside = gradient + 1e-3 * draw(7, fisher.size).float()
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        conjugate_gradient(fisher.__matmul__, outside, tol=1e-12, max_iter=2000)


def test_what_lies_outside_the_range_is_rounding_only_if_it_is_as_small():
    a = torch.diag(torch.tensor([1.0, 0.5, 0.0]))
    with pytest.warns(ConvergenceWarning, match=r"iterations .* above tol=1.0e-12"):
        found = conjugate_gradient(a.__matmul__, torch.tensor([1.0, 1.0, 1e-7]), tol=1e-12)
    torch.testing.assert_close(found.x[:2].tolist(), [1.0, 2.0], rtol=1e-5, atol=0)
    assert found.residual < 1e-6
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        conjugate_gradient(a.__matmul__, torch.tensor([1.0, 1.0, 1e-5]), tol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-23, 1.0, 1e25])
def test_the_scale_of_the_right_hand_side_does_not_matter(scale):
    """Squares of its entries would under- or overflow in float32."""
    a = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    found = conjugate_gradient(a.__matmul__, torch.tensor([1.0, 2.0]) * scale)
    torch.testing.assert_close((found.x / scale).tolist(), [1 / 11, 7 / 11], rtol=1e-5, atol=0)
    assert found.converged
    assert found.iterations == 2


def test_no_convergence_warns_and_says_what_to_do():
    a, b = spd(0), draw(1, 6)
    message = (
        r"^conjugate gradients stopped after 2 iterations at a relative residual of \d\.\de-0\d, "
        r"above tol=1\.0e-05: raise max_iter or the damping, use float64, or pass tol=0 to run "
        r"max_iter iterations on purpose$"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        found = conjugate_gradient(a.__matmul__, b, max_iter=2)
    assert not found.converged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conjugate_gradient(a.__matmul__, b, tol=0.0, max_iter=2)


def test_the_warning_points_at_the_caller():
    with pytest.warns(ConvergenceWarning) as caught:
        conjugate_gradient(spd(0).__matmul__, draw(1, 6), max_iter=2)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"b": torch.ones(2, 1)}, ValueError, r"expected a finite vector, got shape \(2, 1\)"),
        ({"b": torch.tensor([1.0, math.nan])}, ValueError, "a finite vector"),
        (
            {"b": torch.ones(2).long()},
            ValueError,
            r"^expected a finite vector, got shape \(2,\), torch.int64, or NaN or inf$",
        ),
        (
            {"product": lambda v: v[:1]},  # would be broadcast
            ValueError,
            r"^expected a product of shape \(2,\) and torch.float32, got \(1,\), torch.float32",
        ),
        ({"product": lambda v: v.double()}, ValueError, r"got \(2,\), torch.float64"),
        ({"damping": -0.1}, ValueError, "expected a finite damping of at least 0, got -0.1"),
        ({"tol": -1.0}, ValueError, "expected a finite tol of at least 0, got -1.0"),
        ({"max_iter": 0}, ValueError, "expected an integer max_iter of at least 1, got 0"),
        (
            {"product": lambda v: v * math.nan},
            FloatingPointError,
            "^a product with the matrix is not finite$",
        ),
    ],
)
def test_bad_systems(arguments, error, message):
    with pytest.raises(error, match=message):
        conjugate_gradient(**{"product": lambda v: v, "b": torch.ones(2), **arguments})


def test_one_iteration_is_allowed():
    assert conjugate_gradient(lambda v: v, torch.ones(2), max_iter=1).converged


# --- the KL-regularized update ---------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.5, 1.0, 4.0])
def test_the_update_minimizes_the_regularized_cost(lam):
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    damped = dense(fisher) + 0.01 * torch.eye(fisher.size, dtype=torch.float64)
    update = natural_update(fisher, gradient, lam=lam, damping=0.01, tol=1e-12)
    torch.testing.assert_close(
        update, -torch.linalg.solve(damped, gradient) / lam, rtol=1e-8, atol=1e-10
    )
    # Equation 5 is stationary there, and with the paper's sign it is not.
    torch.testing.assert_close(
        gradient + lam * damped @ update, torch.zeros_like(update), rtol=0, atol=1e-10
    )
    assert float(gradient @ update) < 0


def test_undamped_on_the_gradients_own_examples():
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    update = natural_update(fisher, gradient, tol=1e-10)
    expected = -torch.linalg.pinv(dense(fisher), hermitian=True, rtol=1e-10) @ gradient
    torch.testing.assert_close(update, expected, rtol=1e-5, atol=1e-6)


def test_lambda_sets_the_kl_divergence():
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    before = model(X).detach().log_softmax(dim=1)
    update = natural_update(fisher, gradient, lam=100.0, damping=0.1)
    predicted = float(fisher.kl(update))
    quarter = float(fisher.kl(natural_update(fisher, gradient, lam=200.0, damping=0.1)))
    assert quarter == pytest.approx(predicted / 4, rel=1e-9)
    with torch.no_grad():
        for p, d in zip(fisher.parameters, fisher.unflatten(update), strict=True):
            p.add_(d)
        after = model(X).log_softmax(dim=1)
    assert float(kl_divergence(after, before, log=True)) == pytest.approx(predicted, rel=0.05)


def test_options_reach_the_solver():
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    with pytest.warns(ConvergenceWarning, match="after 3 iterations .* above tol=1.0e-07"):
        natural_update(fisher, gradient, tol=1e-7, max_iter=3)
    other = backward(model, draw(5, 12, 4)) + 0.1 * flat(model)
    with pytest.raises(torch.linalg.LinAlgError, match="add damping"):
        natural_update(fisher, other, max_iter=1000)
    for lam in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"expected a positive lam, got {lam}"):
            natural_update(fisher, gradient, lam=lam)


# --- Algorithm 3 -----------------------------------------------------------------------------


def slow_corrections(delta, matrix, gradient, eta, lam, n, damping):
    for _ in range(n):
        slope = []
        for i in range(len(delta)):
            product = sum(float(matrix[i, j]) * delta[j] for j in range(len(delta)))
            slope.append(float(gradient[i]) + lam * (product + damping * delta[i]))
        delta = [d - eta * s for d, s in zip(delta, slope, strict=True)]
    return delta


@pytest.mark.parametrize("n", [1, 3])
def test_corrections_equal_the_loop(n):
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    proposal = draw(3, fisher.size)
    kept = proposal.clone()
    found = corrected_update(
        proposal, fisher, gradient, inner_lr=0.3, lam=0.7, corrections=n, damping=0.2
    )
    expected = slow_corrections(proposal.tolist(), dense(fisher), gradient, 0.3, 0.7, n, 0.2)
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(proposal, kept)
    once = corrected_update(proposal, fisher, gradient, inner_lr=0.3)
    torch.testing.assert_close(
        once, proposal - 0.3 * (gradient + fisher @ proposal), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("lam", [1.0, 3.0])
def test_corrections_converge_to_the_exact_damped_solution(lam):
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    damped = dense(fisher) + 0.1 * torch.eye(fisher.size, dtype=torch.float64)
    exact = -torch.linalg.solve(damped, gradient) / lam
    rate = 1 / (lam * (largest_eigenvalue(fisher) + 0.1))
    found = corrected_update(
        -0.1 * gradient, fisher, gradient,
        inner_lr=rate, lam=lam, corrections=400, damping=0.1,
    )  # fmt: skip
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-10)
    cg = natural_update(fisher, gradient, lam=lam, damping=0.1, tol=1e-12)
    torch.testing.assert_close(found, cg, rtol=1e-7, atol=1e-9)


def test_undamped_it_drifts_along_the_null_space_where_the_gradient_is_not_in_range():
    model = net()
    fisher = Fisher(model, X)
    inside, outside = backward(model), backward(model) + 0.01 * flat(model)
    rate = 1 / largest_eigenvalue(fisher)
    projector = torch.eye(fisher.size, dtype=torch.float64) - torch.linalg.pinv(
        dense(fisher), hermitian=True, rtol=1e-9
    ) @ dense(fisher)
    start = torch.zeros_like(inside)
    for gradient, drift in ((inside, 0.0), (outside, 50 * rate)):
        found = corrected_update(start, fisher, gradient, inner_lr=rate, corrections=50)
        torch.testing.assert_close(
            projector @ found, -drift * (projector @ gradient), rtol=1e-6, atol=1e-8
        )


def test_too_large_a_rate_warns_then_overflows():
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    top = largest_eigenvalue(fisher, iterations=500)
    start = -0.1 * gradient
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corrected_update(start, fisher, gradient, inner_lr=1.9 / top, corrections=40)
        corrected_update(start, fisher, gradient, inner_lr=3 / top, corrections=1)
    with pytest.warns(
        ConvergenceWarning, match=r"the corrections grow .* inner_lr=.*; use one below"
    ):
        corrected_update(start, fisher, gradient, inner_lr=3 / top, corrections=40)
    with pytest.raises(
        FloatingPointError, match=r"overflow at inner_lr=1e\+200; use one below 2 /"
    ):
        corrected_update(start, fisher, gradient, inner_lr=1e200, corrections=3)


def test_slow_growth_is_growth():
    fisher = Fisher(net(), X)
    eigenvalues, vectors = torch.linalg.eigh(dense(fisher))
    gradient, rate = vectors[:, -1].contiguous(), float(2.001 / eigenvalues[-1])
    start = torch.zeros_like(gradient)
    with pytest.warns(ConvergenceWarning, match="the corrections grow"):  # by 0.1% each
        corrected_update(start, fisher, gradient, inner_lr=rate, corrections=6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_growth_is_judged_and_told_in_units_of_the_gradient(scale):
    model, x = net().float(), X.float()
    gradient, fisher = backward(model, x) * scale, Fisher(model, x)
    rate = 3 / largest_eigenvalue(fisher, iterations=300)
    lengths, delta = [], torch.zeros_like(gradient)
    for _ in range(12):
        slope = gradient + fisher @ delta
        lengths.append(float(slope.norm()))
        delta = delta - rate * slope
    told = re.escape(f"({lengths[0]:.1e} to {lengths[-1]:.1e})")
    with pytest.warns(ConvergenceWarning, match=f"^the corrections grow {told} at inner_lr="):
        corrected_update(
            torch.zeros_like(gradient), fisher, gradient, inner_lr=rate, corrections=12
        )


def test_rounding_at_the_solution_is_not_growth():
    model, x = net().float(), X.float()
    gradient, fisher = backward(model, x), Fisher(model, x)
    rate = 1 / (largest_eigenvalue(fisher) + 0.1)
    exact = corrected_update(
        -gradient, fisher, gradient, inner_lr=rate, corrections=600, damping=0.1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corrected_update(exact, fisher, gradient, inner_lr=1.9 * rate, corrections=30, damping=0.1)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3, maximize=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.3, decoupled_weight_decay=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),  # knows no weight decay
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_the_proposal_corrected(name):
    model = net()
    twin = copy.deepcopy(model)
    optimizer, plain = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](twin.parameters())
    for _ in range(2):  # the second with momentum, or whatever state there is
        with torch.no_grad():  # the same proposal: the twin starts where the model is
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                q.copy_(p)
        gradient = backward(model)
        backward(twin)
        fisher, theta = Fisher(model, X), flat(model)
        made = natural_step(optimizer, fisher, inner_lr=0.2, lam=0.7, corrections=3, damping=0.1)
        plain.step()
        grads = [p.grad.clone() for p in model.parameters()]
        used = {
            "decay": gradient + 0.3 * theta, "maximize": -gradient + 0.3 * theta
        }.get(name, gradient)  # fmt: skip
        expected = corrected_update(
            flat(twin) - theta, fisher, used,
            inner_lr=0.2, lam=0.7, corrections=3, damping=0.1,
        )  # fmt: skip
        torch.testing.assert_close(flat(model) - theta, expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-13)
        assert torch.equal(torch.cat([g.ravel() for g in grads]), gradient)


def test_without_a_rate_it_is_the_optimizer_itself():
    model = net()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    plain = torch.optim.RMSprop(twin.parameters(), lr=0.01)
    for _ in range(3):
        backward(model)
        natural_step(optimizer, Fisher(model, X), inner_lr=0.0, corrections=4)
        backward(twin)
        plain.step()
    assert torch.equal(flat(model), flat(twin))


def test_corrections_bring_any_proposal_closer():
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    exact = natural_update(fisher, gradient, damping=0.1, tol=1e-12)
    rate = 1 / (largest_eigenvalue(fisher) + 0.1)
    for make in OPTIMIZERS.values():
        trial = copy.deepcopy(model)
        backward(trial)
        theta = flat(trial)
        make(trial.parameters()).step()
        proposal = flat(trial) - theta
        last = float((proposal - exact).norm())
        for n in (1, 2, 5):
            now = corrected_update(
                proposal, fisher, gradient, inner_lr=rate, corrections=n, damping=0.1
            )
            assert float((now - exact).norm()) < last
            last = float((now - exact).norm())


def test_frozen_and_gradless_parameters():
    model = net()
    model[1].bias.requires_grad_(False)
    backward_loss = F.cross_entropy(model(X), Y)
    backward_loss.backward()
    model[3].weight.grad = None
    fisher = Fisher(model, X)
    theta, frozen = flat(model), model[1].bias.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = natural_step(optimizer, fisher, inner_lr=0.5)
    gradient = fisher.flatten(
        torch.zeros_like(p) if p.grad is None else p.grad for p in fisher.parameters
    )
    expected = -0.1 * gradient - 0.5 * (gradient + fisher @ (-0.1 * gradient))
    torch.testing.assert_close(made, expected, rtol=1e-10, atol=1e-13)
    assert torch.equal(model[1].bias, frozen)
    assert not torch.equal(flat(model), theta)


def test_a_refused_step_changes_nothing():
    model = net()
    backward(model)
    fisher = Fisher(model, X)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    part = torch.optim.SGD(model[1].parameters(), lr=0.1)
    before = flat(model)
    calls = [
        (optimizer, {"inner_lr": -0.1}, "finite inner_lr of at least 0, got -0.1"),
        (optimizer, {"inner_lr": 0.1, "lam": -1.0}, "finite lam of at least 0, got -1.0"),
        (
            optimizer,
            {"inner_lr": 0.1, "damping": math.nan},
            "finite damping of at least 0, got nan",
        ),
        (optimizer, {"inner_lr": 0.1, "corrections": 0}, "corrections of at least 1, got 0"),
        (part, {"inner_lr": 0.1}, "got 2 and 4, of which 2 are shared; pass Fisher"),
    ]
    for which, arguments, message in calls:
        with pytest.raises(ValueError, match=message):
            natural_step(which, fisher, **arguments)
    with pytest.raises(ValueError, match="got 4 and 2, of which 2 are shared"):
        natural_step(optimizer, Fisher(model, X, parameters=model[1].parameters()), inner_lr=0.1)
    model[1].weight.grad[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"^expected a finite gradient, got NaN or inf$"):
        natural_step(optimizer, fisher, inner_lr=0.1)
    model.zero_grad()
    message = r"^no parameter has a gradient: call loss\.backward\(\) before the step$"
    with pytest.raises(ValueError, match=message):
        natural_step(optimizer, fisher, inner_lr=0.1)
    assert torch.equal(flat(model), before)
    assert not optimizer.state


# An infinite rate makes an infinite proposal, but not Rprop's, whose steps are bounded.
@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"rprop"}))
@pytest.mark.parametrize("steps", [0, 2])
def test_a_step_that_fails_midway_puts_everything_back(name, steps):
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(steps):
        backward(model)
        optimizer.step()
    backward(model)
    before, fisher = flat(model), Fisher(model, X)
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(FloatingPointError, match="overflow"):
        natural_step(optimizer, fisher, inner_lr=1e200, corrections=3)
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.param_groups[0]["lr"] = math.inf
    with pytest.raises(ValueError, match="expected a finite proposal"):
        natural_step(optimizer, fisher, inner_lr=0.1)
    optimizer.param_groups[0]["lr"] = rates[0]
    assert torch.equal(flat(model), before)
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    torch.testing.assert_close(after["state"], state["state"], rtol=0, atol=0)
    # It goes on as if nothing had happened.
    twin = net()
    with torch.no_grad():
        for p, q in zip(twin.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    plain = OPTIMIZERS[name](twin.parameters())
    plain.load_state_dict(state)
    backward(twin)
    plain.step()
    natural_step(optimizer, fisher, inner_lr=0.0)
    assert torch.equal(flat(model), flat(twin))


def test_an_optimizer_that_needs_a_closure_is_refused_unchanged():
    model = net()
    backward(model)
    before = flat(model)
    with pytest.raises(TypeError, match="closure"):
        natural_step(torch.optim.LBFGS(model.parameters()), Fisher(model, X), inner_lr=0.1)
    assert torch.equal(flat(model), before)


def test_sparse_gradients():
    class Words(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 3, sparse=sparse)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return self.embedding(words).tanh()

    words, labels = torch.tensor([0, 2, 2, 4]), torch.tensor([0, 1, 2, 0])
    made = []
    for sparse in (True, False):
        model = seeded(lambda sparse=sparse: Words(sparse), seed=0).double()
        F.cross_entropy(model(words), labels).backward()
        assert model.embedding.weight.grad.is_sparse == sparse
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        made.append(natural_step(optimizer, Fisher(model, words), inner_lr=0.3, corrections=2))
    torch.testing.assert_close(made[0], made[1], rtol=1e-12, atol=1e-15)
    assert float(made[0].norm()) > 0


def test_corrected_update_checks_its_arguments():
    model = net()
    gradient, fisher = backward(model), Fisher(model, X)
    for arguments in ({"inner_lr": -1.0}, {"inner_lr": 1.0, "corrections": 0}):
        with pytest.raises(ValueError, match="of at least"):
            corrected_update(gradient, fisher, gradient, **arguments)
    # A single number would be broadcast over all parameters.
    for odd in (gradient[1:], gradient[:1], gradient.sum(), gradient[None], gradient.float()):
        with pytest.raises(
            ValueError, match=r"expected a vector of shape \(43,\) and torch.float64"
        ):
            corrected_update(odd, fisher, gradient, inner_lr=0.1)
        with pytest.raises(
            ValueError, match=r"expected a vector of shape \(43,\) and torch.float64"
        ):
            corrected_update(gradient, fisher, odd, inner_lr=0.1)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a finite proposal, got NaN or inf"):
            corrected_update(gradient * bad, fisher, gradient, inner_lr=0.1)
        with pytest.raises(ValueError, match="expected a finite gradient, got NaN or inf"):
            corrected_update(gradient, fisher, gradient * bad, inner_lr=0.1)
    traced = gradient.clone().requires_grad_()
    assert not corrected_update(traced, fisher, traced, inner_lr=0.1).requires_grad


def test_the_largest_eigenvalue():
    model = net()
    fisher = Fisher(model, X)
    exact = float(torch.linalg.eigvalsh(dense(fisher))[-1])
    assert largest_eigenvalue(fisher, iterations=300) == pytest.approx(exact, rel=1e-6)
    rough = [largest_eigenvalue(fisher, iterations=n) for n in (1, 2, 5, 30)]
    assert rough == sorted(rough)
    assert rough[-1] <= exact
    assert largest_eigenvalue(fisher) == rough[-1]
    assert largest_eigenvalue(fisher, 1, seed=1) != rough[0]
    with pytest.raises(ValueError, match="iterations of at least 1, got 0"):
        largest_eigenvalue(fisher, iterations=0)
    # Saturated outputs: no change of the parameters changes them.
    with torch.no_grad():
        model[3].bias[0] = 1e6
    assert largest_eigenvalue(Fisher(model, X)) == 0
