"""A comparison as JSON: what `verify --json` prints and `--certificate` writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bnfold.onnx_io.replace_file import Kind, write_whole
from bnfold.text.json_encoding import dumps, jsonable
from bnfold.verification.comparison import Comparison


def as_json(comparison: Comparison) -> str:
    """All of it, with `equal` in front."""
    return dumps(comparison_data(comparison))


def save(comparison: Comparison, models: Sequence[str], path: str) -> None:
    """The same in a file, with the SHA-256 of both model files. Raises UsageError."""
    hashes = [{"file": Path(m).name, "sha256": _hash(Path(m))} for m in models]
    data = {"original": hashes[0], "folded": hashes[1], **comparison_data(comparison)}
    write_whole(Path(path), dumps(data), Kind.CERTIFICATE)


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """A comparison as a dictionary of what JSON has, with `equal` and the c of each fold."""
    data = {"equal": comparison.equal, **asdict(comparison)}
    if comparison.certificate is not None:
        for told, fold in zip(
            data["certificate"]["folds"], comparison.certificate.folds, strict=True
        ):  # fmt: skip
            told["c"] = fold.c
    plain_data: dict[str, Any] = jsonable(data)
    return plain_data


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
