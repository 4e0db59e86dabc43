"""The chapters as they are stored: clean, short-celled, more prose than code, no typed results."""

import json
import re
import statistics
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
CHAPTERS = [p for p in NOTEBOOKS if p.name[:2].isdigit()]
HIDDEN = {"hide-input", "remove-input", "remove-cell", "hide-cell"}
# Digits that are names or settings, not results: they stand in the paper or in the code beside.
CONSTANTS = (
    r"figures? [0-9A-C.]+", r"\([0-9][A-Z]\)", r"equations? \d", r"[Ss]ection [\d.]+",
    r"95 ?%", r"from 0 to 1", r"±\d+ %", r"ℓ₂|L₂|ℓ2|L2", r"CIFAR-10", r"step \d",
    r"n = \d", r"ε \+ 4η", r"figure 3C|\(3F\)|3F", r"\d+ % of the training labels",
)  # fmt: skip


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def text(cell: dict) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def lines(cell: dict) -> int:
    return sum(1 for line in text(cell).splitlines() if line.strip() and line.strip()[0] != "#")


def exercises_cut(markdown: str) -> str:
    """Markdown without the statements of exercises and their solutions: those are problems."""
    kinds = "exercise|solution"
    return re.sub(rf":::{{({kinds})-start}}.*?:::{{\1-end}}", "", markdown, flags=re.DOTALL)


def prose(path: Path) -> str:
    """What a reader reads as sentences: no mathematics, code, roles, links, directives."""
    whole = "\n\n".join(text(c) for c in cells(path, "markdown"))
    whole = exercises_cut(whole)
    for pattern in (
        r"```.*?```", r"\$\$.*?\$\$", r"\$[^$]*\$", r"\{[a-z:]+\}`[^`]*`", r"`[^`]*`",
        r"^:::.*$", r"^:(label|class|tags):.*$", r"^\*\*.*Inputs.*$", r"\]\([^)]*\)", r"^\d+\. ",
    ):  # fmt: skip
        whole = re.sub(pattern, " ", whole, flags=re.DOTALL if "```" in pattern else re.MULTILINE)
    return whole


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_it_is_stored_clean(path):
    notebook = json.loads(path.read_text())
    ids = [c["id"] for c in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in cells(path, "code"):
        assert cell["execution_count"] is None
        # A check-output cell without a stored output would pass whatever it prints.
        assert bool(cell["outputs"]) == ("nbval-check-output" in tags(cell))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.name)
def test_the_first_cell_says_the_scale_and_the_first_screen_has_a_figure_to_move(path):
    code = cells(path, "code")
    assert text(code[0]).startswith('SCALE = "live"')
    assert "explore(" in text(code[1])
    whole = "\n".join(text(c) for c in cells(path, "markdown"))
    assert "Predict" in whole
    assert "dropdown" in whole


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.name)
def test_cells_are_short_and_prose_outweighs_code(path):
    code = [c for c in cells(path, "code") if "remove-cell" not in tags(c)]
    counts = [lines(c) for c in code]
    assert statistics.median(counts) <= 9
    shown = [lines(c) for c in code if not tags(c) & HIDDEN]
    assert statistics.median(shown) <= 6
    assert sum(n <= 18 for n in counts) >= 0.9 * len(counts)
    words = len(" ".join(text(c) for c in cells(path, "markdown")).split())
    assert words >= 10 * sum(shown), f"{words} words to {sum(shown)} lines"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.name)
def test_every_exercise_has_a_solution_that_runs_or_is_open(path):
    whole = "\n".join(text(c) for c in cells(path, "markdown"))
    labels = re.findall(r"\{exercise-start\}.*\n:label: (\S+)", whole)
    assert 4 <= len(labels) <= 8
    solved = re.findall(r"\{solution-start\} (\S+)", whole)
    assert set(labels) - set(solved) <= {x for x in labels if x.startswith("ex-open")}
    assert set(solved) <= set(labels)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.name)
def test_every_number_in_the_prose_is_glued_and_every_glued_one_is_used(path):
    whole = "\n".join(text(c) for c in cells(path, "markdown"))
    used = set(re.findall(r"\{glue:text\}`(\w+)", whole))
    code = "\n".join(text(c) for c in cells(path, "code"))
    glued = set()
    for call in re.findall(r"glue_all\((.*?)\n?\)\n?(?=\n|$)", code, flags=re.DOTALL):
        glued |= set(re.findall(r"(?:^|\n|\()\s*(\w+)=", f"({call}"))
    assert used <= glued, f"not glued: {used - glued}"
    assert glued - used <= set(), f"glued and not quoted: {glued - used}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.name)
def test_no_result_is_typed_into_the_prose(path):
    left = prose(path)
    for constant in CONSTANTS:
        left = re.sub(constant, " ", left)
    typed = [s.strip()[:120] for s in re.split(r"(?<=[.!?:])\s|\n\n", left) if re.search(r"\d", s)]
    assert not typed, typed
