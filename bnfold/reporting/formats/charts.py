"""The pictures of the HTML report, as inline SVG: pure functions from a report's parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bnfold.folding.layer_details import Layer, Neighbourhood, Spread
from bnfold.reporting.content import SiteReport
from bnfold.text.formatting import plain
from bnfold.text.svg import Arrow, Box, Label, Shape, cut, quartile_bar, svg

_ROW, _TOP, _NAME, _PANEL, _GAP = 18, 40, 250, 280, 24
_LETTERS = 38
_DARK, _LIGHT, _BEFORE, _BAD, _GROUND = "#2471a3", "#aed1ea", "#b5b5b5", "#c0392b", "#f4f4f4"
_LINEAR = 0.1  # up to here the axis is about linear, beyond it logarithmic
_BOX, _BOX_HEIGHT, _COLUMN, _LEVEL = 150, 34, 186, 44


@dataclass(frozen=True)
class Share:
    """How much of what rounding explains something uses; 1 is all of it, None not a number."""

    name: str
    share: float | None
    valid: bool


def ranges(sites: Sequence[SiteReport]) -> str:
    """γ′ of each layer, and the range of the weights that took it, before and after.

    Dark: the middle half of the channels; light: all. Grey: the weights before. The axes are
    asinh(x/0.1), so that signs, small and large numbers all show.
    """
    rows = [(site, site.layer) for site in sites if site.layer is not None]
    height = _TOP + _ROW * len(rows) + 24
    shapes: list[Shape] = []
    scales = [layer.scale for _, layer in rows]
    shapes += _panel("γ′", _NAME + _GAP, height, _ends(scales), scales, [])
    weights = [_weights(layer) for _, layer in rows]
    pairs = [pair for _, layer in rows for w in layer.weights for pair in (w.before, w.after)]
    reach = max((abs(v) for pair in pairs if pair for v in pair), default=1.0)
    left = _NAME + 2 * _GAP + _PANEL
    shapes += _panel("weights: before (grey), after", left, height, reach, [], weights)
    for row, (site, _) in enumerate(rows):
        name = cut(plain(site.full_name), _LETTERS)
        colour = _DARK if site.folded else "#9a7400"
        shapes.append(Label(_NAME + 8, _TOP + _ROW * row + 13, name, ends=True, colour=colour))
    return svg(shapes, left + _PANEL + _GAP, height)


def _ends(spreads: Iterable[Spread | None]) -> float:
    return max((abs(v) for s in spreads if s is not None for v in (s.low, s.high)), default=1.0)


def _weights(layer: Layer) -> list[tuple[float, float, str]]:
    """Bars, from where to where, of all nodes that took the map."""
    bars = []
    for colour, pairs in (
        (_BEFORE, [weight.before for weight in layer.weights]),
        (_DARK, [weight.after for weight in layer.weights]),
    ):
        found = [pair for pair in pairs if pair is not None]
        if found:
            bars.append((min(p[0] for p in found), max(p[1] for p in found), colour))
    return bars


def _panel(
    title: str, left: float, height: float, reach: float, spreads: Sequence[Spread | None],
    bars: Sequence[Sequence[tuple[float, float, str]]],
) -> Iterator[Shape]:  # fmt: skip
    end = min(math.asinh((reach or 1.0) / _LINEAR), 1e4)

    def at(value: float) -> float:
        return left + _PANEL * (min(max(math.asinh(value / _LINEAR) / end, -1), 1) + 1) / 2

    yield Label(left, 14, title)
    yield Box(left, _TOP - 4, _PANEL, height - _TOP - 16, _GROUND)
    for tick in _ticks(reach):
        yield Box(at(tick) - 0.5, _TOP - 4, 1, height - _TOP - 16, "#dddddd")
        yield Label(at(tick), _TOP - 8, f"{tick:g}", ends=tick > 0, colour="#777777")
    for row, spread in enumerate(spreads):
        if spread is not None:
            quartiles = (spread.low, spread.first, spread.third, spread.high)
            yield from quartile_bar(at, quartiles, _TOP + _ROW * row + 8.5, _DARK, _LIGHT)
    for row, own in enumerate(bars):
        for number, (low, high, colour) in enumerate(own):
            yield Box(at(low), _TOP + _ROW * row + 3 + 6 * number, _width(at, low, high), 5, colour)


def _width(at: Callable[[float], float], low: float, high: float) -> float:
    return max(1.5, at(high) - at(low))


def _ticks(reach: float) -> list[float]:
    """0 and ± a power of ten, the largest within reach."""
    power = 10.0 ** math.floor(math.log10(reach)) if reach > 0 else 1.0
    return [-power, 0.0, power]


def shares(rows: Sequence[Share]) -> str:
    """Errors in units of their bounds, as bars; the line is the bound."""
    height = _TOP + _ROW * len(rows) + 8
    left, width = _NAME + _GAP, 2 * _PANEL
    unit = width / 1.25
    shapes: list[Shape] = [
        Label(left, 14, "error / bound"),
        Box(left, _TOP - 4, width, height - _TOP, _GROUND),
        Label(left, _TOP - 8, "0", colour="#777777"),
        Label(left + unit, _TOP - 8, "1", ends=True, colour="#777777"),
        Box(left + unit, _TOP - 4, 1, height - _TOP, _BAD),
    ]
    for row, one in enumerate(rows):
        y = _TOP + _ROW * row
        colour = _DARK if one.valid else _BAD
        name = cut(plain(one.name), _LETTERS)
        shapes.append(Label(_NAME + 8, y + 13, name, ends=True))
        length = width if one.share is None else min(one.share * unit, width)
        told = "not a number" if one.share is None else f"{one.share:.2g}"
        shapes.append(Box(left, y + 4, max(length, 1.0), 10, colour))
        shapes.append(Label(left + max(length, 1.0) + 6, y + 13, told, colour="#555555"))
    return svg(shapes, left + width + 90, height)


def around(place: Neighbourhood, blocker: str) -> str:
    """The nodes around a site that was kept; the site is yellow, what blocked the fold red."""
    columns: dict[int, list[int]] = {}
    for number, node in enumerate(place.nodes):
        columns.setdefault(node.column, []).append(number)
    first, tallest = min(columns), max(map(len, columns.values()))
    corners: dict[int, tuple[float, float]] = {}
    for column, numbers in columns.items():
        top = (tallest - len(numbers)) * _LEVEL / 2
        for level, number in enumerate(numbers):
            corners[number] = ((column - first) * _COLUMN + 6, top + level * _LEVEL + 6)
    shapes: list[Shape] = []
    for start, end in place.edges:
        (x1, y1), (x2, y2) = corners[start], corners[end]
        middle = _BOX_HEIGHT / 2
        if place.nodes[start].column < place.nodes[end].column:
            shapes.append(Arrow(x1 + _BOX, y1 + middle, x2, y2 + middle))
        else:  # within one column, or back: from edge to edge
            shapes.append(Arrow(x1 + _BOX / 2, y1 + _BOX_HEIGHT, x2 + _BOX / 2, y2))
    for number, (x, y) in corners.items():
        node = place.nodes[number]
        colour = "#f9e79f" if number == 0 else "#f5b7b1" if node.label == blocker else "#e5eef5"
        shapes.append(Box(x, y, _BOX, _BOX_HEIGHT, colour))
        shapes.append(Label(x + 6, y + 14, cut(plain(node.op), 20)))
        shapes.append(Label(x + 6, y + 28, cut(plain(node.label), 20), colour="#666666"))
    width = (max(columns) - first) * _COLUMN + _BOX + 12
    return svg(shapes, width, tallest * _LEVEL + 6)
