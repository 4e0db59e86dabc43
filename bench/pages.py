"""The built pages: seconds to execute, weight as loaded, and the time until something is seen."""

import functools
import gzip
import http.server
import json
import runpy
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Response, sync_playwright
from plotly.offline import get_plotlyjs

from bench import Row

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
# Not the book's own: Sphinx writes them.
ASIDE = ("genindex.html", "py-modindex.html", "search.html")

SCROLL_THROUGH = """async () => {
  for (const f of document.querySelectorAll("figure.book-figure, .hilbert-lab")) {
    f.scrollIntoView({ block: "center" });
    const lazy = f.matches("figure");
    for (let i = 0; lazy && i < 400 && !f.dataset.drawn; i++)
      await new Promise((done) => setTimeout(done, 25));
    if (lazy && !f.dataset.drawn) throw new Error("a figure was not drawn");
  }
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
}"""


@contextmanager
def serving(folder: Path, extra: Mapping[str, bytes] | None = None) -> Iterator[str]:
    """The address of a folder served from this machine; ``extra`` files exist in memory only."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (extra or {}).get(self.path.lstrip("/"))
            if body is None:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", self.guess_type(self.path))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium(flags: Sequence[str] = FLAGS) -> Iterator[Browser]:
    """The Chromium of the page tests, else Playwright's own."""
    path = runpy.run_path(str(ROOT / "tests" / "run.py"))["chromium"]()
    with sync_playwright() as playwright:
        path = path or playwright.chromium.executable_path
        if not Path(path).exists():
            raise FileNotFoundError(
                "no Chromium: install it (`playwright install chromium` is one way), or set "
                "HILBERT_CHROMIUM to its path"
            )
        browser = playwright.chromium.launch(executable_path=path, args=list(flags))
        try:
            yield browser
        finally:
            browser.close()


def book_pages() -> list[str]:
    """The names of the book's own pages, below the built folder."""
    names = (p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html"))
    pages = sorted(name for name in names if name not in ASIDE and not name.startswith("_"))
    if not pages:
        raise FileNotFoundError(f"no pages in {HTML}: run make book first")
    return pages


def chapters() -> list[Row]:
    """How long each chapter took when it last ran, and the numbered ones together."""
    file = ROOT / "_build" / "seconds.json"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: run make book first")
    known = {n: s for n, s in json.loads(file.read_text()).items() if s is not None}
    numbered = {name: s for name, s in known.items() if name[:1].isdigit()}
    rows = [(name, s, "s", "<= 60" if name in numbered else "") for name, s in known.items()]
    return [*rows, (f"all {len(numbered)} chapters", sum(numbered.values()), "s", "<= 120")]


def weight(browser: Browser, base: str, name: str) -> float:
    """Megabytes that a page loads when it is scrolled through, each file gzipped by itself."""
    context = browser.new_context()
    page = context.new_page()
    loaded: dict[str, Response] = {}
    page.on("response", lambda response: loaded.update({response.url: response}))
    page.goto(base + name, wait_until="load")
    page.evaluate(SCROLL_THROUGH)
    page.wait_for_load_state("networkidle")
    local = [response for url, response in loaded.items() if url.startswith(base)]
    total = sum(len(gzip.compress(response.body(), 9, mtime=0)) for response in local)
    context.close()
    return total / 1e6


def weights() -> Iterator[Row]:
    """Every page's weight."""
    with serving(HTML) as base, chromium() as browser:
        for name in book_pages():
            yield name, weight(browser, base, name), "MB gzip", "<= 2.0"


def heavy_twin(page: str) -> str:
    """The page with the full Plotly bundle in its head, loaded before anything is drawn."""
    if "<head>" not in page:
        raise ValueError("expected a page with a <head>")
    return page.replace("<head>", '<head><script src="heavy-twin.js"></script>', 1)


def paint(browser: Browser, address: str) -> float:
    """Milliseconds until the first contentful paint, in a context without a cache."""
    # The wait below is a text that the page evaluates, which its own policy refuses.
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(address, wait_until="load")
    entries = "performance.getEntriesByName('first-contentful-paint')"
    page.wait_for_function(f"{entries}.length > 0")
    value = float(page.evaluate(f"{entries}[0].startTime"))
    context.close()
    return value


def first_paint(repeats: int = 7) -> Iterator[Row]:
    """Each chapter's first paint against its heavy twin's, the two loaded in turn."""
    names = [name for name in book_pages() if name[0].isdigit()]
    extra = {"heavy-twin.js": get_plotlyjs().encode()}
    for name in names:
        twin = heavy_twin((HTML / name).read_text(encoding="utf-8"))
        extra[f"heavy-twin-{name}"] = twin.encode()
    with serving(HTML, extra) as base, chromium() as browser:
        for name in names:
            times: dict[str, list[float]] = {name: [], f"heavy-twin-{name}": []}
            for repeat in range(repeats + 1):
                for which, measured in times.items():
                    milliseconds = paint(browser, base + which)
                    if repeat:  # the first round warms up
                        measured.append(milliseconds)
            light, full = map(statistics.median, times.values())
            yield name, light, "ms", ""
            yield "  with the full Plotly in its head", full, "ms", ""
            yield "  ratio", light / full, "x", "<= 0.7"


def rows() -> Iterator[Row]:
    """The whole table."""
    yield from chapters()
    yield from weights()
    yield from first_paint()


if __name__ == "__main__":
    from bench import print_table

    print_table(rows())
