"""The result of a comparison, to be read by people and by programs. Pure but for `save_json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnfold.check.outcome import Certificate, Outcome
from bnfold.comparison import Comparison, OutputDifference
from bnfold.errors import UsageError

_MOST_FINDINGS = 3
_COLOURS = {Outcome.VALID: "green", Outcome.INVALID: "red", Outcome.UNDECIDED: "yellow"}


def plain(name: str) -> str:
    """The name with every control character written as an escape, so that it can do no harm."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def of_comparison(comparison: Comparison) -> RenderableType:
    """The inputs used and one row for each output."""
    shapes = ", ".join(
        f"{plain(i.name)} {i.dtype}{list(i.shape)}" for i in comparison.inputs
    )  # fmt: skip
    parts: list[RenderableType] = [Text(""), *_of_files(comparison)]
    if comparison.not_run:
        parts.append(Text(f"not run: {plain(comparison.not_run)}\n"))
    if not comparison.runs and not comparison.mismatch:
        return Group(*parts)
    if comparison.runs:
        runs = count(comparison.runs, "time")
        parts.append(Text(f"run in onnxruntime {runs} on {shapes or 'no inputs'}"))
    if comparison.mismatch:
        parts.append(Text(f"not equal: {plain(comparison.mismatch)}", style="red"))
        return Group(*parts)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for header in ("output", "max abs", "max rel", "bound", ""):
        table.add_column(
            header, overflow="fold", justify="left" if header in ("output", "") else "right"
        )
    for output in comparison.outputs:
        table.add_row(
            Text(plain(output.name)), number(output.max_abs), number(output.max_rel),
            number(output.bound), _outcome(output),
        )  # fmt: skip
    return Group(*parts, table, Text(""))


def _of_files(comparison: Comparison) -> Iterable[RenderableType]:
    """What the two files tell, a line for each check, and what was found."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    frame, certificate = comparison.frame, comparison.certificate
    if frame is not None:
        text = Text(frame.verdict.value, style=_COLOURS[frame.verdict])
        if frame.verdict is Outcome.VALID:
            text.append(": nothing has changed but what was folded")
        table.add_row("frame", text)
    if certificate is not None and (certificate.folds or certificate.findings):
        text = Text(certificate.verdict.value, style=_COLOURS[certificate.verdict])
        if certificate.verdict is Outcome.VALID:
            text.append(f": {_certified(certificate)}")
        table.add_row("certificate", text)
    yield table
    checks = [check for check in (certificate, frame) if check is not None]
    findings = [finding for check in checks for finding in check.findings]
    findings.sort(key=lambda finding: finding.verdict is Outcome.UNDECIDED)
    for finding in findings[:_MOST_FINDINGS]:
        where = f"{plain(finding.node)}: " if finding.node else ""
        yield Text(f"  {where}{plain(finding.sentence)}", style=_COLOURS[finding.verdict])
    if len(findings) > _MOST_FINDINGS:
        yield Text(f"  … and {len(findings) - _MOST_FINDINGS} more")


def _certified(certificate: Certificate) -> str:
    """The theorem, in one line."""
    numbers = sum(fold.numbers for fold in certificate.folds)
    nodes = count(len(certificate.folds), "node")
    c = max(fold.c for fold in certificate.folds) if certificate.folds else 0.0
    return (
        f"{numbers:,} constants of {nodes}, k = {certificate.k:.3f}: outputs of each are apart by "
        f"at most {c:.0f}·u·A(x), whatever x is"
    )


def _outcome(output: OutputDifference) -> Text:
    if output.equal:
        return Text("equal", style="green")
    return Text(f"not equal{f': {plain(output.note)}' if output.note else ''}", style="red")


def as_json(comparison: Comparison) -> str:
    """All of it, with `equal` in front."""
    return json.dumps(_data(comparison), indent=2, default=_plain_value)


def save_json(comparison: Comparison, models: Sequence[str], path: str) -> None:
    """The same in a file, with the SHA-256 of both model files. Raises UsageError."""
    hashes = [{"file": Path(m).name, "sha256": _hash(Path(m))} for m in models]
    data = {"original": hashes[0], "folded": hashes[1], **_data(comparison)}
    try:
        Path(path).write_text(json.dumps(data, indent=2, default=_plain_value) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "check the path") from error


def _data(comparison: Comparison) -> dict[str, Any]:
    return {"equal": comparison.equal, **asdict(comparison)}


def _plain_value(value: object) -> object:
    assert isinstance(value, Enum)
    return value.value


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def number(value: float) -> str:
    """Three digits; 0 as it is."""
    return "0" if value == 0 else f"{value:.2e}"


def count(amount: int, noun: str) -> str:
    """The amount and the noun, in the plural where it must be."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"
