"""The laboratory: a network that trains in the reader's own browser while λ is moved.

The engine and the page are plain JavaScript modules beside this file. Python joins them into one
string, so that a built page (opened from a web site or from a folder) and a notebook's widget run
the same lines, and nobody needs Node:

* :func:`page_script` and :func:`css`: for a web page; every ``<div class="hilbert-lab">`` in it
  becomes a laboratory.
* :func:`esm`: the module of the widget :class:`Lab`, for Jupyter and Colab.
"""

import base64
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hilbertlib.lab.widget import Lab

__all__ = ["Lab", "css", "digits_script", "engine", "esm", "page_script"]

# In the order in which they are joined: a module stands after those that it imports.
ENGINE = ("random.js", "geometry.js", "network.js", "optimizers.js")
PAGE = (
    "settings.js",
    "tasks.js",
    "trajectory.js",
    "run.js",
    "draw.js",
    "words.js",
    "guides.js",
    "controls.js",
    "guidepanel.js",
    "lab.js",
    "mount.js",
)
DIGITS = 800  # of the 1,797 that come with scikit-learn: enough to learn from, small in a page

_IMPORT = re.compile(r"^import .*;$", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async |)(class|function|const|let)\b)", re.MULTILINE)


def __getattr__(name: str) -> Any:
    # anywidget is an extra: a page can be written without it.
    if name == "Lab":
        from hilbertlib.lab.widget import Lab

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _source(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


def _join(*names: str) -> str:
    """The modules' text without their imports and exports, which one scope makes needless."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", _source(name))).strip() for name in names)


@cache
def digits_script() -> str:
    """A line of JavaScript that holds 800 handwritten digits, ``const DIGITS = "…";``.

    Made from scikit-learn's ``load_digits`` when it is asked for: base64 of 800 labels, then 800
    rows of 64 pixels at 4 bits (0 to 15; scikit-learn's 16 becomes 15).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = np.random.RandomState(0).permutation(len(digits.target))[:DIGITS]
    pixels = np.minimum(digits.data[chosen], 15).astype(np.uint8)
    packed = (pixels[:, 0::2] << 4) | pixels[:, 1::2]
    data = digits.target[chosen].astype(np.uint8).tobytes() + packed.tobytes()
    return f'const DIGITS = "{base64.b64encode(data).decode()}";'


@cache
def engine() -> str:
    """The engine alone: networks, optimizers, distances and maps; it knows nothing of a page."""
    return _join(*ENGINE)


@cache
def page_script() -> str:
    """One classic script that makes a laboratory of every ``div.hilbert-lab``.

    It needs no module loader and asks for nothing, so it works from ``file://``. The element's
    ``data-settings`` (JSON) holds the settings of :class:`Lab`. It defines one global,
    ``HilbertLab``, whose ``mount(element, settings)`` makes a laboratory of any element.
    """
    body = "\n".join((digits_script(), _join(*ENGINE, *PAGE)))
    return f'(() => {{\n"use strict";\n{body}\npublish();\n}})();\n'


@cache
def esm() -> str:
    """The laboratory as an anywidget front-end module: its default export is ``{render}``."""
    return "\n".join((digits_script(), _join(*ENGINE, *PAGE), "export default { render };\n"))


@cache
def css() -> str:
    """The laboratory's style sheet; it follows the page's light and dark theme."""
    return _source("lab.css")
