"""The one way in which commands write a text or a picture: no file is lost, none is left in half.

A file that is there already is replaced only if it is of the kind that is written: a report by a
report, a baseline by a baseline. So no slip of the keyboard costs a model, its data or notes,
whatever the name: links and hard links lead to a file's content, and that is what is looked at.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from bnfold import system
from bnfold.errors import UsageError
from bnfold.onnx_io.private_folder import PrivateFolder

_HEAD = 4096  # bytes at the beginning of a file, by which its kind is known


class Kind(Enum):
    """What is written. `value` is (what to call it, what such a file begins with)."""

    what: str
    begins: re.Pattern[bytes]

    def __init__(self, what: str, begins: bytes) -> None:
        self.what = what
        self.begins = re.compile(begins, re.DOTALL)

    JSON = "a bnfold report in JSON", rb'\s*\{\s*"command": "\w+",\s*"exit_code"'
    MARKDOWN = "a bnfold report in Markdown", rb"## \S+ bnfold "
    HTML = "a bnfold report in HTML", rb"<!doctype html>.*<title>bnfold "
    JUNIT = "a bnfold report in JUnit's XML", rb'<\?xml[^>]*>\s*<testsuites name="bnfold '
    SARIF = "a bnfold report in SARIF", rb'\s*\{\s*"\$schema".*"name": "bnfold"'
    CERTIFICATE = "a certificate of bnfold", rb'\s*\{\s*"original": \{\s*"file"'
    PROOF = "a proof of bnfold", rb'\s*\{\s*"_type":\s*"https://in-toto.io/Statement/v1"'
    BASELINE = "a baseline of bnfold", rb'\s*\{\s*"accepted"'
    PARAMETERS = "a list of parameters of bnfold", rb'\s*\{\s*"model".*"parameters"'
    MOMENTS = "a file of moments of bnfold", rb'\s*\{\s*"moments": \d'
    MOMENTS_TABLE = "a table of moments of bnfold", rb"tensor,scope,batch_norm,channel,"
    OVERRIDES = "ranges for a quantiser", rb'\s*\{(\s*\}|.*"rmin")'
    SVG = "a picture of bnfold", rb"<svg .*stored statistics"
    PNG = "a picture of bnfold", rb"\x89PNG\r\n.*bnfold"


def require_replaceable(
    path: Path, kind: Kind, others: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Raises UsageError where a file could not be written, before anything is done.

    `others` are files that the same command reads or writes, by whatever name.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not {kind.what}", "name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder for {path}", "make it first, or name another file")
    if any(is_same(path, Path(other)) for other in others):
        raise UsageError(
            f"{kind.what} in {path} would overwrite what is worked on", "name another file"
        )
    place = path if is_stream(path) else Path(os.path.realpath(path)).parent
    if not os.access(place, os.W_OK):
        raise UsageError(f"{path} may not be written", "name another file")
    _require_kind(path, kind)


def write_whole(path: Path, content: str | bytes, kind: Kind) -> None:
    """Write a small file, there whole or as it was. Links are followed, pipes are written into.

    Raises UsageError where what is there is of another kind, or cannot be written.
    """
    _require_kind(path, kind)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        if is_stream(path):
            with path.open("wb") as stream:
                stream.write(data)
            return
        real = Path(os.path.realpath(path))
        with PrivateFolder(real.parent) as folder:
            new = folder / "new"
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                system.sync(file.fileno())
            if real.exists():
                shutil.copymode(real, new)
            os.replace(new, real)
        system.sync_folder(real.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}", "") from error


def is_stream(path: Path) -> bool:
    """Whether a path leads to something that is written into: a device, a pipe, a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _require_kind(path: Path, kind: Kind) -> None:
    """Raises UsageError for a file with something else in it. An empty one is of every kind."""
    if is_stream(path) or not path.exists():
        return
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UsageError(f"cannot read what is in {path}: {error.strerror}") from error
    if head and not kind.begins.match(head):
        raise UsageError(
            f"there is a {path} already, which is not {kind.what}",
            "name another file, or remove that one first",
        )


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, there or not."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
