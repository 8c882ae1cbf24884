"""`bnfold equalize` and `bnfold correct`: before quantisation, and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from bnfold.cli import sections
from bnfold.cli.options import (
    command,
    data_options,
    display_options,
    json_option,
    known_moments_option,
    option,
    output_option,
    run_options,
    verify_option,
)
from bnfold.cli.terminal.display import Display
from bnfold.options import RunOptions, Scales, Verify

if TYPE_CHECKING:
    from bnfold.tuning.data_statistics import Dataset


@command()
@click.argument("model", type=click.Path())
@output_option("equalized")
@option(
    sections.STATISTICS,
    "--scales",
    type=click.Choice(get_args(Scales)),
    default="power-of-two",
    show_default=True,
    help="Powers of two leave the model the same function bit for bit; free ones make ranges more "
    "alike, and are equal up to rounding.",
)
@known_moments_option(
    help="The .json file that optimize wrote with --moments: how large activations become."
)
@option(
    sections.OUTPUT,
    "--moments-out",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Also write what --moments says, of the model that is written.",
)
@option(
    sections.STATISTICS,
    "--growth",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="No channel of an activation may grow beyond so many times its largest one; without "
    "--moments none more than 16 times.",
)
@verify_option("How to verify before anything is written, as for optimize.")
@run_options()
@json_option("Print the result as JSON.")
@display_options
def equalize(
    model: str, output: str | None, scales: Scales, moments_file: str | None,
    moments_out: str | None, growth: float,
    verify: Verify, run_options: RunOptions, as_json: bool, display: Display,
) -> None:  # fmt: skip
    """Make the ranges of weights alike, for quantisation per tensor.

    Scales move between layers, so that no channel has few steps left; the model stays the same
    function. Fold it first.

    \b
    Examples:
      bnfold optimize model.onnx --moments moments.json
      bnfold equalize model.folded.onnx --moments moments.json
    """
    from bnfold.cli.render.quantization import of_equalize
    from bnfold.quantization.equalize import equalize as equalized
    from bnfold.text.json_encoding import dumps, jsonable

    with display.progress() as progress:
        result = equalized(
            model, output, scales=scales, growth=growth, moments_file=moments_file,
            moments_out=moments_out, verify=verify,
            run_options=run_options, progress=progress,
        )  # fmt: skip
    if as_json:
        told = jsonable(result)
        click.echo(dumps({k: told[k] for k in told if k not in ("proof", "moments")}), nl=False)
    else:
        display.print(of_equalize(result, model, verbose=display.verbose))


@command()
@click.argument("model", type=click.Path())
@click.argument("quantized", type=click.Path())
@output_option("corrected", of="QUANTIZED")
@known_moments_option(
    help="The .json file of MODEL that optimize or equalize wrote: what the means of its values "
    "are. Without it they are measured on --inputs."
)
@data_options(required=False)
@json_option("Print the result as JSON.")
@display_options
def correct(
    model: str, quantized: str, output: str | None, moments_file: str | None, data: Dataset | None,
    as_json: bool, display: Display,
) -> None:  # fmt: skip
    """Take from biases what rounding the weights adds to them.

    QUANTIZED is what onnxruntime's quantiser made of MODEL, in QDQ or QOperator form. Nothing but
    the biases changes.

    \b
    Examples:
      bnfold correct model.folded.onnx int8.onnx --inputs calibration.npz
      bnfold correct model.folded.onnx int8.onnx --moments moments.json
    """
    from bnfold.cli.render.quantization import of_correct
    from bnfold.quantization.correct import correct as corrected
    from bnfold.text.json_encoding import dumps, jsonable

    with display.progress() as progress:
        result = corrected(
            model, quantized, output, moments_file=moments_file, data=data, progress=progress
        )
    if as_json:
        click.echo(dumps(jsonable(result)), nl=False)
    else:
        display.print(of_correct(result, quantized))
