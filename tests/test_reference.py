"""The pages of reference: their examples run, and every public module stands on one of them."""

import doctest
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "book" / "api").glob("*.md"))
# Not a reader's concern: files behind other modules, and what chapters and the command line use.
ASIDE = {
    "__init__", "__main__", "checkpoints", "claims", "datafiles", "live", "scorecard", "snapshots",
}  # fmt: skip


def examples(page: Path) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run(page):
    blocks = examples(page)
    assert blocks
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    assert len(test.examples) > 5
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


def test_every_public_module_has_its_place():
    shown = [
        name
        for page in PAGES
        for name in re.findall(r"automodule:: hilbertlib\.(\w+)", page.read_text(encoding="utf-8"))
    ]
    modules = {p.stem for p in (ROOT / "hilbertlib").glob("*.py") if not p.stem.startswith("_")}
    assert sorted(shown) == sorted(modules - ASIDE)


def test_every_page_is_in_the_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = {part["caption"]: part for part in contents["parts"]}
    listed = [chapter["file"] for chapter in parts["Reference"]["chapters"]]
    assert sorted(listed) == [f"api/{page.stem}" for page in PAGES]
