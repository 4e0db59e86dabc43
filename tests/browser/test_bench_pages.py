"""What `make bench` measures of a page, on a page that is known to the byte."""

import gzip

import pytest

from bench import pages

PAGE = (
    '<!doctype html><html><head><link rel="icon" href="data:,"><script src="a.js"></script>'
    '<link rel="stylesheet" href="b.css"></head><body><p>seen</p></body></html>'
)
FILES = {"page.html": PAGE, "a.js": "let a = 1;\n//" * 999, "b.css": "p { color: red }" * 99}
EXTRA = {"heavy-twin.js": b"let c = 3;", "twin.html": pages.heavy_twin(PAGE).encode()}


def megabytes(*bodies: str | bytes) -> float:
    raw = [body.encode() if isinstance(body, str) else body for body in bodies]
    return sum(len(gzip.compress(body, 9, mtime=0)) for body in raw) / 1e6


@pytest.fixture
def base(tmp_path):
    for name, content in {**FILES, "unused.js": "let b = 2;"}.items():
        (tmp_path / name).write_text(content)
    with pages.serving(tmp_path, EXTRA) as address:
        yield address
    assert not (tmp_path / "twin.html").exists()  # the twin is served from memory


def test_a_page_weighs_what_it_loads(browser, base):
    found = pages.weight(browser, base, "page.html")
    assert found == pytest.approx(megabytes(*FILES.values()), rel=1e-9)
    twin = pages.weight(browser, base, "twin.html")
    assert twin == pytest.approx(megabytes(*EXTRA.values(), FILES["a.js"], FILES["b.css"]))


def test_both_twins_paint(browser, base):
    assert pages.paint(browser, base + "page.html") > 0
    assert pages.paint(browser, base + "twin.html") > 0
