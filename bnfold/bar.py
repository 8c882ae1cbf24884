"""A progress bar for one long run, on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from typing import Any

import click


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
