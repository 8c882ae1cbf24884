"""The console that commands print to: text that no CI service takes for its commands."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.table import Table

from bnfold.text.escape import escape_commands, on_github

_WIDE = 200  # columns where the output is no terminal: nothing is cut, and lines stay greppable


def console(*, err: bool = False) -> Console:
    """Standard output (or error), in the terminal's width; rich obeys NO_COLOR and FORCE_COLOR."""
    plainly: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "stderr": err}
    here = _Console(**plainly)
    return here if here.is_terminal else _Console(**plainly, width=_WIDE)


def table(*headers: str, right: Collection[str] = (), show_header: bool = True) -> Table:
    """An empty table in the style of all reports; columns in `right` are aligned so."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=show_header)
    for header in headers:
        made.add_column(header, overflow="fold", justify="right" if header in right else "left")
    return made


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command; rich would exit with 1, which is a verdict."""
        raise BrokenPipeError

    def print(self, *objects: Any, **how: Any) -> None:
        """What is written where a CI service reads along must not be taken for its commands."""
        if self.file.isatty() and not on_github():
            super().print(*objects, **how)
            return
        with self.capture() as captured:
            super().print(*objects, **how)
        self.file.write(escape_commands(captured.get()))
