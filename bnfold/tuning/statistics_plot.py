"""A picture of shifts and ratios, layer by layer: as SVG, or as PNG where Pillow is installed.

One row for each BatchNormalization. The bars stand for its channels: how far the mean is off, in
units of √(σ² + ε), and by what factor the variance is; the dark part is the middle half of the
channels, the light part all of them. The grey band is what counts as fitting.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnfold.errors import UsageError
from bnfold.folding.layer_details import Spread
from bnfold.onnx_io.replace_file import Kind, require_replaceable, write_whole
from bnfold.text.formatting import plain
from bnfold.text.svg import Box, Label, cut, quartile_bar, svg

_ROW, _TOP, _NAME, _PANEL, _GAP = 20, 46, 300, 300, 30
_WIDTH = _NAME + 2 * _PANEL + 3 * _GAP
_MOST_LETTERS = 44
GOOD, DOUBTFUL, BAD = ("#2471a3", "#aed1ea"), ("#b7950b", "#f0e0a0"), ("#c0392b", "#efb5ae")


@dataclass(frozen=True)
class Row:
    """One layer: its colours, dark and light, its shifts, and its ratios."""

    name: str
    colours: tuple[str, str]
    shift: Spread | None
    ratio: Spread | None


@dataclass(frozen=True)
class Picture:
    """`titles` and `limits` are of the two panels; `legend` says what the colours mean."""

    title: str
    titles: tuple[str, str]
    limits: tuple[float, float]
    legend: tuple[tuple[str, tuple[str, str]], ...]
    rows: tuple[Row, ...]

    @property
    def height(self) -> int:
        """In pixels."""
        return _TOP + _ROW * len(self.rows) + 48

    def as_svg(self) -> str:
        """The whole picture."""
        return svg(list(_shapes(self)), _WIDTH, self.height)


def require_drawable(path: Path) -> None:
    """Raises UsageError for a file that could not be drawn."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"{path} is neither .svg nor .png", "name the picture out.svg")
    kind = Kind.SVG if path.suffix.lower() == ".svg" else Kind.PNG
    require_replaceable(path, kind)


def save(picture: Picture, path: Path) -> None:
    """Write a picture into an .svg or .png file. Raises UsageError."""
    require_drawable(path)
    if path.suffix.lower() == ".svg":
        write_whole(path, picture.as_svg(), Kind.SVG)
    else:
        write_whole(path, _png(list(_shapes(picture)), picture.height), Kind.PNG)


def _shapes(picture: Picture) -> Iterator[Box | Label]:
    yield Box(0, 0, _WIDTH, picture.height, "#ffffff")
    yield Label(12, 20, picture.title)
    shifts = [row.shift for row in picture.rows]
    ratios = [_logarithms(row.ratio) for row in picture.rows]
    left, limits = _NAME + _GAP, picture.limits
    yield from _panel(picture, picture.titles[0], shifts, limits[0], left, logarithmic=False)
    left += _PANEL + _GAP
    limit = float(np.log2(limits[1]))
    yield from _panel(picture, picture.titles[1], ratios, limit, left, logarithmic=True)
    for number, row in enumerate(picture.rows):
        name = cut(plain(row.name), _MOST_LETTERS)
        yield Label(_NAME + 8, _TOP + _ROW * number + 14, name, ends=True, colour=row.colours[0])
    for number, (words, (dark, _)) in enumerate(picture.legend):
        x = _NAME + _GAP + number * 160
        yield Box(x, picture.height - 20, 10, 10, dark)
        yield Label(x + 16, picture.height - 11, words)


def _logarithms(spread: Spread | None) -> Spread | None:
    if spread is None:
        return None
    values = np.array([spread.low, spread.first, spread.median, spread.third, spread.high])
    with np.errstate(all="ignore"):
        return Spread.of(np.log2(values))


def _panel(
    picture: Picture, title: str, spreads: Sequence[Spread | None], limit: float, left: float, *,
    logarithmic: bool,
) -> Iterator[Box | Label]:  # fmt: skip
    ends = [
        abs(end) for spread in spreads if spread is not None for end in (spread.low, spread.high)
    ]
    reach = max([2 * limit, *ends])

    def at(value: float) -> float:
        return left + _PANEL * (value / reach + 1) / 2

    below = _TOP + _ROW * len(spreads)
    yield Label(left, 38, title)
    yield Box(at(-limit), _TOP, at(limit) - at(-limit), below - _TOP, "#eeeeee")
    yield Box(at(0) - 0.5, _TOP, 1, below - _TOP, "#888888")
    for value, last in ((-reach, False), (reach, True)):
        shown = f"{2**value:.3g}" if logarithmic else str(float(f"{value:.3g}"))
        yield Label(at(value), below + 12, shown, ends=last)
    for number, (row, spread) in enumerate(zip(picture.rows, spreads, strict=True)):
        if spread is not None:
            quartiles = (spread.low, spread.first, spread.third, spread.high)
            y = _TOP + _ROW * number + 10
            yield from quartile_bar(at, quartiles, y, *row.colours)


def _png(shapes: Sequence[Box | Label], height: int) -> bytes:
    try:
        from PIL import Image, ImageDraw, ImageFont
        from PIL.PngImagePlugin import PngInfo
    except ImportError as error:
        raise UsageError(
            "drawing a .png needs Pillow, which is not installed",
            "pip install bnfold[images], or name the picture out.svg",
        ) from error
    scale = 2
    image = Image.new("RGB", (_WIDTH * scale, height * scale), "#ffffff")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12 * scale)
    for shape in shapes:
        if isinstance(shape, Box):
            corners = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
            draw.rectangle([c * scale for c in corners], fill=shape.colour)
        else:
            place = (shape.x * scale, shape.y * scale)
            anchor = "rs" if shape.ends else "ls"
            draw.text(place, shape.text, shape.colour, font, anchor)
    info = PngInfo()
    file = io.BytesIO()
    info.add_text("Software", "bnfold")
    image.save(file, "png", pnginfo=info)
    return file.getvalue()
