"""What became of a model, in one sentence: as the terminal and every report say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from bnfold.api.files import OptimizeResult
from bnfold.api.models import Inspection
from bnfold.graph.index import BATCH_NORM
from bnfold.text.flags import flag
from bnfold.text.formatting import count, plain
from bnfold.tuning.prediction.verdicts import Consistency, LayerSummary
from bnfold.verdict import Verdict


def would_fold(inspection: Inspection) -> str:
    """What would become of a model, in one sentence."""
    if not inspection.verdicts:
        return f"there is no {BATCH_NORM}{_with_flags(inspection.flags)}"
    would = f"{_folded(inspection.verdicts)} would be folded{_written_out(inspection.verdicts)}"
    return f"{would}{_with_flags(inspection.flags)}"


def statistics(layers: Sequence[LayerSummary]) -> str:
    """Whether stored statistics fit each other, in one line; nothing where there are none."""
    if not layers:
        return ""
    found = Counter(layer.verdict for layer in layers)
    told = ", ".join(
        f"{found[verdict]} {verdict.value}" for verdict in Consistency if found[verdict]
    )
    wrong = [plain(layer.node) for layer in layers if layer.verdict is Consistency.CONTRADICTS]
    if not wrong:
        return f"stored statistics: {told}"
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"stored statistics: {told} ({', '.join(wrong[:3])}{more}): bnfold stats says why"


def closing(result: OptimizeResult) -> str:
    """What became of a model, in one sentence."""
    return f"{_what_folded(result)}{_equalized(result)}"


def _what_folded(result: OptimizeResult) -> str:
    if not result.folded:
        copied = result.equalized is None or not result.equalized.proof
        is_copy = f": {plain(str(result.model))} is a copy of the original" if copied else ""
        return f"nothing to fold{is_copy}{_with_flags(result.flags)}"
    done = f"{_folded(result.verdicts)} folded{_written_out(result.verdicts)}"
    if result.comparison is None:
        return f"{done}; not verified"
    if not result.comparison.runs:
        return f"{done} and proven; not run"
    return f"{done} and verified: equal up to rounding"


def _equalized(result: OptimizeResult) -> str:
    if result.equalized is None:
        return ""
    moved = result.equalized.moved
    return f"; scales moved in {count(moved, 'region')}" if moved else "; no scale to move"


def _folded(verdicts: tuple[Verdict, ...]) -> str:
    norms = [v.folded and not v.written_out for v in verdicts if v.op == BATCH_NORM]
    others = [v for v in verdicts if v.op != BATCH_NORM and v.folded]
    joins = sum(verdict.branches > 0 for verdict in others)
    rows = sum(verdict.branches == 1 for verdict in others)
    parts = [f"{sum(norms)} of {count(len(norms), BATCH_NORM)}"] if norms or not others else []
    if chains := len(others) - joins:
        parts.append(f"{count(chains, 'chain')} of constants")
    if joins - rows:
        parts.append(f"{count(joins - rows, 'sum')} of branches")
    if rows:
        parts.append(f"{count(rows, 'row')} of convolutions")
    return " and ".join(parts)


def _written_out(verdicts: tuple[Verdict, ...]) -> str:
    written = sum(verdict.written_out for verdict in verdicts)
    return f", {written} written out" if written else ""


def _with_flags(more: Mapping[str, int]) -> str:
    """What would fold beyond that, to be said behind a sentence; nothing where nothing would."""
    told = ", ".join(f"{number} more with {flag(name)}" for name, number in more.items())
    return f"; {told}" if told else ""
