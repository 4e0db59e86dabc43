"""Pages on paper: nothing to press, every figure drawn at a stated place of its sliders."""

import re

import pytest
from conftest import book_pages, watch

A4 = {"width": 673, "height": 986}  # CSS pixels between the margins of print.css
PRESSED = (
    "button, input, select, .headerlink, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, "
    ".bd-header-article, .prev-next-footer, .copybtn, .toggle-button-hint, .hl-dock, .hl-guides"
)


def named(start: str) -> str:
    return next((p for p in book_pages() if p.startswith(start)), f"{start} is missing")


PAGES = ["index.html", named("01-"), named("04-"), named("10-"), "laboratory.html"]


def on_paper(browser, address: str, base: str, theme: str = "light"):
    """A page as it is laid out for the printer, without a single scroll before."""
    page = browser.new_context(color_scheme=theme, viewport=A4).new_page()
    seen = watch(page, base)
    page.goto(address, wait_until="load")
    if page.locator("figure.book-figure").count():
        page.wait_for_function("window.Plotly")
    page.wait_for_timeout(300)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    return page, seen


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_cleanly(browser, site, name, theme):
    page, seen = on_paper(browser, site + name, site, theme)
    found = page.evaluate(
        """([pressed]) => {
            const shown = (e) => e.checkVisibility({ visibilityProperty: true });
            const right = document.documentElement.clientWidth + 1;
            return {
                pressed: [...document.querySelectorAll(pressed)].filter(shown)
                    .map((e) => e.outerHTML.slice(0, 90)),
                wide: [...document.querySelectorAll("article *")].filter((e) => shown(e)
                    && !e.closest("mjx-assistive-mml, .visually-hidden, .main-svg")
                    && e.getBoundingClientRect().right > right)
                    .map((e) => e.outerHTML.slice(0, 90)),
                folded: [...document.querySelectorAll("details.sd-dropdown, details.toggle-details,"
                    + " .toggle-hidden")].filter((e) => !e.open).length,
                theme: document.documentElement.dataset.theme,
                titles: [...document.querySelectorAll("h1")].filter(shown).length,
            };
        }""",
        [PRESSED],
    )
    assert found == {"pressed": [], "wide": [], "folded": 0, "theme": "light", "titles": 1}
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate("document.querySelectorAll('details.sd-dropdown[open]').length") == 0
    assert seen.problems() == {}
    page.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_is_drawn_at_the_width_of_the_page(browser, site, name):
    page, _ = on_paper(browser, site + name, site, "dark")
    for figure in page.locator("figure.book-figure").all():
        said = figure.evaluate(
            """(figure) => {
                const box = (e) => e.getBoundingClientRect();
                const plot = box(figure.querySelector(".svg-container"));
                const drawn = figure.querySelector(".main-svg");
                const colour = getComputedStyle(drawn.querySelector("text")).fill;
                return {
                    inside: plot.left >= box(figure).left - 1 && plot.right <= box(figure).right + 1
                        && plot.height < 986,
                    fills: plot.width / box(figure).width,
                    scaled: drawn.hasAttribute("viewBox")
                        && Math.abs(box(drawn).width - plot.width) < 1,
                    dark: colour.match(/\\d+/g).slice(0, 3).every((part) => part < 130),
                    controls: [...figure.querySelectorAll(".book-control")].map((row) =>
                        getComputedStyle(row, "::before").content + row.innerText),
                    places: [...figure.querySelectorAll(".book-control output")]
                        .map((output) => output.value),
                    sliders: figure.querySelectorAll("input[type=range]").length,
                };
            }"""
        )
        assert said["inside"]
        assert said["fills"] > 0.98
        assert said["scaled"]
        assert said["dark"], "light text on white paper"
        assert len(said["places"]) == said["sliders"] == len(said["controls"])
        for place, line in zip(said["places"], said["controls"], strict=True):
            assert place
            assert line.startswith('"Printed at "')
            assert line.rstrip().endswith(place)
    page.context.close()


def test_the_laboratory_says_at_which_settings_it_was_printed(browser, site):
    page, _ = on_paper(browser, site + "laboratory.html#tab=learn&lam=5&step=12", site)
    page.wait_for_function("document.querySelector('.hilbert-lab canvas')")
    page.wait_for_function("/step 12/.test(document.querySelector('.hl-counter').textContent)")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    line = page.locator(".hl-paper").inner_text()
    assert line.startswith("Printed at step 12: λ strength 5,")
    assert "Seed 1" in line
    page.context.close()


def test_code_that_is_not_printed_is_named(browser, site):
    page, _ = on_paper(browser, site + named("01-"), site)
    assert page.locator("details.hide:not([open]) summary").first.is_hidden()
    note = "getComputedStyle(document.querySelector('.bd-article'), '::after').content"
    assert "not printed" in page.evaluate(note)
    page.context.close()


def test_the_browser_makes_a_pdf_of_it(browser, site):
    """Chromium's own print: it tells the page, which then draws what nobody scrolled to."""
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(site + named("01-"), wait_until="load")
    page.wait_for_function("window.Plotly")
    page.evaluate("addEventListener('beforeprint', () => { window.told = true; })")
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 25
    assert page.evaluate("window.told")
    drawn = "figures => figures.every(f => f.querySelector('.main-svg'))"
    assert page.locator("figure.book-figure").evaluate_all(drawn)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.context.close()
