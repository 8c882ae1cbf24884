"""Reports as files, in the format that the file's suffix says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import UsageError
from bnfold.onnx_io.replace_file import Kind, require_replaceable, write_whole

if TYPE_CHECKING:
    from bnfold.reporting.content import Report

_FORMATS = {
    ".junit.xml": ("junit", Kind.JUNIT),
    ".json": ("json", Kind.JSON),
    ".md": ("markdown", Kind.MARKDOWN),
    ".html": ("html", Kind.HTML),
    ".sarif": ("sarif", Kind.SARIF),
}
SUFFIXES = tuple(_FORMATS)


def require_writable(paths: Iterable[str], keep: Iterable[str | os.PathLike[str]]) -> None:
    """Raises UsageError where a report could not be written, before anything is done.

    `keep` are files that are read or written otherwise, by whatever name.
    """
    others = list(keep)
    for path in map(Path, paths):
        require_replaceable(path, _FORMATS[_suffix(path)][1], others)


def render(report: Report, suffix: str) -> str:
    """The report in the format of a suffix."""
    module = import_module(f"bnfold.reporting.formats.{_FORMATS[suffix][0]}")
    text: str = module.render(report)
    return text


def save(report: Report, path: str) -> None:
    """Write the report in the format of the path's suffix. Raises UsageError."""
    suffix = _suffix(Path(path))
    write_whole(Path(path), render(report, suffix), _FORMATS[suffix][1])


def _suffix(path: Path) -> str:
    """The suffix that says in which format."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UsageError(
        f"no format for a report has the suffix of {path}", f"name it {', '.join(SUFFIXES)}"
    )
