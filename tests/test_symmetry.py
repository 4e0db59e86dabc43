"""Same function, other parameters: exact in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hilbertlib.symmetry import interpolate, match_hidden, permute_hidden, rescale_hidden


def network(seed: int = 0, act: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(6, 5, bias=bias),
            act(),
            nn.Linear(5, 4, bias=bias),
            act(),
            nn.Linear(4, 3, bias=bias),
        ).double()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


X = torch.randn(40, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@given(seed=st.integers(0, 100), layer=st.integers(0, 1), act=st.sampled_from([nn.ReLU, nn.Tanh]))
@settings(max_examples=20, deadline=None)
def test_permuting_keeps_the_function_and_moves_the_parameters(seed, layer, act):
    model = network(seed, act)
    order = torch.arange([5, 4][layer]).roll(1)
    twin = permute_hidden(model, order, layer)
    torch.testing.assert_close(twin(X), model(X), rtol=1e-13, atol=1e-13)
    assert (flat(twin) - flat(model)).norm() > 0.1
    assert torch.equal(flat(permute_hidden(twin, order.argsort(), layer)), flat(model))


@given(st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
@settings(max_examples=20, deadline=None)
def test_rescaling_keeps_a_relu_function(factors):
    model = network()
    twin = rescale_hidden(model, torch.tensor(factors, dtype=torch.float64))
    torch.testing.assert_close(twin(X), model(X), rtol=1e-11, atol=1e-11)


def test_rescaling_would_change_a_tanh_function_and_is_refused():
    with pytest.raises(TypeError, match="tanh"):
        rescale_hidden(network(act=nn.Tanh), torch.ones(5))


def test_matching_undoes_a_permutation_exactly():
    model = network()
    twin = permute_hidden(model, torch.tensor([3, 1, 4, 0, 2]), 0)
    twin = permute_hidden(twin, torch.tensor([2, 0, 3, 1]), 1)
    assert torch.equal(flat(match_hidden(twin, model)), flat(model))


@pytest.mark.parametrize("bias", [True, False])
def test_matching_one_layer_is_the_best_of_all_orders(bias):
    def one_layer(seed):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(3, 5, bias=bias), nn.ReLU(), nn.Linear(5, 2, bias=bias)
        ).double()

    a, b = one_layer(0), one_layer(1)
    best = min(
        (flat(permute_hidden(b, torch.tensor(order))) - flat(a)).norm()
        for order in itertools.permutations(range(5))
    )
    torch.testing.assert_close((flat(match_hidden(b, a)) - flat(a)).norm(), best)


@given(st.floats(-1, 2))
@settings(max_examples=20, deadline=None)
def test_interpolation_is_a_straight_line(t):
    a, b = network(0), network(1)
    torch.testing.assert_close(flat(interpolate(a, b, t)), (1 - t) * flat(a) + t * flat(b))


def test_the_originals_are_left_alone():
    a, b = network(0), network(1)
    before = flat(a), flat(b)
    interpolate(a, b, 0.5), permute_hidden(a, torch.arange(5).flip(0)), match_hidden(b, a)
    rescale_hidden(a, torch.full((5,), 2.0))
    assert torch.equal(flat(a), before[0])
    assert torch.equal(flat(b), before[1])


def test_bad_input_is_named():
    model = network()
    with pytest.raises(ValueError, match="permutation of the 5 units"):
        permute_hidden(model, torch.tensor([0, 0, 1, 2, 3]))
    with pytest.raises(ValueError, match="numbered 0 to 1, got 2"):
        permute_hidden(model, torch.arange(3), 2)
    with pytest.raises(ValueError, match="positive and finite"):
        rescale_hidden(model, torch.tensor([1.0, 1, 1, 1, -1]))
    with pytest.raises(ValueError, match="expected 5 factors"):
        rescale_hidden(model, torch.ones(4))
    with pytest.raises(TypeError, match="Conv2d"):
        permute_hidden(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(2, 2)), torch.arange(2))
    with pytest.raises(ValueError, match="one shape"):
        match_hidden(model, nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="same parameter names"):
        interpolate(model, nn.Linear(2, 2), 0.5)
