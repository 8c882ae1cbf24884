"""The console that commands print to: text that no CI service takes for its commands."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from bnfold.text.escape import escape_commands, on_github

_WIDE = 200  # columns where the output is no terminal: nothing is cut, and lines stay greppable


def console(*, err: bool = False) -> Console:
    """Standard output (or error), in the terminal's width; rich obeys NO_COLOR and FORCE_COLOR."""
    plainly: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "stderr": err}
    here = _Console(**plainly)
    return here if here.is_terminal else _Console(**plainly, width=_WIDE)


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
