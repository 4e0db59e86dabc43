"""Fisher information against dense matrices made of single gradients, in float64."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, hessian, jacrev

from hilbertlib.distance import kl_divergence, l2_distance
from hilbertlib.fisher import Fisher, fisher_diagonal, fisher_vector_product
from hilbertlib.models import LSTMClassifier, mlp, seeded, small_cnn

KINDS = ("true", "sampled", "empirical")
LIKELIHOODS = ("softmax", "gaussian")


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tanh_net() -> nn.Module:
    return seeded(lambda: mlp((4, 5, 3), "tanh"), seed=0).double()


def normalized_cnn(seed: int = 0) -> nn.Module:
    """A small CNN with BatchNorm that has seen a batch, in evaluation mode."""
    model = seeded(lambda: small_cnn(classes=3, width=2, batch_norm=True), seed).double()
    model(draw(5, 8, 1, 8, 8))
    return model.eval()


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)))


class Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x)


def trained(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def gradient_of(value: torch.Tensor, model: nn.Module) -> torch.Tensor:
    grads = torch.autograd.grad(value, trained(model), retain_graph=True)
    return torch.cat([g.ravel() for g in grads])


def labels(kind: str, likelihood: str, z: torch.Tensor) -> torch.Tensor | None:
    if kind != "empirical":
        return None
    return torch.arange(len(z)) % z.shape[1] if likelihood == "softmax" else draw(9, *z.shape)


def slow_fisher(
    model, x, likelihood="softmax", kind="true", targets=None, samples=1, variance=1.0, seed=0
):
    """(1/N) Σ_i E_y[g gᵀ], g the gradient of −log P(y|z_i): one example, one y at a time."""
    z = model(x)
    size = sum(p.numel() for p in trained(model))
    total = torch.zeros(size, size, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    if likelihood == "softmax":
        log_p = z.log_softmax(dim=1)
        chance = log_p.detach().exp()
        n, c = z.shape
        if kind == "true":
            cases = [(i, y, float(chance[i, y])) for i in range(n) for y in range(c)]
        elif kind == "sampled":
            drawn = torch.multinomial(chance, samples, True, generator=generator)
            cases = [(i, int(y), 1 / samples) for i in range(n) for y in drawn[i]]
        else:
            cases = [(i, int(y), 1.0) for i, y in enumerate(targets)]
        for i, y, weight in cases:
            g = gradient_of(-log_p[i, y], model)
            total += weight * torch.outer(g, g)
        return total / n
    flat = z.flatten(1)
    if kind == "true":  # E_y[g gᵀ] = JᵀJ / variance
        for row in flat:
            for value in row:
                g = gradient_of(value, model)
                total += torch.outer(g, g) / variance
        return total / len(z)
    if kind == "sampled":
        noise = torch.randn(samples, *flat.shape, dtype=torch.float64, generator=generator)
        ys = flat.detach() - noise * math.sqrt(variance)
    else:
        ys = targets.flatten(1)[None]
    for y in ys:
        for i in range(len(z)):
            g = gradient_of((flat[i] - y[i]).square().sum() / (2 * variance), model)
            total += torch.outer(g, g) / len(ys)
    return total / len(z)


def dense(fisher: Fisher) -> torch.Tensor:
    return torch.stack([fisher @ e for e in torch.eye(fisher.size, dtype=torch.float64)], dim=1)


def options(likelihood: str, kind: str, z: torch.Tensor) -> dict:
    out = {"likelihood": likelihood, "kind": kind, "targets": labels(kind, likelihood, z)}
    if kind == "sampled":
        out["samples"] = 3
    if likelihood == "gaussian":
        out["variance"] = 0.25
    return out


# --- products --------------------------------------------------------------------------------


def test_by_hand():
    # Zero weights: p = (1/2, 1/2), so B = [[1, -1], [-1, 1]] / 4, and J = (x, 1) for each output.
    model = nn.Linear(1, 2).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    fisher = Fisher(model, torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    v = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    expected = [1.25, -1.25, 0.5, -0.5]  # mean x² / 4, mean x / 4
    torch.testing.assert_close((fisher @ v).tolist(), expected)
    assert float(fisher.kl(v)) == 0.625
    assert fisher.size == 4
    torch.testing.assert_close(fisher.outputs, torch.zeros(2, 2, dtype=torch.float64))
    assert not fisher.outputs.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(
    ("build", "shape"),
    [(tanh_net, (4,)), (normalized_cnn, (1, 8, 8)), (lambda: Tied().double(), (3,))],
)
def test_products_equal_the_dense_matrix(build, shape, likelihood, kind):
    model, x = build(), draw(1, 4, *shape)
    settings_ = options(likelihood, kind, model(x))
    expected = slow_fisher(model, x, **settings_)
    fisher = Fisher(model, x, **settings_, generator=torch.Generator().manual_seed(0))
    assert fisher.size == len(expected)
    if fisher.size < 80:
        torch.testing.assert_close(dense(fisher), expected, rtol=1e-10, atol=1e-14)
    v = draw(2, fisher.size)
    torch.testing.assert_close(fisher @ v, expected @ v, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(fisher.kl(v), v @ expected @ v / 2, rtol=1e-10, atol=1e-13)
    assert fisher.kl(v).shape == ()
    once = fisher_vector_product(
        model, x, v, **settings_, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(once, fisher @ v, rtol=0, atol=0)
    assert not once.requires_grad


def test_the_defaults_are_the_same_everywhere():
    model, x, v = tanh_net(), draw(1, 4, 4), draw(2, 43)
    seeded = [torch.Generator().manual_seed(0) for _ in range(4)]
    fisher = Fisher(model, x, kind="sampled", samples=1, generator=seeded[0])
    again = Fisher(model, x, kind="sampled", generator=seeded[1])
    once = fisher_vector_product(model, x, v, kind="sampled", generator=seeded[2])
    assert torch.equal(again @ v, fisher @ v)
    assert torch.equal(once, fisher @ v)
    diagonal = fisher_diagonal(model, x, kind="sampled", generator=seeded[3])
    torch.testing.assert_close(diagonal, dense(fisher).diagonal(), rtol=1e-10, atol=1e-14)
    for likelihood in ("softmax", "gaussian"):  # and so is the true Fisher, of unit variance
        fisher = Fisher(model, x, likelihood=likelihood, kind="true", variance=1.0)
        diagonal = fisher_diagonal(model, x, likelihood=likelihood)
        assert torch.equal(fisher_vector_product(model, x, v, likelihood=likelihood), fisher @ v)
        torch.testing.assert_close(diagonal, dense(fisher).diagonal(), rtol=1e-10, atol=1e-14)
    assert torch.equal(fisher_vector_product(model, x, v), Fisher(model, x) @ v)


def test_a_gaussian_may_have_outputs_of_any_shape():
    model = nn.Sequential(tanh_net(), nn.Unflatten(1, (1, 3)))
    x, v = draw(1, 4, 4), draw(2, 43)
    for kind in KINDS:
        settings_ = options("gaussian", kind, model(x))
        expected = slow_fisher(model, x, **settings_) @ v
        fisher = Fisher(model, x, **settings_, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(fisher @ v, expected, rtol=1e-10, atol=1e-13)


def flat_function(model: nn.Module, x: torch.Tensor):
    names, shapes = zip(*[(n, p.shape) for n, p in model.named_parameters()], strict=True)
    theta = torch.cat([p.detach().ravel() for p in model.parameters()])

    def outputs(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split([s.numel() for s in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return functional_call(model, values, (x,))

    return theta, outputs


@pytest.mark.parametrize("new_first", [True, False])
def test_the_hessian_of_the_kl_divergence_is_the_fisher(new_first):
    model, x = tanh_net(), draw(1, 6, 4)
    theta, outputs = flat_function(model, x)
    old = outputs(theta).softmax(dim=1)

    def divergence(delta: torch.Tensor) -> torch.Tensor:
        new = outputs(theta + delta).softmax(dim=1)
        return kl_divergence(new, old) if new_first else kl_divergence(old, new)

    torch.testing.assert_close(
        hessian(divergence)(torch.zeros_like(theta)), dense(Fisher(model, x)),
        rtol=1e-9, atol=1e-12,
    )  # fmt: skip
    small = 1e-4 * draw(3, len(theta))
    torch.testing.assert_close(Fisher(model, x).kl(small), divergence(small), rtol=1e-3, atol=0.0)


def test_the_hessian_of_half_the_mean_squared_l2_distance_is_that_of_the_outputs():
    model, x = nn.Sequential(tanh_net(), nn.Softmax(dim=1)), draw(1, 6, 4)
    theta, outputs = flat_function(model, x)
    old = outputs(theta)
    jacobian = jacrev(outputs)(theta)  # (N, C, P)

    def half_square(delta: torch.Tensor) -> torch.Tensor:
        return (outputs(theta + delta) - old).square().sum() / (2 * len(x))

    metric = dense(Fisher(model, x, likelihood="gaussian"))
    at = torch.zeros_like(theta)
    torch.testing.assert_close(hessian(half_square)(at), metric, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(
        torch.einsum("ncp,ncq->pq", jacobian, jacobian) / len(x), metric, rtol=1e-9, atol=1e-13
    )
    delta = draw(3, len(theta))
    assert float(half_square(delta)) == pytest.approx(
        float(l2_distance(outputs(theta + delta), old)) ** 2 / 2
    )


def test_curvlinops_agrees():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from curvlinops import EFLinearOperator, GGNLinearOperator

    model, x = normalized_cnn(), draw(1, 6, 1, 8, 8)
    y, values = torch.arange(6) % 3, draw(4, 6, 3)
    parameters = trained(model)
    v = draw(2, sum(p.numel() for p in parameters))

    def theirs(operator, loss, target):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return operator(model, loss, parameters, [(x, target)]) @ v

    cross_entropy, square = nn.CrossEntropyLoss(), nn.MSELoss(reduction="sum")
    for ours, other in (
        (Fisher(model, x), theirs(GGNLinearOperator, cross_entropy, y)),
        (
            Fisher(model, x, kind="empirical", targets=y),
            theirs(EFLinearOperator, cross_entropy, y),
        ),
        # Their loss Σ|z − y|² has Hessian 2 JᵀJ.
        (
            Fisher(model, x, likelihood="gaussian"),
            theirs(GGNLinearOperator, square, values) / (2 * len(x)),
        ),
    ):
        torch.testing.assert_close(ours @ v, other, rtol=1e-9, atol=1e-12)


CASES = [(likelihood, kind) for likelihood in LIKELIHOODS for kind in KINDS]
OPERATORS = {
    (likelihood, kind): Fisher(
        tanh_net(), draw(1, 4, 4), **options(likelihood, kind, torch.zeros(4, 3))
    )
    for likelihood, kind in CASES
}


@given(st.sampled_from(CASES), st.integers(0, 10**6), st.floats(-10, 10), st.floats(-10, 10))
@settings(max_examples=50, deadline=None)
def test_linear_symmetric_and_positive(case, seed, a, b):
    fisher = OPERATORS[case]
    v, w = draw(seed, fisher.size), draw(seed + 1, fisher.size)
    torch.testing.assert_close(
        fisher @ (a * v + b * w), a * (fisher @ v) + b * (fisher @ w), rtol=1e-9, atol=1e-9
    )
    assert float(w @ (fisher @ v)) == pytest.approx(float(v @ (fisher @ w)), rel=1e-8, abs=1e-10)
    assert float(v @ (fisher @ v)) >= -1e-12
    assert float(fisher.kl(v)) >= 0


def test_samples_average_to_the_true_fisher():
    model, x = tanh_net(), draw(1, 4, 4)
    for likelihood in LIKELIHOODS:
        exact = dense(Fisher(model, x, likelihood=likelihood, variance=2.0))
        sampled = dense(
            Fisher(
                model, x, likelihood=likelihood, variance=2.0, kind="sampled", samples=20_000,
                generator=torch.Generator().manual_seed(3),
            )
        )  # fmt: skip
        assert float((sampled - exact).norm() / exact.norm()) < 0.02


def test_draws_are_fixed_for_an_operator_and_follow_the_generator():
    model, x, v = tanh_net(), draw(1, 4, 4), draw(2, 43)

    def sampled(seed: int) -> Fisher:
        return Fisher(model, x, kind="sampled", generator=torch.Generator().manual_seed(seed))

    first = sampled(0)
    torch.testing.assert_close(first @ v, first @ v, rtol=0, atol=0)
    torch.testing.assert_close(first @ v, sampled(0) @ v, rtol=0, atol=0)
    assert not torch.equal(first @ v, sampled(1) @ v)


# --- modules ---------------------------------------------------------------------------------


def test_batch_statistics_in_training_mode():
    model, x = normalized_cnn().train(), draw(1, 5, 1, 8, 8)
    before = [b.clone() for b in model.buffers()]
    twin = copy.deepcopy(model)
    z = twin(x)
    size, p = sum(q.numel() for q in trained(model)), z.softmax(dim=1).detach()
    expected = torch.zeros(size, size, dtype=torch.float64)
    for i in range(5):
        jacobian = torch.stack([gradient_of(z[i, c], twin) for c in range(3)])
        expected += jacobian.T @ (p[i].diag() - p[i].outer(p[i])) @ jacobian / 5
    v = draw(2, size)
    fisher = Fisher(model, x)
    torch.testing.assert_close(fisher @ v, expected @ v, rtol=1e-9, atol=1e-12)
    assert model.training
    assert all(torch.equal(b, kept) for b, kept in zip(model.buffers(), before, strict=True))
    running = Fisher(model.eval(), x) @ v
    assert not torch.allclose(running, fisher @ v, rtol=0.1)


def test_dropout_draws_one_mask():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double()
    fisher = Fisher(model, draw(1, 6, 4))
    v, w = draw(2, fisher.size), draw(3, fisher.size)
    torch.testing.assert_close(fisher @ v, fisher @ v, rtol=0, atol=0)
    assert float(w @ (fisher @ v)) == pytest.approx(float(v @ (fisher @ w)), rel=1e-10)
    assert not torch.allclose(fisher @ v, Fisher(model.eval(), draw(1, 6, 4)) @ v, rtol=0.01)


def test_a_recurrent_network_and_attention():
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dropout=0.0)
    for model, x in (
        (LSTMClassifier(hidden=3, classes=3), draw(1, 4, 1, 2, 3)),
        (nn.Sequential(attention, nn.Flatten(), nn.Linear(8, 3)), draw(1, 4, 2, 4)),
    ):
        model.double()
        fisher = Fisher(model, x)
        v = draw(2, fisher.size)
        expected = slow_fisher(model, x) @ v
        torch.testing.assert_close(fisher @ v, expected, rtol=1e-9, atol=1e-12)


def test_frozen_parameters_are_left_out_and_a_subset_is_a_block():
    model, x = tanh_net(), draw(1, 4, 4)
    full = dense(Fisher(model, x))
    last = [p for n, p in model.named_parameters() if n.startswith("3.")]
    block = full[-18:, -18:]
    chosen = Fisher(model, x, parameters=iter(last))
    torch.testing.assert_close(dense(chosen), block, rtol=1e-12, atol=1e-15)
    assert [id(p) for p in chosen.parameters] == [id(p) for p in last]
    model[1].requires_grad_(False)
    torch.testing.assert_close(dense(Fisher(model, x)), block, rtol=1e-12, atol=1e-15)
    # Named, a frozen one is included: F does not depend on what is trained.
    named = Fisher(model, x, parameters=model.parameters())
    torch.testing.assert_close(dense(named), full, rtol=1e-12, atol=1e-15)


def test_it_stays_where_it_was_built():
    model, x = normalized_cnn(), draw(1, 4, 1, 8, 8)
    frozen = next(iter(model.parameters())).requires_grad_(False)
    fisher = Fisher(model, x)
    v = draw(2, fisher.size)
    before = fisher @ v
    with torch.no_grad():
        for t in [*model.parameters(), *model.buffers()]:
            t.zero_()
    assert not frozen.any()
    torch.testing.assert_close(fisher @ v, before, rtol=0, atol=0)


def test_one_forward_pass_for_all_products_and_one_backward_for_each():
    model = Counted(tanh_net())
    fisher = Fisher(model, draw(1, 4, 4))
    pull, pulls = fisher._pull, []
    fisher._pull = lambda u: pulls.append(1) or pull(u)
    for seed in range(3):
        fisher @ draw(seed, fisher.size)
    assert model.calls == 1
    assert len(pulls) == 3


def test_it_can_be_built_where_gradients_are_off():
    model, x, v = tanh_net(), draw(1, 4, 4), draw(2, 43)
    expected = Fisher(model, x) @ v
    with torch.no_grad():
        torch.testing.assert_close(Fisher(model, x) @ v, expected, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())


def test_no_matrix_of_examples_by_parameters():
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in tree_leaves(out):
                if isinstance(t, torch.Tensor):
                    self.numel = max(self.numel, t.numel())
            return out

    model, x = mlp((20, 30, 10)), torch.rand(50, 20)
    size = sum(p.numel() for p in model.parameters())
    with Largest() as seen:
        Fisher(model, x) @ torch.ones(size)
        fisher_diagonal(model, x, kind="empirical", targets=torch.arange(50) % 10)
    assert size <= seen.numel < 2 * 50 * 30


def test_flatten_and_unflatten_are_inverse():
    fisher = Fisher(tanh_net(), draw(1, 4, 4))
    v = draw(2, fisher.size)
    parts = fisher.unflatten(v)
    assert [p.shape for p in parts] == [p.shape for p in fisher.parameters]
    assert torch.equal(fisher.flatten(parts), v)


def test_float32_gives_float32():
    model = tanh_net().float()
    assert (Fisher(model, torch.rand(3, 4)) @ torch.ones(43)).dtype == torch.float32


# --- diagonal --------------------------------------------------------------------------------


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(5, 3)
    ).double()


class Twice(nn.Module):
    """A layer used twice: the gradient of an example is a sum of two outer products."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class Rows(nn.Module):
    """A layer that sees two rows of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x.view(len(x), 2, 2))).sum(dim=1)


class Stacked(Rows):
    """The same with examples and rows in one axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x.view(-1, 2))).view(len(x), 2, 3).sum(dim=1)


class Scaled(nn.Module):
    """A trainable parameter that belongs to no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.layer(x)


def half_frozen() -> nn.Module:
    model = tanh_net()
    model[1].weight.requires_grad_(False)
    return model


DIAGONALS = {
    "mlp": tanh_net, "dropout, in place, no bias": with_dropout, "tied": lambda: Tied().double(),
    "used twice": lambda: Twice().double(), "two rows": lambda: Rows().double(),
    "stacked rows": lambda: Stacked().double(), "scaled": lambda: Scaled().double(),
    "one layer": lambda: nn.Linear(4, 3).double(), "half frozen": half_frozen,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", DIAGONALS)
def test_the_diagonal_equals_the_dense_one(name, likelihood, kind):
    model = DIAGONALS[name]()
    model.train()
    x = draw(1, 5, 3 if name == "tied" else 4)
    settings_ = options(likelihood, kind, torch.zeros(5, 3))
    found = fisher_diagonal(
        model, x, **settings_, generator=torch.Generator().manual_seed(0), chunk=2
    )
    assert model.training
    assert not found.requires_grad
    expected = slow_fisher(model.eval(), x, **settings_).diagonal()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    assert all(not m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_the_diagonal_of_a_convolutional_network_with_running_statistics(kind):
    model, x = normalized_cnn(), draw(1, 5, 1, 8, 8)
    settings_ = options("softmax", kind, torch.zeros(5, 3))
    expected = slow_fisher(model, x, **settings_).diagonal()
    buffers = [b.clone() for b in model.buffers()]
    found = fisher_diagonal(
        model.train(), x, **settings_, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))


def test_the_diagonal_does_not_depend_on_how_the_examples_are_cut():
    x = draw(1, 1030, 4)
    y = torch.arange(1030) % 3
    model = tanh_net()
    whole = fisher_diagonal(model, x, kind="empirical", targets=y)
    parts = [
        fisher_diagonal(model, a, kind="empirical", targets=b) * len(a)
        for a, b in zip(x.split(100), y.split(100), strict=True)
    ]
    torch.testing.assert_close(whole, sum(parts) / 1030, rtol=1e-10, atol=1e-14)


def test_linear_networks_take_the_short_way(monkeypatch):
    def refuse(*_):
        raise AssertionError("gradients of single examples")

    monkeypatch.setattr("hilbertlib.fisher._example_diagonal", refuse)
    for build in (tanh_net, with_dropout, half_frozen):
        fisher_diagonal(build(), draw(1, 1, 4))
    with pytest.raises(AssertionError, match="single examples"):
        fisher_diagonal(Rows().double(), draw(1, 2, 4))


# --- bad input -------------------------------------------------------------------------------

X, Y = draw(1, 4, 4), torch.arange(4) % 3


@pytest.mark.parametrize("function", [Fisher, fisher_diagonal])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "poisson"}, "expected likelihood 'softmax' or 'gaussian', got 'poisson'"),
        ({"kind": "exact"}, "expected kind 'true' or 'sampled' or 'empirical', got 'exact'"),
        ({"x": X[:0]}, "at least one example, got an empty batch or a single number"),
        ({"x": X[0, 0]}, "at least one example, got an empty batch or a single number"),
        *(
            (
                {"kind": "empirical", "targets": draw(2, 4, 3) * bad, "likelihood": "gaussian"},
                "expected finite targets, got NaN or inf",
            )
            for bad in (math.nan, math.inf)
        ),
        ({"kind": "empirical"}, "expected targets, the labels of x, for the empirical Fisher"),
        ({"targets": Y}, "the true Fisher takes no targets; did you mean kind='empirical'"),
        ({"kind": "sampled", "samples": 0}, "samples of at least 1, got 0"),
        ({"variance": 0.0}, "positive variance, got 0.0"),
        ({"variance": math.inf}, "positive variance, got inf"),
        ({"variance": math.nan}, "positive variance, got nan"),
        (
            {"kind": "empirical", "targets": Y[:3]},
            r"targets of shape \(4,\) and int64, one class each; got \(3,\), torch.int64",
        ),
        ({"kind": "empirical", "targets": Y.double()}, r"got \(4,\), torch.float64"),
        ({"kind": "empirical", "targets": Y + 1}, "classes from 0 to 2, got 1 to 3"),
        ({"kind": "empirical", "targets": Y - 1}, "classes from 0 to 2, got -1 to 1"),
        (
            {"kind": "empirical", "targets": Y, "likelihood": "gaussian"},
            r"expected targets of shape \(4, 3\), got \(4,\), torch.int64",
        ),
        ({"x": X * math.nan}, "outputs are not finite"),
        ({"x": X * math.nan, "likelihood": "gaussian"}, "outputs are not finite"),
        ({"model": nn.Sequential(tanh_net(), nn.Flatten(0))}, r"shape \(4, at least 2 classes\)"),
        (
            {"model": nn.Sequential(tanh_net(), nn.Unflatten(1, (1, 3)))},
            r"logits of shape \(4, at least 2 classes\), got \(4, 1, 3\)",
        ),
        ({"model": nn.Linear(4, 1).double()}, r"got \(4, 1\)"),
        (
            {"model": nn.Sequential(tanh_net(), nn.Flatten(0)), "likelihood": "gaussian"},
            r"expected outputs of shape \(4, \.\.\.\), got \(12,\)",
        ),
        (
            {
                "model": nn.Sequential(tanh_net(), nn.Flatten(0), nn.Unflatten(0, (2, 6))),
                "likelihood": "gaussian",
            },
            r"expected outputs of shape \(4, \.\.\.\), got \(2, 6\)",
        ),
        ({"model": tanh_net().requires_grad_(False)}, "with trainable parameters, got none"),
    ],
)
def test_bad_input(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(**{"model": tanh_net(), "x": X, **arguments})


@pytest.mark.parametrize("function", [Fisher, fisher_diagonal])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": [1.0, 2.0]}, "expected x to be a tensor, got list"),
        ({"x": None}, "expected x to be a tensor, got NoneType"),
        (
            {"kind": "empirical", "targets": [0, 1, 2, 0]},
            "expected targets to be a tensor, got list",
        ),
    ],
)
def test_what_is_no_tensor(function, arguments, message):
    with pytest.raises(TypeError, match=message):
        function(**{"model": tanh_net(), "x": X, **arguments})


def test_a_model_that_returns_more_than_one_tensor():
    with pytest.raises(TypeError, match="returns one tensor, got tuple: wrap it in a module that"):
        Fisher(nn.LSTM(4, 3).double(), X)


def test_one_class_fewer_rows_than_examples():
    merged = nn.Sequential(tanh_net(), nn.Flatten(0), nn.Unflatten(0, (2, 6)))
    with pytest.raises(ValueError, match=r"logits of shape \(4, at least 2 classes\), got \(2, 6"):
        Fisher(merged, X)


def test_the_smallest_that_is_allowed():
    assert Fisher(nn.Linear(4, 2).double(), X[:1], kind="sampled", samples=1).size == 10
    bottom_and_top = torch.tensor([0, 2, 0, 2])
    Fisher(tanh_net(), X, kind="empirical", targets=bottom_and_top)
    fisher_diagonal(tanh_net(), X, chunk=1)


def test_a_bad_chunk():
    with pytest.raises(ValueError, match="chunk of at least 1, got 0"):
        fisher_diagonal(tanh_net(), X, chunk=0)


def test_parameters_must_be_the_models_own():
    model = tanh_net()
    with pytest.raises(ValueError, match=r"one or more of the model's own parameters, got 1 of"):
        Fisher(model, X, parameters=[nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match=r"got 5 of which 4 are"):
        Fisher(model, X, parameters=[*model.parameters(), nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match=r"got 0 of which 0 are"):
        Fisher(model, X, parameters=[])


@pytest.mark.parametrize("vector", [draw(1, 42), draw(1, 43, 1), draw(1, 43).float()])
def test_a_vector_that_does_not_fit(vector):
    fisher = Fisher(tanh_net(), X)
    for use in (fisher.__matmul__, fisher.kl, fisher.unflatten):
        with pytest.raises(ValueError, match=r"vector of shape \(43,\) and torch.float64, one"):
            use(vector)


def test_probabilities_in_place_of_logits():
    model = nn.Sequential(tanh_net(), nn.Softmax(dim=1))
    for function in (Fisher, fisher_diagonal):
        with pytest.warns(
            UserWarning, match="look like probabilities, but logits are expected: leave"
        ):
            function(model, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fisher(tanh_net(), X)
        Fisher(model, X, likelihood="gaussian")
        Fisher(nn.Sequential(tanh_net(), nn.ReLU()), X)  # not negative, but sums are not 1
        # Sums of 1, but not between 0 and 1.
        shift = nn.Linear(4, 2).double()
        nn.init.zeros_(shift.weight)
        with torch.no_grad():
            shift.bias.copy_(torch.tensor([2.0, -1.0]))
        Fisher(shift, X)


def test_labels_are_those_of_the_loss():
    """The empirical Fisher's factor is the gradient of the cross-entropy."""
    model = nn.Linear(4, 3).double()
    diagonal = fisher_diagonal(model, X[:1], kind="empirical", targets=Y[:1])
    F.cross_entropy(model(X[:1]), Y[:1]).backward()
    expected = torch.cat([p.grad.ravel() for p in model.parameters()]).square()
    torch.testing.assert_close(diagonal, expected, rtol=1e-12, atol=0)
