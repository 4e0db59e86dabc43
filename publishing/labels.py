"""Where each label of the book is, and which number it has there."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from mdit_py_plugins.anchors.index import slugify

from .grammar import PROOFS, ROOT, Directive, prose

BOOK = ROOT / "book"


@dataclass(frozen=True)
class Label:
    """What a label names: ``kind`` is "Exercise", "Equation", "Section"; ``number`` may be None."""

    page: str
    kind: str
    number: int | None
    title: str

    @property
    def name(self) -> str:
        """Kind and number, or the title of what has no number."""
        return self.title if self.number is None else f"{self.kind} {self.number}"


@dataclass(frozen=True)
class Labels:
    """The labels of all pages by name, and the pages' titles."""

    labels: Mapping[str, Label]
    titles: Mapping[str, str]

    def find(self, label: str, asked_by: str) -> Label:
        """The label of this name.

        Raises:
            ValueError: If no page defines it.
        """
        if label not in self.labels:
            raise ValueError(f"{asked_by}: no page of the book has the label {label!r}")
        return self.labels[label]


def pages() -> list[str]:
    """The names of the book's pages, in the order of its table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def markdown(page: str) -> list[str]:
    """The Markdown of a page: of each cell of a notebook, or of the one file."""
    notebook = BOOK / f"{page}.ipynb"
    if not notebook.exists():
        return [(BOOK / f"{page}.md").read_text(encoding="utf-8")]
    cells = nbformat.read(notebook, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def kind_of(inside: Directive) -> str | None:
    """What a directive is called when it is referred to; None if it cannot be."""
    name = inside.name
    if name == "math" and inside.label:
        return "Equation"
    if name in ("exercise", "exercise-start"):
        return "Exercise"
    if name in ("solution", "solution-start"):
        return "Solution"
    if name in ("figure", "table"):
        return name.capitalize()
    if name.startswith("prf:") and name[4:] in PROOFS:
        return name[4:].capitalize()
    return None


def read(contents: Iterable[tuple[str, Sequence[str]]]) -> Labels:
    """The labels of these pages (name and Markdown), numbered through the book as its pages are."""
    labels: dict[str, Label] = {}
    titles: dict[str, str] = {}
    numbers: Counter[str] = Counter()

    def count(page: str, kind: str, label: str, title: str = "", counted: bool = True) -> None:
        if counted:
            numbers[kind] += 1
        if label:
            labels[label] = Label(page, kind, numbers[kind] if counted else None, title)

    for page, sources in contents:
        waiting: list[str] = []  # targets: they name what comes next, usually a heading
        in_heading = False
        for token, inside in (pair for source in sources for pair in prose(source)):
            if token.type == "myst_target":
                waiting.append(token.content)
            elif token.type == "heading_open":
                in_heading = True
            elif token.type == "inline" and in_heading:
                in_heading = False
                titles.setdefault(page, token.content)
                for name in (*waiting, f"{page}#{slugify(token.content)}"):
                    labels[name] = Label(page, "Section", None, token.content)
                waiting = []
            elif token.type == "math_block_label":
                count(page, "Equation", token.info)
            elif inside and (kind := kind_of(inside)):
                counted = kind not in ("Solution", "Proof") and "nonumber" not in inside.options
                count(page, kind, inside.label, inside.argument, counted)
    return Labels(labels, titles)


def of_the_book() -> Labels:
    """The labels of every page in the table of contents."""
    return read((page, markdown(page)) for page in pages())


def source_of(page: str) -> Path:
    """The file that a page is written in."""
    found = [p for p in (BOOK / f"{page}.ipynb", BOOK / f"{page}.md") if p.exists()]
    if not found:
        raise ValueError(f"the book has no page {page!r}")
    return found[0]
