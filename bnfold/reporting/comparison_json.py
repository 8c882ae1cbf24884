"""A comparison as JSON: what `verify --json` prints and `--certificate` writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bnfold.onnx_io.replace_file import Kind, write_whole
from bnfold.text.json_encoding import dumps, jsonable
from bnfold.verification.comparison import Comparison


def as_json(comparison: Comparison) -> str:
    """All of it, with `equal` in front."""
    return dumps(comparison)


def save(comparison: Comparison, models: Sequence[str], path: str) -> None:
    """The same in a file, with the SHA-256 of both model files. Raises UsageError."""
    hashes = [{"file": Path(m).name, "sha256": _hash(Path(m))} for m in models]
    data = {"original": hashes[0], "folded": hashes[1], **jsonable(comparison)}
    write_whole(Path(path), dumps(data), Kind.CERTIFICATE)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
