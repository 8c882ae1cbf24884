"""Pictures as SVG, from a few shapes that another format could draw as well."""

from __future__ import annotations

from collections.abc import Sequence
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

_HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0 8 4 0 8z" fill="#888888"/></marker>'
)


def svg(shapes: Sequence[Shape], width: float, height: float) -> str:
    """The picture, of a size in pixels."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">'
    ]
    if any(isinstance(shape, Arrow) for shape in shapes):
        lines.append(_HEAD)
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
        return (
            f'<line x1="{shape.x1:.1f}" y1="{shape.y1:.1f}" x2="{shape.x2:.1f}" '
            f'y2="{shape.y2:.1f}" stroke="#888888" marker-end="url(#head)"/>'
        )
    anchor = ' text-anchor="end"' if shape.ends else ""
    return (
        f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" fill={quoteattr(shape.colour)}'
        f"{anchor}>{escape(shape.text)}</text>"
    )
