"""The published notebooks on a machine like Colab's: `make publish`, then `make colab`."""

import subprocess
from pathlib import Path

import nbformat
import pytest

from publishing import hosted

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = sorted((ROOT / "_build" / "publish" / "colab").glob("*.ipynb"))

pytestmark = pytest.mark.colab


@pytest.fixture(scope="session")
def python():
    return hosted.environment(ROOT / "_build" / "colab" / "env")


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """Everything that is committed here, as a server would have it."""
    folder = tmp_path_factory.mktemp("server") / "book.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(folder)], check=True)
    return folder


def test_there_is_something_to_run():
    assert PUBLISHED, "run `make publish REPOSITORY=https://...` first"


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_it_runs_in_an_empty_folder_and_its_controls_raise_nothing(path, python, clone, tmp_path):
    run = hosted.run(path, python, tmp_path, clone)
    minutes = (run.install + run.cells) / 60
    print(
        f"\n{path.stem}: {minutes:.1f} min ({run.install:.0f} s to install, {run.cells:.0f} s for "
        f"the cells, {run.processor:.0f} s of the processor); "
        f"{len(run.moved)} controls at {sum(run.moved.values())} values in "
        f"{run.controls:.0f} s{'; stderr: ' + run.warnings[:300] if run.warnings else ''}"
    )
    found = "from hilbertlib.claims import records_in; assert records_in('records')"
    subprocess.run([str(python), "-c", found], cwd=tmp_path, check=True)
    sources = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert len(run.moved) >= sources.count("\nexplore(")


def test_a_callback_that_raises_is_noticed(python, clone, tmp_path):
    """Inside of an Output, where ipywidgets would only draw the traceback."""
    install = f'%pip install --quiet "hilbertlib-book @ git+https://book.invalid/a@{head()}"'
    wrong = (
        "import ipywidgets as w\n"
        "out, pick = w.Output(), w.IntSlider(min=0, max=3)\n"
        "def move(change):\n    with out:\n        1 / (change['new'] - 2)\n"
        "pick.observe(move, 'value')"
    )
    cells = [nbformat.v4.new_code_cell(source) for source in (install, wrong)]
    path = tmp_path / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(hosted.CellExecutionError, match="ZeroDivisionError"):
        hosted.run(path, python, tmp_path, clone)


def head() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
