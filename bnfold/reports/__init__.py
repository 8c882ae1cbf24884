"""Reports as files, in the format that the file's suffix says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.reports.content import Report

_MODULES = {
    ".junit.xml": "junit",
    ".json": "json",
    ".md": "markdown",
    ".html": "html",
    ".sarif": "sarif",
}
SUFFIXES = tuple(_MODULES)


def require_writable(paths: Iterable[str], keep: Iterable[str | os.PathLike[str]]) -> None:
    """Raises UsageError where a report could not be written, before anything is done.

    `keep` are files that are read or written otherwise, by whatever name.
    """
    others = {os.path.realpath(path) for path in keep}
    for path in map(Path, paths):
        _suffix(path)
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"there is no folder for the report {path}", "make it first")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"the report {path} may not be written", "name another file")
        if os.path.realpath(path) in others:
            raise UsageError(f"the report {path} would overwrite what is worked on", "rename it")


def render(report: Report, suffix: str) -> str:
    """The report in the format of a suffix."""
    module = import_module(f"bnfold.reports.{_MODULES[suffix]}")
    text: str = module.render(report)
    return text


def save(report: Report, path: str) -> None:
    """Write the report in the format of the path's suffix. Raises UsageError."""
    text = render(report, _suffix(Path(path)))
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write the report {path}: {error.strerror}") from error


def _suffix(path: Path) -> str:
    """The suffix that says in which format."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UsageError(
        f"no format for a report has the suffix of {path}", f"name it {', '.join(SUFFIXES)}"
    )
