"""Workers that wait for two models to compare: they import what it takes meanwhile.

A command starts one before anything else, so that both processes import side by side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bnfold.runtime.process import Worker

_early: dict[str, Worker] = {}  # by the level that they are for


def new_worker(level: str) -> Worker:
    """One that waits already, or is started now."""
    return _early.pop(level, None) or _started(level)


@contextlib.contextmanager
def early_worker(level: str) -> Iterator[None]:
    """Start one for the first comparison of this level inside of the `with`; none for "none"."""
    if level == "none":
        yield
        return
    _early[level] = _started(level)
    try:
        yield
    finally:
        if (unused := _early.pop(level, None)) is not None:
            unused.__exit__()


def _started(level: str) -> Worker:
    modules = ["bnfold.verification.worker.levels"]
    if level not in ("frame", "proof"):
        modules.append("bnfold.verification.worker.first_runs")
    return Worker(modules)
