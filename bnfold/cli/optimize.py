"""The commands that fold. Heavy imports stay inside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import stdio
from bnfold.cli.options import (
    debug_option,
    fold_options,
    make_options,
    make_trial,
    recursive_option,
    trial_options,
)
from bnfold.cli.reporting import Reporting, report_options
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.onnx_io.output_paths import PathLike


@click.command()
@click.argument(
    "models", nargs=-1, required=True, metavar="MODEL...", type=click.Path(allow_dash=True)
)
@click.option("-o", "--output", metavar="PATH", type=click.Path(allow_dash=True),
              help="Where to write one model.  [default: MODEL.folded.onnx beside it]")  # fmt: skip
@click.option("--out-dir", metavar="FOLDER", type=click.Path(file_okay=False),
              help="Where to write several models, under their own names.")  # fmt: skip
@click.option("--in-place", is_flag=True, help="Replace MODEL by the folded model.")
@recursive_option
@click.option("--jobs", default=1, show_default=True, metavar="N", type=click.IntRange(min=1),
              help="How many models are worked on at a time.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Of several models, show those that failed.")
@click.option(
    "--verify", type=click.Choice(["full", "certificate", "none"]), default="full",
    show_default=True,
    help="Before anything is written: certify the fold from the two files and compare what they "
    "give in onnxruntime; only certify; or neither.",
)  # fmt: skip
@click.option(
    "--external-data", default="keep", show_default=True, metavar="keep|inline|NAME",
    help="Keep tensors where they are, in the model or in data files; put all into the model; or "
    "put them into one data file beside the output.",
)  # fmt: skip
@fold_options
@trial_options
@report_options
@debug_option
@click.pass_context
def optimize(
    ctx: click.Context, /, models: tuple[str, ...], output: str | None, out_dir: str | None,
    recursive: bool, jobs: int, quiet: bool, report_files: tuple[str, ...], no_ci: bool,
    **others: Any,
) -> None:  # fmt: skip
    """Fold, compare with the original in onnxruntime, and write.

    MODEL is a file, a pattern or a folder, or - for standard input; -o - is standard output. Of
    several models one that fails does not stop the others; the exit code is that of the worst.

    \b
    Examples:
      bnfold optimize model.onnx
      bnfold optimize model.onnx -o deploy/model.onnx --dim batch=1
      bnfold optimize model.onnx --report report.html --report report.json
      bnfold optimize model.onnx other.onnx --out-dir folded --jobs 2
      cat model.onnx | bnfold optimize - > folded.onnx
    """
    from bnfold.pipeline import batch

    data = (others["external_data"], others["inputs"])
    keep = _files(models, output, out_dir, *data, recursive=recursive)
    reporting = Reporting("optimize", report_files, no_ci, keep)
    given = {
        "options": make_options(others), "in_place": others.pop("in_place"),
        "verify": others.pop("verify"), "external_data": others.pop("external_data"),
        "trial": make_trial(**others), "details": reporting.details,
    }  # fmt: skip
    _require_one_place(models, output, out_dir, in_place=given["in_place"])
    if out_dir is None and not batch.is_many(models):
        _one(models[0], output, given, reporting)
        ctx.exit(reporting.exit_code())
    else:
        ctx.exit(_many(models, out_dir, given, reporting, recursive, jobs, quiet))


def _files(
    models: tuple[str, ...], output: str | None, out_dir: str | None, data: str,
    inputs: str | None, *, recursive: bool,
) -> Iterator[PathLike | None]:  # fmt: skip
    """All that is read and written."""
    from bnfold.onnx_io import model_file
    from bnfold.pipeline import batch

    yield inputs
    if output is not None:
        yield from (output, Path(output).parent / data)
    if stdio.STREAM in models:
        return
    for job in batch.jobs_of(models, out_dir=out_dir, recursive=recursive):
        target = job.target or job.source.with_suffix(".folded.onnx")
        if output is not None and Path(output).is_dir():
            target = Path(output, job.source.name)
        yield from (job.source, target, target.with_name(data))
        yield from (job.source.with_name(name) for name in model_file.data_names(job.source))


def _require_one_place(
    models: tuple[str, ...], output: str | None, out_dir: str | None, *, in_place: bool
) -> None:
    """Raises UsageError where it is not clear what goes where."""
    from bnfold.pipeline import batch

    many = out_dir is not None or batch.is_many(models)
    if output is not None and many:
        raise UsageError("-o names one output, of one model", "give --out-dir for several")
    if in_place and out_dir is not None:
        raise UsageError("--in-place and --out-dir exclude each other", "give one of them")
    if stdio.STREAM in models and (many or in_place):
        raise UsageError(
            "what comes from standard input is one model, and has no place of its own",
            "give it alone, with -o or without",
        )


def _one(model: str, output: str | None, given: dict[str, Any], reporting: Reporting) -> None:
    from dataclasses import replace

    import bnfold
    from bnfold.cli.render import folds
    from bnfold.cli.render.console import console
    from bnfold.reporting import content

    if model == stdio.STREAM and output is None:
        output = stdio.STREAM
    if output == stdio.STREAM:
        if given["external_data"] not in ("keep", "inline"):
            raise UsageError("standard output is one file", "leave out --external-data")
        given["external_data"] = "inline"
    with (
        reporting.on_error(model),
        stdio.source(model) as source,
        stdio.target(output) as target,
    ):
        result = bnfold.optimize(source, target, **given)
    if output == stdio.STREAM:
        result = replace(result, model=Path(stdio.STREAM))
    reporting.give(lambda: content.of_optimize([bnfold.ModelOutcome(Path(model), result)], 0))
    console(err=output == stdio.STREAM).print(folds.of_optimize(result, model))


def _many(
    models: tuple[str, ...], out_dir: str | None, given: dict[str, Any], reporting: Reporting,
    recursive: bool, jobs: int, quiet: bool,
) -> int:  # fmt: skip
    """The exit code of the worst."""
    import bnfold
    from bnfold.cli.render import folds
    from bnfold.cli.render.console import console
    from bnfold.cli.render.progress import Batch
    from bnfold.pipeline import batch
    from bnfold.pipeline.batch import worst_exit_code
    from bnfold.reporting import content

    total = len(batch.jobs_of(models, out_dir=out_dir, recursive=recursive))
    with Batch(total, quiet=quiet) as shown:
        done = bnfold.optimize_many(
            models, out_dir=out_dir, recursive=recursive, jobs=jobs, on_done=shown.tell, **given
        )
    worst = worst_exit_code(one.exit_code for one in done)
    reporting.give(lambda: content.of_optimize(done, worst))
    console().print(folds.of_many(done))
    shown.require_shown()
    return reporting.exit_code(worst)


@click.command()
@click.argument("model", type=click.Path(allow_dash=True))
@fold_options
@report_options
@debug_option
@click.pass_context
def inspect(
    ctx: click.Context, /, model: str, report_files: tuple[str, ...], no_ci: bool, **others: Any
) -> None:
    """Say what would fold, and why the rest would not.

    Nothing is written. MODEL is a file, or - for standard input.

    \b
    Examples:
      bnfold inspect model.onnx
      bnfold inspect model.onnx --report report.html
    """
    import bnfold
    from bnfold.cli.render import folds
    from bnfold.cli.render.console import console
    from bnfold.reporting import content

    reporting = Reporting("inspect", report_files, no_ci, (model,))
    options = make_options(others)
    with reporting.on_error(model), stdio.source(model) as source:
        inspection = bnfold.inspect(source, options=options, details=reporting.details)
    reporting.give(lambda: content.of_inspect(inspection, model))
    console().print(folds.of_inspection(inspection, model))
    ctx.exit(reporting.exit_code())
