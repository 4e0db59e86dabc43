"""HCGD in the company of autocast, GradScaler, DistributedDataParallel and torch.compile."""

import copy
import socket

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from hilbertlib.hcgd import HilbertConstrained

X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
XV = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))


def network(*extra: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), *extra, nn.Linear(6, 3))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


def wrap(model: nn.Module, **options) -> HilbertConstrained:
    return HilbertConstrained(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)


def test_under_bf16_autocast_it_stays_near_full_precision():
    plain, low = network(), network()
    for model, enabled in ((plain, False), (low, True)):
        optimizer = wrap(model, corrections=2)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = F.cross_entropy(model(X), Y)

            def outputs(model=model, enabled=enabled):
                with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                    return model(XV).softmax(1)

            loss.backward()
            optimizer.step(outputs)
    moved = (flat(plain) - flat(network())).norm()
    assert (flat(low) - flat(plain)).norm() < 0.05 * moved
    assert not torch.equal(flat(low), flat(plain))


def test_outputs_in_half_precision_are_compared_in_full():
    model = network().bfloat16()
    optimizer = wrap(model)
    F.cross_entropy(model(X.bfloat16()).float(), Y).backward()
    before = flat(model)
    start = copy.deepcopy(model)
    optimizer.step(lambda: model(XV.bfloat16()).softmax(1))
    assert flat(model).isfinite().all()
    assert not torch.equal(flat(model), before)
    other = copy.deepcopy(start)
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        p.data -= 0.1 * q.grad
    f, g = (m(XV.bfloat16()).softmax(1).double() for m in (start, other))
    expected = (f - g).square().sum(1).mean().sqrt().item()
    assert optimizer.distances == pytest.approx([expected], rel=1e-6)


def test_gradscaler_unscales_first_and_skips_the_whole_step_on_overflow():
    scaled, plain = network(), network()
    optimizer, other = wrap(scaled, corrections=2), wrap(plain, corrections=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(2):
        for model, o in ((scaled, optimizer), (plain, other)):
            o.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            (scaler.scale(loss) if model is scaled else loss).backward()
        scaler.step(optimizer, lambda: scaled(XV).softmax(1))
        scaler.update()
        other.step(lambda: plain(XV).softmax(1))
    torch.testing.assert_close(flat(scaled), flat(plain), rtol=1e-5, atol=1e-6)

    calls = []
    before, state = flat(scaled), copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(scaled(X), Y) * float("inf")).backward()
    scaler.step(optimizer, lambda: calls.append(1) or scaled(XV).softmax(1))
    scaler.update()
    assert not calls
    assert torch.equal(flat(scaled), before)
    for key, values in optimizer.state_dict()["state"].items():
        assert torch.equal(values["momentum_buffer"], state[key]["momentum_buffer"])


@pytest.mark.parametrize("n", [1, 2])
def test_a_step_within_autocast_does_not_meet_its_cache(n):
    """Autocast keeps low-precision copies of the parameters until its outermost block ends."""
    inside, outside = network(), network()
    for model, within in ((inside, True), (outside, False)):
        optimizer = wrap(model, corrections=n)
        cast = torch.autocast("cpu", torch.bfloat16)

        def outputs(model=model):
            with torch.autocast("cpu", torch.bfloat16):
                return model(XV).softmax(1)

        with cast:
            loss = F.cross_entropy(model(X), Y)
            if within:
                loss.backward()
                optimizer.step(outputs)
        if not within:
            loss.backward()
            optimizer.step(outputs)
        assert min(optimizer.distances) > 1e-3  # with a stale copy it would be 0
    torch.testing.assert_close(flat(inside), flat(outside), rtol=1e-5, atol=1e-6)


def count_compilations():
    graphs = []

    def backend(graph, _inputs):
        graphs.append(1)
        return graph.forward

    return graphs, backend


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_corrected_kept_and_not_compiled_again(in_place):
    graphs, backend = count_compilations()
    model, eager = network(nn.BatchNorm1d(6)), network(nn.BatchNorm1d(6))
    fast = model
    if in_place:
        model.compile(backend=backend)
    else:
        fast = torch.compile(model, backend=backend)
    optimizer, other = wrap(model), wrap(eager)
    counts = []
    for _ in range(4):
        for m, forward, o in ((model, fast, optimizer), (eager, eager, other)):
            o.zero_grad()
            F.cross_entropy(forward(X), Y).backward()
            before = [b.clone() for b in m.buffers()]
            o.step(lambda forward=forward: forward(XV).softmax(1))
            assert all(torch.equal(a, b) for a, b in zip(m.buffers(), before, strict=True))
        counts.append(len(graphs))
    assert counts[0] > 0
    assert counts[-1] == counts[1]  # after the first steps nothing is compiled any more
    torch.testing.assert_close(flat(model), flat(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_output_function(fullgraph):
    graphs, backend = count_compilations()
    model, eager = network(nn.BatchNorm1d(6)), network(nn.BatchNorm1d(6))
    fast = torch.compile(lambda x: model(x).softmax(1), backend=backend, fullgraph=fullgraph)
    for m, f in ((model, fast), (eager, lambda x: eager(x).softmax(1))):
        optimizer = wrap(m)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(m(X), Y).backward()
            before = [b.clone() for b in m.buffers()]
            optimizer.step(lambda f=f: f(XV))
            assert all(torch.equal(a, b) for a, b in zip(m.buffers(), before, strict=True))
    assert 0 < len(graphs) <= 3
    torch.testing.assert_close(flat(model), flat(eager), rtol=1e-4, atol=1e-5)


# --- two processes are one -------------------------------------------------------------------

SHARES = {"equal": (slice(0, 15), slice(15, 30)), "unequal": (slice(0, 7), slice(7, 30))}


def one_rank(rank: int, port: int, cases: list, out) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    answers = []
    for norm, share, distributed, wrapped in cases:
        model = network().double()
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = wrap(model, norm=norm, corrections=2, lam=2.0, distributed=distributed)
        mine = slice(0, 10) if rank == 0 else slice(10, 20)
        x_v, called = XV[SHARES[share][rank]].double(), parallel if wrapped else model
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(parallel(X[mine].double()), Y[mine]).backward()
            optimizer.step(lambda called=called, x_v=x_v: called(x_v).softmax(1))
        answers.append((flat(model).tolist(), optimizer.distances))
    # One rank's outputs are not finite: all refuse, so that none waits for ever.
    before, refused = flat(model), ""
    bad = float("nan") if rank == 0 else 1.0
    try:
        optimizer.step(lambda: model(XV.double()) * bad)
    except FloatingPointError as error:
        refused = str(error)
    answers.append((refused, torch.equal(flat(model), before)))
    out.put((rank, answers))  # a tensor would die with its process
    torch.distributed.destroy_process_group()


CASES = [
    ("rms", "unequal", True, False),
    ("squared", "unequal", True, False),
    ("rms", "equal", True, True),
    ("rms", "unequal", False, False),
    ("rms", "unequal", True, False),
]


@pytest.fixture(scope="module")
def ranks():
    """What two processes found in each case: parameters and distances."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=one_rank, args=(rank, port, CASES, out)) for rank in (0, 1)]
    for w in workers:
        w.start()
    answers = dict(out.get(timeout=120) for _ in workers)
    for w in workers:
        w.join(timeout=60)
    return answers


@pytest.mark.parametrize("case", [0, 1, 2], ids=["rms", "squared", "through DDP"])
def test_two_processes_equal_one_on_the_joined_batch(ranks, case):
    alone = network().double()
    optimizer = wrap(alone, norm=CASES[case][0], corrections=2, lam=2.0)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(alone(X.double()), Y).backward()
        optimizer.step(lambda: alone(XV.double()).softmax(1))
    for rank in (0, 1):
        parameters, distances = ranks[rank][case]
        expected = flat(alone)
        torch.testing.assert_close(
            torch.tensor(parameters).double(), expected, rtol=1e-6, atol=1e-7
        )
        assert distances == pytest.approx(optimizer.distances, rel=1e-10)
    assert ranks[0][case] == ranks[1][case]  # replicas stay equal to the last bit


def test_each_process_may_keep_to_itself(ranks):
    assert ranks[0][3] != ranks[1][3]


def test_all_processes_refuse_together(ranks):
    (first, same), (second, also_same) = ranks[0][-1], ranks[1][-1]
    assert "before the step" in first
    assert "NaN or infinity on another rank" in second
    assert same
    assert also_same
