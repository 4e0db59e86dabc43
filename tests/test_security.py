"""Nothing that is read becomes code, and what we depend on is listed.

Pickles and ``eval`` would let a file run what it likes; in a page, so would HTML made of data.
"""

import ast
import importlib.util
import json
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Modules that unpickle what they read.
REFUSED_MODULES = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
REFUSED_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "joblib.load",
    "yaml.load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle",
    "torch.hub.load", "torch.package.PackageImporter", "torchvision.datasets.CIFAR10",
    "np.fromregex", "numpy.load", "datasets.CIFAR10", "CIFAR10",
}  # fmt: skip


def code() -> dict[str, str]:
    """Every Python text of the repository but the tests, which are no part of what is used."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    out = {}
    for name in filter(None, listed):
        path = ROOT / name
        if not path.exists() or name.startswith("tests/"):
            continue
        if name.endswith(".py"):
            out[name] = path.read_text(encoding="utf-8")
        elif name.endswith(".ipynb"):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            sources = ("".join(c["source"]) for c in cells if c["cell_type"] == "code")
            lines = "\n".join(sources).splitlines()
            out[name] = "\n".join(line for line in lines if line.lstrip()[:1] not in ("%", "!"))
    return out


def faults(text: str) -> list[str]:
    """What in a Python text reads a file as code, in words."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in REFUSED_MODULES]
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in REFUSED_MODULES:
                found.append(f"from {node.module}")
            found += [a.name for a in node.names if a.name == "CIFAR10"]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in REFUSED_CALLS:
                found.append(called)
            if called == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if called == "np.load" and keywords.get("allow_pickle") != "False":
                found.append("np.load without allow_pickle=False")
            if keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True":
                found.append(called)
    return found


@pytest.mark.parametrize("name", sorted(code()))
def test_nothing_that_is_read_becomes_code(name):
    assert faults(code()[name]) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch; torch.load('x')",
        "import torch; torch.load('x', weights_only=False)",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
        "from torchvision.datasets import CIFAR10",
        "joblib.load('x')",
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert faults(text)


SCRIPTS = [*(ROOT / "hilbertlib").rglob("*.js"), *(ROOT / "book" / "assets").glob("*.js")]
RISKY = re.compile(
    r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|createContextualFragment|"
    r"\beval\s*\(|new Function|\bFunction\s*\(|set(Timeout|Interval)\(\s*[\"'`]|DOMParser|"
    r"\bimport\s*\(|XMLHttpRequest|\bfetch\s*\(|WebSocket|sendBeacon|EventSource"
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_our_scripts_make_no_html_of_data_and_ask_for_nothing(path):
    assert RISKY.findall(path.read_text(encoding="utf-8")) == []


# --- what we depend on ------------------------------------------------------------------------

SPEC = importlib.util.spec_from_file_location("dependencies", ROOT / "tools" / "dependencies.py")
dependencies = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dependencies)


def test_the_list_of_dependencies_is_current():
    text = dependencies.PAGE.read_text(encoding="utf-8")
    listed = set(re.findall(r"(?m)^\| (\S+) \| (\S+) \|", text)) - {("package", "version")}
    packages = {(name, about["version"]) for name, about in dependencies.scripts().items()}
    expected = packages | set(dependencies.pins().items())
    assert listed - {("---", "---")} == expected, "run `make licences`"
    installed = {name: metadata.version(name) for name in dependencies.pins()}
    if installed == dependencies.pins():  # another version may have another licence
        assert text == dependencies.page(), "run `make licences`"


def test_every_requirement_has_a_pin():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = {re.split("[=<>]", x)[0].lower() for x in lines if x and not x.startswith("#")}
    assert wanted <= {name.lower() for name in dependencies.pins()}


def test_every_licence_lets_the_book_be_built_and_given_away():
    """A page carries files of some of these: nothing in the list may forbid passing them on."""
    tools = {"codespell"}  # GPL: the tests run it, and nothing that is given away holds any of it
    known = r"MIT|BSD|Apache|MPL|ISC|PSF|0BSD|Zlib|CC0|HPND|Public Domain|Unlicense|W3C"
    for line in dependencies.PAGE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\| (\S+) \| \S*\d\S* \| (.+) \|", line):
            allowed = match[1] in tools or re.search(known, match[2])
            assert allowed, f"look at the licence of {match[1]}: {match[2]}"
