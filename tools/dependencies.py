"""What the book is built from and under which licence: writes DEPENDENCIES.md (`make licences`).

Python packages at the versions of requirements.txt and constraints.txt, JavaScript packages at
those of package-lock.json. `tools/dependencies.py --pins` prints the Python ones as
`name==version`, for `make audit`; `--newest` the requirements without pins, for `make newest`, and
`--newer` what is installed in another version than the pin's.
"""

import json
import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "DEPENDENCIES.md"
LIBRARY = ("torch", "torchvision", "numpy", "scikit-learn", "joblib", "tqdm")
# A page that is built carries files of these: scripts, style sheets, icons, fonts.
SERVED = (
    "myst-nb", "pydata-sphinx-theme", "Pygments", "Sphinx", "sphinx-book-theme",
    "sphinx-copybutton", "sphinx-exercise", "sphinx-proof", "sphinx-togglebutton", "sphinx_design",
    "sphinx_tippy",
)  # fmt: skip
# Longer names for the same licence, as older packages have them.
_SHORT = {
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "ISC license": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "PSFL": "PSF-2.0",
    "GNU General Public License (GPL)": "GPL",
}


def pins() -> dict[str, str]:
    """Version by name of every Python package that is pinned."""
    text = (ROOT / "requirements.txt").read_text() + (ROOT / "constraints.txt").read_text()
    found = re.findall(r"(?m)^([\w.-]+)==([\w.+!-]+)", text)
    return dict(sorted(found, key=lambda pin: pin[0].lower()))


def licence(name: str) -> str:
    """The licence that an installed package declares, by its short name where it has one."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return expression
    text = (about.get("License") or "").strip()
    if text and text != "UNKNOWN" and "\n" not in text and "opyright" not in text:
        return _SHORT.get(text, text)
    classified = [
        line.rsplit(" :: ", 1)[1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith("DFSG approved")
    ]
    return ", ".join(_SHORT.get(c, c) for c in classified) or "see the package"


def scripts() -> dict[str, dict[str, str]]:
    """By name: version and licence of each JavaScript package in the lock."""
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    return {path.removeprefix("node_modules/"): about for path, about in lock.items() if path}


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = "".join(f"| {name} | {version} | {terms} |\n" for name, version, terms in rows)
    return f"| package | version | licence |\n| --- | --- | --- |\n{lines}"


def page() -> str:
    """The text of DEPENDENCIES.md."""
    pinned = pins()
    normal = {name.lower().replace("_", "-"): name for name in pinned}

    def rows(names: list[str]) -> list[tuple[str, str, str]]:
        return [(name, pinned[name], licence(name)) for name in names]

    library = [normal[name] for name in sorted(LIBRARY)]
    served = [normal[name.lower().replace("_", "-")] for name in sorted(SERVED, key=str.lower)]
    others = [name for name in pinned if name not in (*library, *served)]
    packages = scripts()
    kept = [(n, p["version"], p["license"]) for n, p in packages.items() if not p.get("dev")]
    tests = [(n, p["version"], p["license"]) for n, p in packages.items() if p.get("dev")]
    return f"""# Dependencies and their licences

Written by `make licences`; a test fails when it is out of date. The versions are those that the
book is built and tested with. None of these packages is part of this repository.

## What `hilbertlib` needs

{_table(rows(library))}
On Linux torch brings NVIDIA's CUDA libraries, under NVIDIA's own licence; the CPU build of torch
does without them.

## What a built page carries files of

{_table(kept)}
{_table(rows(served))}
pydata-sphinx-theme in turn carries Bootstrap (MIT) and Font Awesome Free (icons CC-BY-4.0, fonts
OFL-1.1, code MIT).

## What builds and tests the book

{_table(tests)}
{_table(rows(others))}"""


def newest() -> str:
    """requirements.txt without its pins; Jupyter Book stays 1, which this book is written for."""
    text = re.sub(r"(?m)==\S+", "", (ROOT / "requirements.txt").read_text())
    return re.sub(r"(?m)^jupyter-book$", "jupyter-book<2", text)


def newer() -> str:
    """A table of the packages that are installed in another version than the pinned one."""
    rows = []
    for name, pinned in pins().items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "not needed any more"
        if found != pinned:
            rows.append(f"| {name} | {pinned} | {found} |")
    return "\n".join(["| package | pinned | newest |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    if sys.argv[1:] == ["--pins"]:
        print("\n".join(f"{name}=={version}" for name, version in pins().items()))
    elif sys.argv[1:] == ["--newest"]:
        print(newest())
    elif sys.argv[1:] == ["--newer"]:
        print(newer())
    else:
        PAGE.write_text(page(), encoding="utf-8")
