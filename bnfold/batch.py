"""What is shown of several models while they are worked on."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bnfold.fleet import Done
from bnfold.report import console, of_done


class Batch:
    """Tells of each of several models as it is done, with a bar where there is a terminal."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._quiet = quiet
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

    def tell(self, done: Done) -> None:
        """One more."""
        if done.error is not None or not self._quiet:
            self._console.print(of_done(done))
        self._bar.advance(self._task)
