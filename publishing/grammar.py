"""MyST as the book's own build reads it: the parser, and the anatomy of a directive."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

ROOT = Path(__file__).resolve().parents[1]
_SETTINGS = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
_PARSER = create_md_parser(
    MdParserConfig(enable_extensions=set(_SETTINGS["parse"]["myst_enable_extensions"])),
    RendererHTML,
)


def tokens(source: str) -> list[Token]:
    """The tokens of some MyST Markdown, with the extensions that ``_config.yml`` enables."""
    return _PARSER.parse(source)


@dataclass(frozen=True)
class Directive:
    """A fenced directive taken apart: ``{name} argument``, its options, its body."""

    name: str
    argument: str
    options: dict[str, str]
    body: str

    @property
    def label(self) -> str:
        """What other text refers to it by, or an empty string."""
        return self.options.get("label") or self.options.get("name", "")

    @property
    def classes(self) -> list[str]:
        """Of its ``:class:`` option."""
        return self.options.get("class", "").split()


def directive(token: Token) -> Directive | None:
    """The directive that a fence holds, or None for a block of code."""
    found = re.match(r"\{([^}\s]+)\}\s*(.*)", token.info.strip())
    if token.type not in ("fence", "colon_fence") or not found:
        return None
    lines = token.content.splitlines()
    options: dict[str, str] = {}
    if lines and lines[0].strip() == "---":
        end = lines.index("---", 1)
        options = {k: str(v) for k, v in yaml.safe_load("\n".join(lines[1:end])).items()}
        lines = lines[end + 1 :]
    while lines and (option := re.match(r":([\w-]+):\s*(.*)", lines[0])):
        options[option[1]] = option[2].strip()
        del lines[0]
    return Directive(found[1], found[2].strip(), options, "\n".join(lines).strip("\n"))


def prose(source: str) -> Iterable[tuple[Token, Directive | None]]:
    """Every token with a directive taken apart, those inside directives too, in order."""
    for token in tokens(source):
        inside = directive(token)
        yield token, inside
        if inside and inside.name not in VERBATIM:
            yield from prose(inside.body)


VERBATIM = {
    "math",
    "code",
    "code-block",
    "eval-rst",
    "bibliography",
    "image",
    "raw",
    "book-figures",
}
"""Directives whose body is not Markdown."""
PROOFS = (
    "proof", "axiom", "theorem", "lemma", "definition", "criterion", "remark", "conjecture",
    "corollary", "algorithm", "example", "property", "observation", "proposition", "assumption",
)  # fmt: skip
"""The kinds of ``prf:`` directives."""
