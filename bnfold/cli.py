"""The commands: parse, one library call, render, exit code. Heavy imports stay inside them."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any

import click

from bnfold import __version__
from bnfold.cli_gate import check
from bnfold.cli_tuning import COMMANDS
from bnfold.errors import INTERNAL_EXIT_CODE, BnfoldError, NotEqualError, UsageError
from bnfold.parameters import debug_option, fold_options, make_options, make_trial, trial_options

EXIT_CODES = """\b
Exit codes:
  0  done and verified, also where there was nothing to fold
  1  not equal: the folded model differs by more than rounding explains; or no better
  2  wrong usage
  3  unreadable or invalid model
  4  could not be decided: neither certified nor runnable
  5  onnxruntime crashed, timed out or hit a limit
"""


class Commands(click.Group):
    """A group whose commands report every BnfoldError as one sentence and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors end here, or go on as they are with --debug."""
        try:
            return super().invoke(ctx)
        except BnfoldError as error:
            if _debug(ctx):
                raise
            if isinstance(error, NotEqualError):
                from bnfold import report

                report.console().print(report.of_comparison(error.comparison))
            _complain(error.message, error.remedy)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted; nothing was written", err=True)
            ctx.exit(128 + signal.SIGINT)
        except (click.exceptions.Exit, click.ClickException):
            raise
        except BrokenPipeError:  # the reader is gone: end as other tools do
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(128 + signal.SIGPIPE)
        except OSError as error:  # only the report is left to fail here
            _complain(f"cannot write the report: {error.strerror}", "")
            ctx.exit(UsageError.exit_code)
        except Exception as error:
            if _debug(ctx):
                raise
            _complain(
                f"bnfold itself failed: {type(error).__name__}: {error}",
                "please report it with the output of the same command with --debug",
            )
            ctx.exit(INTERNAL_EXIT_CODE)


def _debug(ctx: click.Context) -> bool:
    return bool(ctx.meta.get("bnfold.debug"))


def _complain(message: str, remedy: str) -> None:
    for head, text in (("error: ", message), ("       ", remedy)):
        if text:
            clean = "".join(c if c.isprintable() else " " for c in text)
            click.echo(head + clean, err=True)


@click.group(cls=Commands, epilog=EXIT_CODES)
@click.version_option(__version__, message="%(prog)s %(version)s")
@debug_option
def main() -> None:
    """Fold BatchNormalization into the weights of ONNX models, and prove that nothing else changed.

    \b
    Start with:
      bnfold optimize model.onnx
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # end in order: no stray files, no stray child
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal has no letters for
            stream.reconfigure(errors="backslashreplace")


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=click.Path())
@click.option("-o", "--output", metavar="PATH", type=click.Path(),
              help="Where to write one model.  [default: MODEL.folded.onnx beside it]")  # fmt: skip
@click.option("--out-dir", metavar="FOLDER", type=click.Path(file_okay=False),
              help="Where to write several models, under their own names.")  # fmt: skip
@click.option("--in-place", is_flag=True, help="Replace MODEL by the folded model.")
@click.option("-r", "--recursive", is_flag=True,
              help="Of folders also the models in their folders.")  # fmt: skip
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
@debug_option
@click.pass_context
def optimize(
    ctx: click.Context, /, models: tuple[str, ...], output: str | None, out_dir: str | None,
    recursive: bool, jobs: int, quiet: bool, in_place: bool, **others: Any,
) -> None:  # fmt: skip
    """Fold, compare with the original in onnxruntime, and write.

    MODEL is a file, a pattern or a folder. Of several models one that fails does not stop the
    others; the exit code is that of the worst.

    \b
    Examples:
      bnfold optimize model.onnx
      bnfold optimize model.onnx -o deploy/model.onnx --dim batch=1
      bnfold optimize model.onnx --only-batchnorm
      bnfold optimize model.onnx other.onnx --out-dir folded --jobs 2
    """
    import bnfold
    from bnfold import fleet, report

    many = out_dir is not None or fleet.is_many(models)
    if output is not None and many:
        raise UsageError("-o names one output, of one model", "give --out-dir for several")
    if in_place and out_dir is not None:
        raise UsageError("--in-place and --out-dir exclude each other", "give one of them")
    options = make_options(others)
    given = {
        "options": options, "in_place": in_place, "verify": others.pop("verify"),
        "external_data": others.pop("external_data"), "trial": make_trial(**others),
    }  # fmt: skip
    console = report.console()
    if not many:
        console.print(report.of_optimize(bnfold.optimize(models[0], output, **given), models[0]))
        return
    done = bnfold.optimize_many(
        models, out_dir=out_dir, recursive=recursive, jobs=jobs,
        on_done=lambda one: console.print(report.of_done(one)) if one.error or not quiet else None,
        **given,
    )  # fmt: skip
    console.print(report.of_many(done))
    ctx.exit(fleet.worst(done))


@main.command()
@click.argument("model", type=click.Path())
@fold_options
@debug_option
def inspect(model: str, **others: Any) -> None:
    """Say of each BatchNormalization whether it would fold, and if not, why. Writes nothing.

    \b
    Example:
      bnfold inspect model.onnx
    """
    import bnfold
    from bnfold import report

    inspection = bnfold.inspect(model, options=make_options(others))
    report.console().print(report.of_inspection(inspection, model))


@main.command()
@click.argument("original", type=click.Path())
@click.argument("folded", type=click.Path())
@click.option(
    "--level", type=click.Choice(["frame", "certificate", "folds", "full"]),
    default="full", show_default=True,
    help="How far to go: has anything changed but what folds explain; is what was folded right for "
    "every input; what does each folded node give, fed what the original computes there; and what "
    "do the models give in the end.",
)  # fmt: skip
@click.option(
    "--foreign", is_flag=True,
    help="FOLDED was made by another tool: changes of names and metadata are told, but not held "
    "against it, and constants may be rounded more than once.",
)  # fmt: skip
@click.option(
    "--freeze-initializers", is_flag=True,
    help="Count initializers that are also graph inputs as constants.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--certificate", metavar="FILE", type=click.Path(dir_okay=False),
    help="Write what was found, with the hashes of both models, to this JSON file.",
)  # fmt: skip
@trial_options
@debug_option
def verify(
    original: str, folded: str, level: str, foreign: bool, freeze_initializers: bool,
    as_json: bool, certificate: str | None, **trial: Any,
) -> None:  # fmt: skip
    """Compare two models: what the two files tell, and what they give in onnxruntime.

    Any two models with the same inputs and outputs can be compared, whichever tool made them.

    \b
    Examples:
      bnfold verify model.onnx model.folded.onnx
      bnfold verify model.onnx model.folded.onnx --level certificate
      bnfold verify model.onnx slim.onnx --foreign --input-shape image:1,3,224,224
    """
    import bnfold
    from bnfold import report

    comparison = bnfold.verify(
        original, folded, trial=make_trial(**trial), level=level, foreign=foreign,
        freeze_initializers=freeze_initializers,
    )  # fmt: skip
    if certificate is not None:
        report.save_json(comparison, [original, folded], certificate)
    if as_json:
        click.echo(report.as_json(comparison))
    else:
        console = report.console()
        console.print(report.of_comparison(comparison))
        console.print("equal" if comparison.equal else "not equal", style="bold")
    if not comparison.equal:
        raise click.exceptions.Exit(NotEqualError.exit_code)


for command in (*COMMANDS, check):
    main.add_command(command)
