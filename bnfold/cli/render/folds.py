"""Results as tables for the terminal. Pure functions from results to rich renderables.

Names come from the model and are not to be trusted: control characters are shown as escapes, and
nothing in a name is read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnfold.api import Inspection, OptimizeResult
from bnfold.cli.render.comparison import of_comparison
from bnfold.graph.index import BATCH_NORM
from bnfold.pipeline.batch import ModelOutcome
from bnfold.reporting.summary import closing, would_fold
from bnfold.text.formatting import count, plain, size
from bnfold.verdict import Verdict


def of_optimize(result: OptimizeResult, source: str) -> RenderableType:
    """The whole report of `bnfold optimize`."""
    written = " + ".join(plain(str(path)) for path in (result.model, *result.data_files))
    parts: list[RenderableType] = [Text(f"{plain(source)} → {written}\n")]
    parts.append(_before_and_after(result))
    parts.extend(_verdicts(result.verdicts))
    if result.comparison is not None:
        parts.append(of_comparison(result.comparison))
    left = "left where it is, but not needed any more: "
    parts.extend(Text(left + plain(str(path))) for path in result.left_behind)
    parts.append(Text(closing(result), style="bold"))
    return Group(*parts)


def of_done(done: ModelOutcome) -> RenderableType:
    """One of several models, in one line."""
    where = plain(str(done.source))
    if done.error is not None:
        return Text(f"{where}: {plain(done.error.message)}", style="red")
    assert done.result is not None
    return Text(f"{where} → {plain(str(done.result.model))}: {closing(done.result)}")


def of_many(done: Sequence[ModelOutcome]) -> RenderableType:
    """What became of several models, all together."""
    results = [one.result for one in done if one.result is not None]
    folded = sum(bool(result.folded) for result in results)
    gone = sum(result.before.batch_norms - result.after.batch_norms for result in results)
    kept = sum(result.after.batch_norms for result in results)
    parts = [
        f"{count(len(done), 'model')}: {folded} folded, {len(results) - folded} with nothing to "
        f"fold, {len(done) - len(results)} failed",
        f"{count(gone, BATCH_NORM)} gone, {kept} kept",
    ]
    failed = [one for one in done if one.error is not None]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    for one in failed:
        assert one.error is not None
        table.add_row(
            Text(plain(str(one.source))), str(one.error.exit_code), plain(one.error.remedy)
        )
    head: list[RenderableType] = []
    if failed:
        head = [Text("\nfailed, with exit codes and what to do:", style="red"), table]
    return Group(*head, Text("\n" + "\n".join(parts), style="bold"))


def of_inspection(inspection: Inspection, source: str) -> RenderableType:
    """The whole report of `bnfold inspect`."""
    counts = inspection.counts
    head = (
        f"{plain(source)}: {counts.nodes} nodes, {count(counts.batch_norms, 'BatchNormalization')}"
    )
    end = Text(f"{would_fold(inspection)}; nothing was written", style="bold")
    return Group(Text(head + "\n"), *_verdicts(inspection.verdicts), end)


def _before_and_after(result: OptimizeResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for header in ("", "before", "after"):
        table.add_column(header, justify="right" if header else "left")
    before, after = result.before, result.after
    table.add_row("nodes", str(before.nodes), str(after.nodes))
    table.add_row("BatchNormalizations", str(before.batch_norms), str(after.batch_norms))
    table.add_row("file size", size(result.bytes_before), size(result.bytes_after))
    if result.copied_bytes:
        table.add_row("copies of shared weights", "", f"+{size(result.copied_bytes)}")
    return table


def _verdicts(verdicts: Iterable[Verdict]) -> list[RenderableType]:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("\nBatchNormalization", overflow="fold")
    table.add_column("\nverdict", overflow="fold")
    for verdict in verdicts:
        where = f"{verdict.scope}/{verdict.site}" if verdict.scope else verdict.site
        table.add_row(Text(plain(where)), _verdict(verdict))
    return [table, Text("")] if table.row_count else [Text("")]


def _verdict(verdict: Verdict) -> Text:
    if verdict.refusal is None:
        into = ", ".join(map(plain, verdict.into))
        how = f"{verdict.branches} branches merged" if verdict.branches else "folded"
        return Text(f"{how} into {into}" if into else "did nothing", style="green")
    reason = verdict.refusal.reason
    text = Text(f"kept ({reason.code}): {plain(verdict.refusal.sentence)}", style="yellow")
    if verdict.below is not None and verdict.below.reason is not reason:
        below = verdict.below
        text.append(f"\nbelow it ({below.reason.code}): {plain(below.sentence)}", style="yellow")
    for remedy in _remedies(verdict):
        text.append(f"\n{remedy}", style="dim")
    return text


def _remedies(verdict: Verdict) -> list[str]:
    """What can be done about either refusal; "nothing is wrong" only if both say so."""
    refusals = [refusal for refusal in (verdict.refusal, verdict.below) if refusal is not None]
    remedies = dict.fromkeys(refusal.reason.remedy for refusal in refusals)
    useful = [remedy for remedy in remedies if not remedy.startswith("nothing is wrong")]
    return useful or list(remedies)[:1]
