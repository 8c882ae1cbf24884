"""Live progress on a terminal."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from bnfold.cli.render.console import console
from bnfold.cli.render.folds import of_outcome
from bnfold.pipeline.batch import ModelOutcome
from bnfold.progress import Stage
from bnfold.text.formatting import plain


class LiveLine:
    """One line on standard error: the stage, what of how much, and the time since the start."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console(err=True), transient=True)
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> LiveLine:
        """Show it."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self._bar.stop()

    def __call__(self, stage: Stage) -> None:
        """Show another stage."""
        amount = f", {stage.done} of {stage.total}" if stage.total else ""
        self._bar.update(self._task, description=plain(stage.name) + amount)


class BatchProgress:
    """A line for each model as it is done, and a bar on a terminal."""

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

    def __enter__(self) -> BatchProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self._bar.stop()

    def show(self, outcome: ModelOutcome) -> None:
        """Show what became of one model; of quiet ones, only failures."""
        try:
            if self._unshown is None and (outcome.error is not None or not self._quiet):
                wrap = not self._console.is_terminal
                self._console.print(of_outcome(outcome), soft_wrap=wrap)
            self._bar.advance(self._task)
        except OSError as error:  # nobody reads any more: the other models are done all the same
            self._unshown = error

    def require_shown(self) -> None:
        """Raises the error that kept results from being shown."""
        if self._unshown is not None:
            raise self._unshown
