"""MyST Markdown as plain Markdown that Colab, GitHub and Jupyter draw alike.

What has no plain form here raises: a directive that nobody taught this module must not reach a
reader as ``:::{directive}``. :func:`check_plain` reads the result once more and allows only what
plain Markdown has.
"""

import base64
import html
import mimetypes
import re
from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .citations import Citations
from .grammar import PROOFS, Directive, directive, tokens
from .labels import BOOK, Labels

NOTES = (
    "note", "tip", "hint", "important", "warning", "caution", "attention", "danger", "error",
    "seealso",
)  # fmt: skip
CODE_ROLES = {
    "func", "class", "meth", "mod", "attr", "obj", "exc", "data", "file", "command", "program",
    "option", "envvar", "code",
}  # fmt: skip
TAGS = {"sub": "sub", "subscript": "sub", "sup": "sup", "superscript": "sup", "kbd": "kbd"}
PLAIN_TOKENS = {
    "inline", "text", "text_special", "softbreak", "hardbreak", "hr", "code_inline", "code_block",
    "fence", "image", "html_block", "html_inline", "math_inline", "math_inline_double",
    "math_block", *(
        f"{name}_{end}"
        for name in (
            "paragraph", "heading", "em", "strong", "s", "link", "blockquote", "list_item",
            "bullet_list", "ordered_list", "table", "thead", "tbody", "tr", "th", "td",
        )
        for end in ("open", "close")
    ),
}  # fmt: skip
LEFT_OVER = re.compile(r"\{[a-zA-Z][\w:+.-]*\}`|^\s*:::|^\s*\(\S+\)=\s*$|\{\{|\]\{[.#]", re.M)
MATH = r"\$\$.+?\$\$|\$(?!\s)(?:\\.|[^$\\])+?\$"
# What stands in a line: an escaped character, mathematics, a role or code, a link or an image.
INLINE = re.compile(
    rf"(?P<escape>\\.)|(?P<math>{MATH})"
    r"|(?:\{(?P<role>[a-zA-Z][\w:+.-]*)\})?(?P<ticks>`+)(?P<content>.+?)(?<!`)(?P=ticks)(?!`)"
    r"|(?P<image>!?)\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<target>[^()\s]*)\)",
    re.S,
)


@dataclass
class Plain:
    """Turns the Markdown of one page into plain Markdown.

    Attributes:
        page: Its name, for messages, and to tell a reference to the page itself.
        labels: Of the whole book.
        link: From the name of a page to the address that this page should link to.
        values: The glued values by name, as they are printed (``repr``).
        citations: Collects what the page cites.
    """

    page: str
    labels: Labels
    link: Callable[[str], str]
    values: Mapping[str, str]
    citations: Citations = field(default_factory=Citations)

    def __call__(self, source: str) -> str:
        """The plain form of a cell.

        Raises:
            ValueError: If something in it has none.
        """
        text = re.sub(r"\n{3,}", "\n\n", self.block(source)).strip("\n")
        check_plain(text, self.page)
        return text

    def refuse(self, what: str) -> ValueError:
        """The error for what has no plain form."""
        return ValueError(f"{self.page}: no plain form for {what}; publishing/plain.py needs one")

    # -- blocks

    def block(self, source: str) -> str:
        """Blocks: directives replaced, code kept as it is, everything else read for roles."""
        lines = source.splitlines()
        out: list[str] = []
        prose: list[str] = []
        done = 0

        def flush() -> None:
            out.append(self.paragraphs("\n".join(prose)))
            prose.clear()

        for token in tokens(source):
            if token.map is None or token.map[0] < done or (new := self.special(token)) is None:
                continue
            start, end = token.map
            if token.type == "amsmath" and lines[end : end + 1]:
                end += lines[end].lstrip().startswith("\\end{")
            prose += lines[done:start]
            flush()
            # In a list or a quotation each line begins as its first line does.
            lead = (
                re.match(r"[\s>]*(?:(?:[-*+]|\d+[.)])\s+)?", lines[start]) if token.level else None
            )
            first = lead[0] if lead else ""
            rest = re.sub(r"[^>\s]", " ", first)
            given = new.split("\n")
            out += [(first if i == 0 else rest) + line for i, line in enumerate(given)]
            done = end
        prose += lines[done:]
        flush()
        return "\n".join(out)

    def special(self, token: Any) -> str | None:
        """The plain form of a block that is not running text; None for running text."""
        if token.type in ("fence", "colon_fence"):
            inside = directive(token)
            if inside:
                return self.directive(inside)
            return f"{token.markup}{token.info}\n{token.content.rstrip()}\n{token.markup}"
        if token.type in ("code_block", "html_block"):
            return token.content.rstrip("\n")
        if token.type in ("math_block", "math_block_label"):
            return self.equation(token.content, token.info)
        if token.type == "amsmath":
            return self.equation(token.content, "")
        if token.type in ("myst_target", "myst_line_comment", "myst_block_break"):
            return ""
        return None

    def directive(self, inside: Directive) -> str:
        """The plain form of a directive."""
        name, argument, body = inside.name, inside.argument, inside.body
        if name == "math":
            return self.equation(f"{argument}\n{body}", inside.label)
        if name in ("code", "code-block", "code-cell"):
            return f"```{argument}\n{body}\n```"
        if name in ("exercise-end", "solution-end"):
            return ""
        if name in ("exercise", "exercise-start"):
            return self.titled(self.exercise(inside), body) + "\n"
        if name in ("solution", "solution-start"):
            about = self.labels.find(argument, self.page)
            return self.titled(f"#### Solution to {about.name}", body) + "\n"
        if name == "dropdown" or "dropdown" in inside.classes:
            return self.details(argument or name.capitalize(), body)
        if name == "admonition":
            return self.quote(f"**{self.inline(argument)}**", body)
        if name in NOTES:
            title = "See also" if name == "seealso" else name.capitalize()
            return self.quote(f"**{title}**", f"{argument}\n{body}".strip())
        if name.startswith("prf:") and name[4:] in PROOFS:
            return self.quote(self.statement(inside), body)
        if name in ("margin", "sidebar"):
            return self.quote(f"**{self.inline(argument)}**" if argument else "", body)
        if name == "tab-set":
            return self.block(body)
        if name == "tab-item":
            return self.titled(f"**{self.inline(argument)}**", body)
        if name in ("figure", "image"):
            picture = self.picture(argument, inside.options.get("alt", ""))
            return f"{picture}\n\n{self.block(body)}".rstrip()
        if name == "book-figures":
            return "\n".join(self.shown(line) for line in body.splitlines() if line.strip())
        raise self.refuse(f"the directive {{{name}}}")

    def shown(self, line: str) -> str:
        """A line ``page | figure | what to say`` of a list of figures to project."""
        page, _, say = (part.strip() for part in line.split("|"))
        return f"1. {self.to_page(page, '')}: {self.inline(say)}"

    def exercise(self, inside: Directive) -> str:
        """The heading of an exercise."""
        number = self.labels.find(inside.label, self.page).name if inside.label else "Exercise"
        return (
            f"### {number}: {self.inline(inside.argument)}" if inside.argument else f"### {number}"
        )

    def statement(self, inside: Directive) -> str:
        """What stands before a theorem, an algorithm, an observation."""
        kind = inside.name[4:].capitalize()
        name = self.labels.find(inside.label, self.page).name if inside.label else kind
        title = f" ({self.inline(inside.argument)})" if inside.argument else ""
        return f"**{kind}.**{title}" if kind == "Proof" else f"**{name or kind}**{title}"

    def titled(self, title: str, body: str) -> str:
        """A title above its text."""
        return f"{title}\n\n{self.block(body)}".rstrip()

    def details(self, title: str, body: str) -> str:
        """A fold that Colab and Jupyter can open."""
        summary = html.escape(re.sub(r"[*`]", "", self.inline(title)), quote=False)
        return (
            f"<details>\n<summary>{summary}</summary>\n\n{self.block(body).strip()}\n\n</details>"
        )

    def quote(self, title: str, body: str) -> str:
        """A block quotation. Mathematics stays on one line: a ``>`` inside it would be TeX."""
        text = "\n\n".join(part for part in (title, self.block(body).strip()) if part)
        text = re.sub(MATH, lambda found: " ".join(found[0].split()), text, flags=re.S)
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))

    def equation(self, tex: str, label: str) -> str:
        """A displayed equation, with its number where it has a label."""
        lines = [re.sub(r"(?<!\\)%.*", "", line).strip() for line in tex.strip().splitlines()]
        tex = " ".join(line for line in lines if line)
        outer = re.match(r"\\begin\{(equation|align|gather)\*?\}(.*)\\end\{\1\*?\}$", tex)
        if outer:  # no environment of its own inside of $$
            inner = {"equation": "", "align": "aligned", "gather": "gathered"}[outer[1]]
            tex = outer[2].strip()
            tex = f"\\begin{{{inner}}} {tex} \\end{{{inner}}}" if inner else tex
        if "\\\\" in tex and not tex.startswith("\\begin"):
            tex = f"\\begin{{aligned}} {tex} \\end{{aligned}}"
        number = rf" \tag{{{self.labels.find(label, self.page).number}}}" if label else ""
        return f"$$\n{tex}{number}\n$$"

    def picture(self, address: str, alt: str) -> str:
        """An image: by its address, or with its bytes where it is a file of the book."""
        if re.match(r"https?:", address):
            return f"![{alt}]({address})"
        file = BOOK / address.lstrip("/")
        if not file.is_file():
            raise self.refuse(f"the image {address!r}, which is no file in book/")
        if file.stat().st_size > 500_000:
            raise self.refuse(f"the image {address!r}, which is too large to lie in a notebook")
        kind = mimetypes.guess_type(file.name)[0]
        return f"![{alt}](data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()})"

    # -- running text

    def paragraphs(self, text: str) -> str:
        """Running text, a paragraph at a time: a stray mark cannot reach into the next."""
        parts = re.split(r"(\n[ \t>]*\n)", text)
        return "".join(part if i % 2 else self.inline(part) for i, part in enumerate(parts))

    def inline(self, text: str) -> str:
        """Roles and links in running text; code and mathematics stay as they are."""
        return INLINE.sub(self._inline, text)

    def _inline(self, found: re.Match[str]) -> str:
        if found["role"]:
            return self.role(found["role"], " ".join(found["content"].split()))
        if found["target"] is None:
            return found[0]
        if found["image"]:
            return self.picture(found["target"], found["text"])
        return self.reference(found["text"], found["target"])

    def role(self, role: str, content: str) -> str:
        """The plain form of a role."""
        if role in ("glue", "glue:text"):
            return self.glued(content)
        if role.split(":")[0] == "cite":
            return self.citations.cite(role, content, self.page)
        if role == "math":
            return f"${content}$"
        if role in TAGS:
            return f"<{TAGS[role]}>{html.escape(content)}</{TAGS[role]}>"
        if role.removeprefix("py:") in CODE_ROLES:
            name = re.sub(r"\s*<.*>$", "", content)
            return f"`{name.split('.')[-1] if name.startswith('~') else name}`"
        if role in ("guilabel", "menuselection"):
            return f"**{content}**"
        if role == "term":
            return re.sub(r"\s*<.*>$", "", content)
        if role == "abbr":
            return re.sub(r"\s*\(.*\)$", "", content)
        explicit = re.fullmatch(r"(.*?)\s*<(.*)>", content)
        text, target = (explicit[1], explicit[2]) if explicit else ("", content)
        if role == "doc":
            return self.to_page(target.removeprefix("/"), text)
        if role == "eq":
            about = self.labels.find(target, self.page)
            return self.to_label(target, f"({about.number})")
        if role == "numref":
            about = self.labels.find(target, self.page)
            shown = re.sub(r"%s|\{number\}", str(about.number), text).replace("{name}", about.title)
            return self.to_label(target, shown or about.name)
        if role in ("ref", "prf:ref"):
            return self.to_label(target, text)
        raise self.refuse(f"the role {{{role}}}")

    def glued(self, content: str) -> str:
        """A glued value, printed by its format: ``share:.0%``."""
        name, _, spec = content.partition(":")
        if name not in self.values:
            raise ValueError(f"{self.page}: {name!r} is quoted, and no cell glued it")
        try:
            value = literal_eval(self.values[name])
        except (ValueError, SyntaxError):
            value = self.values[name]  # inf and nan are no literals
            value = float(value) if value in ("inf", "-inf", "nan") else value
        return format(value, spec)

    def reference(self, text: str, target: str) -> str:
        """A link, as it should read outside of the book."""
        shown = self.inline(text)
        if re.match(r"(https?|mailto):", target):
            return f"[{shown or target}]({target})"
        path, _, anchor = target.partition("#")
        page = re.sub(r"\.(ipynb|md)$", "", path.removeprefix("/")) or self.page
        if anchor:
            label = anchor if anchor in self.labels.labels else f"{page}#{anchor}"
            return self.to_label(label, shown)
        if page not in self.labels.titles:
            raise self.refuse(f"a link to {target!r}")
        return self.to_page(page, shown)

    def to_page(self, page: str, text: str) -> str:
        """A link to a page of the book, by its title unless there is a text."""
        if page not in self.labels.titles:
            raise ValueError(f"{self.page}: the book has no page {page!r}")
        return f"[{text or self.labels.titles[page]}]({self.link(page)})"

    def to_label(self, label: str, text: str) -> str:
        """What a label names; a link where it stands on another page."""
        about = self.labels.find(label, self.page)
        shown = text or about.name
        return shown if about.page == self.page else f"[{shown}]({self.link(about.page)})"


def check_plain(text: str, page: str) -> None:
    """Raise a ValueError if anything in ``text`` is more than plain Markdown with mathematics."""
    for token in tokens(text):
        for part in (token, *(token.children or ())):
            wrong = part.type not in PLAIN_TOKENS
            if part.type == "fence":
                wrong = part.info.strip().startswith("{")
            elif part.type in ("text", "html_block", "html_inline"):
                wrong = bool(LEFT_OVER.search(part.content))
            elif part.type == "link_open":
                address = str(part.attrs.get("href", ""))
                wrong = not re.match(r"https?:|mailto:|[\w.-]+\.ipynb$", address)
            if wrong:
                shown = part.content or token.content
                raise ValueError(f"{page}: not plain Markdown ({part.type}): {shown[:120]!r}")
