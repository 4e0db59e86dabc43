"""A term shows its explanation beside it: under the mouse, and when the keyboard reaches it."""

import pytest
from bs4 import BeautifulSoup
from conftest import HTML, book_pages, watch

TERM = 'main a[href^="glossary.html#term-"]'
CHAPTERS = [n for n in book_pages() if n[:2].isdigit()] or ["index.html"]


def explanation(place: str) -> str:
    """What the glossary says at this place, as plain words."""
    page = BeautifulSoup((HTML / "glossary.html").read_text(encoding="utf-8"), "html.parser")
    return page.find(id=place).find_next("dd").get_text(" ", strip=True)


def tip(page) -> str:
    shown = page.locator(".tippy-box[data-state=visible]")
    shown.wait_for(timeout=5000)
    return " ".join(shown.inner_text().split())


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_term_is_explained_on_hover_and_on_focus(browser, site, name):
    page = browser.new_context(reduced_motion="reduce").new_page()
    seen = watch(page, site)
    page.goto(site + name, wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    terms = page.locator(TERM)
    assert terms.count() >= 5
    for nth, reach in ((0, "hover"), (1, "focus")):
        link = terms.nth(nth)
        expected = explanation(link.get_attribute("href").split("#")[1])
        link.scroll_into_view_if_needed()
        getattr(link, reach)()
        first = " ".join(expected.split()[:4])
        assert first in tip(page)
        page.mouse.move(0, 0)
        link.evaluate("a => a.blur()")
        page.locator(".tippy-box[data-state=visible]").wait_for(state="detached")
    assert seen.problems() == {}
    page.context.close()
