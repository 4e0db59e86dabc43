"""A machine like Colab's: does a published notebook run there, and do its sliders?

The environment has the packages that Colab has, at about its versions, and none of the book's: no
Sphinx, no MyST-NB, and ipywidgets 7. Torch is the one that the book is pinned to. Each notebook
runs in an empty folder; its first cell installs the library from the repository's own address,
for which git reads a clone on this machine.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError as CellExecutionError

from .grammar import ROOT

PACKAGES = (
    "ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1", "plotly==5.24.1",
    "anywidget==0.9.18", "numpy==2.0.2", "scipy==1.16.*", "scikit-learn==1.6.1", "joblib", "tqdm",
)  # fmt: skip
# Colab imports this before the reader's first cell; the figures ask for it.
GOOGLE_COLAB = {"__init__.py": "", "output.py": "def enable_custom_widget_manager():\n    pass\n"}
# Sets every control to each of its values, in the kernel. An Output swallows what is raised inside
# of it and only draws the traceback; here it must not.
DRIVE = """
def drive():
    import ipywidgets as w

    leave = w.Output.__exit__

    def raising(self, kind, error, trace):
        leave(self, None, None, None)
        return False

    w.Output.__exit__ = raising
    seven = w.__version__.startswith("7.")
    alive = w.Widget.widgets if seven else w.widgets.widget._instances
    moved = {}
    for widget in list(alive.values()):
        name = getattr(widget, "description", "")
        if hasattr(widget, "index") and hasattr(widget, "options"):
            trait, values = "index", range(len(widget.options))
        elif hasattr(widget, "min") and hasattr(widget, "max"):
            span = widget.max - widget.min
            count = min(25, round(span / (getattr(widget, "step", None) or span / 24)))
            kind = type(widget.value)
            trait, values = "value", [kind(widget.min + span * i / count) for i in range(count + 1)]
        elif isinstance(getattr(widget, "value", None), bool):
            trait, values = "value", (True, False)
        elif isinstance(widget, w.Button):
            widget.click()
            continue
        elif hasattr(widget, "_esm"):  # the laboratory, whose training the browser does
            widget.set(lam=1.0)
            widget.train(1)
            widget.reset()
            continue
        else:
            continue
        start = getattr(widget, trait)
        for value in (*values, start):
            setattr(widget, trait, value)
        moved[f"{name} ({widget.model_id[:6]})"] = len(values)
    return moved


def processor():
    import psutil

    kernel = psutil.Process()
    spent = [process.cpu_times() for process in (kernel, *kernel.children(recursive=True))]
    return sum(sum(times[:4]) for times in spent)


import json

before = processor()
print("DROVE" + json.dumps({"moved": drive(), "processor": before}))
"""


@dataclass(frozen=True)
class Run:
    """What running one notebook took, in seconds, and how many values each control was set to.

    Attributes:
        install, cells, controls: Seconds that passed, for the first cell, for all others, and for
            moving the controls.
        processor: Seconds that the cells had of all cores: what counts on a machine that is shared.
        moved: Of each control, the number of its values.
        warnings: What was written to stderr.
    """

    install: float
    cells: float
    controls: float
    processor: float
    moved: dict[str, int]
    warnings: str


def environment(folder: Path) -> Path:
    """The Python of an environment like Colab's; made if it is not there yet."""
    python = folder / "bin" / "python"
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    wanted = [*re.findall(r"(?m)^torch\S*==\S+", pins), *PACKAGES]
    stamp = folder / "installed.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        fake = site / "google" / "colab"
        fake.mkdir(parents=True)
        for name, text in GOOGLE_COLAB.items():
            (fake / name).write_text(text)
        stamp.write_text(json.dumps(wanted))
    return python


def freeze(python: Path) -> dict[str, str]:
    """What is installed, but for the book's own library."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {p["name"]: p["version"] for p in json.loads(listed) if p["name"] != "hilbertlib-book"}


def address_of(notebook: nbformat.NotebookNode) -> str:
    """The address of the repository that a notebook's first cell installs from."""
    found = re.search(r"git\+(\S+)@[0-9a-f]{40}\"", notebook.cells[0].source)
    if not found:
        raise ValueError(f"the first cell installs nothing: {notebook.cells[0].source!r}")
    return found[1]


def kernel(python: Path, folder: Path, address: str, clone: Path) -> Path:
    """A Jupyter path with one kernel, "hosted", in which ``address`` is the clone."""
    spec = folder / "kernels" / "hosted"
    startup = folder / "ipython" / "profile_default" / "startup"
    for made in (spec, startup):
        made.mkdir(parents=True)
    (startup / "00-colab.py").write_text("import google.colab\n")
    about = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "hosted",
        "language": "python",
        "env": {
            "IPYTHONDIR": str(folder / "ipython"),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{clone}.insteadOf",
            "GIT_CONFIG_VALUE_0": address,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's warning is not the book's
        },
    }
    (spec / "kernel.json").write_text(json.dumps(about))
    return folder


def run(path: Path, python: Path, folder: Path, clone: Path, timeout: int = 900) -> Run:
    """Run a published notebook top to bottom, then move its controls over their whole range.

    Args:
        path: The notebook.
        python: Of :func:`environment`.
        folder: An empty folder.
        clone: A clone of the repository that has the notebook's commit.
        timeout: Seconds that one cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell or a control's callback raises.
        ValueError: If the first cell changed anything but the library.
    """
    notebook = nbformat.read(path, as_version=4)
    command = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "hilbertlib-book"]
    subprocess.run(command, check=True, capture_output=True)
    before = freeze(python)
    at = folder / "content"
    at.mkdir()
    notebook.cells.append(nbformat.v4.new_code_cell(DRIVE, id="drive"))
    jupyter = kernel(python, folder / "jupyter", address_of(notebook), clone)
    clean = {k: os.environ.pop(k) for k in ("HILBERT_BOOK", "HILBERT_DATA") if k in os.environ}
    os.environ["JUPYTER_PATH"], kept = str(jupyter), os.environ.get("JUPYTER_PATH", "")
    times = []
    try:
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="hosted",
            resources={"metadata": {"path": str(at)}},
            on_cell_executed=lambda **_: times.append(time.monotonic()),
        )
        started = time.monotonic()
        client.execute()
    finally:
        os.environ["JUPYTER_PATH"] = kept
        os.environ.update(clean)
    after = freeze(python)
    if after != before:
        raise ValueError(f"the first cell changed {dict(after.items() ^ before.items())}")
    said = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    (drove,) = (o.text for o in notebook.cells[-1].outputs if o.get("text", "").startswith("DROVE"))
    told = json.loads(drove.removeprefix("DROVE"))
    return Run(
        install=times[0] - started,
        cells=times[-2] - times[0],
        controls=times[-1] - times[-2],
        processor=told["processor"],
        moved=told["moved"],
        warnings="".join(o.text for o in said if o.get("name") == "stderr"),
    )
