"""Pictures as SVG, from a few shapes that another format could draw as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Label:
    """Words that begin at x (or end there) and stand on y."""

    x: float
    y: float
    text: str
    ends: bool = False
    colour: str = "#222222"


@dataclass(frozen=True)
class Arrow:
    """A line from one place to another, with a head."""

    x1: float
    y1: float
    x2: float
    y2: float


Shape = Box | Label | Arrow


def quartile_bar(
    at: Callable[[float], float], quartiles: Sequence[float], middle: float, dark: str, light: str
) -> tuple[Box, Box]:
    """All values, light and low; above it the middle half of them, dark and high.

    `quartiles` are the least, the first, the third and the largest; `at` gives their x.
    """
    low, first, third, high = map(at, quartiles)
    return (
        Box(low, middle - 4, max(1.5, high - low), 8, light),
        Box(first, middle - 6, max(1.5, third - first), 12, dark),
    )


def svg(shapes: Sequence[Shape], width: float, height: float) -> str:
    """The picture, of a size in pixels."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">'
    ]
    lines.extend(map(_element, shapes))
    return "\n".join([*lines, "</svg>", ""])


def cut(text: str, letters: int) -> str:
    """The end of a name that is too long; in models the end is what tells them apart."""
    return text if len(text) <= letters else f"…{text[1 - letters :]}"


def _element(shape: Shape) -> str:
    if isinstance(shape, Box):
        return (
            f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" '
            f'height="{shape.height:.1f}" fill={quoteattr(shape.colour)}/>'
        )
    if isinstance(shape, Arrow):
        return _arrow(shape)
    anchor = ' text-anchor="end"' if shape.ends else ""
    return (
        f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" fill={quoteattr(shape.colour)}'
        f"{anchor}>{escape(shape.text)}</text>"
    )


def _arrow(arrow: Arrow) -> str:
    """A line, and a triangle at its end; markers would need names that are unique in a page."""
    dx, dy = arrow.x2 - arrow.x1, arrow.y2 - arrow.y1
    length = math.hypot(dx, dy) or 1.0
    ux, uy = 7 * dx / length, 7 * dy / length
    base = (arrow.x2 - ux, arrow.y2 - uy)
    ends = [(base[0] - uy / 2, base[1] + ux / 2), (base[0] + uy / 2, base[1] - ux / 2)]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(arrow.x2, arrow.y2), *ends])
    return (
        f'<line x1="{arrow.x1:.1f}" y1="{arrow.y1:.1f}" x2="{base[0]:.1f}" y2="{base[1]:.1f}" '
        f'stroke="#888888"/><polygon points="{corners}" fill="#888888"/>'
    )
