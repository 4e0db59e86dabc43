"""A Chromium, the built book served from this machine, and a page that reports what went wrong."""

import functools
import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without these Chromium itself tries to reach hosts outside at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.browser)


def book_pages() -> list[str]:
    """Every page of the book, as addresses below the built folder."""
    aside = {"genindex.html", "search.html", "py-modindex.html"}
    names = (p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html"))
    return sorted(n for n in names if n not in aside and not n.startswith("_"))


def _wait_for_function(
    page: Page, expression: str, *, arg: object = None, timeout: float = 30_000, **_: object
) -> None:
    """Playwright's own lets the page evaluate a text, which the pages' policy refuses."""
    end = time.monotonic() + timeout / 1000
    while not page.evaluate(expression, arg):
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout / 1000:.0f} s still not: {expression}")
        page.wait_for_timeout(20)


Page.wait_for_function = _wait_for_function


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("HILBERT_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), "")
    if not path:
        pytest.fail("no Chromium found: install it, or set HILBERT_CHROMIUM to its path")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Address of the built book on this machine."""
    if not (HTML / "index.html").exists():
        pytest.fail(f"{HTML / 'index.html'} is missing: run `make book` first")
    handler = functools.partial(_Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@dataclass
class Watched:
    """A page, and everything that it asked of the network or complained about."""

    page: Page
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def problems(self) -> dict[str, list[str]]:
        found = {"outside": self.outside, "failed": self.failed, "console": self.console}
        return {name: what for name, what in found.items() if what}


def watch(page: Page, base: str) -> Watched:
    """Block and note every request that leaves ``base``; note failures and console messages."""
    seen = Watched(page)

    def route(r):
        url = r.request.url
        if url.startswith((base, "data:", "blob:")):
            r.continue_()
        else:
            seen.outside.append(url)
            r.abort()

    page.route("**/*", route)
    page.add_init_script(
        """document.addEventListener("securitypolicyviolation", (e) =>
            console.error(`policy: ${e.effectiveDirective} blocked ${e.blockedURI} ${e.sample}`))"""
    )
    page.on("response", lambda r: seen.failed.append(r.url) if r.status >= 400 else None)
    page.on("requestfailed", lambda r: seen.failed.append(r.url))
    page.on(
        "console",
        lambda m: seen.console.append(m.text) if m.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda e: seen.console.append(str(e)))
    return seen
