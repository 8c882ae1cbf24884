"""The commands that compare two models. Heavy imports stay inside them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from bnfold.cli.options import debug_option, make_trial, trial_options
from bnfold.cli.reporting import Reporting, report_options
from bnfold.verification.comparison import NotEqualError


@click.command()
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
@report_options
@debug_option
def verify(
    original: str, folded: str, level: str, foreign: bool, freeze_initializers: bool,
    as_json: bool, certificate: str | None, report_files: tuple[str, ...], no_ci: bool,
    **trial: Any,
) -> None:  # fmt: skip
    """Compare two models, from their files and by running them.

    Any two models with the same inputs and outputs can be compared, whichever tool made them.

    \b
    Examples:
      bnfold verify model.onnx model.folded.onnx
      bnfold verify model.onnx model.folded.onnx --level certificate
      bnfold verify model.onnx slim.onnx --foreign --input-shape image:1,3,224,224
    """
    from pathlib import Path

    import bnfold
    from bnfold.cli.render.comparison import of_comparison
    from bnfold.cli.render.console import console
    from bnfold.onnx_io.replace_file import Kind, require_replaceable
    from bnfold.reporting import content
    from bnfold.reporting.comparison_json import as_json as comparison_text
    from bnfold.reporting.comparison_json import save_json

    keep = (original, folded, certificate, trial["inputs"])
    reporting = Reporting("verify", report_files, no_ci, keep)
    if certificate is not None:
        used = [path for path in (original, folded, trial["inputs"], *report_files) if path]
        require_replaceable(Path(certificate), Kind.CERTIFICATE, used)
    with reporting.on_error(folded):
        comparison = bnfold.verify(
            original, folded, trial=make_trial(**trial), level=level, foreign=foreign,
            freeze_initializers=freeze_initializers,
        )  # fmt: skip
    reporting.give(lambda: content.of_verify(comparison, original, folded))
    if certificate is not None:
        save_json(comparison, [original, folded], certificate)
    if as_json:
        click.echo(comparison_text(comparison), nl=False)
    else:
        out = console()
        out.print(of_comparison(comparison))
        out.print("equal" if comparison.equal else "not equal", style="bold")
    raise click.exceptions.Exit(
        reporting.exit_code(0 if comparison.equal else NotEqualError.exit_code)
    )


@click.command()
@click.argument("original", type=click.Path())
@click.argument("folded", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the changes as JSON.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 where anything has changed.")
@debug_option
def diff(original: str, folded: str, as_json: bool, exit_code: bool) -> None:
    """Show what changed between two models, and nothing else.

    Node by node and tensor by tensor. It shows and does not judge: whether the changes are right is
    for bnfold verify to say.

    \b
    Examples:
      bnfold diff model.onnx model.folded.onnx
      bnfold diff model.onnx copy.onnx --exit-code
    """
    from bnfold.cli.render.console import console
    from bnfold.cli.render.diff import of_diff
    from bnfold.diffing import model_diff
    from bnfold.text.json_encoding import dumps

    found = model_diff.diff(original, folded)
    if as_json:
        click.echo(dumps({"same": found.same} | asdict(found)), nl=False)
    else:
        console().print(of_diff(found))
    if exit_code and not found.same:
        raise click.exceptions.Exit(NotEqualError.exit_code)
