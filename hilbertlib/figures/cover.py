"""The picture on the cover: one training seen in two spaces, as SVG that follows the theme.

Without scripts it shows the whole training. In the book ``book.js`` finds the vertices of each
path in ``data-points`` and adds a slider over the training steps.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from .style import START_COLOUR

SIDE, GAP = 460, 70  # size of one map and the room between the two, in SVG units


def picture(maps: Mapping[str, Sequence[np.ndarray]], alt: str, steps: Sequence[int]) -> str:
    """An ``<svg>`` of two maps side by side.

    Parameters
    ----------
    maps : mapping
        From a map's heading to one path of shape ``(S, 2)`` for each network.
    alt : str
        What it shows, for those who cannot see it.
    steps : sequence of int
        The training step of each of the ``S`` points.
    """
    width, height = 2 * SIDE + GAP, SIDE + 50
    parts = [
        f'<svg class="book-cover" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(alt, quote=True)}" data-steps="{" ".join(map(str, steps))}" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for k, (heading, paths) in enumerate(maps.items()):
        left = k * (SIDE + GAP)
        parts.append(
            f'<text x="{left + SIDE / 2}" y="30" text-anchor="middle">{escape(heading)}</text>'
            f'<rect x="{left + 1}" y="48" width="{SIDE - 2}" height="{SIDE}" rx="14"/>'
            f'<g transform="translate({left} 48)">'
        )
        parts += [_path(p, colour) for p, colour in zip(_fit(paths), START_COLOUR, strict=False)]
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _fit(paths: Sequence[np.ndarray], margin: float = 34) -> list[np.ndarray]:
    """Paths turned so that time runs to the right, on one scale, inside the square of a map."""
    points = np.concatenate(paths)
    starts, ends = (np.mean([p[i] for p in paths], axis=0) for i in (0, -1))
    across = ends - starts
    if np.linalg.norm(across) > 0.1 * np.ptp(points):
        x, y = across / np.linalg.norm(across)
        turn = np.array([[x, -y], [y, x]])
        paths = [p @ turn for p in paths]
        points = np.concatenate(paths)
    low, high = points.min(0), points.max(0)
    scale = (SIDE - 2 * margin) / (high - low).max()
    middle = (low + high) / 2
    return [(p - middle) * scale + SIDE / 2 for p in paths]


def _path(points: np.ndarray, colour: str) -> str:
    """A path from an open circle to a disc; a faint copy stays while the path is drawn."""
    vertices = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = f'fill="none" stroke="{colour}" stroke-linejoin="round" stroke-linecap="round"'
    (x0, y0), (x1, y1) = points[0], points[-1]
    return (
        f'<g class="book-path" data-points="{vertices}">'
        f'<polyline points="{vertices}" {line} stroke-width="1.5" stroke-opacity="0.3"/>'
        f'<polyline points="{vertices}" {line} stroke-width="3.5"/>'
        f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="6.5" fill="none" stroke="{colour}" '
        f'stroke-width="2.5"/><circle cx="{x1:.1f}" cy="{y1:.1f}" r="9" fill="{colour}"/></g>'
    )
