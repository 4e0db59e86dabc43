"""The house: imports run one way, the wheel is whole, nothing asks a host for anything."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hilbertlib

ROOT = Path(__file__).resolve().parents[1]
# A module may import from its own floor and those below it.
FLOORS = (
    {"datafiles", "data", "distance", "_passes", "_settings", "_checks", "embedding", "models"},
    {"symmetry", "provenance", "snapshots", "_likelihood", "conjugate_gradient", "working_memory"},
    {"records", "verdicts", "hcgd", "trajectory", "training", "fisher", "task_sequence"},
    {"ensemble", "natural_gradient", "forgetting"},
    {"experiments", "claims"},
    {"figures", "lab"},
    {"live"},
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


def imports(path: Path) -> set[str]:
    """The first names below hilbertlib that a file imports."""
    depth = len(path.relative_to(ROOT / "hilbertlib").parts)
    out = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("hilbertlib_book-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "hilbertlib").rglob("*")
        if p.suffix in (".py", ".js", ".css") or p.name == "py.typed"
    }
    assert expected <= inside
    assert not any(name.startswith(("tests/", "book/", "bench/")) for name in inside)


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == hilbertlib.__version__
    assert f"version: {hilbertlib.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {hilbertlib.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


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
