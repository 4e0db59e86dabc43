"""What `make mutants` prepares, and that its report speaks of every module. It runs no mutant."""

import re
import tomllib
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", mutants.GROUPS)
def test_a_group_gets_the_library_and_its_own_tests(name, tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "FOLDER", tmp_path)
    folder = mutants.prepare(name)
    settings = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert settings["pytest"]["ini_options"]["markers"]
    mutated = [folder / path for path in settings["mutmut"]["only_mutate"]]
    assert [path.stem for path in mutated] == list(mutants.GROUPS[name].modules)
    assert all(
        path.read_bytes() == (ROOT / "hilbertlib" / path.name).read_bytes() for path in mutated
    )
    found = {path.stem for path in (folder / "tests").glob("*.py")} - {"conftest"}
    assert {f"test_{path.stem.removeprefix('_')}" for path in mutated} & found
    assert all((ROOT / "tests" / f"{test}.py").exists() for test in found)
    compile((folder / "tests" / "conftest.py").read_text(encoding="utf-8"), "conftest.py", "exec")


def test_the_report_counts_every_module():
    text = (ROOT / "tests" / "mutants.md").read_text(encoding="utf-8")
    counted = re.findall(r"^\| `(\w+)` \| \d+ of \d+ \|", text, flags=re.M)
    assert counted == [module for group in mutants.GROUPS.values() for module in group.modules]
