"""Citations as author and year, and the list of references at the end of a notebook."""

from functools import cache
from pathlib import Path

from pybtex.database import BibliographyData, Entry, parse_file
from pybtex.plugin import find_plugin

from .labels import BOOK


@cache
def bibliography(path: Path = BOOK / "references.bib") -> BibliographyData:
    """The entries of a BibTeX file."""
    return parse_file(str(path))


def _authors(entry: Entry) -> str:
    plain = find_plugin("pybtex.backends", "text")()
    people = entry.persons.get("author") or entry.persons.get("editor", [])
    names = [" ".join(part.render(plain) for part in p.rich_last_names) for p in people]
    if not names:
        return str(entry.fields.get("title", entry.key))
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


@cache
def _names() -> dict[str, tuple[str, str]]:
    """Author and year by key; a letter after the year where two entries would read the same."""
    found: dict[tuple[str, str], list[str]] = {}
    for key, entry in bibliography().entries.items():
        found.setdefault((_authors(entry), str(entry.fields.get("year", "n.d."))), []).append(key)
    return {
        key: (authors, year + ("abcdefgh"[i] if len(keys) > 1 else ""))
        for (authors, year), keys in found.items()
        for i, key in enumerate(keys)
    }


class Citations:
    """What one notebook cites."""

    def __init__(self) -> None:
        self.cited: list[str] = []

    def cite(self, role: str, keys: str, asked_by: str) -> str:
        """The text of a citation: "(Hinton, 1986)", or for ``cite:t`` "Hinton (1986)".

        Raises:
            ValueError: If there is no such entry, or no plain form of the role.
        """
        if role not in ("cite", "cite:p", "cite:t", "cite:author", "cite:year"):
            raise ValueError(f"{asked_by}: no plain form for the role {{{role}}}")
        parts = []
        for key in keys.replace(" ", "").split(","):
            if key not in _names():
                raise ValueError(f"{asked_by}: {key!r} is cited and not in references.bib")
            if key not in self.cited:
                self.cited.append(key)
            authors, year = _names()[key]
            parts.append(
                {"cite:t": f"{authors} ({year})", "cite:author": authors, "cite:year": year}.get(
                    role, f"{authors}, {year}"
                )
            )
        text = "; ".join(parts)
        return f"({text})" if role in ("cite", "cite:p") else text

    def references(self) -> str:
        """The cited entries as a Markdown list, or an empty string."""
        if not self.cited:
            return ""
        style = find_plugin("pybtex.style.formatting", "plain")()
        backend = find_plugin("pybtex.backends", "markdown")()
        keys = sorted(self.cited, key=lambda key: _names()[key])
        entries = style.format_bibliography(bibliography(), keys).entries
        text = {entry.key: " ".join(entry.text.render(backend).split()) for entry in entries}
        lines = [f"- **{', '.join(_names()[key])}.** {text[key]}" for key in keys]
        return "## References\n\n" + "\n".join(lines)
