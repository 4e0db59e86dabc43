"""The page on how the book is made says what this build did."""

import json
import re

import pytest
from bs4 import BeautifulSoup
from conftest import HTML, ROOT, book_pages

from hilbertlib.records import load_record

CHAPTERS = [n.removesuffix(".html") for n in book_pages() if n[:2].isdigit()]


def table(page: str, kind: str) -> list[list[str]]:
    soup = BeautifulSoup((HTML / page).read_text(encoding="utf-8"), "html.parser")
    rows = soup.select(f"table.{kind} tbody tr")
    return [[cell.get_text(" ", strip=True) for cell in row.find_all("td")] for row in rows]


@pytest.fixture(scope="module")
def rows() -> dict[int, list[str]]:
    *chapters, _ = table("how-this-book-is-made.html", "book-chapters")
    return {int(row[0].split()[0]): row for row in chapters}


def test_every_chapter_of_the_build_has_its_row(rows):
    assert list(rows) == [int(name[:2]) for name in CHAPTERS] != []


def test_the_seconds_are_those_of_the_last_run(rows):
    seconds = json.loads((ROOT / "_build" / "seconds.json").read_text())
    for name in CHAPTERS:
        assert rows[int(name[:2])][3] == f"{seconds[name]:.0f}"


def test_the_verdicts_are_those_on_the_chapters_page(rows):
    for name in CHAPTERS:
        html = (HTML / f"{name}.html").read_text(encoding="utf-8")
        printed = len(re.findall(r'class="book-verdict \w+"', html))
        counted = sum(map(int, re.findall(r"[a-z] (\d+)", rows[int(name[:2])][4])))
        assert counted == printed


def test_every_record_stands_on_the_page():
    listed = {row[0].split()[0]: row for row in table("how-this-book-is-made.html", "book-records")}
    for path in (ROOT / "book" / "records").glob("*.json"):
        record = load_record(path)
        row = " ".join(listed[record.experiment])
        assert record.provenance.dataset_checksum[:12] in row
        assert record.provenance.commit[:12] in row


def test_a_projected_figure_fills_the_screen_and_escape_leaves_it(browser, site):
    soup = BeautifulSoup((HTML / "for-instructors.html").read_text("utf-8"), "html.parser")
    links = [a["href"] for a in soup.select("table.book-slides a") if "?project" in a["href"]]
    assert {link.split(".html")[0] for link in links} == set(CHAPTERS)
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.goto(site + links[0])
    figure = page.locator("figure.book-figure:target")
    page.wait_for_function("document.querySelector('figure:target').dataset.drawn")
    box = figure.bounding_box()
    assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 1280, 720)
    slider = figure.locator("input[type=range]").first
    slider.press("ArrowRight")
    page.keyboard.press("Escape")
    assert figure.bounding_box()["width"] < 1000
    page.context.close()
