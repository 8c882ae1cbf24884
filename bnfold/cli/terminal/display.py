"""What a command shows while it works and when it is done. Loads rich only where it is needed."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from bnfold.progress import Progress, Stage
from bnfold.text.escape import escape_commands
from bnfold.text.formatting import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

_PATIENCE = 5.0  # seconds of work before lines of progress go into a log


@dataclass(frozen=True)
class Display:
    """How much is shown; `err`: on standard error, because standard output is a model or JSON."""

    quiet: bool = False
    verbose: bool = False
    err: bool = False

    def print(self, report: RenderableType) -> None:
        """Show a report, unless the command is to be quiet."""
        if not self.quiet:
            from bnfold.cli.render.console import console

            console(err=self.err).print(report)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show the stages of the work: one live line on a terminal, else a line for each."""
        if self.quiet:
            yield lambda _: None
        elif sys.stderr is not None and sys.stderr.isatty():
            from bnfold.cli.render.progress import LiveLine

            with LiveLine() as line:
                yield line
        else:
            yield PlainLines()


class PlainLines:
    """A line for each stage on standard error, once the work has taken some seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = ""

    def __call__(self, stage: Stage) -> None:
        """Show the stage if it is another one."""
        seconds = time.monotonic() - self._start
        if seconds >= _PATIENCE and stage.name != self._shown:
            self._shown = stage.name
            with contextlib.suppress(OSError):
                click.echo(escape_commands(f"{plain(stage.name)} … ({seconds:.0f} s)"), err=True)
