"""The result of a comparison, to be read by people. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from bnfold.cli.render.console import table
from bnfold.proof.kernel.outcome import Certificate, Outcome
from bnfold.text.flags import as_flags
from bnfold.text.formatting import count, number, plain, times
from bnfold.verification.comparison import FRAME_ALONE, Comparison, FoldRun, OutputDifference

_MOST_FINDINGS = 3
_COLOURS = {Outcome.VALID: "green", Outcome.INVALID: "red", Outcome.UNDECIDED: "yellow"}


def of_verify(comparison: Comparison, *, verbose: bool = False) -> RenderableType:
    """The report of `bnfold verify`: the outcome; and how it was found, where that is asked for.

    It is always told where the models are not equal, or not everything was decided.
    """
    checks = [check for check in (comparison.frame, comparison.certificate) if check is not None]
    plainly = comparison.passed and not comparison.not_run
    plainly &= not any(check.findings for check in checks)
    outcome = Text(_in_one_sentence(comparison), style="bold green" if plainly else "bold")
    return outcome if plainly and not verbose else Group(outcome, of_comparison(comparison))


def _in_one_sentence(comparison: Comparison) -> str:
    if not comparison.passed:
        return "not equal"
    if comparison.frame_alone:
        return FRAME_ALONE
    if not comparison.runs:
        return "equal up to rounding: proven from the two files, for every input; not run"
    what = count(len(comparison.outputs), "output") if comparison.outputs else "every fold"
    certificate = comparison.certificate
    proven = certificate is not None and certificate.verdict is Outcome.VALID
    said = "proven from the files, and " if proven else ""
    sets = count(comparison.runs, "set")
    return f"equal up to rounding: {said}{what} compared on {sets} of inputs"


def of_comparison(comparison: Comparison) -> RenderableType:
    """How two models were compared: the checks, the inputs used and one row for each output."""
    shapes = ", ".join(
        f"{plain(i.name)} {i.dtype}{list(i.shape)}" for i in comparison.inputs
    )  # fmt: skip
    parts: list[RenderableType] = [Text(""), *_of_files(comparison)]
    if comparison.not_run:
        parts.append(Text(f"not run: {as_flags(plain(comparison.not_run))}\n"))
    if not comparison.runs and not comparison.mismatch:
        return Group(*parts)
    if comparison.runs:
        runs = times(comparison.runs)
        parts.append(Text(f"run in onnxruntime {runs} on {shapes or 'no inputs'}"))
    if comparison.counterexample:
        parts.insert(0, Text(f"saved what shows it in {plain(comparison.counterexample)}"))
    if comparison.mismatch:
        parts.append(Text(f"not equal: {plain(comparison.mismatch)}", style="red"))
        return Group(*parts)
    if comparison.outputs:
        parts.append(_of_outputs(comparison))
    parts.extend(_of_deployed(comparison))
    return Group(*parts, Text(""))


def _of_outputs(comparison: Comparison) -> RenderableType:
    """One row for each output, and below it where it differs if it is not equal."""
    columns = {"max abs": "max_abs", "max rel": "max_rel", "bound": "bound"}
    for header, name in (
        ("off float64", "error_original"), ("folded off", "error_folded"),
        ("off expected", "expected_original"), ("folded off", "expected_folded"),
    ):  # fmt: skip
        if any(getattr(output, name) is not None for output in comparison.outputs):
            columns[header if header not in columns else f"{header} "] = name
    rows = table("output", *columns, "", right=columns)
    notes: list[RenderableType] = []
    for output in comparison.outputs:
        figures = (getattr(output, name) for name in columns.values())
        cells = ("" if figure is None else number(figure) for figure in figures)
        rows.add_row(Text(plain(output.name)), *cells, _outcome(output))
        if not output.equal and output.original is not None:
            notes.append(Text(f"  {plain(output.name)}{_where(output)}", style="red"))
    return Group(rows, *notes)


def _where(at: OutputDifference | FoldRun) -> str:
    """Where two models differ most, and what they give there."""
    exact = "" if at.exact is None else f", without rounding it is {at.exact:.9g}"
    channel = f", channel {at.channel}" if isinstance(at, FoldRun) else f", run {at.run + 1}"
    return f"{list(at.place)}{channel}: {at.original:.9g} became {at.folded:.9g}{exact}"


def _of_deployed(comparison: Comparison) -> Iterable[RenderableType]:
    deployed = comparison.deployed
    if deployed is None:
        return
    text = Text("with onnxruntime's optimisations: ")
    if deployed.note:
        text.append(as_flags(plain(deployed.note)), style="yellow" if deployed.equal else "red")
    else:
        text.append(f"equal, the largest difference is {number(deployed.max_abs)}")
    yield text


def _of_files(comparison: Comparison) -> Iterable[RenderableType]:
    """What the two files tell, a line for each check, and what was found."""
    rows = table("check", "verdict", show_header=False)
    frame, certificate = comparison.frame, comparison.certificate
    if frame is not None:
        text = Text(frame.verdict.value, style=_COLOURS[frame.verdict])
        if frame.verdict is Outcome.VALID:
            text.append(": nothing has changed but what was folded")
        rows.add_row("frame", text)
    if certificate is not None and (certificate.folds or certificate.findings):
        text = Text(certificate.verdict.value, style=_COLOURS[certificate.verdict])
        if certificate.verdict is Outcome.VALID:
            text.append(f": {_certified(certificate)}")
        rows.add_row("proof", text)
    failed = [fold for fold in comparison.folds if not fold.valid]
    if comparison.folds:
        outcome = Outcome.INVALID if failed else Outcome.VALID
        text = Text(outcome.value, style=_COLOURS[outcome])
        if not failed:
            text.append(f": {_run_alone(comparison)}")
        rows.add_row("folds", text)
    yield rows
    failed.sort(key=lambda fold: -fold.c / fold.gate)
    for fold in failed[:_MOST_FINDINGS]:
        yield Text(
            f"  {plain(fold.node)}: its result {plain(fold.output)}{_where(fold)}: "
            f"{fold.c:.3g}·u·A(x) apart, roundings make up to {fold.gate:.3g}",
            style="red",
        )
    if len(failed) > _MOST_FINDINGS:
        yield Text(f"  … and {len(failed) - _MOST_FINDINGS} more folds")
    for sentence in comparison.folds_not_run[:_MOST_FINDINGS]:
        yield Text(f"  not run alone: {plain(sentence)}")
    if len(comparison.folds_not_run) > _MOST_FINDINGS:
        yield Text(f"  … and {len(comparison.folds_not_run) - _MOST_FINDINGS} more not run alone")
    checks = [check for check in (certificate, frame) if check is not None]
    findings = [finding for check in checks for finding in check.findings]
    findings.sort(key=lambda finding: finding.verdict is Outcome.UNDECIDED)
    for finding in findings[:_MOST_FINDINGS]:
        where = f"{plain(finding.node)}: " if finding.node else ""
        yield Text(f"  {where}{plain(finding.sentence)}", style=_COLOURS[finding.verdict])
    if len(findings) > _MOST_FINDINGS:
        yield Text(f"  … and {len(findings) - _MOST_FINDINGS} more")


def _run_alone(comparison: Comparison) -> str:
    """How close the folds come to their bounds."""
    folds = [fold for fold in comparison.folds if not fold.excused]
    said = f"{count(len(comparison.folds), 'fold')} run alone"
    if folds:
        worst = max(folds, key=lambda fold: fold.c / fold.gate)
        most = f"{worst.c / worst.gate:.0%} of what roundings make (at {plain(worst.node)})"
        said += f", apart by at most {most}"
    if excused := len(comparison.folds) - len(folds):
        said += f", {count(excused, 'fold')} decided against float64"
    return said


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
    return Text(
        f"not equal{f': {as_flags(plain(output.note))}' if output.note else ''}", style="red"
    )
