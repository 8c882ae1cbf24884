"""A proof as a file: an in-toto Statement about a folded model, to be stored, signed and checked.

The subjects are the folded file and its data files, by name and SHA-256. The predicate names the
original likewise, says which versions and options made the folded model and by which steps, and
what the kernel found. Whoever checks it believes none of that: it must fit the files, and the steps
are proven again from them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import onnx

from bnfold.errors import UsageError
from bnfold.onnx_io import model_file
from bnfold.onnx_io.output_paths import PathLike
from bnfold.onnx_io.replace_file import Kind, write_whole
from bnfold.options import Options
from bnfold.proof.kernel.outcome import Certificate
from bnfold.steps import from_json
from bnfold.version import __version__

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:bnfold:proof:1"


class Resource(msgspec.Struct, frozen=True):
    """A file, by its name and what it holds."""

    name: str
    digest: dict[str, str]


class Predicate(msgspec.Struct, frozen=True):
    """What was done to the original, by whom, and what came of checking it."""

    original: tuple[Resource, ...]
    versions: dict[str, str]
    options: dict[str, Any]
    steps: msgspec.Raw
    verdict: str
    folds: tuple[dict[str, Any], ...] = ()


class Statement(msgspec.Struct, frozen=True, rename={"kind": "_type", "type": "predicateType"}):
    """An in-toto Statement, version 1."""

    kind: str
    subject: tuple[Resource, ...]
    type: str
    predicate: Predicate


def write(
    path: PathLike, original: tuple[Resource, ...], folded: Path, proof: str, options: Options,
    certificate: Certificate | None,
) -> None:  # fmt: skip
    """Write the proof of a folded file, which is there. Raises UsageError."""
    folds = certificate.folds if certificate is not None else ()
    statement = Statement(
        STATEMENT, resources(folded), PREDICATE,
        Predicate(
            original, {"bnfold": __version__, "onnx": onnx.__version__},
            {name: value for name, value in asdict(options).items() if value},
            msgspec.Raw(proof.encode()),
            "not checked" if certificate is None else certificate.verdict.value,
            tuple({"node": f.node, "op": f.op, "n": f.n, "k": f.k} for f in folds),
        ),
    )  # fmt: skip
    write_whole(Path(path), msgspec.json.encode(statement).decode() + "\n", Kind.PROOF)


def read(path: PathLike, original: Path, folded: Path) -> str:
    """The steps of a proof as JSON; it must be one of these two files.

    Raises UsageError where the file is no proof, or one of other files.
    """
    try:
        statement = msgspec.json.decode(Path(path).read_bytes(), type=Statement)
        if (statement.kind, statement.type) != (STATEMENT, PREDICATE):
            raise UsageError(
                f"{path} is a statement about something else",
                "give what `proof_file` of optimize wrote",
            )
        proof = bytes(statement.predicate.steps)
        from_json(proof)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is no proof: {error}", "give what `proof_file` of optimize wrote"
        ) from error
    for said, model in ((statement.predicate.original, original), (statement.subject, folded)):
        _require_same(path, said, model)
    return proof.decode()


def _require_same(path: PathLike, said: tuple[Resource, ...], model: Path) -> None:
    """Files may have other names and stand elsewhere; the order tells which is which."""
    found = resources(model)
    if [r.digest.get("sha256") for r in said] != [r.digest["sha256"] for r in found]:
        named = said[0].name if said else "nothing"
        raise UsageError(
            f"{path} proves something of {named}, and {model} holds something else",
            "verify the files that the proof was written for",
        )


def resources(model: Path) -> tuple[Resource, ...]:
    """A model and its data files. Raises ModelError, UsageError."""
    names = sorted(model_file.data_names(model))
    files = [model, *(model.with_name(name) for name in names)]
    return tuple(Resource(file.name, {"sha256": _sha256(file)}) for file in files)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
