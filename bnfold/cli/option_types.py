"""The types of option values: how each is written, and what it is read as."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bnfold import system
from bnfold.options import RENAMED_CHOICE

if TYPE_CHECKING:
    _ParamType = click.ParamType[tuple[str, Any]]
else:  # a generic class only in newer releases of click
    _ParamType = click.ParamType


class Named(_ParamType):
    """NAME<separator>VALUE; the name may hold the separator itself, as tensor names do."""

    def __init__(self, name: str, separator: str, read: Callable[[str], Any], example: str) -> None:
        self.name, self._separator, self._read, self._example = name, separator, read, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split into (name, value)."""
        name, separator, text = str(value).rpartition(self._separator)
        try:
            if not (name and separator):
                raise ValueError
            return name, self._read(text)
        except ValueError:
            self.fail(f"{value!r} does not read as {self.name}, for example {self._example}")


class Seconds(click.FloatRange):
    """A time that ends: no NaN either, which passes every comparison of a range."""

    def __init__(self) -> None:
        super().__init__(min=0, max=1e6, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not a number of seconds."""
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Megabytes(click.IntRange):
    """Megabytes, as a number of bytes."""

    def __init__(self) -> None:
        super().__init__(min=64, max=10**9)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """In bytes."""
        return super().convert(value, param, ctx) * 1_000_000


def warn_without_limit(
    _ctx: click.Context, _option: click.Parameter, value: int | None
) -> int | None:
    """Say where a limit that was asked for cannot be held to."""
    if value is not None and not system.can_limit_memory():
        click.echo("--memory-limit: memory cannot be limited on this system, and is not", err=True)
    return value


class ValueRange(_ParamType):
    """[NAME:]LOW,HIGH; the name may hold a colon itself."""

    name = "[NAME:]LOW,HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split into (name, (low, high)); the name is "" for all inputs."""
        name, _, text = str(value).rpartition(":")
        try:
            low, high = (float(part) for part in text.strip("[]").split(","))
            if not -math.inf < low <= high < math.inf:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} does not read as {self.name}, for example x:0,255")
        return name, (low, high)


class Tolerance(_ParamType):
    """[NAME:]V; the name may hold a colon itself."""

    name = "[NAME:]V"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split into (name, tolerance); the name is "" for all outputs."""
        name, _, text = str(value).rpartition(":")
        try:
            tolerance = float(text)
            if not 0 <= tolerance < math.inf:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} does not read as {self.name}, for example 1e-4 or y:1e-4")
        return name, tolerance


def positive_int(text: str) -> int:
    """A whole number from 1 on. Raises ValueError."""
    number = int(text)
    if not 1 <= number < 1 << 31:
        raise ValueError
    return number


def shape(text: str) -> tuple[int, ...]:
    """Dimensions, as 1,3,224,224 or in brackets. Raises ValueError."""
    text = text.strip("[]")
    return tuple(positive_int(part) for part in text.split(",")) if text else ()


def floats(text: str | None) -> tuple[float, ...]:
    """Numbers with commas between them. Raises BadParameter."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(
            f"{text!r} does not read as numbers, for example 0.5,0.5,0.5"
        ) from None


def image_size(text: str | None) -> tuple[int, int] | None:
    """Height and width, as 224x224. Raises BadParameter."""
    if not text:
        return None
    try:
        height, width = (int(part) for part in text.lower().split("x"))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f"{text!r} does not read as HEIGHTxWIDTH, for example 224x224"
        ) from None
    return height, width


class CurrentChoice(click.Choice[str]):
    """A choice that may be called by the name that it had before."""

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:  # fmt: skip
        """The name that it has now."""
        if value == RENAMED_CHOICE[0]:
            old, value = RENAMED_CHOICE
            click.echo(f"note: {old} is now called {value}", err=True)
        return super().convert(value, param, ctx)


class Prior(click.FloatRange):
    """A number of samples, or `auto`."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        return value if value == "auto" else super().convert(value, param, ctx)
