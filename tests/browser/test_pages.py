"""Every built page, as a reader meets it: offline, by keyboard, in light and dark, on a phone."""

import hashlib
import re

import pytest
from conftest import HTML, ROOT, book_pages, watch

from hilbertlib.claims import CLAIMS, OURS, records_in, verdicts
from hilbertlib.scorecard import say

PAGES = book_pages() or ["index.html"]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def settle(page) -> None:
    """Scroll through the page so that everything lazy is drawn, then return to the top."""
    page.evaluate(
        """async () => {
            for (const f of document.querySelectorAll("figure.book-figure")) {
                f.scrollIntoView({ block: "center" });
                for (let i = 0; i < 200 && !f.dataset.drawn; i++)
                    await new Promise((r) => setTimeout(r, 25));
            }
            window.scrollTo(0, 0);
            if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
        }"""
    )


def open_page(browser, address, base, **context):
    page = browser.new_context(**context).new_page()
    seen = watch(page, base)
    page.goto(address, wait_until="load")
    settle(page)
    return page, seen


# Opening a page is most of what these tests cost: those that need nothing special of it share one.
@pytest.fixture(scope="module", params=PAGES)
def opened(request, browser, site):
    page, seen = open_page(browser, site + request.param, site, color_scheme="light")
    yield page, seen
    page.context.close()


def check_whole(page, seen) -> None:
    figures = page.locator("figure.book-figure")
    drawn = page.locator("figure.book-figure[data-drawn] .main-svg")
    assert figures.count() == page.locator("figure.book-figure[data-drawn]").count()
    assert drawn.count() >= figures.count()
    assert seen.problems() == {}


def test_nothing_is_asked_of_the_network_and_nothing_fails(opened):
    check_whole(*opened)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_a_folder_is_as_whole_as_one_that_is_served(browser, name):
    base = HTML.as_uri() + "/"
    page, seen = open_page(browser, base + name, base)
    check_whole(page, seen)
    page.context.close()


def test_mathematics_is_typeset(opened):
    page, _ = opened
    sources = page.evaluate("document.querySelectorAll('.math').length")
    typeset = page.evaluate("document.querySelectorAll('.math mjx-container').length")
    errors = page.evaluate("document.querySelectorAll('mjx-merror').length")
    assert typeset >= sources
    assert errors == 0
    left = page.evaluate("document.querySelector('main').innerText.match(/\\$[^$\\n]+\\$|\\\\\\(/)")
    assert left is None, f"mathematics left as source: {left}"


def drawing(figure) -> str:
    """A digest of everything that Plotly has drawn in a figure."""
    svg = figure.evaluate("f => [...f.querySelectorAll('.main-svg')].map(s => s.outerHTML).join()")
    return hashlib.sha256(svg.encode()).hexdigest()


def test_every_slider_moves_by_keyboard_and_changes_the_drawing(opened):
    page, seen = opened
    for figure in page.locator("figure.book-figure").all():
        for slider in figure.locator("input[type=range]").all():
            assert slider.evaluate("s => s.labels.length") == 1
            slider.evaluate("s => { s.value = s.min; s.dispatchEvent(new Event('input')); }")
            page.wait_for_timeout(150)
            texts, pictures = [], []
            for _ in range(int(slider.get_attribute("max")) + 1):
                texts.append(slider.get_attribute("aria-valuetext"))
                pictures.append(drawing(figure))
                count = figure.get_attribute("data-drawn")
                slider.press("ArrowRight")
                page.wait_for_timeout(60)
                if len(texts) <= int(slider.get_attribute("max")):
                    page.wait_for_function(
                        "([f, n]) => f.dataset.drawn !== n", arg=[figure.element_handle(), count]
                    )
            assert len(set(texts)) == len(texts), f"two positions read alike: {texts}"
            same = [texts[i] for i in range(1, len(texts)) if pictures[i] == pictures[i - 1]]
            assert not same, f"moving to {same} changed nothing that is drawn"
    assert seen.problems() == {}


def test_a_slider_follows_the_mouse(opened):
    page, _ = opened
    for figure in page.locator("figure.book-figure:has(input[type=range])").all():
        slider = figure.locator("input[type=range]").first
        slider.scroll_into_view_if_needed()
        before, value = drawing(figure), slider.input_value()
        box = slider.bounding_box()
        at = 0.9 if int(value) < int(slider.get_attribute("max")) / 2 else 0.1
        page.mouse.click(box["x"] + at * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
        assert slider.input_value() != value
        assert drawing(figure) != before


def turn(page, theme: str) -> None:
    """Have the reader's system ask for a theme, and wait until every figure is drawn in it."""
    drawn = """() => [...document.querySelectorAll("figure.book-figure[data-drawn]")]
        .map((figure) => figure.dataset.drawn)"""
    before, was = page.evaluate(drawn), page.evaluate("document.documentElement.dataset.theme")
    # Without motion: axe would measure the contrast of what is still fading in.
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
    if theme != was:
        page.wait_for_function(
            f"before => ({drawn})().every((n, i) => n !== before[i])", arg=before
        )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(opened, theme):
    page, _ = opened
    turn(page, theme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    # The report shows an element's HTML: selectors would be made for nothing.
    options = "resultTypes: ['violations'], selectors: false, preload: false"
    found = page.evaluate(f"rules => axe.run(document, {{{options}, runOnly: rules}})", RULES)
    report = [
        f"{v['id']}: {v['help']}: " + " | ".join(n["html"][:160] for n in v["nodes"][:3])
        for v in found["violations"]
    ]
    assert report == []


def test_a_figure_follows_the_theme(opened):
    page, _ = opened
    if page.locator("figure.book-figure").count():
        colour = "document.querySelector('figure.book-figure .xtick text').style.fill"
        theme, before = page.evaluate(f"[document.documentElement.dataset.theme, {colour}]")
        turn(page, "light" if theme == "dark" else "dark")
        assert page.evaluate(colour) != before


# The page's width, and what reaches beyond the window without lying in a box that scrolls.
WIDE = """() => [document.documentElement.scrollWidth,
    [...document.querySelectorAll("main *")].filter((e) => {
        const r = e.getBoundingClientRect();
        if (r.right <= window.innerWidth + 1 || !r.width) return false;
        for (let p = e; p; p = p.parentElement)
            if (p !== document.body && p !== document.documentElement
                && getComputedStyle(p).overflowX !== "visible") return false;
        return true;
    }).map((e) => `${e.tagName}.${e.className}`.slice(0, 80)).slice(0, 5)]"""


@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows_on_a_phone(browser, site, name):
    page, _ = open_page(
        browser, site + name, site, viewport={"width": 390, "height": 844}, device_scale_factor=2
    )
    assert page.evaluate(WIDE) == [390, []]
    # What leaves a drawing is cut off, not scrolled to.
    assert not page.evaluate(
        """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap((plot) => {
            const box = plot.getBoundingClientRect();
            const words = plot.querySelectorAll(
                "[class*=title], .annotation-text, .legendtext, .xtick text, .ytick text");
            return [...words].filter((word) => {
                const r = word.getBoundingClientRect();
                return r.width && (r.left < box.left - 1 || r.right > box.right + 1);
            }).map((word) => word.textContent);
        })"""
    )
    assert not page.evaluate(
        """() => [...document.querySelectorAll(".book-kept")].filter((kept) => {
            const mark = document.createRange();
            mark.selectNode(kept.lastChild);
            return mark.getBoundingClientRect().left < kept.firstChild.getBoundingClientRect().left;
        }).map((kept) => kept.textContent)"""
    )
    # The narrowest window that accessibility asks for: a desktop's, enlarged four times.
    page.set_viewport_size({"width": 320, "height": 844})
    assert page.evaluate(WIDE) == [320, []]
    page.context.close()


def test_the_scorecard_says_what_the_records_say():
    """Verdicts on the page are those that the records give now, and every claim is there."""
    page = (HTML / "10-does-the-paper-hold-up.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr data-claim="([^"]+)">(.*?)</tr>', page, flags=re.DOTALL)
    printed = {id: re.findall(r'book-verdict \w+">([^<]+)<', row) for id, row in rows}
    found = verdicts(records_in(ROOT / "book" / "records"))
    assert printed.keys() == CLAIMS.keys() == found.keys()
    for id, claim in CLAIMS.items():
        if claim.where not in OURS:
            assert printed[id] == [str(found[id])], id
            for part in found[id].parts.values():
                assert say(part.interval) in dict(rows)[id]
