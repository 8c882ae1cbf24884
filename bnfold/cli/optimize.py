"""The commands that fold. Heavy imports stay inside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import sections
from bnfold.cli.options import (
    command,
    display_options,
    fold_options,
    moments_option,
    option,
    recursive_option,
    run_options,
    verify_option,
)
from bnfold.cli.reporting import Reporting, ReportRequest, report_options
from bnfold.cli.terminal import stdio
from bnfold.cli.terminal.display import Display
from bnfold.errors import UsageError
from bnfold.options import Options, RunOptions

if TYPE_CHECKING:
    from bnfold.onnx_io.output_paths import PathLike
    from bnfold.pipeline.model_paths import Job
    from bnfold.reporting.content import Report


@command()
@click.argument(
    "models", nargs=-1, required=True, metavar="MODEL...", type=click.Path(allow_dash=True)
)
@fold_options
@option(
    sections.OUTPUT,
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(allow_dash=True),
    help="Where to write one model.  [default: MODEL.folded.onnx beside it]",
)
@option(
    sections.OUTPUT,
    "--out-dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Where to write several models, under their own names.",
)
@option(sections.OUTPUT, "--in-place", is_flag=True, help="Replace MODEL by the folded model.")
@option(
    sections.OUTPUT,
    "--external-data",
    default="keep",
    show_default=True,
    metavar="keep|inline|NAME",
    help="Keep tensors where they are, in the model or in data files; put all of them into the "
    "model; or put them into one data file of this name.",
)
@option(
    sections.OUTPUT,
    "--proof",
    "proof_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Also write the proof, an in-toto statement that bnfold verify can check again.",
)
@moments_option
@option(
    sections.OUTPUT,
    "--equalize",
    is_flag=True,
    help="Also move scales between layers, by powers of two, so that int8 loses less: see bnfold "
    "equalize.",
)
@verify_option(
    "How to verify before anything is written: not at all (none), from the two files (proof), by "
    "running both models as well (run), or with every fold run by itself and float64 too (full)."
)
@run_options()
@report_options
@recursive_option
@option(
    sections.GENERAL,
    "--jobs",
    default=1,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of models to work on in parallel.",
)
@display_options
@click.pass_context
def optimize(
    ctx: click.Context, /, models: tuple[str, ...], output: str | None, out_dir: str | None,
    in_place: bool, external_data: str, proof_file: str | None, moments_file: str | None,
    equalize: bool, verify: str, options: Options, run_options: RunOptions,
    reports: ReportRequest, recursive: bool, jobs: int, display: Display,
) -> None:  # fmt: skip
    """Fold, verify against the original, and write.

    MODEL is a file, a pattern or a folder, or - for standard input; -o - is standard output. When
    one of several models fails, the others are still folded; the exit code is 1 if one is not
    equal, else the largest of all.

    \b
    Examples:
      bnfold optimize model.onnx
      bnfold optimize model.onnx -o deploy/model.onnx --dim batch=1
      bnfold optimize model.onnx --report report.html --report report.json
      bnfold optimize model.onnx other.onnx --out-dir folded --jobs 2
      cat model.onnx | bnfold optimize - > folded.onnx
    """
    from bnfold.verification.waiting import early_worker

    ctx.with_resource(early_worker(verify))
    from bnfold.pipeline.model_paths import is_many, jobs_of

    many = out_dir is not None or is_many(models)
    streamed = stdio.STREAM in models
    found = [] if streamed else jobs_of(models, out_dir=out_dir, recursive=recursive)
    files = _files(found, output, external_data, run_options.inputs)
    reporting = Reporting("optimize", reports, [*files, proof_file, moments_file])
    _require_one_place(many=many, streamed=streamed, output=output, out_dir=out_dir,
                       in_place=in_place)  # fmt: skip
    given: dict[str, Any] = {
        "options": options, "in_place": in_place, "verify": verify,
        "external_data": external_data, "run_options": run_options, "details": reporting.details,
        "equalize": "power-of-two" if equalize else None,
    }  # fmt: skip
    for flag, what, file in (
        ("--proof", "proof", proof_file), ("--moments", "moments", moments_file),
    ):  # fmt: skip
        if file is not None and (many or streamed or output == stdio.STREAM):
            raise UsageError(
                f"{flag} names the {what} of one model, from a file to a file",
                "fold them one by one",
            )
    if many:
        ctx.exit(_optimize_many(found, given, reporting, jobs, display))
    given |= {"proof_file": proof_file, "moments_file": moments_file}
    _optimize_one(models[0], output, given, reporting, display)
    ctx.exit(reporting.exit_code())


def _files(
    jobs: Sequence[Job], output: str | None, data: str, inputs: str | None
) -> Iterator[PathLike | None]:
    """All files that are read and written."""
    from bnfold.onnx_io import model_file

    yield inputs
    if output is not None:
        yield from (output, Path(output).parent / data)
    for job in jobs:
        target = job.target or job.source.with_suffix(".folded.onnx")
        if output is not None and Path(output).is_dir():
            target = Path(output, job.source.name)
        yield from (job.source, target, target.with_name(data))
        yield from (job.source.with_name(name) for name in model_file.data_names(job.source))


def _require_one_place(
    *, many: bool, streamed: bool, output: str | None, out_dir: str | None, in_place: bool
) -> None:
    """Raises UsageError where it is not clear what goes where."""
    if output is not None and many:
        raise UsageError("-o names the output of one model", "use --out-dir for several")
    if in_place and out_dir is not None:
        raise UsageError("--in-place and --out-dir exclude each other", "use one of them")
    if streamed and (many or in_place):
        raise UsageError(
            "standard input is one model, and has no place of its own",
            "pass it alone, with -o or without",
        )


def _optimize_one(
    model: str, output: str | None, given: dict[str, Any], reporting: Reporting, display: Display
) -> None:
    import bnfold

    if model == stdio.STREAM and output is None:
        output = stdio.STREAM
    if output == stdio.STREAM:
        if given["external_data"] not in ("keep", "inline"):
            raise UsageError("standard output is one file", "omit --external-data")
        given["external_data"] = "inline"
        display = replace(display, err=True)
    with (
        reporting.on_error(model),
        stdio.source(model) as source,
        stdio.target(output) as target,
        display.progress() as progress,
    ):
        result = bnfold.optimize(source, target, progress=progress, **given)
    if output == stdio.STREAM:
        result = replace(result, model=Path(stdio.STREAM))

    def report() -> Report:
        from bnfold.reporting import content

        return content.of_optimize([bnfold.ModelOutcome(Path(model), result)], 0)

    reporting.write(report)
    if not display.quiet:
        from bnfold.cli.render.folds import of_optimize

        display.print(of_optimize(result, model, verbose=display.verbose))


def _optimize_many(
    found: Sequence[Job], given: dict[str, Any], reporting: Reporting, jobs: int, display: Display
) -> int:
    """The exit code of the worst."""
    from bnfold.cli.render.folds import of_many
    from bnfold.cli.render.progress import BatchProgress
    from bnfold.pipeline.batch import optimize_jobs, worst_exit_code
    from bnfold.reporting import content

    with BatchProgress(len(found), quiet=display.quiet) as shown:
        outcomes = optimize_jobs(found, jobs=jobs, on_done=shown.show, **given)
    worst = worst_exit_code(outcome.exit_code for outcome in outcomes)
    reporting.write(lambda: content.of_optimize(outcomes, worst))
    display.print(of_many(outcomes))
    shown.require_shown()
    return reporting.exit_code(worst)


@command()
@click.argument("model", type=click.Path(allow_dash=True))
@fold_options
@moments_option
@option(
    sections.REPORTS,
    "--quantization",
    is_flag=True,
    help="Also say what will hurt when the folded model is quantised to 8 bits.",
)
@report_options
@display_options
@click.pass_context
def inspect(
    ctx: click.Context, /, model: str, options: Options, moments_file: str | None,
    quantization: bool, reports: ReportRequest, display: Display,
) -> None:  # fmt: skip
    """Show what would be folded, and why the rest would not.

    No model is written. MODEL is a file, or - for standard input.

    \b
    Examples:
      bnfold inspect model.onnx
      bnfold inspect model.onnx --report report.html
    """
    import bnfold
    from bnfold.cli.render.folds import of_inspection
    from bnfold.reporting import content

    reporting = Reporting("inspect", reports, (model, moments_file))
    if moments_file is not None:
        from bnfold.tuning.tensor_moments import files

        files.require_writable(moments_file, [model])
    with reporting.on_error(model), stdio.source(model) as source:
        inspection = bnfold.inspect(source, options=options, details=reporting.details)
        if moments_file is not None:
            tensors = bnfold.moments(source, options=options)
            files.save(tensors, moments_file, Path(model).name)
        found = bnfold.hazards(source, options=options) if quantization else ()
    reporting.write(lambda: content.of_inspect(inspection, model))
    display.print(of_inspection(inspection, model))
    if quantization:
        from bnfold.cli.render.quantization import of_hazards

        display.print(of_hazards(found))
    ctx.exit(reporting.exit_code())
