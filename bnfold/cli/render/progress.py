"""What is shown of several models while they are worked on."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bnfold.cli.render.console import console
from bnfold.cli.render.folds import of_done
from bnfold.pipeline.batch import ModelOutcome


class Batch:
    """Tells of each of several models as it is done, with a bar where there is a terminal."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._quiet = quiet
        self._unshown: OSError | None = None
        self._console = console()
        where = self._console if self._console.is_terminal else console(err=True)
        self._bar = Progress(
            TextColumn("{task.completed} of {task.total} models"), BarColumn(),
            TimeElapsedColumn(), console=where, transient=True,
            disable=quiet or not where.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Batch:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self._bar.stop()

    def tell(self, done: ModelOutcome) -> None:
        """One more."""
        try:
            if self._unshown is None and (done.error is not None or not self._quiet):
                self._console.print(of_done(done), soft_wrap=not self._console.is_terminal)
            self._bar.advance(self._task)
        except OSError as error:  # nobody reads on: the others are worked on all the same
            self._unshown = error

    def require_shown(self) -> None:
        """Raises what kept results from being shown."""
        if self._unshown is not None:
            raise self._unshown


class Bar:
    """Called with how much is done, of how much."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._done = 0

    def __enter__(self) -> Bar:
        """Nothing to show yet."""
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = click.progressbar(length=total, label=self._label, file=sys.stderr)
            self._bar.render_progress()
        self._bar.length = max(total, done)
        self._bar.update(done - self._done)
        self._done = done

    def __exit__(self, *_: object) -> None:
        """Leave the line."""
        if self._bar is not None:
            self._bar.render_finish()
