"""The commands about frozen models and statistics. Heavy imports stay inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from bnfold.cli import sections
from bnfold.cli.option_types import Prior
from bnfold.cli.options import (
    assume_inference_option,
    command,
    data_options,
    display_options,
    json_option,
    known_moments_option,
    moments_option,
    option,
    output_option,
    run_options,
    verify_option,
)
from bnfold.cli.terminal.display import Display
from bnfold.options import FrozenForm, RunOptions, Verify

if TYPE_CHECKING:
    from bnfold.tuning.data_statistics import Dataset


@command()
@click.argument("model", type=click.Path())
@output_option("frozen")
@option(
    sections.OUTPUT,
    "--as",
    "form",
    type=click.Choice(get_args(FrozenForm)),
    default="mul-add",
    show_default=True,
    help="Write a Mul and an Add, or a BatchNormalization with mean 0, variance 1 and epsilon 0 "
    "for runtimes that are fast at it.",
)
@option(
    sections.OUTPUT,
    "--learnable",
    is_flag=True,
    help="Make γ′ and β′ graph inputs with their values as defaults, for a training loop to feed.",
)
@moments_option
@assume_inference_option
@verify_option("How to verify before anything is written, as for optimize.")
@run_options()
@json_option("Print the result as JSON.")
@display_options
def freeze(
    model: str, output: str | None, form: FrozenForm, learnable: bool, moments_file: str | None,
    assume_inference: bool, verify: Verify, run_options: RunOptions, as_json: bool,
    display: Display,
) -> None:  # fmt: skip
    """Write BatchNormalizations as their affine maps γ′x + β′.

    γ′ = γ/√(σ²+ε) and β′ = β − γ′μ can be learned on small or different data, where new batch
    statistics would misrepresent the population. `bnfold optimize` folds the result.

    \b
    Examples:
      bnfold freeze model.onnx
      bnfold freeze model.onnx --learnable -o frozen.onnx
    """
    from bnfold.cli.render.tuning import of_freeze
    from bnfold.tuning.freezing import frozen_models

    with display.progress() as progress:
        result = frozen_models.freeze(
            model, output, form=form, learnable=learnable, assume_inference=assume_inference,
            verify=verify, run_options=run_options, moments_file=moments_file, progress=progress,
        )  # fmt: skip
    if as_json:
        click.echo(frozen_models.as_json(result), nl=False)
    else:
        display.print(of_freeze(result, model, verbose=display.verbose))


@command()
@click.argument("model", type=click.Path())
@click.argument("params", type=click.Path())
@option(
    sections.OUTPUT,
    "-o",
    "--output",
    required=True,
    metavar="PATH",
    type=click.Path(),
    help="Where to write.",
)
@display_options
def assign(model: str, params: str, output: str, display: Display) -> None:
    """Write learned γ′ and β′ into a frozen model.

    PARAMS is an .npz file for a model that `freeze --learnable` made. The parameters become plain
    initializers again, which `bnfold optimize` folds.

    \b
    Example:
      bnfold assign frozen.onnx params.npz -o tuned.onnx
    """
    from bnfold.cli.render.tuning import of_assign
    from bnfold.tuning.freezing import frozen_models

    display.print(of_assign(frozen_models.assign(model, params, output)))


@command()
@click.argument("model", type=click.Path())
@output_option("recovered")
@known_moments_option(
    help="The .json file that optimize or freeze wrote with --moments: where BatchNormalizations "
    "stood, and with which statistics."
)
@verify_option("How to verify before anything is written, as for optimize.")
@run_options()
@json_option("Print the result as JSON.")
@display_options
def recover(
    model: str, output: str | None, moments_file: str | None, verify: Verify,
    run_options: RunOptions, as_json: bool, display: Display,
) -> None:  # fmt: skip
    """Put BatchNormalizations back: the model stays what it was.

    A Mul and an Add of constants become one. With --moments, so does what had been folded into
    convolutions, with the statistics that fine-tuning and quantisers want.

    \b
    Examples:
      bnfold optimize model.onnx --moments moments.json
      bnfold recover model.folded.onnx --moments moments.json
    """
    from bnfold.cli.render.tuning import of_recover
    from bnfold.text.json_encoding import dumps, jsonable
    from bnfold.tuning.freezing.recover import recover as recovered

    with display.progress() as progress:
        result = recovered(
            model, output, moments_file=moments_file, verify=verify, run_options=run_options,
            progress=progress,
        )  # fmt: skip
    if as_json:
        click.echo(dumps(jsonable(result)), nl=False)
    else:
        display.print(of_recover(result, model, verbose=display.verbose))


@command()
@click.argument("model", type=click.Path())
@option(
    sections.STATISTICS,
    "--shift",
    default=0.25,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="How far a channel's mean may be off, in units of √(σ²+ε).",
)
@option(
    sections.STATISTICS,
    "--ratio",
    default=1.5,
    show_default=True,
    type=click.FloatRange(min=1, min_open=True),
    help="By what factor its variance may differ.",
)
@option(
    sections.STATISTICS,
    "--training-batch",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="Batch size of the training that the stored statistics come from.",
)
@assume_inference_option
@data_options(required=False)
@json_option("Print the result as JSON.")
@option(
    sections.REPORTS,
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Draw how far each layer is off, as .svg or .png.",
)
@display_options
def stats(
    model: str, shift: float, ratio: float, training_batch: int, assume_inference: bool,
    data: Dataset | None, as_json: bool, plot: str | None, display: Display,
) -> None:  # fmt: skip
    """Compare stored statistics with each other, or with data.

    Without --inputs, each layer's stored mean is held against what the BatchNormalizations before
    it make. With them, a channel has drifted if its mean or variance is further off than --shift or
    --ratio, by more than three standard errors.

    \b
    Examples:
      bnfold stats model.onnx
      bnfold stats model.onnx --inputs data.npz
      bnfold stats model.onnx --inputs photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    from pathlib import Path

    if data is None:
        _consistency(model, assume_inference, as_json=as_json, plot=plot, display=display)
        return
    from bnfold.cli.render.tuning import of_stats, stats_as_json
    from bnfold.tuning import data_statistics, drift_plot, statistics_plot
    from bnfold.tuning.drift import DriftLimits

    if plot is not None:
        statistics_plot.require_drawable(Path(plot))
    limits = DriftLimits(shift, ratio, training_batch)
    with display.progress() as progress:
        result = data_statistics.stats(
            model, data, limits=limits, assume_inference=assume_inference, progress=progress
        )
    if plot is not None:
        statistics_plot.save(drift_plot.picture(result.drifts, limits), Path(plot))
    if as_json:
        click.echo(stats_as_json(result), nl=False)
    else:
        display.print(of_stats(result))


def _consistency(
    model: str, assume_inference: bool, *, as_json: bool, plot: str | None, display: Display
) -> None:
    from pathlib import Path

    from bnfold.cli.render.consistency import consistency_as_json, of_consistency
    from bnfold.tuning import statistics_plot
    from bnfold.tuning.prediction import consistency_plot
    from bnfold.tuning.prediction.consistency import consistency

    if plot is not None:
        statistics_plot.require_drawable(Path(plot))
    result = consistency(model, assume_inference=assume_inference)
    if plot is not None:
        statistics_plot.save(consistency_plot.picture(result.summaries), Path(plot))
    if as_json:
        click.echo(consistency_as_json(result), nl=False)
    else:
        display.print(of_consistency(result))


@command()
@click.argument("model", type=click.Path())
@output_option("recalibrated")
@option(
    sections.STATISTICS,
    "--momentum",
    default=0.0,
    show_default=True,
    metavar="M",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="Write M × stored + (1 − M) × estimated.",
)
@option(
    sections.STATISTICS,
    "--prior",
    default="0",
    show_default=True,
    metavar="N|auto",
    type=Prior(),
    help="For few samples: let what is stored count like N of them; auto holds out a quarter of "
    "the data to choose N.",
)
@option(
    sections.STATISTICS,
    "--holdout",
    default=0.0,
    show_default=True,
    metavar="SHARE",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="Share of the samples on which the accuracy is measured, with the labels y of the .npz.",
)
@option(
    sections.STATISTICS,
    "--require-improvement",
    is_flag=True,
    help="Write nothing unless the accuracy on what was held out rises.",
)
@assume_inference_option
@data_options()
@display_options
def recalibrate(
    model: str, output: str | None, momentum: float, prior: Any, holdout: float,
    require_improvement: bool, assume_inference: bool, data: Dataset, display: Display,
) -> None:  # fmt: skip
    """Estimate μ and σ² anew on data, layer after layer.

    Nothing else in the model changes.

    \b
    Examples:
      bnfold recalibrate model.onnx --inputs data.npz -o better.onnx
      bnfold recalibrate model.onnx --inputs few.npz --prior auto
      bnfold recalibrate model.onnx --inputs data.npz --holdout 0.2 --require-improvement
    """
    from bnfold.cli.render.tuning import of_recalibrate
    from bnfold.tuning import data_statistics

    with display.progress() as progress:
        result = data_statistics.recalibrate(
            model, data, output, momentum=momentum, prior=prior, holdout=holdout,
            require_improvement=require_improvement, assume_inference=assume_inference,
            progress=progress,
        )  # fmt: skip
    display.print(of_recalibrate(result, model))
