"""The commands that compare two models. Heavy imports stay inside them."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import click

from bnfold.cli import sections
from bnfold.cli.option_types import CurrentChoice
from bnfold.cli.options import (
    command,
    display_options,
    freeze_initializers_option,
    json_option,
    option,
    run_options,
)
from bnfold.cli.reporting import Reporting, ReportRequest, report_options
from bnfold.cli.terminal.display import Display
from bnfold.options import Level, RunOptions

_NOT_EQUAL = 1


@command()
@click.argument("original", type=click.Path())
@click.argument("folded", type=click.Path())
@option(
    sections.VERIFICATION,
    "--level",
    type=CurrentChoice(get_args(Level)),
    default="full",
    show_default=True,
    help="How far to go. frame: nothing changed except what was folded, weights are not looked "
    "at; proof: and the folds are right for every input; folds: and each folded node gives the "
    "same when run on its own; run: a proof, and both models on the same inputs; full: all of "
    "these, and errors against float64.",
)
@option(
    sections.VERIFICATION,
    "--foreign",
    is_flag=True,
    help="FOLDED was made by another tool: accept changes of names and metadata, and constants "
    "that were rounded more than once.",
)
@option(
    sections.VERIFICATION,
    "--proof",
    "proof_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Check this proof, which bnfold optimize wrote, instead of looking for one.",
)
@freeze_initializers_option
@run_options()
@json_option("Print the result as JSON.")
@option(
    sections.REPORTS,
    "--certificate",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the result, with the hashes of both models, to this JSON file.",
)
@report_options
@display_options
def verify(
    original: str, folded: str, level: Level, foreign: bool, proof_file: str | None,
    freeze_initializers: bool, run_options: RunOptions, as_json: bool, certificate: str | None,
    reports: ReportRequest, display: Display,
) -> None:  # fmt: skip
    """Check that two models are equal.

    From their files, and by running them. FOLDED must be ORIGINAL with folds and nothing else. For
    files that other tools wrote add --foreign: any two models with the same inputs and outputs can
    be compared then.

    \b
    Examples:
      bnfold verify model.onnx model.folded.onnx
      bnfold verify model.onnx model.folded.onnx --level proof
      bnfold verify model.onnx model.folded.onnx --proof model.proof.json --level proof
      bnfold verify model.onnx slim.onnx --foreign --input-shape image:1,3,224,224
    """
    from pathlib import Path

    from bnfold.verification.waiting import early_worker

    click.get_current_context().with_resource(early_worker(level))
    import bnfold
    from bnfold.cli.render.comparison import of_verify
    from bnfold.onnx_io.replace_file import Kind, require_replaceable
    from bnfold.reporting import comparison_json, content

    inputs = run_options.inputs
    reporting = Reporting("verify", reports, (original, folded, certificate, proof_file, inputs))
    if certificate is not None:
        used = [path for path in (original, folded, proof_file, inputs, *reports.report) if path]
        require_replaceable(Path(certificate), Kind.CERTIFICATE, used)
    with reporting.on_error(folded), display.progress() as progress:
        comparison = bnfold.verify(
            original, folded, run_options=run_options, level=level, foreign=foreign,
            freeze_initializers=freeze_initializers, proof_file=proof_file, progress=progress,
        )  # fmt: skip
    reporting.write(lambda: content.of_verify(comparison, original, folded))
    if certificate is not None:
        comparison_json.save(comparison, [original, folded], certificate)
    if as_json:
        click.echo(comparison_json.as_json(comparison), nl=False)
    else:
        display.print(of_verify(comparison, verbose=display.verbose))
    raise click.exceptions.Exit(reporting.exit_code(0 if comparison.passed else _NOT_EQUAL))


@command()
@click.argument("original", type=click.Path())
@click.argument("folded", type=click.Path())
@json_option("Print the changes as JSON.")
@option(sections.GENERAL, "--exit-code", is_flag=True, help="Exit with 1 if anything has changed.")
@display_options
def diff(original: str, folded: str, as_json: bool, exit_code: bool, display: Display) -> None:
    """Show what changed between two models.

    Node by node and tensor by tensor. Whether the changes are right is for bnfold verify to say.

    \b
    Examples:
      bnfold diff model.onnx model.folded.onnx
      bnfold diff model.onnx copy.onnx --exit-code
    """
    from bnfold.cli.render.diff import of_diff
    from bnfold.diffing import model_diff
    from bnfold.text.json_encoding import dumps

    found = model_diff.diff(original, folded)
    if as_json:
        click.echo(dumps({"same": found.same} | asdict(found)), nl=False)
    else:
        display.print(of_diff(found))
    if exit_code and not found.same:
        raise click.exceptions.Exit(_NOT_EQUAL)
