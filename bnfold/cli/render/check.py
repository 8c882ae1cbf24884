"""What the gate found, to be read by people. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from bnfold.pipeline.gate import CheckResult
from bnfold.text.flags import as_flags
from bnfold.text.formatting import count, plain


def of_check(checked: Sequence[CheckResult]) -> RenderableType:
    """The report of `bnfold check`: what is wrong, model by model, and a summary."""
    parts: list[RenderableType] = []
    for one in checked:
        path = plain(one.path)
        if one.error is not None:
            parts.append(
                Text(f"{path}: not checked: {as_flags(plain(one.error.message))}", style="yellow")
            )
        for fault in one.faults:
            line = f"{path}: {plain(fault.site)}: {plain(fault.sentence)}"
            parts.append(Text(line, style="red"))
        parts.extend(
            Text(f"{path}: {plain(name)} is accepted, and not there any more") for name in one.stale
        )
    return Group(*parts, Text(_summary(checked), style="bold"))


def _summary(checked: Sequence[CheckResult]) -> str:
    failed = sum(bool(one.faults) for one in checked)
    errors = sum(one.error is not None for one in checked)
    accepted = sum(len(one.accepted) for one in checked)
    parts = [f"{count(len(checked), 'model')} checked"]
    parts.append(f"{failed} failed" if failed else "all as they should be" if not errors else "")
    if errors:
        parts.append(f"{errors} could not be checked")
    if accepted:
        parts.append(f"{count(accepted, 'site')} accepted")
    return ", ".join(filter(None, parts))
