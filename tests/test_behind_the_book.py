"""What the book says of itself is counted rightly, and every page gets its opener and addresses."""

import importlib.util
import re
from pathlib import Path

import pytest
import test_notebooks as stored

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location(
    "behind_the_book", ROOT / "book" / "_ext" / "behind_the_book.py"
)
behind = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(behind)

FIGURE = (
    '<figure class="output book-figure"><p class="book-title">{}</p>'
    "<figcaption>What it says.</figcaption></figure>"
)


@pytest.mark.parametrize("path", stored.CHAPTERS, ids=lambda p: p.stem)
def test_counts_agree_with_the_slow_twin(path):
    """The lines exactly; the words to a few in a hundred, since a dash is a word to the twin."""
    counted = behind.count(path)
    code = stored.cells(path, "code")
    folded = [c for c in code if stored.tags(c) & stored.HIDDEN]
    assert counted["folded"] == sum(map(stored.lines, folded))
    assert counted["shown"] + counted["folded"] == sum(map(stored.lines, code))
    assert counted["words"] == pytest.approx(len(stored.prose(stored.whole(path)).split()), rel=0.1)


def test_words_are_those_that_a_reader_reads():
    text = "Two words, $x + y$ and `code`.\n\n```python\nno words\n```\n:label: no\n[here](a.html)"
    assert behind.words(text) == 4
    assert behind.code_lines("a = 1\n\n# b\nc = 2  # d") == 2


def test_verdicts_are_counted_and_told_apart():
    cell = '<span class="book-verdict {}">{}</span>'
    html = cell.format("holds", "reproduced (reduced setting)") + cell.format("holds", "holds")
    html += cell.format("open", "inconclusive") + cell.format("holds", "reproduced")
    said = behind.verdicts_in(html)
    assert said == {"reproduced": 2, "holds": 1, "inconclusive": 1}
    assert behind.tally(said) == "the paper's: reproduced 2, inconclusive 1<br>ours: holds 1"
    assert behind.tally(behind.verdicts_in("")) == "none"


def test_a_figure_has_an_address_of_its_title_and_a_number():
    html = "<h1>A leash</h1>" + FIGURE.format("Steps, <b>&amp;</b> λ") + FIGURE.format("Steps & λ")
    dressed = behind.dress(html, "06-a-leash-in-function-space")
    assert re.findall(r'<figure class="output book-figure" id="([^"]+)"', dressed) == [
        "fig-steps-λ",
        "fig-steps-λ-2",
    ]
    assert '<figcaption><a class="book-number" href="#fig-steps-λ-2">Figure 6.2</a> W' in dressed
    assert dressed.startswith('<p class="book-opener"><span>Chapter 6</span>')
    assert "Using the distance" in dressed
    assert dressed.count("book-opener") == 1


def test_a_page_that_is_no_chapter_has_no_opener_and_no_numbers():
    dressed = behind.dress("<h1>Notation</h1>" + FIGURE.format("One"), "notation")
    assert dressed.startswith("<h1>")
    assert 'href="#fig-one">Figure</a>' in dressed


def test_places_that_extensions_name_alike_lose_their_name():
    html = '<div class="x" id="proof-content"></div><div id="exercise-content"></div><p id="a">'
    assert behind.dress(html, "notation") == '<div class="x"></div><div></div><p id="a">'
