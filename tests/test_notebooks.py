"""The chapters as they are stored: clean, short-celled, more prose than code, no typed results."""

import ast
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
CHAPTERS = [p for p in NOTEBOOKS if p.name[:2].isdigit()]
HIDDEN = {"hide-input", "remove-input", "remove-cell", "hide-cell"}
# Digits that are names or settings, not results: they stand in the paper or in the code beside.
CONSTANTS = (
    r"figure [A-C0-9][.A-F0-9]*\b", r"\(3F\)", r"equation \d", r"[Ss]ection [\d.]+\d",
    # The level of an interval, and of nothing else.
    r"95%(?= +(interval|confidence|over seeds|of the time))", r"±5%",
    r"values range from 0 to 1", r"CIFAR-10", r"n = 5", r"ε \+ 4η",
)  # fmt: skip

chapters = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def text(cell: dict) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def whole(path: Path) -> str:
    return "\n\n".join(text(c) for c in cells(path, "markdown"))


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def lines(cell: dict) -> int:
    """Lines of code: neither blank nor a comment alone."""
    return sum(1 for line in text(cell).splitlines() if line.strip() and line.strip()[0] != "#")


def prose(markdown: str) -> str:
    """What a reader reads as sentences: no mathematics, code, roles, links' addresses, options."""
    for pattern in (
        r"(?s)```.*?```", r"(?s)\$\$.*?\$\$", r"\$[^$]*\$", r"\{[a-z:]+\}`[^`]*`", r"`[^`]*`",
        r"(?m)^:::.*$", r"(?m)^:(label|class|tags):.*$", r"\]\([^)]*\)", r"(?m)^\d+\. ",
    ):  # fmt: skip
        markdown = re.sub(pattern, " ", markdown)
    return markdown


def without_exercises(markdown: str) -> str:
    """Markdown without exercises and their solutions: those state problems, with their numbers."""
    kinds = "exercise|solution"
    return re.sub(rf"(?s):::{{({kinds})-start}}.*?:::{{\1-end}}", "", markdown)


def calls(path: Path, name: str) -> Iterator[ast.Call]:
    """Every call of a function of this name, in the code cells."""
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(text(cell))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                yield node


def numbers_typed(sentences: str) -> list[str]:
    """The sentences with a digit in them that is none of the constants."""
    for constant in CONSTANTS:
        sentences = re.sub(constant, " ", sentences)
    return [
        s.strip()[:120] for s in re.split(r"(?<=[.!?:])\s|\n\n", sentences) if re.search(r"\d", s)
    ]


@notebooks
def test_it_is_stored_clean(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)  # cells have ids
    nbformat.validate(notebook)
    ids = [c["id"] for c in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}  # no times, no trust, no folding
        if cell.cell_type == "code":
            assert cell.execution_count is None
            # A check-output cell without a stored output would pass whatever it prints.
            assert bool(cell.outputs) == ("nbval-check-output" in tags(cell))
            assert all(output.output_type != "error" for output in cell.outputs)


@chapters
def test_the_first_cell_says_the_scale_and_the_first_screen_has_a_figure_to_move(path):
    code = cells(path, "code")
    # The scorecard judges records of the paper's scale and trains nothing.
    scale = "paper" if "records_in(" in text(code[0]) else "live"
    assert text(code[0]).startswith(f'SCALE = "{scale}"')
    assert "explore(" in text(code[1])
    assert "Predict" in whole(path)
    assert "dropdown" in whole(path)


@chapters
def test_the_first_cell_says_on_what_it_runs_and_how_long(path):
    """``runs_on(SCALE, live="a minute on two cores", paper="...")``, before anything trains."""
    first = text(cells(path, "code")[0])
    if 'SCALE = "paper"' in first:  # nothing is trained
        assert "in seconds" in first
        return
    (call,) = calls(path, "runs_on")
    assert {"live", "paper"} <= {k.arg for k in call.keywords}
    assert "runs_on(SCALE, " in first


@chapters
def test_cells_are_short(path):
    code = [c for c in cells(path, "code") if "remove-cell" not in tags(c)]
    shown = [lines(c) for c in code if not tags(c) & HIDDEN]
    assert statistics.median(shown) <= 6
    # Those that are folded are read too, by whoever opens them or runs the notebook.
    everything = [lines(c) for c in code]
    assert sum(n <= 18 for n in everything) >= 0.9 * len(everything)


@chapters
def test_prose_outweighs_code(path):
    shown = sum(lines(c) for c in cells(path, "code") if not tags(c) & HIDDEN)
    words = len(prose(whole(path)).split())
    assert words >= 10 * shown, f"{words} words to {shown} lines"


@chapters
def test_every_exercise_has_a_solution_that_runs_or_is_open(path):
    labels = re.findall(r"\{exercise-start\}.*\n:label: (\S+)", whole(path))
    assert 4 <= len(labels) <= 8
    solved: dict[str, int] = {}
    inside = None
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            if inside:
                solved[inside] += "assert" in text(cell)
            continue
        for start, label in re.findall(r":::\{solution-(start|end)\} ?(\S*)", text(cell)):
            inside = label if start == "start" else None
            if inside:
                assert inside not in solved
                solved[inside] = 0
    assert inside is None
    assert all(solved.values()), f"a solution without code that checks it: {solved}"
    assert {x for x in labels if x not in solved} == {x for x in labels if x.startswith("ex-open")}
    assert set(solved) <= set(labels)


def test_no_label_is_given_twice():
    labels = [label for p in NOTEBOOKS for label in re.findall(r":label: (\S+)", whole(p))]
    assert sorted(set(labels)) == sorted(labels)


@notebooks
def test_every_number_in_the_prose_is_glued_and_every_glued_one_is_used(path):
    used = set(re.findall(r"\{glue:[a-z]+\}`(\w+)", whole(path)))
    names = [k.arg for call in calls(path, "glue_all") for k in call.keywords]
    names += [call.args[0].value for call in calls(path, "glue")]
    assert len(set(names)) == len(names)
    assert used - set(names) == set(), "quoted and not glued"
    assert set(names) - used == set(), "glued and not quoted"


@notebooks
def test_no_result_is_typed_into_the_prose(path):
    assert numbers_typed(prose(without_exercises(whole(path)))) == []


@notebooks
def test_no_result_is_typed_into_a_caption(path):
    for call in [*calls(path, "explore"), *calls(path, "show")]:
        (caption,) = (k.value for k in call.keywords if k.arg == "caption")
        parts = [n.value for n in ast.walk(caption) if isinstance(n, ast.Constant)]
        assert numbers_typed("".join(map(str, parts))) == []


def test_no_constant_is_left_over():
    everything = "\n\n".join(prose(without_exercises(whole(p))) for p in NOTEBOOKS)
    unused = [c for c in CONSTANTS if not re.search(c, everything)]
    assert unused == [], "allowed in prose, and in no chapter"


def test_the_checks_see_what_they_look_for():
    assert numbers_typed(prose("It fell to 0.3. It rose to $0.4$, {glue:text}`x:.1f`.")) == [
        "It fell to 0.3."
    ]
    assert numbers_typed("see figure C.7 and section 2.3; ε + 4η") == []
    assert numbers_typed("see figure C.7, where 3 of 5 fell") == ["see  , where 3 of 5 fell"]
    assert prose("a `b 1` [c](d1.html)\n:::{note}\n:label: e1\nf").split() == ["a", "[c", "f"]
    problem = ":::{exercise-start} x\n12\n:::{exercise-end}"
    assert without_exercises(f"{problem} a {problem}").strip() == "a"
    assert lines({"source": "a = 1\n\n# b\nc = 2  # d"}) == 2
