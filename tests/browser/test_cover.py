"""The cover moves: by itself once, where the reader allows it, and with the slider."""

DISC = "document.querySelector('svg.book-cover circle:last-of-type').getAttribute('cx')"


def opened(browser, site, motion):
    page = browser.new_context(reduced_motion=motion).new_page()
    page.goto(site + "index.html")
    page.wait_for_selector(".book-cover + div input")
    return page


def test_the_slider_moves_the_networks_along_their_paths(browser, site):
    page = opened(browser, site, "reduce")
    slider = page.locator(".book-cover + div input")
    assert slider.input_value() == slider.get_attribute("max")
    assert slider.evaluate("s => s.labels.length") == 1
    end = page.evaluate(DISC)
    slider.press("Home")
    start = page.evaluate(DISC)
    slider.press("ArrowRight")
    assert len({end, start, page.evaluate(DISC)}) == 3
    lines = page.locator("svg.book-cover polyline:last-of-type").all()
    assert [len(line.get_attribute("points").split()) for line in lines] == [2] * 6
    page.context.close()


def test_it_plays_once_and_stops_where_the_reader_takes_over(browser, site):
    page = opened(browser, site, "no-preference")
    slider = page.locator(".book-cover + div input")
    page.wait_for_function("s => Number(s.value) > 0", arg=slider.element_handle())
    slider.press("Home")
    page.wait_for_timeout(300)
    assert slider.input_value() == "0"
    page.context.close()
