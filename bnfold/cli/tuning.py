"""The commands about frozen models and statistics. Heavy imports stay inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnfold.cli.options import (
    debug_option,
    limit_options,
    listed,
    make_trial,
    trial_options,
    with_options,
)

if TYPE_CHECKING:
    from bnfold.tuning.data_statistics import Dataset

F = TypeVar("F", bound=Callable[..., Any])


def _floats(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(
            f"{text!r} does not read as numbers, for example 0.5,0.5,0.5"
        ) from None


def _size(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    try:
        height, width = (int(part) for part in text.lower().split("x"))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f"{text!r} does not read as HEIGHTxWIDTH, for example 224x224"
        ) from None
    return height, width


def data_options(command: F, *, required: bool = True) -> F:
    """The options that say on what data, and how it is read."""
    options = (
        click.option(
            "--inputs", required=required, metavar="PATH", type=click.Path(),
            help="An .npz file with an array [N, …] per input, a folder of .npz or .npy files, "
            "test_data_set_* folders, or a folder of images.",
        ),
        click.option(
            "--batch", default=32, show_default=True, metavar="N", type=click.IntRange(min=1),
            help="Samples that are run at a time, where the model leaves that open.",
        ),
        click.option("--mean", metavar="R,G,B", help="Of images: subtracted from value/255."),
        click.option("--std", metavar="R,G,B", help="Of images: divided by after that."),
        click.option(
            "--layout", type=click.Choice(["NCHW", "NHWC"]), default="NCHW", show_default=True,
            help="Of images: how the model wants them.",
        ),
        click.option(
            "--resize", metavar="HxW",
            help="Of images: to what size.  [default: what the model declares]",
        ),
        click.option(
            "--assume-inference", is_flag=True,
            help="Take BatchNormalizations in training mode for inference.",
        ),
        limit_options(timeout=86_400.0),
    )  # fmt: skip
    return with_options(command, options)


def make_data(
    inputs: str, batch: int, mean: str | None, std: str | None, layout: str, resize: str | None,
    providers: str, timeout: float, memory_limit: int | None,
) -> Dataset:  # fmt: skip
    """What the options of `data_options` were given, as Data."""
    from bnfold.tuning.data_statistics import Dataset

    return Dataset(
        inputs,
        batch,
        _floats(mean),
        _floats(std),
        layout,
        _size(resize),
        listed(providers),
        timeout,
        memory_limit,
    )


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", metavar="PATH", type=click.Path(),
              help="Where to write.  [default: MODEL.frozen.onnx beside it]")  # fmt: skip
@click.option(
    "--as", "form", type=click.Choice(["mul-add", "batchnorm"]), default="mul-add",
    show_default=True,
    help="A Mul and an Add, or a BatchNormalization with mean 0, variance 1 and epsilon 0, for "
    "runtimes that are fast at it.",
)  # fmt: skip
@click.option(
    "--learnable",
    is_flag=True,
    help="Make γ′ and β′ graph inputs with their values as defaults, for a training loop to feed.",
)
@click.option(
    "--assume-inference", is_flag=True,
    help="Take BatchNormalizations in training mode for inference, where their running statistics "
    "are real.",
)  # fmt: skip
@click.option(
    "--verify", type=click.Choice(["full", "certificate", "none"]), default="full",
    show_default=True, help="As for optimize.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@trial_options
@debug_option
def freeze(
    model: str, output: str | None, form: str, learnable: bool, assume_inference: bool,
    verify: str, as_json: bool, **trial: Any,
) -> None:  # fmt: skip
    """Write BatchNormalizations as their affine maps γ′x + β′.

    γ′ = γ/√(σ²+ε) and β′ = β − γ′μ are what can be learned on few or different data, where new
    batch statistics would misrepresent the population. `bnfold optimize` folds the result.

    \b
    Examples:
      bnfold freeze model.onnx
      bnfold freeze model.onnx --learnable -o frozen.onnx
    """
    from bnfold.cli.render import tuning
    from bnfold.cli.render.console import console
    from bnfold.tuning import frozen_models

    result = frozen_models.freeze(
        model, output, form=form, learnable=learnable, assume_inference=assume_inference,
        verify=verify, trial=make_trial(**trial),
    )  # fmt: skip
    if as_json:
        click.echo(frozen_models.as_json(result), nl=False)
    else:
        console().print(tuning.of_freeze(result, model))


@click.command()
@click.argument("model", type=click.Path())
@click.argument("params", type=click.Path())
@click.option("-o", "--output", required=True, metavar="PATH", type=click.Path(),
              help="Where to write.")  # fmt: skip
@debug_option
def assign(model: str, params: str, output: str) -> None:
    """Write learned γ′ and β′ into a frozen model.

    From an .npz file, into a model that `freeze --learnable` made. They become plain initializers
    again, which `bnfold optimize` folds.

    \b
    Example:
      bnfold assign frozen.onnx params.npz -o tuned.onnx
    """
    from bnfold.cli.render import tuning
    from bnfold.cli.render.console import console
    from bnfold.tuning import frozen_models

    console().print(tuning.of_assign(frozen_models.assign(model, params, output)))


@click.command()
@click.argument("model", type=click.Path())
@data_options
@click.option(
    "--shift",
    default=0.25,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="How far a channel's mean may be off, in units of √(σ²+ε).",
)
@click.option(
    "--ratio",
    default=1.5,
    show_default=True,
    type=click.FloatRange(min=1, min_open=True),
    help="By what factor its variance may differ.",
)
@click.option(
    "--training-batch",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="The batch size of the training that the stored statistics come from.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False),
              help="Draw it, as .svg or .png.")  # fmt: skip
@debug_option
def stats(
    model: str, assume_inference: bool, shift: float, ratio: float, training_batch: int,
    as_json: bool, plot: str | None, **data: Any,
) -> None:  # fmt: skip
    """Compare the stored statistics with those of data.

    A channel has drifted where its mean or variance is further off than --shift or --ratio, by more
    than three standard errors.

    \b
    Examples:
      bnfold stats model.onnx --inputs data.npz
      bnfold stats model.onnx --inputs photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    from pathlib import Path

    from bnfold.cli.render import tuning
    from bnfold.cli.render.console import console
    from bnfold.tuning import data_statistics
    from bnfold.tuning import drift_plot as plots
    from bnfold.tuning.drift import DriftLimits

    if plot is not None:
        plots.require_drawable(Path(plot))
    limits = DriftLimits(shift, ratio, training_batch)
    from bnfold.cli.render.progress import Bar

    with Bar("running the data") as bar:
        result = data_statistics.stats(
            model, make_data(**data), limits=limits, assume_inference=assume_inference, progress=bar
        )
    if plot is not None:
        plots.save(result.drifts, limits, Path(plot))
    if as_json:
        click.echo(tuning.stats_as_json(result), nl=False)
    else:
        console().print(tuning.of_stats(result))


@click.command()
@click.argument("model", type=click.Path())
@data_options
@click.option("-o", "--output", metavar="PATH", type=click.Path(),
              help="Where to write.  [default: MODEL.recalibrated.onnx beside it]")  # fmt: skip
@click.option(
    "--momentum",
    default=0.0,
    show_default=True,
    metavar="M",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="Write M × stored + (1 − M) × estimated.",
)
@click.option(
    "--holdout",
    default=0.0,
    show_default=True,
    metavar="SHARE",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="Share of the samples to measure the accuracy on, with the labels y of the .npz.",
)
@click.option(
    "--require-improvement",
    is_flag=True,
    help="Write nothing unless the accuracy on what was held out rises.",
)
@debug_option
def recalibrate(
    model: str, output: str | None, momentum: float, holdout: float, require_improvement: bool,
    assume_inference: bool, **data: Any,
) -> None:  # fmt: skip
    """Estimate μ and σ² anew on data, layer after layer.

    Nothing else of the model changes.

    \b
    Examples:
      bnfold recalibrate model.onnx --inputs data.npz -o better.onnx
      bnfold recalibrate model.onnx --inputs data.npz --holdout 0.2 --require-improvement
    """
    from bnfold.cli.render import tuning
    from bnfold.cli.render.console import console
    from bnfold.cli.render.progress import Bar
    from bnfold.tuning import data_statistics

    with Bar("estimating") as bar:
        result = data_statistics.recalibrate(
            model, make_data(**data), output, momentum=momentum, holdout=holdout,
            require_improvement=require_improvement, assume_inference=assume_inference,
            progress=bar,
        )  # fmt: skip
    console().print(tuning.of_recalibrate(result, model))


COMMANDS = (freeze, assign, stats, recalibrate)
