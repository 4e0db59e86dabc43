"""Sphinx extension: what the book says of itself is read from the build, never typed.

* ``{book-chapters}``: words, lines of code, seconds and verdicts of every chapter.
* ``{book-records}``: where each record in ``book/records`` comes from.
* ``{book-versions}``: what the book was built with.
* ``{book-figures}``: figures to project, each line ``page | id of the figure | what to say``.
* Every chapter opens with its part and number; every figure has a number and an address, and
  stands before the folded code that drew it.

All of it is filled in when pages are written, after the chapters have run. Every build therefore
writes every page again (their execution stays cached), so that no page quotes an older run.
"""

import json
import re
from collections import Counter
from functools import cache
from html import escape, unescape
from importlib.metadata import version
from pathlib import Path
from typing import get_args
from unicodedata import normalize

import nbformat
import yaml
from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from hilbertlib.provenance import git_commit, installed_versions
from hilbertlib.records import Word, load_record

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
HIDDEN = {"hide-input", "remove-input", "remove-cell", "hide-cell"}
BUILT_WITH = ("sphinx", "jupyter-book", "myst-nb", "plotly", "anywidget", "scipy")
logger = logging.getLogger(__name__)


# --- counting ------------------------------------------------------------------------------------
def words(markdown: str) -> int:
    """Words of prose: no mathematics, code, directives' options or links' addresses."""
    for pattern in (
        r"(?s)```.*?```", r"(?s)\$\$.*?\$\$", r"\$[^$]*\$", r"\{[a-z:]+\}`[^`]*`", r"`[^`]*`",
        r"(?m)^:::.*$", r"(?m)^:(label|class|tags):.*$", r"\]\([^)]*\)",
    ):  # fmt: skip
        markdown = re.sub(pattern, " ", markdown)
    return len(re.findall(r"\w[\w'’-]*", markdown))


def code_lines(source: str) -> int:
    """Lines that are neither blank nor a comment alone."""
    return sum(1 for line in source.splitlines() if line.strip() and line.strip()[0] != "#")


def count(path: Path) -> dict[str, int]:
    """Words, lines of code on the page, and lines behind it (folded or removed)."""
    found: Counter[str] = Counter(words=0, shown=0, folded=0)
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            found["words"] += words(cell.source)
        elif cell.cell_type == "code":
            hidden = HIDDEN & set(cell.metadata.get("tags", []))
            found["folded" if hidden else "shown"] += code_lines(cell.source)
    return dict(found)


def verdicts_in(html: str) -> Counter[str]:
    """How often each verdict stands in what a chapter printed, "reduced setting" left out."""
    said = re.findall(r'class="book-verdict \w+">([^<(]+?) *[<(]', html)
    return Counter(word for word in said)


def tally(said: Counter[str]) -> str:
    """Verdicts in a line for the paper's claims and one for the book's own."""
    of = lambda words: ", ".join(f"{word} {said[word]}" for word in words if said[word])  # noqa: E731
    own = ("holds", "holds in part", "does not hold", "undecided", "waits")
    lines = {"the paper's": of(get_args(Word)), "ours": of(own)}
    return "<br>".join(f"{whose}: {what}" for whose, what in lines.items() if what) or "none"


def slug(title: str) -> str:
    """A title as the end of an address: ``The whole grid of λ`` is ``the-whole-grid-of-λ``."""
    text = normalize("NFKC", re.sub(r"<[^>]+>", "", unescape(title))).lower()
    return "fig-" + "-".join(re.findall(r"\w+", text))


# --- what the build knows ------------------------------------------------------------------------
def outputs(app: Sphinx, docname: str) -> str:
    """All HTML that the cells of a page have put out."""
    raw = app.env.get_doctree(docname).findall(nodes.raw)
    return "\n".join(node.astext() for node in raw)


def title(app: Sphinx, docname: str) -> str:
    return app.env.titles[docname].astext()


@cache
def parts() -> dict[str, str]:
    """From each page to the caption of its part of the book."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return {
        page["file"]: part.get("caption", "")
        for part in toc.get("parts", [])
        for page in part["chapters"]
    }


def chapters(app: Sphinx) -> list[str]:
    """The chapters that are in this build, in order."""
    return sorted(name for name in app.env.found_docs if re.match(r"\d\d-", name))


def number(docname: str) -> int | None:
    return int(docname[:2]) if re.match(r"\d\d-", docname) else None


def figures(html: str, docname: str) -> list[tuple[str, str, str]]:
    """Of each figure of a page its id, its number ("3.2", "" outside chapters) and its title."""
    found: list[tuple[str, str, str]] = []
    seen: Counter[str] = Counter()
    pattern = r'<figure class="output book-figure">\s*<p class="book-title">(.*?)</p>'
    for n, text in enumerate(re.findall(pattern, html, flags=re.DOTALL), start=1):
        name = slug(text)
        seen[name] += 1
        if seen[name] > 1:
            name += f"-{seen[name]}"
        chapter = number(docname)
        found.append((name, f"{chapter}.{n}" if chapter else "", text))
    return found


# --- the tables ----------------------------------------------------------------------------------
def table(head: list[str], rows: list[list[str]], kind: str) -> str:
    cells = lambda tag, row: "".join(f"<{tag}>{c}</{tag}>" for c in row)  # noqa: E731
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="book-scroll"><table class="book-facts {kind}">'
        f"<thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def chapters_table(app: Sphinx) -> str:
    rows, total = [], Counter()
    for docname in chapters(app):
        counted = count(BOOK / f"{docname}.ipynb")
        data = app.env.nb_metadata.get(docname, {}).get("exec_data") or {}
        seconds = data.get("runtime")
        said = tally(verdicts_in(outputs(app, docname)))
        total.update(counted)
        total["seconds"] += round(seconds or 0)  # what stands in the column adds up
        rows.append(
            [
                f'<a href="{docname}.html">{number(docname)} {escape(title(app, docname))}</a>',
                f"{counted['words']:,}",
                f"{counted['shown']} + {counted['folded']}",
                "" if seconds is None else f"{seconds:.0f}",
                said,
            ]
        )
    rows.append(
        [
            "<b>Together</b>",
            f"{total['words']:,}",
            f"{total['shown']} + {total['folded']}",
            str(total["seconds"]),
            "",
        ]
    )
    head = ["chapter", "words", "lines of code, shown + folded", "seconds to run", "last verdicts"]
    return table(head, rows, "book-chapters")


def records_table(app: Sphinx) -> str:
    rows = []
    for path in sorted((BOOK / "records").glob("*.json")):
        record = load_record(path)
        about = record.provenance
        rows.append(
            [
                f"<b>{escape(record.experiment)}</b><br><small>{escape(path.name)}, "
                f"{path.stat().st_size / 1024:,.0f} KB</small>",
                ", ".join(map(str, record.seeds)),
                f"{escape(about.dataset)}<br><small><code>{about.dataset_checksum[:12]}</code> "
                f"{escape(about.dataset_note)}</small>",
                f"{escape(about.device)}<br><small>{about.seconds / 3600:.1f} h, torch "
                f"{escape(about.versions.get('torch', '?'))}</small>",
                f"<code>{escape((about.commit or 'unknown')[:12])}</code>",
                "reduced" if about.reduced else "full",
            ]
        )
    head = ["record", "seeds", "data, checksum", "machine, time", "code", "setting"]
    return table(head, rows, "book-records")


def versions_table(app: Sphinx) -> str:
    found = dict(installed_versions())
    found |= {name: version(name) for name in BUILT_WITH}
    package = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    found |= {f"{name} (npm)": v for name, v in package["dependencies"].items()}
    found["this book's code"] = (git_commit() or "unknown")[:13]
    rows = [[escape(name), f"<code>{escape(v)}</code>"] for name, v in found.items()]
    return table(["what", "version"], rows, "book-versions")


def figures_table(app: Sphinx, content: list[str], location: tuple) -> str:
    rows = []
    for line in content:
        page, wanted, say = (part.strip() for part in line.split("|", 2))
        if page not in app.env.found_docs:
            continue  # a build of a part of the book
        known = {name: (n, text) for name, n, text in figures(outputs(app, page), page)}
        if wanted not in known:
            logger.warning(
                "%s has no figure %s; it has %s", page, wanted, ", ".join(known), location=location
            )
            continue
        n, text = known[wanted]
        rows.append(
            [
                f'<a href="{page}.html?project#{wanted}">{n}</a>',
                f'<a href="{page}.html#{wanted}">{text}</a>',
                escape(say),
            ]
        )
    return table(["project", "figure", "what to ask before you move it"], rows, "book-slides")


TABLES = {"chapters": chapters_table, "records": records_table, "versions": versions_table}


class placeholder(nodes.General, nodes.Element):
    """Where a table will stand when the chapters have run."""


class BookTable(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        lines = [line for line in self.content if line.strip()]
        kind = self.name.removeprefix("book-")
        if kind == "figures" and any(line.count("|") < 2 for line in lines):
            raise self.error("expected lines of the form: page | id of the figure | what to say")
        return [placeholder(kind=kind, lines=lines, location=self.get_location())]


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in list(doctree.findall(placeholder)):
        if node["kind"] == "figures":
            html = figures_table(app, node["lines"], node["location"])
        else:
            html = TABLES[node["kind"]](app)
        node.replace_self(nodes.raw(text=html, format="html"))
    for cell in doctree.findall(
        lambda n: "cell" in getattr(n, "attributes", {}).get("classes", ())
    ):
        figure_first(cell)


def figure_first(cell: nodes.Element) -> None:
    """Where a cell draws a figure, its folded code stands below the figure and not above it."""
    code = cell.children[0] if cell.children else None
    drawn = any("book-figure" in raw.astext() for raw in cell.findall(nodes.raw))
    if isinstance(code, HideCodeCellNode) and drawn:
        cell.remove(code)
        cell.append(code)


# --- openers and figures -------------------------------------------------------------------------
def opener(docname: str) -> str:
    """The line above a chapter's title."""
    n, part = number(docname), parts().get(docname, "")
    if n is None:
        return ""
    return f'<p class="book-opener"><span>Chapter {n}</span> <span>{escape(part)}</span></p>'


def dress(html: str, docname: str) -> str:
    """A page's HTML with its opener, and with a number and an address for every figure."""
    # Two extensions give one id to every exercise, solution and algorithm of a page.
    html = re.sub(r' id="(proof|exercise|solution)-content"', "", html)
    html = re.sub(r"(<h1>)", lambda m: opener(docname) + m[1], html, count=1)
    found = iter(figures(html, docname))

    def figure(match: re.Match[str]) -> str:
        name, n, _ = next(found)
        label = f"Figure {n}" if n else "Figure"
        link = f'<a class="book-number" href="#{name}">{label}</a> '
        inner = match[1].replace("<figcaption>", f"<figcaption>{link}", 1)
        return f'<figure class="output book-figure" id="{name}">{inner}</figure>'

    return re.sub(r'(?s)<figure class="output book-figure">(.*?)</figure>', figure, html)


def page_context(app: Sphinx, pagename, templatename, context, doctree) -> None:
    if doctree is not None:
        context["body"] = dress(context["body"], pagename)


def setup(app: Sphinx) -> dict:
    app.add_node(placeholder)
    for kind in (*TABLES, "figures"):
        app.add_directive(f"book-{kind}", BookTable)
    app.connect("env-updated", lambda app, env: list(env.found_docs))
    app.connect("doctree-resolved", fill)
    app.connect("html-page-context", page_context, priority=800)  # after the tooltips are made
    return {"parallel_read_safe": True, "parallel_write_safe": True}
