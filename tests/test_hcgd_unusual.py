"""HCGD where users take it: odd parameters, odd settings, odd output functions."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from hilbertlib.hcgd import HCGD, HilbertConstrained

X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
XV = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))


def network(*extra: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), *extra, nn.Linear(6, 3))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


def backward(model: nn.Module) -> None:
    model.zero_grad()
    F.cross_entropy(model(X), Y).backward()


def trained(model: nn.Module, optimizer: HilbertConstrained, steps: int = 3) -> torch.Tensor:
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(steps):
        backward(model)
        optimizer.step(lambda: model(XV).softmax(1))
        schedule.step()
    return flat(model)


# --- settings of the base --------------------------------------------------------------------

OPTIONS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "tensor lr": {"lr": 0.1},  # made a tensor in the test: a schedule changes it in place
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["SGD torch", "SGD paper", "Adam torch", "AdamW torch"])
def test_implementations_of_the_base_agree(kind, option):
    base, velocity = kind.split()
    options = {"lr": 0.1, "weight_decay": 0.1} | ({"momentum": 0.9} if base == "SGD" else {})
    ends = []
    for changed in (False, True):
        model, mine = network(), dict(options)
        if changed:
            mine |= OPTIONS[option]
            mine["lr"] = torch.tensor(0.1) if option == "tensor lr" else 0.1
        sgd = getattr(torch.optim, base)(model.parameters(), **mine)
        ends.append(trained(model, HilbertConstrained(sgd, corrections=2, velocity=velocity)))
        assert isinstance(sgd.param_groups[0]["lr"], type(mine["lr"]))
        assert float(sgd.param_groups[0]["lr"]) == pytest.approx(0.0125)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_lambda_changed_in_mid_training_counts_from_the_next_step():
    ends = []
    for first, then in ((0.0, 2.0), (2.0, 0.0), (2.0, 2.0)):
        model = network()
        optimizer = HCGD(model.parameters(), 0.1, 0.9, lam=first, inner_lr=0.1)
        trained(model, optimizer, 1)
        assert len(optimizer.distances) == (first > 0)
        optimizer.param_groups[0]["lam"] = then
        trained(model, optimizer, 1)
        assert len(optimizer.distances) == (then > 0)
        ends.append(flat(model))
    assert not torch.allclose(ends[0], ends[2])
    assert not torch.allclose(ends[1], ends[2])


def test_a_schedule_has_nothing_to_warn_of():
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(model, HCGD(model.parameters(), 0.1, 0.9))


# --- parameters ------------------------------------------------------------------------------


def test_one_that_was_frozen_after_backward_follows_the_base_alone():
    model, twin = network(), network()
    for m in (model, twin):
        backward(m)
        m[0].weight.requires_grad_(False)
    HilbertConstrained(torch.optim.SGD(model.parameters(), 0.1)).step(lambda: model(XV).softmax(1))
    torch.optim.SGD(twin.parameters(), 0.1).step()
    assert torch.equal(model[0].weight, twin[0].weight)
    assert not torch.equal(model[0].bias, twin[0].bias)


@pytest.mark.parametrize("every", [False, True])
def test_outputs_of_another_model_are_refused(every):
    model, other = network(), network()
    backward(model)
    if every:
        model.requires_grad_(False)
    before = flat(model)
    optimizer = HCGD(model.parameters(), 0.1, 0.9)
    with pytest.raises(
        ValueError, match=r"^expected outputs that depend on the parameters that this step moves, g"
        r"ot some that depend on none of them: are they another model's\?$",
    ):  # fmt: skip
        optimizer.step(lambda: other(XV).softmax(1))
    assert torch.equal(flat(model), before)
    assert len(optimizer.state) == 0


def test_parameters_of_size_zero():
    model, twin = network(), network()
    model.register_parameter("empty", nn.Parameter(torch.zeros(0, 3)))
    for m in (model, twin):
        optimizer = HCGD(m.parameters(), 0.1, 0.9, corrections=2)
        for _ in range(2):
            m.zero_grad()
            nothing = m.empty.sum() if m is model else 0
            (F.cross_entropy(m(X), Y) + nothing).backward()
            optimizer.step(lambda m=m: m(XV).softmax(1))
    assert torch.equal(flat(model), flat(twin))


def test_complex_parameters_are_two_real_ones():
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    z = nn.Parameter(torch.view_as_complex(start.clone()))
    x = nn.Parameter(start.clone())
    for p, pair in ((z, torch.view_as_real), (x, lambda p: p)):
        optimizer = HCGD([p], 0.1, 0.9, lam=1.0, inner_lr=0.05, corrections=2)
        for _ in range(3):
            optimizer.zero_grad()
            pair(p).pow(4).sum().backward()
            optimizer.step(lambda p=p, pair=pair: pair(p).tanh())
    torch.testing.assert_close(torch.view_as_real(z.detach()), x.detach())


def test_a_model_in_half_precision_follows_one_in_full():
    low, full = network().half(), network()
    for model in (low, full):
        optimizer = HCGD(model.parameters(), 0.5, 0.9, lam=1.0, inner_lr=0.1, corrections=2)
        dtype = model[0].weight.dtype
        for _ in range(3):
            model.zero_grad()
            F.cross_entropy(model(X.to(dtype)).float(), Y).backward()
            optimizer.step(lambda m=model, d=dtype: m(XV.to(d)).softmax(1))
    moved = (flat(full) - flat(network())).norm()
    assert (flat(low).float() - flat(full)).norm() < 0.02 * moved


# --- output functions ------------------------------------------------------------------------


def unusual(model: nn.Module) -> dict[str, object]:
    def without_grad():
        with torch.no_grad():
            return model(XV)

    def inferred():
        with torch.inference_mode():
            return model(XV)

    return {
        "grad disabled inside": (without_grad, ValueError, "without gradient: does the output f"),
        "inference mode": (inferred, ValueError, "without gradient: does the output function use"),
        "tuple": (lambda: (model(XV),), TypeError, "got tuple"),
        "complex": (lambda: model(XV) * 1j, TypeError, "got torch.complex64"),
        "scalar": (lambda: model(XV).sum(), ValueError, r"example, got shape \(\)"),
        "no classes": (lambda: model(XV)[:, :0], ValueError, r"example, got shape \(30, 0\)"),
        "generator": ((f for f in [model]), TypeError, "or a list of 1; got generator"),
        "a loss": (lambda: F.cross_entropy(model(X), Y), ValueError, r"got shape \(\)"),
        "proposal of NaN": (lambda: model(XV), FloatingPointError, "after the proposed step"),
    }


@pytest.mark.parametrize("name", unusual(nn.Identity()))
def test_what_no_distance_can_be_taken_of_is_refused(name):
    model = network()
    optimizer = HCGD(model.parameters(), 0.1, 0.9)
    trained(model, optimizer, 1)
    backward(model)
    if name == "proposal of NaN":
        model[0].weight.grad.fill_(math.nan)
    before, state = flat(model), copy.deepcopy(optimizer.state_dict())
    outputs, error, message = unusual(model)[name]
    with pytest.raises(error, match=message):
        optimizer.step(outputs)
    assert torch.equal(flat(model), before)
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    for k, values in state["state"].items():
        assert torch.equal(now["state"][k]["momentum_buffer"], values["momentum_buffer"])


def test_a_step_in_inference_mode_is_refused():
    model = network()
    backward(model)
    before, optimizer = flat(model), HCGD(model.parameters(), 0.1)
    with torch.inference_mode(), pytest.raises(ValueError, match="without gradient"):
        optimizer.step(lambda: model(XV))
    assert torch.equal(flat(model), before)


def test_checkpointed_outputs_with_dropout_and_buffers():
    ends = []
    for lean in (False, True):
        model = network(nn.BatchNorm1d(6), nn.Dropout(0.5))
        optimizer = HCGD(model.parameters(), 0.1, 0.9, corrections=2)
        torch.manual_seed(3)
        backward(model)
        buffers = [b.clone() for b in model.buffers()]

        def outputs(model=model, lean=lean):
            logits = checkpoint(model, XV, use_reentrant=False) if lean else model(XV)
            return logits.softmax(1)

        optimizer.step(outputs)
        assert all(map(torch.equal, buffers, model.buffers()))
        ends.append(flat(model))
    torch.testing.assert_close(*ends)


def test_spectral_and_weight_normalization():
    parametrizations = nn.utils.parametrizations
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(5, 6)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(6, 3)),
    )
    optimizer = HCGD(model.parameters(), 0.1, 0.9, corrections=2)
    backward(model)
    buffers = [b.clone() for b in model.buffers()]
    assert len(buffers) == 2  # spectral_norm's power iteration
    optimizer.step(lambda: model(XV).softmax(1))
    assert all(map(torch.equal, buffers, model.buffers()))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_modules_of_torchscript(how):
    eager = network(nn.BatchNorm1d(6))
    model = copy.deepcopy(eager)
    model = torch.jit.script(model) if how == "script" else torch.jit.trace(model, X)
    with torch.no_grad():
        for b, value in zip(model.buffers(), eager.buffers(), strict=True):
            b.copy_(value)  # which tracing moved
    for m in (model, eager):
        optimizer = HCGD(m.parameters(), 0.1, 0.9, corrections=2)
        for _ in range(2):
            backward(m)
            buffers = [b.clone() for b in m.buffers()]
            optimizer.step(lambda m=m: m(XV).softmax(1))
            assert all(map(torch.equal, buffers, m.buffers()))
    torch.testing.assert_close(flat(model), flat(eager))
