"""Spelling: no known misspelling anywhere, and Oxford spelling (colour, regularize) in prose.

Prose is what a reader reads as sentences: Markdown pages, the Markdown cells of notebooks and the
docstrings that become the reference. Code keeps the names of the libraries that it calls.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_repository import tracked

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (".py", ".js", ".mjs", ".css", ".md", ".toml", ".yml", ".ipynb", ".bib", ".cff")
# Two people, an option of Plotly, half of a word, an environment of LaTeX, "n, d" in an einsum.
NAMES = "shepard,teh,doubleclick,ot,multline,nd"


def codespell(*arguments: str, stdin: str | None = None) -> list[str]:
    """What codespell finds, a line each."""
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", NAMES, *arguments]
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True)
    assert done.returncode in (0, 65), done.stderr
    return done.stdout.splitlines()


def docstrings(path: Path) -> str:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, holders))
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def without_code(markdown: str) -> str:
    """Sentences alone. Directives keep their text; code, roles' targets and addresses go."""
    for pattern in (
        r"(?s)```(?:python|bash|markdown|\{code-cell\}).*?```", r"(?s)\$\$.*?\$\$", r"\$[^$]*\$",
        r"(?<!\})``?[^`]+``?", r"\{(?:glue|cite|eq|doc|ref)[a-z:]*\}`[^`]*`", r"\]\([^)]*\)",
        r"https?://\S+", r"(?m)^ *(?:>>>|\.\.\.) .*$", r"(?m)^:[a-z]+:.*$",
    ):  # fmt: skip
        markdown = re.sub(pattern, " ", markdown)
    return markdown


def prose() -> dict[str, str]:
    """From the name of each file to its sentences."""
    found = {}
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
        elif path.suffix == ".md":
            text = path.read_text("utf-8")
        elif path.suffix == ".py":
            text = docstrings(path)
        else:
            continue
        found[name] = without_code(text)
    return found


def oxford(text: str) -> list[str]:
    return codespell("--builtin", "en_to_en-OX", "-", stdin=text)


def test_no_known_misspelling():
    ours = [p for p in tracked() if p != Path(__file__)]  # which holds a misspelling
    files = [str(p.relative_to(ROOT)) for p in ours if p.suffix in SOURCES]
    assert codespell("--builtin", "clear,rare", *files) == []


def test_prose_is_in_oxford_spelling(tmp_path):
    for name, text in prose().items():
        (tmp_path / name.replace("/", "-")).with_suffix(".txt").write_text(text, "utf-8")
    assert len(list(tmp_path.iterdir())) > 50
    assert codespell("--builtin", "en_to_en-OX", str(tmp_path)) == []


@pytest.mark.parametrize("wrong", ["the color", "to regularise", "its behavior", "analyze it"])
def test_other_spellings_are_found(wrong):
    assert oxford(f"We say {wrong}.") != []


@pytest.mark.parametrize("right", ["the colour", "to regularize", "its behaviour", "analyse it"])
def test_oxford_spelling_is_let_through(right):
    assert oxford(f"We say {right}.") == []


def test_a_misspelling_is_found_and_code_is_not_prose():
    assert codespell("--builtin", "clear,rare", "-", stdin="We recieve it.") != []
    text = "A `color` and {doc}`color`, [x](color.md).\n\n```python\ncolor = 1\n```\n"
    assert "color" not in without_code(text)
    assert "color" in without_code("the color of {term}`twin`")
