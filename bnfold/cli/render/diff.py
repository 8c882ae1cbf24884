"""What changed between two models, to be read by people. Pure."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from bnfold.diffing.model_diff import ADDED, REMOVED, Change, Difference
from bnfold.text.formatting import count, plain

_MARKS = {ADDED: ("+", "green"), REMOVED: ("-", "red")}
_CHANGED = ("~", "yellow")


def of_diff(difference: Difference) -> RenderableType:
    """One line for each change, in the order of the model, and what they are in all."""
    parts: list[RenderableType] = [_line(change) for change in difference.changes]
    same = (
        f"{count(difference.same_nodes, 'node')} and {count(difference.same_tensors, 'tensor')} "
        "are the same"
    )
    kinds: dict[tuple[str, str], int] = {}
    for change in difference.changes:
        kinds[change.kind, change.what] = kinds.get((change.kind, change.what), 0) + 1
    told = ", ".join(f"{count(number, kind)} {what}" for (kind, what), number in kinds.items())
    parts.append(
        Text(f"\n{told}; {same}" if told else f"nothing has changed: {same}", style="bold")
    )
    return Group(*parts)


def _line(change: Change) -> Text:
    mark, style = _MARKS.get(change.what, _CHANGED)
    where = f" in {plain(change.scope)}" if change.scope else ""
    text = Text(f"{mark} {change.kind} {plain(change.name)}".rstrip() + where, style=style)
    if change.details:
        text.append(f": {plain('; '.join(change.details))}", style="default")
    return text
