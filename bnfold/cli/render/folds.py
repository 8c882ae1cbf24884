"""Results as tables for the terminal. Pure functions from results to rich renderables.

Names come from the model and are not to be trusted: control characters are shown as escapes, and
nothing in a name is read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnfold.api.files import OptimizeResult
from bnfold.api.models import Inspection
from bnfold.cli.render.comparison import of_comparison
from bnfold.cli.render.console import table
from bnfold.cli.render.quantization import ranges
from bnfold.graph.index import BATCH_NORM
from bnfold.pipeline.batch import ModelOutcome
from bnfold.reporting.summary import closing, statistics, would_fold
from bnfold.text.flags import as_flags
from bnfold.text.formatting import count, plain, size
from bnfold.verdict import Verdict


def of_optimize(result: OptimizeResult, source: str, *, verbose: bool = False) -> RenderableType:
    """What became of a model: first the outcome, then what stayed; with `verbose` everything."""
    written = " + ".join(plain(str(path)) for path in (result.model, *result.data_files))
    parts: list[RenderableType] = [
        Text(f"{plain(source)} → {written}"),
        Text(f"{closing(result)}\n", style="bold"),
        _before_and_after(result),
        *_verdicts(result.verdicts, "folded into", verbose=verbose),
    ]
    if result.comparison is not None and verbose:
        parts.append(of_comparison(result.comparison))
    if result.equalized is not None:
        parts += [Text(""), *ranges(result.equalized, verbose=verbose)]
    left = "left behind, no longer needed: "
    parts.extend(Text(left + plain(str(path))) for path in result.left_behind)
    return Group(*parts)


def of_outcome(outcome: ModelOutcome) -> RenderableType:
    """One of several models, in one line."""
    where = plain(str(outcome.source))
    if outcome.error is not None:
        return Text(f"{where}: {plain(outcome.error.message)}", style="red")
    assert outcome.result is not None
    return Text(f"{where} → {plain(str(outcome.result.model))}: {closing(outcome.result)}")


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
    rows = table("model", "exit code", "what to do", show_header=False)
    for one in failed:
        assert one.error is not None
        remedy = as_flags(plain(one.error.remedy))
        rows.add_row(Text(plain(str(one.source))), str(one.error.exit_code), Text(remedy))
    head: list[RenderableType] = []
    if failed:
        head = [Text("\nfailed, with exit codes and what to do:", style="red"), rows]
    return Group(*head, Text("\n" + "\n".join(parts), style="bold"))


def of_inspection(inspection: Inspection, source: str) -> RenderableType:
    """What would become of a model: first the outcome, then every site."""
    counts = inspection.counts
    head = (
        f"{plain(source)}: {counts.nodes} nodes, {count(counts.batch_norms, 'BatchNormalization')}"
    )
    outcome = Text(f"{would_fold(inspection)}; nothing was written", style="bold")
    margin = Text(f"{statistics(inspection.statistics)}\n")
    return Group(
        Text(head), outcome, margin, *_verdicts(inspection.verdicts, "folds into", verbose=True)
    )


def _before_and_after(result: OptimizeResult) -> Table:
    before, after = result.before, result.after
    rows = table("", "before", "after", right=("before", "after"))
    rows.add_row("nodes", str(before.nodes), str(after.nodes))
    rows.add_row("BatchNormalizations", str(before.batch_norms), str(after.batch_norms))
    rows.add_row("file size", size(result.bytes_before), size(result.bytes_after))
    if result.copied_bytes:
        rows.add_row("copies of shared weights", "", f"+{size(result.copied_bytes)}")
    return rows


def _verdicts(verdicts: Iterable[Verdict], folded: str, *, verbose: bool) -> list[RenderableType]:
    """What stayed, with reasons; with `verbose` also what was folded into what."""
    rows = table("\nBatchNormalization", "\nverdict")
    for verdict in verdicts:
        if verbose or not verdict.folded:
            where = f"{verdict.scope}/{verdict.site}" if verdict.scope else verdict.site
            rows.add_row(Text(plain(where)), _verdict(verdict, folded))
    return [rows, Text("")] if rows.row_count else [Text("")]


def _verdict(verdict: Verdict, folded: str) -> Text:
    if verdict.written_out:
        return Text("written out, as asked for: no gain on a CPU", style="green")
    if verdict.into == (verdict.site,):
        return Text("only a shift is left of it: an Add", style="green")
    if verdict.refusal is None:
        into = ", ".join(map(plain, verdict.into))
        merged = f"{verdict.branches} branches" if verdict.branches > 1 else "convolutions in a row"
        how = f"{merged} merged into" if verdict.branches else folded
        return Text(f"{how} {into}" if into else "does nothing", style="green")
    reason = verdict.refusal.reason
    text = Text(f"kept ({reason.code}): {plain(verdict.refusal.sentence)}", style="yellow")
    if verdict.below is not None and verdict.below.reason is not reason:
        below = verdict.below
        text.append(f"\nbelow it ({below.reason.code}): {plain(below.sentence)}", style="yellow")
    for remedy in _remedies(verdict):
        text.append(f"\n{as_flags(remedy)}", style="dim")
    return text


def _remedies(verdict: Verdict) -> list[str]:
    """What can be done about either refusal; "nothing is wrong" only if both say so."""
    refusals = [refusal for refusal in (verdict.refusal, verdict.below) if refusal is not None]
    remedies = dict.fromkeys(refusal.reason.remedy for refusal in refusals)
    useful = [remedy for remedy in remedies if not remedy.startswith("nothing is wrong")]
    return useful or list(remedies)[:1]
