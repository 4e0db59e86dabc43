"""Sphinx extension: a Content-Security-Policy in every built page.

The policy stands in a ``<meta>`` element, so that it holds wherever the folder is put, and for a
page that is opened by double-clicking too. A page may load from its own folder and from nowhere
else, and may not turn text into code (no ``eval``). The few scripts that the theme writes into a
page are known one by one (:data:`OWN`) and allowed by the hash of their text. A script that came in
with a notebook's output or a record's text has no hash: the build warns, and no browser runs it.

Styles need ``'unsafe-inline'``: Plotly, MathJax and the tooltips set ``style`` attributes and add
``<style>`` elements while the page runs, with texts that no build can know. With no host to load
from, a style can carry nothing out of the page.
"""

import base64
import hashlib
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# For a page opened from a folder, browsers differ in whether 'self' covers the files beside it; on
# a web site `file:` allows nothing, because no browser lets a site read files.
HERE = "'self' file:"
DIRECTIVES = {
    "default-src": "'none'",
    "script-src": HERE,  # and the hashes of the page's own inline scripts
    "style-src": f"{HERE} 'unsafe-inline'",
    "img-src": f"{HERE} data:",
    "font-src": f"{HERE} data:",
    "connect-src": HERE,  # the search page reads the pages that it found, to quote them
    "form-action": HERE,
    "base-uri": "'none'",
}
DATA = ("application/json", "application/ld+json", "text/x-thebe-config")
META = re.compile(r'\s*<meta http-equiv="Content-Security-Policy" content="[^"]*" ?/?>')
# Before it nothing but the encoding, which a browser looks for in a page's first 1,024 bytes.
HEAD = re.compile(r"<head[^>]*>(\s*<meta charset=[^>]*>)?")
SCRIPT = re.compile(r"<script\b(?P<attributes>[^>]*)>(?P<text>.*?)</script>", re.DOTALL | re.I)
# What the theme writes and the book does not use.
UNUSED = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # For code on a hosted kernel; it names a service outside.
        r"\s*<script type=\"text/x-thebe-config\">.*?</script>\s*"
        r"<script>\s*kernelName = [^<]*</script>",
        # The icons once more, as 1.5 MB of script: the style sheet draws them from a font.
        r"\s*<script[^>]* src=\"[^\"]*/scripts/fontawesome\.js[^\"]*\"></script>",
    )
]
_WORD = r"(?:'[^'<>\\]*'|\"[^\"<>\\]*\"|true|false)"
OWN = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"(?:\s*document\.documentElement\.dataset\.\w+ = "
        rf"localStorage\.getItem\({_WORD}\) \|\| {_WORD};)+\s*",
        rf"(?:let|var) toggle\w+ = {_WORD};",
        rf"DOCUMENTATION_OPTIONS\.\w+ = {_WORD};",
        r"window\.MathJax = \{[^<>()`]*\}",
        r"\s*// Activate the search field on page load\n[^<>`]*",
    )
]


def inline_scripts(page: str) -> list[str]:
    """The text of each script in the page that a browser would run."""
    return [
        found["text"]
        for found in SCRIPT.finditer(page)
        if "src=" not in found["attributes"]
        and not any(f'type="{kind}"' in found["attributes"] for kind in DATA)
    ]


def known(script: str) -> bool:
    """Whether an inline script is one that the theme and Sphinx write."""
    return any(pattern.fullmatch(script) for pattern in OWN)


def policy(page: str) -> str:
    """The policy of a page: :data:`DIRECTIVES`, and a hash for each of the theme's own scripts."""
    scripts = filter(known, inline_scripts(page))
    digests = {hashlib.sha256(script.encode()).digest() for script in scripts}
    hashes = sorted(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    directives = DIRECTIVES | {"script-src": " ".join([HERE, *hashes])}
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def protect(page: str) -> str:
    """The page with its policy at the start of its head; a policy it had is replaced."""
    for pattern in (META, *UNUSED):
        page = pattern.sub("", page)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy(page)}">'
    return HEAD.sub(lambda head: f"{head[0]}\n    {meta}", page, count=1)


def protect_folder(app: Sphinx, exception: Exception | None) -> None:
    """Once every page is written, because templates add scripts that no event of Sphinx shows."""
    if exception is not None or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir).rglob("*.html")):
        name = path.relative_to(app.outdir)
        if name.parts[0] in ("_static", "reports"):
            continue
        before = path.read_text(encoding="utf-8")
        after = protect(before)
        for script in inline_scripts(after):
            if not known(script):
                logger.warning("%s: an inline script is not allowed: %.80s", name, script.strip())
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", protect_folder, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
