"""Distances against explicit loops in float64, the laws of a metric, and honest intervals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hilbertlib.distance import (
    L2Estimate,
    estimate_l2,
    kl_divergence,
    l2_distance,
    pairwise_l2,
    pairwise_parameter_distance,
    parameter_distance,
)

REDUCTIONS = ("rms", "mean_norm")


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_l2(f: torch.Tensor, g: torch.Tensor, reduction: str) -> float:
    norms = []
    for a, b in zip(f, g, strict=True):
        norms.append(
            math.sqrt(sum((x - y) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True)))
        )
    if reduction == "rms":
        return math.sqrt(sum(n * n for n in norms) / len(norms))
    return sum(norms) / len(norms)


# --- l2_distance -----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (4, 2, 3), (6,), (3, 2, 2, 2)])
def test_l2_equals_the_loop(shape, reduction):
    f, g = draw(0, *shape), draw(1, *shape)
    assert float(l2_distance(f, g, reduction)) == pytest.approx(slow_l2(f, g, reduction), rel=1e-13)
    assert l2_distance(f, g, reduction).shape == ()


def test_the_default_is_the_root_of_the_mean_square():
    f, g = torch.zeros(2, 1), torch.tensor([[3.0], [1.0]])
    assert float(l2_distance(f, g)) == pytest.approx(math.sqrt(5))
    assert float(l2_distance(f, g, "mean_norm")) == pytest.approx(2.0)


@given(st.integers(0, 10**6), st.sampled_from(REDUCTIONS))
def test_it_is_a_metric(seed, reduction):
    f, g, h = (draw(seed + i, 4, 3) for i in range(3))
    d = lambda a, b: float(l2_distance(a, b, reduction))  # noqa: E731
    assert d(f, f) == 0
    assert d(f, g) > 0
    assert d(f, g) == d(g, f)
    assert d(f, h) <= d(f, g) + d(g, h) + 1e-12
    assert d(3 * f, 3 * g) == pytest.approx(3 * d(f, g))
    assert d(f + h, g + h) == pytest.approx(d(f, g))


@given(st.integers(0, 10**6))
def test_between_classifiers_it_stays_below_the_root_of_two(seed):
    f, g = (20 * draw(seed + i, 6, 5) for i in range(2))
    assert float(l2_distance(f.softmax(1), g.softmax(1))) <= math.sqrt(2) + 1e-12
    assert float(l2_distance(f, g, "mean_norm")) <= float(l2_distance(f, g)) + 1e-12  # Jensen


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_where_functions_agree_the_gradient_is_zero_and_not_nan(reduction):
    f = draw(0, 4, 3).requires_grad_()
    l2_distance(f, f.detach(), reduction).backward()
    assert torch.equal(f.grad, torch.zeros(4, 3, dtype=torch.float64))


def test_the_gradient_is_right():
    f, g = draw(0, 4, 3).requires_grad_(), draw(1, 4, 3)
    for reduction in REDUCTIONS:
        assert torch.autograd.gradcheck(lambda x, r=reduction: l2_distance(x, g, r), (f,))


@pytest.mark.parametrize(
    ("f", "g", "message"),
    [
        (
            torch.zeros(3, 2), torch.zeros(3, 4),
            r"expected outputs of the same shape, got \(3, 2\) and \(3, 4\)",
        ),
        (
            torch.zeros(0, 2), torch.zeros(0, 2),
            r"expected at least one example along the first axis, got shape \(0, 2\)",
        ),
        (torch.tensor(1.0), torch.tensor(1.0), r"expected at least one example .*shape \(\)"),
        (
            torch.tensor([math.nan]), torch.tensor([1.0]),
            "expected finite outputs, got NaN or infinity",
        ),
        (torch.tensor([math.inf]), torch.tensor([1.0]), "expected finite outputs, .*"),
    ],
)  # fmt: skip
def test_bad_outputs_are_named(f, g, message):
    for call in (l2_distance, estimate_l2):
        with pytest.raises(ValueError, match=f"^{message}$"):
            call(f, g)


def test_half_precision_is_widened_before_the_difference():
    for dtype in (torch.float16, torch.bfloat16):
        f, g = draw(0, 3000, 4).to(dtype), draw(1, 3000, 4).to(dtype)
        for reduction in REDUCTIONS:
            d = l2_distance(f, g, reduction)
            assert d.dtype == torch.float32
            exact = l2_distance(f.double(), g.double(), reduction)
            assert float(d) == pytest.approx(float(exact), rel=1e-6)
    assert l2_distance(f, draw(1, 3000, 4)).dtype == torch.float64


def test_numbers_that_are_no_outputs_are_refused():
    labels = torch.arange(3)
    for call in (l2_distance, estimate_l2):
        with pytest.raises(
            TypeError, match=r"floating-point outputs, got torch\.int64 and .*float"
        ):
            call(labels, labels.float())
        with pytest.raises(TypeError, match=r"got torch\.float32 and torch\.bool"):
            call(labels.float(), labels > 1)


def test_an_unknown_reduction_is_named():
    f = torch.zeros(2, 2)
    for call in (l2_distance, lambda a, b, reduction: pairwise_l2([a, b], reduction=reduction)):
        with pytest.raises(ValueError, match="'rms' or 'mean_norm', got 'sum'"):
            call(f, f, reduction="sum")
    with pytest.raises(ValueError, match="'rms' or 'mean_norm', got 'sum'"):
        estimate_l2(f, f, reduction="sum")


# --- estimate_l2 -----------------------------------------------------------------------------


def test_the_estimate_by_hand():
    f, g = torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    squares = np.array([1.0, 4, 9, 16])
    e = estimate_l2(f, g)
    assert e.distance == pytest.approx(math.sqrt(7.5))
    assert e.std == pytest.approx(squares.std(ddof=1) / (2 * math.sqrt(7.5)))
    half = 1.959963984540054 * squares.std(ddof=1) / 2
    assert e.low == pytest.approx(math.sqrt(7.5 - half))
    assert e.high == pytest.approx(math.sqrt(7.5 + half))
    assert (e.n, e.level, e.reduction) == (4, 0.95, "rms")
    m = estimate_l2(f, g, level=0.9, reduction="mean_norm")
    assert m.distance == pytest.approx(2.5)
    assert (m.n, m.level, m.reduction) == (4, 0.9, "mean_norm")
    assert m.std == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    assert m.high - m.distance == pytest.approx(1.6448536269514722 * m.std / 2)
    assert m.distance - m.low == pytest.approx(1.6448536269514722 * m.std / 2)


@given(st.integers(0, 10**6), st.sampled_from(REDUCTIONS), st.floats(0.5, 0.999))
def test_the_interval_holds_the_estimate_and_widens_with_the_level(seed, reduction, level):
    f, g = draw(seed, 9, 2), draw(seed + 1, 9, 2)
    e = estimate_l2(f, g, level, reduction)
    assert e.distance == pytest.approx(float(l2_distance(f, g, reduction)))
    assert 0 <= e.low <= e.distance <= e.high
    wider = estimate_l2(f, g, (1 + level) / 2, reduction)
    assert wider.low <= e.low
    assert e.high < wider.high


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_interval_holds_the_truth_as_often_as_it_says(reduction):
    generator = torch.Generator().manual_seed(3)
    # |f_i - g_i| uniform on [0, 1]: root mean square 1/√3, mean 1/2
    truth = 1 / math.sqrt(3) if reduction == "rms" else 0.5
    zero = torch.zeros(200, 1)
    held = 0
    for _ in range(1500):
        e = estimate_l2(torch.rand(200, 1, generator=generator), zero, 0.9, reduction)
        held += e.low <= truth <= e.high
    assert 0.88 < held / 1500 < 0.92


def test_examples_needed_is_the_inverse_of_the_relative_error():
    e = estimate_l2(draw(0, 50, 3), draw(1, 50, 3))
    assert e.examples_needed(e.relative_error) == pytest.approx(50)
    assert e.examples_needed(0.01) == pytest.approx(25 * e.examples_needed(0.05))
    assert e.examples_needed() == e.examples_needed(0.05)
    expected = 1.959963984540054 * e.std / (math.sqrt(50) * e.distance)
    assert e.relative_error == pytest.approx(expected)


def test_equal_functions_need_no_examples_and_have_no_error():
    f = draw(0, 5, 2)
    e = estimate_l2(f, f)
    assert (e.distance, e.low, e.high, e.std) == (0, 0, 0, 0)
    assert (e.relative_error, e.examples_needed()) == (0, 0)
    assert L2Estimate(0.0, 0.0, 1.0, 0.5, 4, 0.95, "rms").relative_error == math.inf


@pytest.mark.parametrize("relative", [0, -0.1, math.nan, math.inf])
def test_a_precision_that_makes_no_sense_is_refused(relative):
    with pytest.raises(ValueError, match=f"^expected a positive relative error, got {relative}$"):
        estimate_l2(draw(0, 5, 2), draw(1, 5, 2)).examples_needed(relative)


def test_an_interval_needs_two_examples_and_a_level():
    with pytest.raises(ValueError, match=r"^an interval needs at least 2 examples, got 1$"):
        estimate_l2(torch.zeros(1, 2), torch.ones(1, 2))
    assert estimate_l2(torch.zeros(2, 2), torch.ones(2, 2)).n == 2
    for level in (0, 1, 1.5):
        with pytest.raises(ValueError, match=f"^expected a level between 0 and 1, got {level}$"):
            estimate_l2(torch.zeros(3, 2), torch.ones(3, 2), level)


# --- pairwise --------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pairwise_equals_the_loop(reduction):
    outputs, other = draw(0, 5, 4, 3), draw(1, 2, 4, 3)
    square = pairwise_l2(outputs, reduction=reduction)
    assert square.dtype == torch.float64
    assert torch.equal(square, square.T)
    assert torch.equal(square.diagonal(), torch.zeros(5, dtype=torch.float64))
    for i in range(5):
        for j in range(5):
            expected = slow_l2(outputs[i], outputs[j], reduction)
            assert float(square[i, j]) == pytest.approx(expected, rel=1e-13)
    cross = pairwise_l2(outputs.float(), other.float(), reduction=reduction)
    assert cross.shape == (5, 2)
    assert float(cross[3, 1]) == pytest.approx(slow_l2(outputs[3], other[1], reduction), rel=1e-6)
    assert torch.equal(pairwise_l2(list(outputs), reduction=reduction), square)


def test_near_equal_functions_keep_their_distance():
    f = 1e4 * torch.ones(3, 8, 2, dtype=torch.float64)
    f[1] += 1e-7
    f[2] += 3e-7
    d = pairwise_l2(f)
    # what expanding the square would lose: (1e4)² - (1e4)² has no digits left at 1e-14
    assert float(d[0, 1]) == pytest.approx(1e-7 * math.sqrt(2), rel=1e-4)
    assert float(d[1, 2]) == pytest.approx(2e-7 * math.sqrt(2), rel=1e-4)


def test_pairwise_parameters_equals_the_loop():
    p, q = draw(0, 4, 7), draw(1, 3, 7)
    square, cross = pairwise_parameter_distance(p), pairwise_parameter_distance(p, list(q))
    assert torch.equal(square, square.T)
    assert torch.equal(square.diagonal(), torch.zeros(4, dtype=torch.float64))
    for i in range(4):
        for j in range(3):
            expected = math.sqrt(float(((p[i] - q[j]) ** 2).sum()))
            assert float(cross[i, j]) == pytest.approx(expected, rel=1e-13)
    assert float(square[1, 3]) == pytest.approx(float((p[1] - p[3]).norm()), rel=1e-13)


ONE_SHAPE = "expected outputs of one shape, got"
FLAT = r"expected flat parameters \(S, P\) of one length, got"
AXES = "axes or more and at least one row, got shape"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pairwise_l2([]), rf"{ONE_SHAPE} \[\]"),
        (
            lambda: pairwise_l2([torch.zeros(2, 1), torch.zeros(3, 1)]),
            rf"{ONE_SHAPE} \[\(2, 1\), \(3, 1\)\]",
        ),
        (lambda: pairwise_l2(torch.zeros(1, 1, 1), []), rf"{ONE_SHAPE} \[\]"),
        (
            lambda: pairwise_l2(torch.zeros(0, 2, 1)),
            rf"expected outputs with 3 {AXES} \(0, 2, 1\)",
        ),
        (lambda: pairwise_l2(torch.zeros(2, 2)), rf"expected outputs with 3 {AXES} \(2, 2\)"),
        (
            lambda: pairwise_l2(torch.zeros(2, 2, 1), torch.zeros(2, 2)),
            rf"expected outputs with 3 {AXES} \(2, 2\)",
        ),
        (
            lambda: pairwise_l2(torch.zeros(2, 0, 1)),
            "expected at least one example, got an empty batch",
        ),
        (
            lambda: pairwise_l2(torch.full((2, 2, 1), math.nan)),
            "expected finite outputs, got NaN or infinity",
        ),
        (
            lambda: pairwise_l2(torch.zeros(2, 2, 1), torch.zeros(2, 3, 1)),
            r"expected outputs on the same examples, got \(2, 2, 1\) and \(2, 3, 1\)",
        ),
        (
            lambda: pairwise_parameter_distance(torch.zeros(2, 3), torch.zeros(2, 4)),
            rf"{FLAT} \(2, 3\) and \(2, 4\)",
        ),
        (
            lambda: pairwise_parameter_distance(torch.zeros(2, 3, 1)),
            rf"{FLAT} \(2, 3, 1\) and \(2, 3, 1\)",
        ),
        (
            lambda: pairwise_parameter_distance(torch.zeros(3)),
            rf"expected parameters with 2 {AXES} \(3,\)",
        ),
        (
            lambda: pairwise_parameter_distance(torch.zeros(1, 3), torch.zeros(3)),
            rf"expected parameters with 2 {AXES} \(3,\)",
        ),
        (
            lambda: pairwise_parameter_distance(torch.full((1, 2), math.inf)),
            "expected finite parameters, got NaN or infinity",
        ),
    ],
)
def test_bad_stacks_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


# --- parameter_distance ----------------------------------------------------------------------


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)).double()


def test_parameters_in_every_form_give_one_distance():
    a, b = network(0), network(1)
    expected = math.sqrt(
        sum(
            float(((p - q) ** 2).sum().detach())
            for p, q in zip(a.parameters(), b.parameters(), strict=True)
        )
    )
    named = dict(a.named_parameters()), dict(b.named_parameters())
    flat = [torch.cat([p.detach().ravel() for p in m.parameters()]) for m in (a, b)]
    forms = [(a, b), named, (list(a.parameters()), list(b.parameters())), tuple(flat)]
    for x, y in forms:
        d = parameter_distance(x, y)
        assert float(d) == pytest.approx(expected, rel=1e-13)
        assert not d.requires_grad
    assert float(parameter_distance(a, a)) == 0


def test_buffers_and_frozen_parameters_do_not_count():
    a, b = network(0), network(0)
    b[1].running_mean += 5
    for m in (a, b):
        m[2].weight.requires_grad_(False)
    b[2].weight += 7
    assert float(parameter_distance(a, b)) == 0


def test_low_precision_parameters_are_compared_in_full():
    a, b = (0.3 * draw(seed, 300, 4) for seed in (0, 1))
    for dtype in (torch.float16, torch.bfloat16):
        d = parameter_distance([a.to(dtype), a], [b.to(dtype), b])
        low = (a.to(dtype).double() - b.to(dtype).double()).square().sum()
        assert float(d) == pytest.approx(math.sqrt(low + (a - b).square().sum()), rel=1e-6)
        assert parameter_distance(a.to(dtype), b.to(dtype)).dtype == torch.float32
    assert parameter_distance(a, b).dtype == torch.float64
    assert not parameter_distance(a.requires_grad_(), b).requires_grad


def test_parameters_that_do_not_fit_are_named():
    a, start = network(0), "^expected parameters of the same names and shapes;"
    with pytest.raises(ValueError, match=rf"{start} 0.weight is \(2, 3\) and \(2, 4\)$"):
        parameter_distance(a, nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)))
    one, two = {"x": torch.ones(1)}, {"x": torch.ones(1), "y": torch.ones(1)}
    with pytest.raises(ValueError, match=rf"{start} y is missing and \(1,\)$"):
        parameter_distance(one, two)
    with pytest.raises(ValueError, match=rf"{start} y is \(1,\) and missing$"):
        parameter_distance(two, one)
    with pytest.raises(ValueError, match=rf"{start} tensor 1 is \(1,\) and \(2,\)$"):
        parameter_distance([torch.ones(1), torch.ones(1)], [torch.ones(1), torch.ones(2)])
    with pytest.raises(ValueError, match=rf"{start} the tensor is \(1,\) and \(2,\)$"):
        parameter_distance(torch.ones(1), torch.ones(2))
    with pytest.raises(ValueError, match=r"^expected at least one trainable parameter, got none$"):
        parameter_distance(nn.ReLU(), nn.ReLU())
    with pytest.raises(TypeError, match=r"^expected two of one kind, got a module and a tensor$"):
        parameter_distance(a, torch.ones(3))
    with pytest.raises(TypeError, match=r"one kind, got a mapping and a list of tensors$"):
        parameter_distance({}, [])
    with pytest.raises(ValueError, match=r"^expected finite parameters, got a distance of nan$"):
        parameter_distance(torch.tensor([math.nan]), torch.tensor([1.0]))


# --- KL --------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_kl_equals_torchs(seed):
    p, q = draw(seed, 5, 4).softmax(1), draw(seed + 1, 5, 4).softmax(1)
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(p), categorical(q)).mean()
    torch.testing.assert_close(kl_divergence(p, q), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kl_divergence(p.log(), q.log(), log=True), expected)
    assert kl_divergence(p, q) > 0
    assert kl_divergence(p, p) == 0


def test_kl_at_the_edge_of_the_simplex():
    certain, even = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert float(kl_divergence(certain, even)) == pytest.approx(math.log(2))
    assert float(kl_divergence(even, certain)) == math.inf
    assert float(kl_divergence(certain.log(), even.log(), log=True)) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("dtype", "near", "far"),
    [
        (torch.float64, 0.9e-4, 1.1e-4),
        (torch.float32, 0.9e-4, 1.1e-4),
        (torch.float16, 0.0078, 0.0117),
        (torch.bfloat16, 0.0625, 0.09375),
    ],
)
def test_kl_takes_rows_that_sum_to_one_within_rounding(dtype, near, far):
    """Within 1e-4, or ten times the precision where that is coarser."""
    even = torch.ones(1, 2, dtype=dtype) / 2
    for sign in (-1, 1):
        assert kl_divergence(even + sign * near / 2, even).dtype == torch.promote_types(
            dtype, torch.float32
        )
        if dtype.itemsize > 2:
            kl_divergence((even + sign * near / 2).log(), even.log(), log=True)
        for p, q, name in (
            (even, even + sign * far / 2, "q"),
            (even + sign * far / 2, even, "p"),
        ):
            with pytest.raises(ValueError, match=f"row of {name}"):
                kl_divergence(p, q)


def test_kl_of_low_precision_is_computed_in_full():
    p, q = (draw(seed, 50, 4).softmax(1).half() for seed in (0, 1))
    expected = (p.double() * (p.double() / q.double()).log()).sum(1).mean()
    assert float(kl_divergence(p, q)) == pytest.approx(float(expected), rel=1e-5)


TWO = r"expected two tensors \(N, C\), got"
SUM = "probabilities that sum to 1; did you pass logits\\?"


@pytest.mark.parametrize(
    ("p", "q", "log", "message"),
    [
        (torch.ones(2, 3) / 3, torch.ones(2, 2) / 2, False, rf"{TWO} \(2, 3\) and \(2, 2\)"),
        (torch.ones(3), torch.ones(3), False, rf"{TWO} \(3,\) and \(3,\)"),
        (
            torch.zeros(0, 2), torch.zeros(0, 2), False,
            "expected at least one example, got an empty batch",
        ),
        (
            torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 0.5]]), False,
            f"expected each row of p to be {SUM}",
        ),
        (
            torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.6]]), False,
            f"expected each row of q to be {SUM}",
        ),
        (torch.zeros(1, 2), torch.zeros(1, 2), True, f"expected each row of p to be log-{SUM}"),
    ],
)  # fmt: skip
def test_what_is_no_distribution_is_named(p, q, log, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        kl_divergence(p, q, log)
