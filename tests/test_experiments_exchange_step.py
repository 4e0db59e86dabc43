"""Exchange rates of single steps, against slow and obvious twins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hilbertlib.data import load
from hilbertlib.distance import l2_distance
from hilbertlib.experiments import exchange_claims, exchange_step
from hilbertlib.figures import exchange_rate as draw
from hilbertlib.models import probabilities
from hilbertlib.trajectory import flat_parameters


@pytest.fixture(scope="module")
def digits():
    return load("digits").subset(200, seed=0)


@pytest.fixture(scope="module")
def network(digits):
    return exchange_step.trained_cnn(digits, seed=0, epochs=1).double()


@pytest.fixture(scope="module")
def x(digits):
    return digits.x_test[:40].double()


def test_a_rate_is_the_limit_of_short_steps(network, x):
    direction = torch.randn(
        len(flat_parameters(network)), generator=torch.Generator().manual_seed(0), dtype=x.dtype
    )
    there = exchange_step.moved(network, direction, 1e-5)
    length = (flat_parameters(there) - flat_parameters(network)).norm()
    assert float(length) == pytest.approx(1e-5)
    short = l2_distance(probabilities(there, x), probabilities(network, x)) / length
    rate = exchange_step.rate(network, x, direction)
    assert rate == pytest.approx(float(short), rel=1e-3)
    assert exchange_step.rate(network, x, -3 * direction) == pytest.approx(rate)


def test_the_largest_rate_is_that_of_the_dense_matrix(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    weight, bias = model[1].weight, model[1].bias

    def function(w, b):
        return (x.flatten(1) @ w.T + b).softmax(dim=1)

    parts = torch.autograd.functional.jacobian(function, (weight.detach(), bias.detach()))
    jacobian = torch.cat([part.flatten(2) for part in parts], dim=2).flatten(0, 1)
    gram = jacobian.T @ jacobian / len(x)
    expected = float(torch.linalg.eigvalsh(gram)[-1].sqrt())
    assert exchange_step.largest_rate(model, x) == pytest.approx(expected, rel=1e-3)


def test_no_direction_is_above_the_largest(network, digits):
    found = exchange_step.rates(network.float(), digits)
    network.double()
    assert len(found) == 4
    assert max(found.values()) == found["the largest there is"]
    assert min(found.values()) > 0


def test_stretched_weights_are_the_same_function_at_another_rate(network, x):
    start = exchange_step.first_layer_rate(network.float(), x.float())
    there = exchange_step.stretched(network, 3.0)
    apart = l2_distance(probabilities(there, x.float()), probabilities(network, x.float()))
    assert float(apart) < 1e-3
    assert exchange_step.first_layer_rate(there, x.float()) == pytest.approx(start / 3, rel=1e-2)
    network.double()


def test_a_fan_starts_on_its_line(network, digits):
    network.float()
    found = exchange_step.fan(network, digits, [1e-3, 1e-2])
    network.double()
    for name in exchange_step.directions(network.float(), digits):
        np.testing.assert_allclose(found[name], found[f"{name}, predicted"], rtol=0.1)
    assert not np.allclose(found["at random"], found["down the loss"], rtol=0.5)
    figure = draw.fan([1e-3, 1e-2], found)
    assert len(figure.data) == 6
    assert sum(trace.showlegend for trace in figure.data) == 4  # one entry for all dotted lines


def test_the_figures_of_a_walk():
    from test_experiments_figures import walked
    from test_figures import check_moves

    from hilbertlib.experiments.common import live_record

    record = live_record(
        "exchange_rate", walked(), config={}, seeds=[0, 1], dataset=load("digits"), seconds=0.0
    )
    for scale in draw.NAMES:
        one, text = draw.cloud(record, "Fig. 2", scale, 3)
        two, _ = draw.cloud(record, "Fig. 2", scale, 16)
        assert "Epoch 3" in text
        assert len(two.data[0].x) == 16 / 3 * len(one.data[0].x)  # later epochs are not drawn
        assert one.layout.xaxis.range == two.layout.xaxis.range
        assert one.data[0].marker.cmax == two.data[0].marker.cmax
    check_moves([draw.networks(record, scale) for scale in draw.NAMES])
    figure, text = draw.networks(record, "updates")
    for arm, name in draw.ARMS.items():
        (curve,) = (trace for trace in figure.data if trace.name == name)
        walked_by = exchange_claims.walks(record, arm).values()
        np.testing.assert_allclose(curve.y, np.mean([w.ratio("updates") for w in walked_by], 0))
    figure, text = draw.ratio(record, "Fig. A.4")
    assert text.startswith("Fig. A.4, 2 seeds")
    walk = exchange_claims.walks(record, "Fig. A.4")[0]
    lines = [trace for trace in figure.data if trace.name == "between updates"]
    np.testing.assert_allclose(lines[0].y, walk.ratio("updates"))
    assert draw.ratio(record)[1].startswith("2 seeds")
    tables = {name: table.where(arm="Fig. B.6") for name, table in record.tables.items()}
    early = replace(record, tables=tables)  # Figure 2 takes longer and is not there yet
    assert draw.ratio(early)[1].startswith("Fig. B.6, 2 seeds")
