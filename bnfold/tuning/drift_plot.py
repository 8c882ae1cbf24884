"""Which layers have drifted, at a glance: a picture as SVG, or as PNG where Pillow is installed.

One row for each BatchNormalization, the worst on top. The bars stand for its living channels: how
far the mean has shifted, in units of √(σ² + ε), and by what factor the variance has changed; the
dark part is the middle half of the channels, the light part all of them. The grey band is what
counts as fitting.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import UsageError
from bnfold.onnx_io.replace_file import Kind, require_replaceable, write_whole
from bnfold.text.formatting import plain
from bnfold.text.svg import Box, Label, cut, quartile_bar, svg
from bnfold.tuning.drift import ChannelDrift, DriftLimits, Fit

_ROW, _TOP, _NAME, _PANEL, _GAP = 20, 46, 300, 300, 30
_WIDTH = _NAME + 2 * _PANEL + 3 * _GAP
_MOST_LETTERS = 44
_COLOURS = {
    Fit.DRIFTED: ("#c0392b", "#efb5ae"),
    Fit.TOO_LITTLE: ("#b7950b", "#f0e0a0"),
    Fit.FITS: ("#2471a3", "#aed1ea"),
}


def require_drawable(path: Path) -> None:
    """Raises UsageError for a file that could not be drawn."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"{path} is neither .svg nor .png", "name the picture out.svg")
    kind = Kind.SVG if path.suffix.lower() == ".svg" else Kind.PNG
    require_replaceable(path, kind)


def save(drifts: Sequence[ChannelDrift], limits: DriftLimits, path: Path) -> None:
    """Draw all BatchNormalizations into an .svg or .png file. Raises UsageError."""
    require_drawable(path)
    height = _TOP + _ROW * len(drifts) + 48
    shapes = list(_shapes(drifts, limits, height))
    if path.suffix.lower() == ".svg":
        write_whole(path, svg(shapes, _WIDTH, height), Kind.SVG)
    else:
        write_whole(path, _png(shapes, height), Kind.PNG)


def _shapes(
    drifts: Sequence[ChannelDrift], limits: DriftLimits, height: int
) -> Iterator[Box | Label]:  # fmt: skip
    yield Box(0, 0, _WIDTH, height, "#ffffff")
    yield Label(12, 20, "Do the stored statistics fit the data?")
    panels = (
        (
            "shift of the mean, in stored standard deviations", [d.shift for d in drifts],
            limits.shift, str,
        ),
        (
            "variance of the data / stored", [np.log2(d.ratio) for d in drifts],
            float(np.log2(limits.ratio)), _power,
        ),
    )  # fmt: skip
    for number, (title, values, limit, shown) in enumerate(panels):
        left = _NAME + _GAP + number * (_PANEL + _GAP)
        yield from _panel(title, drifts, values, limit, shown, left)
    for row, found in enumerate(drifts):
        y = _TOP + _ROW * row
        name = cut(plain(found.node), _MOST_LETTERS)
        yield Label(_NAME + 8, y + 14, name, ends=True, colour=_COLOURS[found.fit][0])
    for number, (fit, (dark, _)) in enumerate(_COLOURS.items()):
        x = _NAME + _GAP + number * 160
        yield Box(x, height - 20, 10, 10, dark)
        yield Label(x + 16, height - 11, fit.value)


def _power(value: float) -> str:
    return f"{2**value:.3g}"


def _panel(
    title: str, drifts: Sequence[ChannelDrift], values: Sequence[Any], limit: float, shown: Any,
    left: float,
) -> Iterator[Box | Label]:  # fmt: skip
    finite = [v[np.isfinite(v)] for v in values]
    reach = max([2 * limit, *(float(np.max(np.abs(v))) for v in finite if v.size)])

    def at(value: float) -> float:
        return left + _PANEL * (value / reach + 1) / 2

    below = _TOP + _ROW * len(drifts)
    yield Label(left, 38, title)
    yield Box(at(-limit), _TOP, at(limit) - at(-limit), below - _TOP, "#eeeeee")
    yield Box(at(0) - 0.5, _TOP, 1, below - _TOP, "#888888")
    for value, ends in ((-reach, False), (reach, True)):
        yield Label(at(value), below + 12, shown(float(f"{value:.3g}")), ends=ends)
    for row, (found, own) in enumerate(zip(drifts, finite, strict=True)):
        if not own.size:
            continue
        y, (dark, light) = _TOP + _ROW * row, _COLOURS[found.fit]
        yield from quartile_bar(at, np.quantile(own, [0, 0.25, 0.75, 1]), y + 10, dark, light)


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
