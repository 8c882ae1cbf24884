"""A report as GitHub-flavoured Markdown, as it stands in a CI's step summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bnfold.reporting.content import ERROR, FAILED, PASSED, ModelReport, Report, SiteReport
from bnfold.text.escape import code, markdown
from bnfold.text.formatting import count, number, size, times
from bnfold.verification.comparison import Comparison

_MARKS = {PASSED: "✅", FAILED: "❌", ERROR: "⚠️"}
_MOST_ROWS = 200  # of one table
_MOST_MODELS = 100  # that are told at length
_ALONE = 3  # models up to which each is told at length even where nothing is wrong


def render(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"## {_MARKS[report.status]} bnfold {report.command}"
    yield ""
    models = report.models
    if len(models) > 1:
        bad = sum(model.status != PASSED for model in models)
        yield f"{count(len(models), 'model')}, {bad or 'none'} failed"
        yield ""
        yield from _overview(models)
    told = [m for m in models if m.status != PASSED or len(models) <= _ALONE]
    for model in told[:_MOST_MODELS]:
        yield from _model(model, "would fold" if report.command == "inspect" else "folded")
    if len(told) > _MOST_MODELS:
        yield f"… and {len(told) - _MOST_MODELS} more"
        yield ""
    versions = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    yield f"<sub>bnfold {report.bnfold}, {markdown(versions)}</sub>"


def _overview(models: Sequence[ModelReport]) -> Iterator[str]:
    rows = (
        (_MARKS[model.status], code(model.path, in_table=True), markdown(model.sentence))
        for model in sorted(models, key=lambda model: model.status == PASSED)
    )
    yield from _table(("", "model", "what became of it"), rows, len(models))


def _model(model: ModelReport, done: str) -> Iterator[str]:
    yield f"### {_MARKS[model.status]} {code(model.path)}"
    yield ""
    yield f"{markdown(model.sentence)}"
    yield ""
    if model.error is not None and model.error.remedy:
        yield f"*{markdown(model.error.remedy)}*"
        yield ""
    if model.before is not None and model.after is not None:
        yield from _amounts(model)
    rows = [(code(fault.site, in_table=True), markdown(fault.sentence)) for fault in model.faults]
    yield from _table(("BatchNormalization", "what is wrong"), rows, len(rows))
    yield from _sites(model.sites, done)
    if model.comparison is not None:
        yield from _comparison(model.comparison)


def _amounts(model: ModelReport) -> Iterator[str]:
    before, after = model.before, model.after
    assert before is not None
    assert after is not None
    rows = [
        ("nodes", str(before.nodes), str(after.nodes)),
        ("BatchNormalizations", str(before.batch_norms), str(after.batch_norms)),
    ]
    if before.bytes is not None and after.bytes is not None:
        rows.append(("file size", size(before.bytes), size(after.bytes)))
    yield from _table(("", "before", "after"), rows, len(rows))


def _sites(sites: Sequence[SiteReport], done: str) -> Iterator[str]:
    """What stays is told at once, what folds on demand."""
    kept = [site for site in sites if not site.folded]
    rows = ((code(site.full_name, in_table=True), _verdict(site)) for site in kept)
    yield from _table(("kept", "why, and what to do"), rows, len(kept))
    gone = [site for site in sites if site.folded]
    if gone:
        yield f"<details><summary>{len(gone)} {done}</summary>"
        yield ""
        into = ((code(site.full_name, in_table=True), _verdict(site)) for site in gone)
        yield from _table((done, "into"), into, len(gone))
        yield "</details>"
        yield ""


def _verdict(site: SiteReport) -> str:
    if site.reason is None:
        if site.written_out:
            return "written out, no gain on a CPU"
        if site.into == (site.name,):
            return "only a shift is left of it: an Add"
        return ", ".join(code(name, in_table=True) for name in site.into) or "did nothing"
    causes = [cause for cause in (site.reason, site.below) if cause is not None]
    told = dict.fromkeys(f"**{cause.code}**: {markdown(cause.sentence)}" for cause in causes)
    remedies = dict.fromkeys(f"*{markdown(cause.remedy)}*" for cause in causes)
    return "<br>".join([*told, *remedies])


def _comparison(found: Comparison) -> Iterator[str]:
    named = [(n, c) for n, c in (("frame", found.frame), ("proof", found.certificate)) if c]
    checks = [f"{name} {check.verdict.value}" for name, check in named]
    if found.folds:
        checks.append(f"{count(len(found.folds), 'fold')} run alone")
    runs = f"run in onnxruntime {times(found.runs)}" if found.runs else "not run"
    outcome = "Equal" if found.equal else "Not checked" if found.passed else "**Not equal**"
    yield f"{outcome}: {', '.join([*checks, runs])}."
    yield ""
    findings = [finding for _, check in named for finding in check.findings]
    rows = [(code(f.node, in_table=True), markdown(f.sentence)) for f in findings]
    yield from _table(("node", "found"), rows, len(rows))
    outputs = [
        (
            code(output.name, in_table=True),
            *map(number, (output.max_abs, output.max_rel, output.bound)),
            "equal" if output.equal else f"**not equal** {markdown(output.note)}",
        )
        for output in found.outputs
    ]
    yield from _table(("output", "max abs", "max rel", "bound", ""), outputs, len(outputs))


def _table(head: Sequence[str], rows: Any, total: int) -> Iterator[str]:
    if not total:
        return
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for place, row in enumerate(rows):
        if place == _MOST_ROWS:
            yield f"| … and {total - _MOST_ROWS} more |{' |' * (len(head) - 1)}"
            break
        yield f"| {' | '.join(row)} |"
    yield ""
