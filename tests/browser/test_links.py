"""Every address in every built page leads to a file and a place that are there."""

from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import HTML, book_pages

PAGES = [*book_pages(), "search.html"] if book_pages() else ["index.html"]


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def places(path: Path) -> frozenset[str]:
    return frozenset(str(e["id"]) for e in soup(path).find_all(id=True))


def addresses(page: Path) -> list[str]:
    found = []
    for element in soup(page).find_all(["a", "link", "script", "img", "source", "iframe"]):
        found += [element[k] for k in ("href", "src") if element.get(k)]
    return found


def missing(page: Path, address: str) -> str | None:
    """What an address within the book leads to that is not there; None if all is well."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None  # that no page asks for such an address by itself is tested elsewhere
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file() or HTML.resolve() not in target.resolve().parents:
        return f"{address}: no such file"
    place = unquote(parts.fragment)
    if place and target.suffix == ".html" and place not in places(target):
        return f"{address}: no such place"
    return None


@pytest.mark.parametrize("name", PAGES)
def test_every_link_within_the_book_leads_somewhere(name):
    page = (HTML / name).resolve()
    found = addresses(page)
    assert len(found) > 10
    assert [x for x in (missing(page, a) for a in found) if x] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_place_has_the_name_of_another(name):
    counted = Counter(e["id"] for e in soup(HTML / name).find_all(id=True))
    assert [place for place, n in counted.items() if n > 1] == []


def test_a_link_that_leads_nowhere_is_found():
    page = (HTML / "index.html").resolve()
    for address in ("not-there.html", "notation.html#not-there", "#not-there", "../outside.html"):
        assert missing(page, address)
    assert missing(page, "notation.html") is None
