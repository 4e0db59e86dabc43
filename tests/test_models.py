"""The networks: shapes, the choices the docstrings promise, and reading a model without a trace."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hilbertlib.models import (
    LSTMClassifier,
    cnn4,
    device_of,
    evaluating,
    has_dropout,
    logits,
    measured_statistics,
    mlp,
    probabilities,
    seeded,
    small_cnn,
    squeezenet_cifar,
)


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "shape", "parameters"),
    [
        (lambda: mlp((784, 400, 400, 10)), (1, 28, 28), 478_410),  # counted in section 3.1
        (small_cnn, (1, 8, 8), 6_090),
        (cnn4, (3, 32, 32), 1_117_354),
        (lambda: cnn4((1, 28, 28)), (1, 28, 28), 871_018),
        (LSTMClassifier, (1, 6, 6), 4 * (1 + 128 + 2) * 128 + 129 * 10),
        (squeezenet_cifar, (3, 32, 32), 733_514),
    ],
)
def test_outputs_are_one_logit_a_class(build, shape, parameters):
    model = build()
    assert model(torch.rand(3, *shape)).shape == (3, 10)
    assert size(model) == parameters


def test_mlp_is_affine_maps_with_a_nonlinearity_between():
    model = seeded(lambda: mlp((4, 3, 2), activation="tanh"), 0).double()
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    first, second = [m for m in model if isinstance(m, nn.Linear)]
    expected = (x.reshape(5, 4) @ first.weight.T + first.bias).tanh() @ second.weight.T
    torch.testing.assert_close(model(x), expected + second.bias)
    assert not isinstance(model[-1], nn.Tanh)


@pytest.mark.parametrize("sizes", [(4,), (), (4, 0), (-1, 2)])
def test_mlp_refuses_sizes_that_make_no_network(sizes):
    with pytest.raises(ValueError, match="layer sizes"):
        mlp(sizes)


def test_mlp_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match=r"'relu' or 'tanh', got 'gelu'"):
        mlp((4, 2), activation="gelu")


@pytest.mark.parametrize("build", [cnn4, small_cnn])
def test_batch_norm_is_a_switch(build):
    def count(model):
        return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())

    convolutions = sum(isinstance(m, nn.Conv2d) for m in build().modules())
    assert count(build(batch_norm=True)) == convolutions
    assert count(build(batch_norm=False)) == 0


def test_cnn4_has_four_convolutions_and_two_linear_layers():
    kinds = [type(m) for m in cnn4().modules()]
    assert kinds.count(nn.Conv2d) == 4
    assert kinds.count(nn.Linear) == 2


@pytest.mark.parametrize(
    "arguments",
    [{"shape": (3, 32)}, {"shape": (3, 2, 32)}, {"shape": (0, 32, 32)}, {"widths": (8, 8)}],
)
def test_cnn4_refuses_shapes_that_make_no_network(arguments):
    with pytest.raises(ValueError, match="expected"):
        cnn4(**arguments)


def test_squeezenet_normalizes_every_convolution_but_the_last():
    model = squeezenet_cifar()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(convolutions) - 1 == 25
    assert [n.num_features for n in norms] == [c.out_channels for c in convolutions[:-1]]


def test_squeezenet_keeps_several_pixels_to_the_end():
    assert squeezenet_cifar().features(torch.rand(1, 3, 32, 32)).shape[2:] == (4, 4)


@pytest.mark.parametrize("build", [cnn4, lambda: squeezenet_cifar(dropout=0)])
def test_filters_laid_out_channels_last_compute_the_same_network(build):
    # In float64: in float32 a rounding flips a ReLU here and there, and the gradients part by 1e-3.
    model, x = seeded(build, 0).double(), torch.rand(4, 3, 32, 32, dtype=torch.float64)
    twin = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    filters = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in filters)
    here, there = model(x), twin(x)
    torch.testing.assert_close(here, there)
    ours, theirs = (
        torch.cat([g.flatten() for g in torch.autograd.grad(out.square().sum(), net.parameters())])
        for out, net in ((here, model), (there, twin))
    )
    # As vectors: biases before BatchNorm have gradients of nothing but rounding.
    assert (ours - theirs).norm() < 1e-9 * theirs.norm()


def test_lstm_reads_pixels_in_order_to_the_last():
    model = seeded(lambda: LSTMClassifier(hidden=5, inputs=2), 0)
    x = torch.rand(3, 2, 2, 2)
    states = torch.zeros(2, 1, 3, 5)
    for pixel in x.flatten(2).unbind(2):
        output, states = model.lstm(pixel[:, None], tuple(states))
    torch.testing.assert_close(model(x), model.readout(output[:, 0]))


@given(st.integers(0, 2**31))
def test_seeded_builds_the_same_model_and_leaves_the_global_state(seed):
    before = torch.get_rng_state()
    a, b = (seeded(lambda: mlp((4, 3, 2)), seed) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    other = seeded(lambda: mlp((4, 3, 2)), seed + 1)
    assert not torch.equal(a[1].weight, other[1].weight)


def test_probabilities_are_the_softmax_in_evaluation_mode():
    model = seeded(lambda: small_cnn(batch_norm=True), 0)
    x = torch.rand(20, 1, 8, 8)
    model(x)  # moves the running statistics away from their start
    p = probabilities(model, x, batch_size=7)
    assert not p.requires_grad
    torch.testing.assert_close(p.sum(1), torch.ones(20))
    torch.testing.assert_close(p, copy.deepcopy(model).eval()(x).softmax(1))


def test_reading_a_model_leaves_no_trace():
    model = seeded(lambda: small_cnn(batch_norm=True), 0)
    frozen = model[1].eval()  # one layer held in evaluation mode, as fine-tuning does
    before = copy.deepcopy(model.state_dict())
    probabilities(model, torch.rand(9, 1, 8, 8))
    assert model.training
    assert not frozen.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_modes_come_back_after_an_error_too():
    model = small_cnn()
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|shape"), evaluating(model):
        model(torch.rand(1, 1, 9, 99))
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), True),
        (nn.Sequential(nn.Dropout(0.0)), False),
        (nn.LSTM(1, 2, num_layers=2, dropout=0.5), True),
        (nn.LSTM(1, 2), False),
        (squeezenet_cifar(), True),
        (squeezenet_cifar(dropout=0), False),
        (cnn4(), False),
    ],
)
def test_dropout_is_found(model, expected):
    assert has_dropout(model) == expected


def test_squeezenets_logits_may_be_negative():
    # With v1.1's last ReLU they are all 0 once the network has seen a step too large.
    assert squeezenet_cifar()(torch.rand(4, 3, 32, 32)).min() < 0


def test_logits_of_nothing_are_refused():
    with pytest.raises(ValueError, match="empty batch"):
        logits(small_cnn(), torch.zeros(0, 1, 8, 8))


def test_measured_statistics_are_the_means_over_the_batches():
    """Against each batch's mean and unbiased variance, written out; nothing else changes."""
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.5)).double()
    x = torch.randn(8, 3, dtype=torch.float64) * 4 + 1
    known = measured_statistics(model, x, batch_size=4)
    batches = x.split(4)
    norm = known[0]
    torch.testing.assert_close(norm.running_mean, sum(b.mean(0) for b in batches) / 2)
    torch.testing.assert_close(norm.running_var, sum(b.var(0, correction=1) for b in batches) / 2)
    torch.testing.assert_close(norm.weight, model[0].weight)
    assert norm.momentum == 0.3
    assert all(module.training for module in known.modules())
    assert (model[0].running_mean == 0).all()  # the model itself is left as it was
    again = measured_statistics(known, x, batch_size=4)
    torch.testing.assert_close(again[0].running_mean, norm.running_mean)  # from nothing each time


def test_statistics_of_no_images_are_refused_and_a_network_without_batch_norm_is_copied():
    model = mlp((4, 2))
    with pytest.raises(ValueError, match="at least one example"):
        measured_statistics(model, torch.zeros(0, 1, 2, 2), batch_size=4)
    x = torch.rand(5, 1, 2, 2)
    torch.testing.assert_close(measured_statistics(model, x, 4)(x), model(x))


def test_device_of_a_model_without_parameters_is_the_cpu():
    assert device_of(nn.Flatten()) == torch.device("cpu")
