"""Every term that a page uses is in the glossary, and every chapter uses some."""

import re
from pathlib import Path

import pytest
from test_notebooks import BOOK, CHAPTERS, whole

AT_LEAST = 5  # terms of the glossary in a chapter
PAGES = sorted([*BOOK.glob("*.md"), *BOOK.glob("*.ipynb")])


def glossary() -> list[list[str]]:
    """The entries in order, each with its names."""
    block = re.search(r"(?s)```\{glossary\}\n(.*?)\n```", (BOOK / "glossary.md").read_text("utf-8"))
    entries = [e.split("\n") for e in block[1].split("\n\n")]
    return [[line for line in entry if not line.startswith(" ")] for entry in entries]


def used(path: Path) -> list[str]:
    """The terms that a page refers to, as they are named in the glossary."""
    text = whole(path) if path.suffix == ".ipynb" else path.read_text("utf-8")
    found = re.findall(r"\{term\}`([^`<]+?)(?: <([^>]+)>)?`", text)
    return [target or shown for shown, target in found]


NAMES = [name for names in glossary() for name in names]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_every_term_is_in_the_glossary_by_that_very_name(path):
    assert set(used(path)) - set(NAMES) == set()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_explains_its_words_once_each(path):
    terms = used(path)
    assert len(terms) >= AT_LEAST
    assert sorted(set(terms)) == sorted(terms), "a term is marked at its first use only"


def test_the_glossary_is_in_order_and_names_nothing_twice():
    heads = [names[0].lower().replace("ℓ", "l") for names in glossary()]
    assert heads == sorted(heads)
    assert len(set(NAMES)) == len(NAMES)


def test_every_entry_says_something():
    text = (BOOK / "glossary.md").read_text("utf-8")
    for (name,) in glossary():  # a tooltip has one name and what it means
        explained = re.search(rf"(?m)^{re.escape(name)}\n    (.+)$", text)
        assert explained, name
        other = re.fullmatch(r"(?:Short|Another word) for \{term\}`(.+)`\.", explained[1])
        assert other[1] in NAMES if other else len(explained[1].split()) >= 6, name
