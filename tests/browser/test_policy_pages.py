"""The built pages keep their own Content-Security-Policy, and it keeps a stranger's script out."""

import http.server
import re
import threading

import pytest
from conftest import HTML, book_pages, watch

PAGES = [
    "index.html",
    "10-does-the-paper-hold-up.html",
    "laboratory.html",
    "search.html?q=distance",
]


@pytest.fixture
def stranger():
    """A host that is not the book's, and what was asked of it."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(b"window.stranger = true;")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@pytest.mark.parametrize("name", book_pages() or ["index.html"])
def test_every_page_has_a_policy_before_anything_that_it_loads(name):
    text = (HTML / name).read_text(encoding="utf-8")
    head, _, rest = text.partition('<meta http-equiv="Content-Security-Policy"')
    assert rest, f"{name} has no policy"
    assert not re.search(r"<(script|link|style|img)\b", head)
    assert "unsafe-eval" not in rest.split(">")[0]
    assert not re.search(r"<\w+[^>]*\son\w+\s*=", text), "a handler in an attribute never runs"
    assert "javascript:" not in re.sub(r"(?s)<script.*?</script>", "", text)


@pytest.mark.parametrize("how", ["served", "file"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_satisfies_its_policy(browser, site, name, how):
    page = browser.new_page()
    seen = watch(page, base := site if how == "served" else HTML.as_uri() + "/")
    page.goto(base + name, wait_until="load")
    page.wait_for_timeout(500)
    if name.startswith("search"):
        assert page.locator("ul.search li").count() > 0
    assert [text for text in seen.console if "policy" in text and "CORS" not in text] == []
    page.close()


# Each tries to reach a stranger or to run what it should not, and says in `window.got` that it did.
ATTEMPTS = {
    "connect-src": "fetch('HOST/fetch', {mode: 'no-cors'}).then(() => got = true).catch(() => 0)",
    "img-src": "document.body.append(Object.assign(new Image(), {src: 'HOST/image'}))",
    "script-src-elem": "document.body.append(Object.assign(document.createElement('script'), "
    "{src: 'HOST/script'}))",
    "style-src-elem": "document.body.append(Object.assign(document.createElement('link'), "
    "{rel: 'stylesheet', href: 'HOST/style'}))",
    "frame-src": "document.body.append(Object.assign(document.createElement('iframe'), "
    "{src: 'HOST/frame'}))",
    "font-src": "new FontFace('stranger', 'url(HOST/font)').load().catch(() => 0)",
    "form-action": "(f => { document.body.append(f); f.submit(); })(Object.assign("
    "document.createElement('form'), {method: 'post', action: 'HOST/form'}))",
    "script-src": "setTimeout('got = true')",
    "script-src-attr": "document.body.insertAdjacentHTML('beforeend', "
    '\'<img src="data:," onerror="got = true">\')',
    "base-uri": "document.head.append(Object.assign(document.createElement('base'), "
    "{href: 'HOST/base/'}))",
}


@pytest.mark.parametrize("how", ["served", "file"])
def test_a_foreign_request_is_blocked_and_no_text_becomes_code(browser, site, stranger, how):
    host, asked = stranger
    page = browser.new_page()
    base = site if how == "served" else HTML.as_uri() + "/"
    for directive, attempt in ATTEMPTS.items():
        page.goto(base + "notation.html", wait_until="load")
        blocked = page.evaluate(
            """() => new Promise((done) => {
                window.got = false;
                document.addEventListener("securitypolicyviolation",
                    (e) => done(e.effectiveDirective));
                setTimeout(() => done("nothing was blocked"), 3000);
                ATTEMPT;
            })""".replace("ATTEMPT", attempt.replace("HOST", host))
        )
        assert blocked == directive, attempt
        page.wait_for_timeout(50)
        assert not page.evaluate("window.got || window.stranger || false"), attempt
    assert asked == []
    page.close()


def test_the_stranger_would_have_been_reached_without_a_policy(browser, site, stranger):
    """The test above can fail: the same attempts on a page whose policy is switched off."""
    host, asked = stranger
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(site + "notation.html", wait_until="load")
    for directive in ("connect-src", "img-src", "script-src-elem", "style-src-elem", "frame-src"):
        page.evaluate(f"() => {{ {ATTEMPTS[directive].replace('HOST', host)}; }}")
    page.wait_for_function("window.stranger === true")
    page.wait_for_timeout(300)
    assert {"/fetch", "/image", "/script", "/style", "/frame"} <= set(asked)
    context.close()
