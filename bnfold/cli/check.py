"""The command that pipelines call. Heavy imports stay inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from bnfold.cli import sections
from bnfold.cli.options import (
    assume_inference_option,
    command,
    data_options,
    display_options,
    fold_options,
    option,
    recursive_option,
)
from bnfold.cli.reporting import Reporting, ReportRequest, report_options
from bnfold.cli.terminal.display import Display
from bnfold.options import FailOn, Options

if TYPE_CHECKING:
    from bnfold.tuning.data_statistics import Dataset


@command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=click.Path())
@option(
    sections.VERIFICATION,
    "--fail-on",
    type=click.Choice(get_args(FailOn)),
    default="foldable",
    show_default=True,
    help="Fail if something could still be folded, if there is any BatchNormalization, if one has "
    "statistics that do not fit the data of --inputs, or that contradict those before it.",
)
@option(
    sections.VERIFICATION,
    "--baseline",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="JSON file with what is accepted.",
)
@option(
    sections.VERIFICATION,
    "--write-baseline",
    is_flag=True,
    help="Accept everything that is found, and write it to the baseline.",
)
@fold_options
@data_options(required=False)
@assume_inference_option
@report_options
@recursive_option
@display_options
@click.pass_context
def check(
    ctx: click.Context, /, models: tuple[str, ...], fail_on: FailOn, baseline: str | None,
    write_baseline: bool, options: Options, data: Dataset | None, assume_inference: bool,
    reports: ReportRequest, recursive: bool, display: Display,
) -> None:  # fmt: skip
    """Fail if something is left to fold: the gate of a pipeline.

    No model is written. MODEL is a file, a pattern or a folder.

    \b
    Exit codes: 0 if all models pass, 1 if one does not, or that of the error.

    \b
    Examples:
      bnfold check model.onnx
      bnfold check model.onnx --report check.junit.xml
      bnfold check model.onnx --fail-on any --baseline accepted.json --write-baseline
    """
    from pathlib import Path

    from bnfold.cli.render.check import of_check
    from bnfold.onnx_io.replace_file import Kind, require_replaceable
    from bnfold.pipeline import gate
    from bnfold.pipeline.batch import worst_exit_code
    from bnfold.reporting import content

    inputs = None if data is None else data.path
    reporting = Reporting("check", reports, (*models, baseline, inputs))
    if write_baseline and baseline is None:
        raise click.UsageError("--write-baseline needs --baseline FILE to write to")
    file = None if baseline is None else Path(baseline)
    if write_baseline and file is not None:
        used = [path for path in (*models, *reports.report, inputs) if path is not None]
        require_replaceable(file, Kind.BASELINE, used)
    accepted = gate.read_baseline(file) if file is not None and not write_baseline else None
    with display.progress() as progress:
        checked = gate.check(
            models, recursive=recursive, fail_on=fail_on, options=options, baseline=accepted,
            data=data, assume_inference=assume_inference, progress=progress,
        )  # fmt: skip
    if write_baseline and file is not None:
        gate.write_baseline(file, checked)
        checked = gate.accepting(checked)
    worst = worst_exit_code(one.exit_code for one in checked)
    reporting.write(lambda: content.of_check(checked, worst))
    display.print(of_check(checked))
    ctx.exit(reporting.exit_code(worst))
