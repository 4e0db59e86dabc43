"""Mutation testing: ``make mutants``. Where the library is changed, does a test fail?

Each group of modules is copied to a folder of its own below ``_build/mutants`` with the tests that
mirror it and no others. There mutmut changes one thing at a time in every function and runs those
of the tests that reach it. A change that no test notices survives: a gap in the tests, or a change
that makes no difference. ``tests/mutants.md`` says which survivors are known and why.

``python tests/mutants.py hcgd`` runs one group; ``--help`` says how to run a sample, to go on after
an interruption, and to try some mutants again.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "_build" / "mutants"


class Group(NamedTuple):
    modules: tuple[str, ...]
    tests: tuple[str, ...]  # a pattern each
    target: float  # share of the mutants of each module that must be killed


GROUPS = {
    "distance": Group(("distance",), ("test_distance",), 0.9),
    "hcgd": Group(("hcgd", "_passes", "_settings"), ("test_hcgd*", "test_passes"), 0.9),
    "natural_gradient": Group(
        ("natural_gradient", "fisher", "conjugate_gradient"),
        ("test_natural_gradient", "test_fisher"),
        0.8,
    ),
    "forgetting": Group(
        ("forgetting", "working_memory", "task_sequence"),
        ("test_forgetting", "test_working_memory", "test_task_sequence"),
        0.8,
    ),
}

# Each mutant's process is forked from one that has collected the tests. That one imports what torch
# and the tests would import when they first need it; and no garbage is collected, which would copy
# all of its memory. A test that fails is not shrunk to its smallest example, which nobody reads.
CONFTEST = """
import gc

import curvlinops
import scipy.optimize
import scipy.stats
import sklearn.datasets
import sklearn.model_selection
import torch._dynamo
import torch.func
from hypothesis import Phase


def pytest_collection_finish() -> None:
    gc.freeze()


settings.register_profile(
    "mutants", settings.get_profile("book"), phases=(Phase.explicit, Phase.generate), database=None
)
settings.load_profile("mutants")
"""
# Seconds until a mutant counts as endless, and so as killed: 4 · (10 + those of its tests). Tests
# that start processes are left out (seconds each, and where a mutant ends one, the others wait), as
# are those of who called a function: mutmut calls it in the caller's place.
KEPT = "not process and not points_at_the_caller"
CONFIG = """
[tool.mutmut]
source_paths = ["hilbertlib"]
only_mutate = {modules}
pytest_add_cli_args = ["-pno:cacheprovider", "-pno:unraisableexception", "-k", "{kept}"]
pytest_add_cli_args_test_selection = ["tests"]
process_isolation = "forkserver"
use_git_change_detection = false
timeout_multiplier = 4.0
timeout_constant = 10.0
"""
KILLED = {"killed", "timeout", "segfault"}


def prepare(name: str) -> Path:
    """A folder with the library, the group's tests alone and mutmut's settings."""
    group, folder = GROUPS[name], FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hilbertlib", folder / "hilbertlib", ignore=cache)
    copy_tests(name)
    modules = json.dumps([f"hilbertlib/{module}.py" for module in group.modules])
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(settings + CONFIG.format(modules=modules, kept=KEPT))
    return folder


def copy_tests(name: str) -> None:
    tests = FOLDER / name / "tests"
    tests.mkdir(exist_ok=True)
    for pattern in GROUPS[name].tests:
        for file in (ROOT / "tests").glob(f"{pattern}.py"):
            shutil.copy(file, tests)
    conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    (tests / "conftest.py").write_text(conftest + CONFTEST)


def mutmut(folder: Path, *arguments: str, read: bool = False) -> str:
    """Run mutmut in a folder; what it says, or nothing where it says it to the reader."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    # One thread: what is computed is small, and sums come out in one order.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # looking for plugins takes longer than a test
    run = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=read)
    if run.returncode and not read:
        sys.exit(f"mutmut ended with {run.returncode} in {folder}")
    return run.stdout or ""


def states(folder: Path) -> dict[str, str]:
    """What became of each mutant, by name: killed, survived, not checked ..."""
    said = mutmut(folder, "results", "--all", "true", read=True)
    return dict(re.findall(r"^ *(hilbertlib\.\S+): (.+)$", said, flags=re.M))


def drawn(folder: Path, sample: int) -> list[str]:
    """Of a random sample that is always the same, the mutants that were not tried yet."""
    if not states(folder):
        mutmut(
            folder, "run", "nothing", read=True
        )  # makes the mutants, and finds none by this name
    known = states(folder)
    chosen = random.Random(0).sample(sorted(known), min(sample, len(known)))
    return [mutant for mutant in chosen if known[mutant] == "not checked"]


def report(name: str) -> bool:
    """Print each module's score and write the survivors' changes to a file; whether all met."""
    group, folder = GROUPS[name], FOLDER / name
    known = states(folder)
    found = {mutant: state for mutant, state in known.items() if state != "not checked"}
    met = True
    for module in group.modules:
        counts = Counter(s for mutant, s in found.items() if mutant.split(".")[1] == module)
        killed, tried = sum(counts[state] for state in KILLED), counts.total()
        of_all = sum(mutant.split(".")[1] == module for mutant in known)
        met = met and killed >= group.target * tried
        rest = "".join(f", {n} {s}" for s, n in sorted(counts.items()) if s != "killed")
        score = f"{killed / max(1, tried):6.1%}"
        print(f"  {module:<20} {killed:>4} of {tried:>4} killed {score} ({of_all} in all{rest})")
    alive = [mutant for mutant, state in found.items() if state not in KILLED]
    shown = [mutmut(folder, "show", mutant, read=True) for mutant in alive]
    (folder / "survivors.txt").write_text("\n".join(shown), encoding="utf-8")
    print(f"  what was changed and not noticed: {folder / 'survivors.txt'}", flush=True)
    return met


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Mutation testing of the library.")
    parser.add_argument("groups", nargs="*", help=f"some of {', '.join(GROUPS)}; default all")
    parser.add_argument("--sample", type=int, help="try so many of each group, drawn at random")
    parser.add_argument("--resume", action="store_true", help="go on where a run was ended")
    parser.add_argument("--only", nargs="+", default=[], help="try these mutants again")
    given = parser.parse_args(arguments)
    if unknown := set(given.groups) - set(GROUPS):
        parser.error(f"unknown group {', '.join(sorted(unknown))}")
    met = True
    for name in given.groups or GROUPS:
        started, folder = time.monotonic(), FOLDER / name
        if given.resume or given.only:
            copy_tests(name)
        else:
            prepare(name)
        names = drawn(folder, given.sample) if given.sample else given.only
        if names or not given.sample:
            mutmut(folder, "run", "--max-children", "1", *names)
        print(f"\n{name}, {(time.monotonic() - started) / 60:.0f} minutes")
        met = report(name) and met
    return int(not met)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
