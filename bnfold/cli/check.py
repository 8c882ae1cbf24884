"""The command that pipelines call. Heavy imports stay inside it."""

from __future__ import annotations

from typing import Any

import click

from bnfold.cli.options import debug_option, fold_options, make_options, recursive_option
from bnfold.cli.reporting import Reporting, report_options
from bnfold.cli.tuning import data_options, make_data


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=click.Path())
@recursive_option
@click.option(
    "--fail-on", type=click.Choice(["foldable", "any", "drifted"]), default="foldable",
    show_default=True,
    help="What must not be: something that would fold, any BatchNormalization, or one whose "
    "statistics do not fit the data of --inputs.",
)  # fmt: skip
@click.option("--baseline", metavar="FILE", type=click.Path(dir_okay=False),
              help="JSON file with what is accepted.")  # fmt: skip
@click.option("--write-baseline", is_flag=True, help="Write what is found there, and accept it.")
@fold_options
@lambda command: data_options(command, required=False)
@report_options
@debug_option
@click.pass_context
def check(
    ctx: click.Context, /, models: tuple[str, ...], recursive: bool, fail_on: str,
    baseline: str | None, write_baseline: bool, inputs: str | None, assume_inference: bool,
    report_files: tuple[str, ...], no_ci: bool, **others: Any,
) -> None:  # fmt: skip
    """Fail where something is left to fold: the gate of a pipeline.

    No model is written. MODEL is a file, a pattern or a folder.

    \b
    Exit codes: 0 where all models are as they should be, 1 where one is not, or that of the error.

    \b
    Examples:
      bnfold check model.onnx
      bnfold check model.onnx --report check.junit.xml
      bnfold check model.onnx --fail-on any --baseline accepted.json --write-baseline
    """
    from pathlib import Path

    from bnfold.cli.render.check import of_check
    from bnfold.cli.render.console import console
    from bnfold.onnx_io.replace_file import Kind, require_replaceable
    from bnfold.pipeline import batch, gate
    from bnfold.pipeline.batch import worst_exit_code
    from bnfold.reporting import content

    reporting = Reporting("check", report_files, no_ci, (*models, baseline, inputs))
    options = make_options(others)
    if write_baseline and baseline is None:
        raise click.UsageError("--write-baseline needs --baseline FILE to write to")
    file = None if baseline is None else Path(baseline)
    if write_baseline and file is not None:
        used = [path for path in (*models, *report_files, inputs) if path is not None]
        require_replaceable(file, Kind.BASELINE, used)
    accepted = gate.read_baseline(file) if file is not None and not write_baseline else None
    data = None if inputs is None else make_data(inputs, **others)
    checked = gate.check(
        batch.models_of(models, recursive=recursive), fail_on=fail_on, options=options,
        baseline=accepted, data=data, assume_inference=assume_inference,
    )  # fmt: skip
    if write_baseline and file is not None:
        gate.write_baseline(file, checked)
        checked = gate.accepting(checked)
    worst = worst_exit_code(one.exit_code for one in checked)
    reporting.give(lambda: content.of_check(checked, worst))
    console().print(of_check(checked))
    ctx.exit(reporting.exit_code(worst))
