"""A chapter as a notebook that runs in an empty folder on a hosted machine."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from nbformat import NotebookNode

from .labels import Labels, source_of
from .outputs import GLUED, published
from .plain import Plain

HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
DISTRIBUTION = "hilbertlib-book[book]"  # hilbertlib alone is another project's name on PyPI


@dataclass(frozen=True)
class Origin:
    """Where a published notebook comes from.

    Attributes:
        repository: Its address, ``https://github.com/OWNER/NAME`` or that of another host.
        commit: All forty digits.
        site: The address of the built pages, or an empty string if nobody gave it.
        dirty: Whether the working tree had changes that the commit lacks.
    """

    repository: str
    commit: str
    site: str = ""
    dirty: bool = False

    @property
    def github(self) -> str:
        """``OWNER/NAME`` of a repository on GitHub, from where alone Colab opens notebooks."""
        found = re.match(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?$", self.repository)
        return found[1] if found else ""

    def link(self, page: str) -> str:
        """The address that a notebook links to for a page of the book."""
        source = source_of(page)
        if source.suffix == ".ipynb":
            if not self.github:
                return f"{page}.ipynb"
            return f"https://colab.research.google.com/github/{self.github}/blob/colab/{page}.ipynb"
        if self.site:
            return f"{self.site.rstrip('/')}/{page}.html"
        if self.github:
            return f"https://github.com/{self.github}/blob/{self.commit}/book/{page}.md"
        return self.repository


def install_cell(origin: Origin, seconds: float | None) -> str:
    """The first cell: the library from this repository at this commit, and nothing else."""
    lines = ["# The book's library, from its repository, as it was when this notebook was made."]
    if origin.dirty:
        lines.append("# NOT REPRODUCIBLE: it was made with changes that this commit lacks.")
    if seconds is not None:
        took = "less than a minute" if seconds < 45 else f"about {max(1, round(seconds / 60))} min"
        lines.append(f"# All cells together took {took} on two cores. No GPU is needed.")
    lines.append(f'%pip install --quiet "{DISTRIBUTION} @ git+{origin.repository}@{origin.commit}"')
    return "\n".join(lines)


def executed(page: str, cache_folder: Path) -> NotebookNode:
    """A page's notebook with the outputs that the build of the book has kept.

    Raises:
        ValueError: If the build has not executed it as it is now.
    """
    stored = nbformat.read(source_of(page), as_version=4)
    cache = get_cache(cache_folder)
    try:
        return cache.merge_match_into_notebook(stored)[1]
    except KeyError:
        raise ValueError(f"{page}: not executed as it is now; nothing in {cache_folder}") from None


def glued_values(notebook: NotebookNode) -> dict[str, str]:
    """What the cells glued, by name, as it is printed."""
    prefix = f"{GLUED}text/plain"
    return {
        output.metadata["scrapbook"]["name"]: output.data[prefix]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if prefix in output.get("data", {})
    }


def publish(
    notebook: NotebookNode,
    page: str,
    labels: Labels,
    origin: Origin,
    seconds: float | None = None,
    values: Mapping[str, str] | None = None,
) -> NotebookNode:
    """The notebook to publish, from an executed chapter.

    Args:
        notebook: The chapter, with its outputs.
        page: Its name.
        labels: Of the whole book.
        origin: Where it comes from.
        seconds: What the chapter took when the book was built; None if nobody knows.
        values: The glued values; by default those in the outputs.

    Raises:
        ValueError: If something in it has no plain form.
    """
    plain = Plain(page, labels, origin.link, glued_values(notebook) if values is None else values)
    cells = [nbformat.v4.new_code_cell(install_cell(origin, seconds), id="install")]
    folded: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            cells.append(_code(cell))
            continue
        for i, text in enumerate(_sections(plain(cell.source))):
            id = cell.id if i == 0 else f"{cell.id}-{i}"
            cells.append(nbformat.v4.new_markdown_cell(text, id=id, metadata={"id": id}))
            if text.startswith("#### Solution"):
                folded.append(id)
    if references := plain.citations.references():
        cells.append(nbformat.v4.new_markdown_cell(references, id="references"))
    out = nbformat.v4.new_notebook(cells=cells)
    out.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "colab": {"provenance": [], "collapsed_sections": folded},
        }
    )
    nbformat.validate(out)
    return out


def _sections(text: str) -> list[str]:
    """A cell cut where an exercise or its solution begins, so that Colab can fold the solution."""
    return [
        part.strip("\n") for part in re.split(r"(?m)^(?=#{3,4} (?:Ex|Sol))", text) if part.strip()
    ]


def _code(cell: NotebookNode) -> NotebookNode:
    tags = set(cell.metadata.get("tags", []))
    metadata: dict[str, Any] = {"id": cell.id}
    if tags & HIDDEN:
        metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
    if "raises-exception" in tags:
        metadata["tags"] = ["raises-exception"]
    outputs = published(list(cell.outputs), f"figure-{cell.id}")
    return nbformat.v4.new_code_cell(cell.source, id=cell.id, metadata=metadata, outputs=outputs)


def write(
    folder: Path,
    names: list[str],
    labels: Labels,
    origin: Origin,
    cache_folder: Path,
    seconds: Mapping[str, float | None],
    note: Callable[[str], None] = print,
) -> None:
    """Publish these pages into a folder, with a README that says what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in names:
        notebook = executed(page, cache_folder)
        out = publish(notebook, page, labels, origin, seconds.get(page))
        target = folder / f"{page}.ipynb"
        nbformat.write(out, target)
        note(f"  {target.stat().st_size / 1e6:5.1f} MB  {target.name}")
    links = "\n".join(f"- [{labels.titles[page]}]({origin.link(page)})" for page in names)
    (folder / "README.md").write_text(
        f"Notebooks made by `make publish` from {origin.repository} at commit {origin.commit}. "
        f"Do not edit them: they are written anew.\n\n{links}\n",
        encoding="utf-8",
    )
