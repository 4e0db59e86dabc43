"""Sphinx extension: the built book is one folder that asks nothing of the network.

* The figures, explorers and laboratories that the notebooks emit as JSON become HTML with a JSON
  island beside it; ``book.js`` draws them with one local Plotly, fetched when a figure is near.
* MathJax, Plotly and the tooltip library are copied from ``node_modules`` into ``_static/vendor``.
* The execution cache is keyed on the library's source as well as on the notebook's code.
* After the build it prints how long each chapter took to execute.
"""

import hashlib
import json
import os
import shutil
from html import escape
from pathlib import Path

from docutils import nodes
from myst_nb.core import render as nb_render
from myst_nb.sphinx_ import SphinxEnvType
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
STAGE = ROOT / "_build" / "assets"  # what is appended to html_static_path

FIGURE = "application/vnd.hilbertlib.figure+json"
LAB = "application/vnd.hilbertlib.lab+json"
PLOTLY = "application/vnd.plotly.v1+json"

# npm package file -> name under _static/vendor
VENDOR = {
    "plotly.js-cartesian-dist-min/plotly-cartesian.min.js": "plotly.min.js",
    "@popperjs/core/dist/umd/popper.min.js": "popper.min.js",
    "tippy.js/dist/tippy-bundle.umd.min.js": "tippy-bundle.umd.min.js",
    "mathjax/es5/tex-chtml.js": "mathjax/tex-chtml.js",
    "mathjax/es5/output/chtml/fonts/woff-v2": "mathjax/output/chtml/fonts/woff-v2",
}


def island(payload: dict) -> str:
    """A payload as inert JSON; ``<`` is escaped so that no text in it can close the element."""
    body = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json">{body}</script>'


def figure_html(content: dict) -> str:
    """A figure as the page holds it: title and caption as text, the drawing left to ``book.js``."""
    title = content["figure"]["layout"].get("title", {}).get("text", "Figure")
    alt = content.get("alt") or title
    height = float(content["figure"]["layout"].get("height", 400))  # a number, whatever is stored
    foot = "".join(
        f'<span class="book-{part}">{escape(content[part])}</span> '
        for part in ("caption", "provenance")
        if content.get(part)
    )
    return (
        f'<figure class="output book-figure"><p class="book-title">{escape(title)}</p>'
        f'<div class="book-controls"></div>'
        f'<div class="book-plot" role="img" aria-label="{escape(alt, quote=True)}" '
        f'style="min-height:{height:g}px"></div>'
        f'<p class="book-readout" aria-live="polite"></p>'
        f"<figcaption>{foot}</figcaption>{island(content)}</figure>"
    )


class InteractiveMime:
    """MyST-NB renderer for the JSON outputs that the notebooks emit."""

    mime_priority_overrides = (("html", LAB, 1), ("html", FIGURE, 1), ("html", PLOTLY, 2))

    @staticmethod
    def handle_mime(renderer, data, inline):
        if inline or data.mime_type not in (FIGURE, LAB, PLOTLY):
            return None
        content = data.content if isinstance(data.content, dict) else json.loads(data.content)
        if data.mime_type == LAB:
            settings = escape(json.dumps(content["settings"]), quote=True)
            html = f'<div class="output hilbert-lab" data-settings="{settings}"></div>'
        elif data.mime_type == FIGURE:
            html = figure_html(content)
        else:  # a bare Plotly figure
            html = figure_html({"figure": {k: content[k] for k in ("data", "layout")}})
        return [nodes.raw(text=html, format="html")]


def library_key() -> str:
    """A digest of the library's source: a cached chapter is stale when this changes."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "hilbertlib").rglob("*.py")):
        digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    for file in sorted((BOOK / "records").glob("*")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def stage_assets() -> None:
    """Copy our own and the vendored scripts to one folder, only where they changed."""
    pairs = [(ROOT / "node_modules" / src, STAGE / "vendor" / dst) for src, dst in VENDOR.items()]
    pairs += [(f, STAGE / f.name) for f in sorted((BOOK / "assets").glob("*.*"))]
    for src, dst in pairs:
        if not src.exists():
            raise ConfigError(f"{src} is missing: run `make book`, which fetches it with npm ci")
        dst.parent.mkdir(parents=True, exist_ok=True)
        if src.is_dir():
            shutil.copytree(src, dst, dirs_exist_ok=True)
        elif not dst.exists() or src.read_bytes() != dst.read_bytes():
            shutil.copy2(src, dst)


def stage_laboratory() -> None:
    """Join the laboratory's modules into the one script and style sheet that its pages load."""
    from hilbertlib import lab

    for name, text in (("lab.js", lab.page_script()), ("lab.css", lab.css())):
        (STAGE / name).write_text(text, encoding="utf-8")


def config_inited(app: Sphinx, config: Config) -> None:
    os.environ["HILBERT_BOOK"] = "1"  # tells the notebooks' kernels to emit what a page can show
    # Networks this small are fastest on one thread, and their last digits are then always the same.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stage_assets()
    stage_laboratory()
    # Jupyter Book puts every script below source/_static on every page, so ours live elsewhere.
    config.html_static_path.append(str(STAGE))
    config.mathjax_path = "vendor/mathjax/tex-chtml.js"
    config.nb_ipywidgets_js = {}
    config.nb_execution_cache_path = str(ROOT / "_build" / "cache" / library_key())
    options = config.html_theme_options
    options["repository_url"] = os.environ.get("BOOK_REPOSITORY_URL", "")
    # The buttons open what `make publish` wrote: notebooks in the root of their own branch.
    options["repository_branch"] = os.environ.get("BOOK_REPOSITORY_BRANCH", "colab")
    options["path_to_docs"] = ""
    options["use_repository_button"] = options["use_issues_button"] = False
    if not options["repository_url"].startswith("https://github.com/"):  # Colab opens no other host
        options["repository_url"] = ""
        options["launch_buttons"] = {}


def page_context(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Give each page the scripts it needs and no others."""
    body = context.get("body", "")
    app.add_css_file("book.css")
    app.add_css_file("print.css", media="print")
    app.add_js_file("book.js", loading_method="defer")
    if "hilbert-lab" in body:
        app.add_css_file("lab.css")
        app.add_js_file("lab.js", loading_method="defer")
    # sphinx-thebe loads itself from a CDN (twice) for live code, which this book does not use.
    context["script_files"] = [
        s
        for s in context.get("script_files", [])
        if "thebe" not in str(getattr(s, "filename", s) or "").lower()
        and "THEBE" not in str(getattr(s, "attributes", {}).get("body", ""))
    ]
    context["css_files"] = [
        c for c in context.get("css_files", []) if "thebe" not in str(getattr(c, "filename", c))
    ]
    # Roles that docutils writes on citations and that ARIA no longer allows, and a label that hides
    # from screen readers what a fold is called.
    for fault in (
        ' role="doc-biblioentry"',
        ' role="list"',
        ' aria-label="Toggle hidden content"',
    ):
        body = body.replace(fault, "")
    context["body"] = body


def report_times(app: Sphinx, exception: Exception | None) -> None:
    """Print the seconds that each chapter took when it last ran (kept with the cached result)."""
    env: SphinxEnvType = app.env
    rows = [
        (name, data["exec_data"])
        for name, data in sorted(env.nb_metadata.items())
        if data.get("exec_data")
    ]
    if exception is not None or not rows:
        return
    seconds = {name: data.get("runtime") for name, data in rows}
    (ROOT / "_build" / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    print("\nSeconds to execute each chapter (from the cache where nothing changed):")
    for name, runtime in seconds.items():
        print(f"  {'     ?' if runtime is None else format(runtime, '6.1f')}  {name}")


def setup(app: Sphinx) -> dict:
    # MyST-NB looks for renderers among installed distributions; this one belongs to the book alone.
    nb_render.load_mime_renders = lambda: [InteractiveMime]
    app.connect("config-inited", config_inited, priority=400)
    app.connect("html-page-context", page_context, priority=900)
    app.connect("build-finished", report_times)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
