"""The built pages: seconds to execute, weight as served, and the time until something is seen."""

import functools
import gzip
import http.server
import json
import statistics
import sys
import threading
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from plotly.offline import get_plotlyjs

from bench import Row

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "browser")]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def chapter_seconds() -> list[Row]:
    """How long each chapter took when it last ran, and all of them together."""
    seconds = json.loads((ROOT / "_build" / "seconds.json").read_text())
    rows = [(f"execute {n}", s, "s", "<= 60" if n[0].isdigit() else "") for n, s in seconds.items()]
    return [*rows, ("execute all", sum(seconds.values()), "s", "<= 120")]


def paint(browser: Browser, address: str) -> float:
    """Milliseconds until the first contentful paint, in a context without a cache."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address, wait_until="load")
    page.wait_for_timeout(300)
    entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    value = float(page.evaluate(entry))
    context.close()
    return value


def weight(browser: Browser, base: str, name: str) -> float:
    """Megabytes of a page with everything it loads when scrolled through, each file gzipped."""
    context = browser.new_context()
    page = context.new_page()
    bodies: dict[str, bytes] = {}
    page.on("response", lambda r: bodies.setdefault(r.url, r.body()))
    page.goto(base + name, wait_until="load")
    page.evaluate(
        """async () => {
            for (const f of document.querySelectorAll("figure.book-figure, .hilbert-lab")) {
                f.scrollIntoView();
                await new Promise((r) => setTimeout(r, 150));
            }
        }"""
    )
    page.wait_for_timeout(1500)
    context.close()
    return sum(len(gzip.compress(body, 9)) for body in bodies.values()) / 1e6


def rows(repeats: int = 7) -> list[Row]:
    """Every page's weight, and the first paint of one page against its heavy twin."""
    from run import chromium  # tests/run.py knows where it is

    handler = functools.partial(_Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/"
    page = "06-a-leash-in-function-space.html"
    twin, bundle = HTML / "heavy-twin.html", HTML / "heavy-twin.js"
    out = chapter_seconds()
    try:
        bundle.write_text(get_plotlyjs(), encoding="utf-8")
        html = (HTML / page).read_text(encoding="utf-8")
        heavy = html.replace("<head>", '<head><script src="heavy-twin.js"></script>', 1)
        twin.write_text(heavy, encoding="utf-8")
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
            for file in sorted(HTML.glob("*.html")):
                if file != twin and file.name != "search.html":
                    megabytes = weight(browser, base, file.name)
                    out.append((f"weight of {file.name}, gzip", megabytes, "MB", "<= 2.0"))
            times: dict[str, list[float]] = {page: [], twin.name: []}
            for _ in range(repeats):
                for name in times:
                    times[name].append(paint(browser, base + name))
            browser.close()
    finally:
        twin.unlink(missing_ok=True)
        bundle.unlink(missing_ok=True)
        server.shutdown()
    light, full = (statistics.median(t) for t in times.values())
    out.append(("first contentful paint", light, "ms", ""))
    out.append(("the same over that with full Plotly in <head>", light / full, "x", "<= 0.7"))
    return out


if __name__ == "__main__":
    from bench import print_table

    print_table(rows())
