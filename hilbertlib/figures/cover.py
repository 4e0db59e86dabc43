"""The picture on the cover: one training seen in two spaces, as SVG that follows the theme."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np

from .style import CYCLE

SIDE, GAP = 460, 60  # size of one map and the room between the two, in SVG units


def picture(maps: Mapping[str, Sequence[np.ndarray]], alt: str) -> str:
    """An ``<svg>`` of two maps side by side.

    Parameters
    ----------
    maps : mapping
        From a map's heading to one path of shape ``(S, 2)`` for each network.
    alt : str
        What it shows, for those who cannot see it.
    """
    width, height = 2 * SIDE + GAP, SIDE + 44
    parts = [
        f'<svg class="book-cover" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(alt, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
    ]
    for k, (heading, paths) in enumerate(maps.items()):
        left = k * (SIDE + GAP)
        parts.append(
            f'<text x="{left + SIDE / 2}" y="22" text-anchor="middle">{escape(heading)}</text>'
            f'<g transform="translate({left} 40)">'
        )
        parts += [_path(p, colour) for p, colour in zip(_fit(paths), CYCLE, strict=False)]
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _fit(paths: Sequence[np.ndarray], margin: float = 16) -> list[np.ndarray]:
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
    """A path that grows stronger with time, from an open circle to a disc."""
    n = len(points)
    strokes = [
        f'<path d="M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}" stroke="{colour}" '
        f'stroke-opacity="{0.5 + 0.5 * i / n:.2f}" stroke-width="{2 + 1.5 * i / n:.1f}" '
        'stroke-linecap="round" fill="none"/>'
        for i, (a, b) in enumerate(pairwise(points))
    ]
    (x0, y0), (x1, y1) = points[0], points[-1]
    return (
        f"{''.join(strokes)}"
        f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="6" fill="none" stroke="{colour}" '
        'stroke-width="2"/>'
        f'<circle cx="{x1:.1f}" cy="{y1:.1f}" r="7" fill="{colour}"/>'
    )
