"""Groups of options that several commands share; each group reaches its command as one object.

@command
@fold_options          # options: Options
@run_options()         # run_options: RunOptions
@display_options       # display: Display
def optimize(..., options, run_options, display): ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args

import click

from bnfold.cli import sections
from bnfold.cli.option_types import (
    CurrentChoice,
    Megabytes,
    Named,
    Seconds,
    Tolerance,
    ValueRange,
    floats,
    image_size,
    positive_int,
    shape,
    warn_without_limit,
)
from bnfold.cli.sections import SectionCommand, SectionOption
from bnfold.options import Fill, ImageLayout, Options, Rest, RunOptions, Verify

if TYPE_CHECKING:
    from bnfold.tuning.data_statistics import Dataset

F = TypeVar("F", bound=Callable[..., Any])
Decorator: TypeAlias = Callable[[F], F]

command = partial(click.command, cls=SectionCommand)


def option(section: str, *declarations: str, **attributes: Any) -> Callable[[F], F]:
    """A click option that stands in a section of the help."""
    return click.option(*declarations, cls=SectionOption, section=section, **attributes)


def group(
    parameter: str, make: Callable[..., Any], *options: Callable[[Any], Any]
) -> Callable[[F], F]:
    """Options, in this order, of which `make` makes one argument of the command.

    `make` has a keyword for each option.
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*arguments: Any, **values: Any) -> Any:
            own = {name: values.pop(name) for name in names}
            return function(*arguments, **{parameter: make(**own)}, **values)

        before = len(getattr(function, "__click_params__", ()))
        decorated: Any = call
        for add in reversed(options):
            decorated = add(decorated)
        names = [param.name for param in decorated.__click_params__[before:]]
        return decorated  # type: ignore[no-any-return]

    return decorate


def comma_separated(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


# --- what to fold --------------------------------------------------------------------------------

fold_options = group(
    "options",
    Options,
    option(
        sections.FOLDING, "--merge-branches", is_flag=True,
        help="Merge branches that are added up, and convolutions in a row, into one convolution "
        "(RepVGG, MobileOne, SESR) where that takes no more weights.",
    ),
    option(
        sections.FOLDING, "--allow-max", is_flag=True,
        help="Let Relu become Max with a constant where that lets a shift be folded.",
    ),
    option(
        sections.FOLDING, "--freeze-initializers", is_flag=True,
        help="Treat initializers that are also graph inputs as constants. The inputs stay.",
    ),
    option(
        sections.FOLDING, "--only-batchnorm", "only_batch_norm", is_flag=True,
        help="Leave constant Mul, Add, Sub and Div nodes alone.",
    ),
    option(
        sections.FOLDING, "--rest", type=click.Choice(get_args(Rest)), default="keep",
        help="What becomes of a BatchNormalization that nothing takes: keep it, or write it out as "
        "Mul and Add (affine) or a depthwise 1×1 convolution (conv) for devices that have none. "
        "No gain on a CPU.", show_default=True,
    ),
    option(
        sections.FOLDING, "--skip", multiple=True, metavar="NAME",
        help="Neither fold this node nor fold into it. NAME may contain * and ?. Repeatable.",
    ),
    option(
        sections.FOLDING, "--only", multiple=True, metavar="NAME",
        help="Fold only this node. NAME may contain * and ?. Repeatable.",
    ),
)  # fmt: skip

freeze_initializers_option = option(
    sections.VERIFICATION, "--freeze-initializers", is_flag=True,
    help="Treat initializers that are also graph inputs as constants.",
)  # fmt: skip


# --- verification --------------------------------------------------------------------------------


def verify_option(help_text: str) -> Callable[[F], F]:
    """How far a command verifies what it writes."""
    return option(
        sections.VERIFICATION, "--verify", type=CurrentChoice(get_args(Verify)), default="run",
        show_default=True, help=help_text,
    )  # fmt: skip


_comparison_options = (
    option(
        sections.VERIFICATION,
        "--rtol",
        multiple=True,
        metavar="[NAME:]V",
        type=Tolerance(),
        help="Relative tolerance, used with --atol instead of the measured bound. Repeatable.",
    ),
    option(
        sections.VERIFICATION,
        "--atol",
        multiple=True,
        metavar="[NAME:]V",
        type=Tolerance(),
        help="Absolute tolerance: |folded − original| ≤ atol + rtol × |original|. Repeatable.",
    ),
    option(
        sections.VERIFICATION,
        "--counterexample",
        metavar="FOLDER",
        type=click.Path(),
        help="If the models differ, save both and test_data_set_0 that shows it in this folder.",
    ),
)


# --- inputs and limits ---------------------------------------------------------------------------


def _limit_options(timeout: float) -> tuple[Callable[[Any], Any], ...]:
    return (
        option(
            sections.INPUTS, "--providers", metavar="NAME,…", default="",
            help="onnxruntime's execution providers.  [default: CPUExecutionProvider]",
        ),
        option(
            sections.INPUTS, "--timeout", default=timeout, show_default=True, metavar="SECONDS",
            type=Seconds(), help="Maximum time for running the models.",
        ),
        option(
            sections.INPUTS, "--memory-limit", metavar="MB", type=Megabytes(),
            callback=warn_without_limit,
            help="Maximum address space for running the models.  [default: the larger of 4096 and "
            "8 × the model + 2048]",
        ),
    )  # fmt: skip


_input_options = (
    option(
        sections.INPUTS, "--inputs", metavar="PATH", type=click.Path(),
        help="Run on these inputs: an .npz file with one array per input, a folder of .npy or "
        ".npz files, test_data_set_* folders, or polygraphy's JSON.  [default: generated]",
    ),
    option(
        sections.INPUTS, "--input-shape", "input_shapes", multiple=True,
        metavar="NAME:1,3,224,224", type=Named("NAME:D1,D2,…", ":", shape, "x:1,3,224,224"),
        help="Shape of an input, if the model leaves it open. Repeatable.",
    ),
    option(
        sections.INPUTS, "--dim", "dims", multiple=True, metavar="NAME=N",
        type=Named("NAME=N", "=", positive_int, "batch=1"),
        help="Size of a symbolic dimension, for the runs only. Repeatable.",
    ),
    option(
        sections.INPUTS, "--seed", default=0, show_default=True, type=click.IntRange(min=0),
        help="Seed of the generated inputs.",
    ),
    option(
        sections.INPUTS, "--fill", default="mixed", show_default=True,
        type=click.Choice(get_args(Fill)),
        help="Distribution of the generated inputs; mixed alternates normal and uniform in [0, 1).",
    ),
    option(
        sections.INPUTS, "--val-range", multiple=True, metavar="[NAME:]LOW,HIGH",
        type=ValueRange(),
        help="Lowest and highest value of one input, or of all. Repeatable.",
    ),
)  # fmt: skip
_check_option = option(
    sections.INPUTS, "--check", metavar="N", type=click.IntRange(min=1, max=10_000),
    help="Number of generated sets of inputs.  [default: 1 where a proof holds and the models run "
    "only to confirm it, else 3]",
)  # fmt: skip


def run_options(*, comparing: bool = True) -> Callable[[F], F]:
    """On which inputs and within which limits models are run, and how results are compared."""
    compared = (*_comparison_options, _check_option) if comparing else ()
    return group("run_options", _run_options, *compared, *_input_options, *_limit_options(600.0))


def _run_options(
    *, input_shapes: Any, dims: Any, val_range: Any, providers: str, rtol: Any = (),
    atol: Any = (), **others: Any,
) -> RunOptions:  # fmt: skip
    return RunOptions(
        input_shapes=dict(input_shapes), dims=dict(dims), val_range=dict(val_range),
        rtol=dict(rtol), atol=dict(atol), providers=comma_separated(providers), **others,
    )  # fmt: skip


def data_options(*, required: bool = True) -> Callable[[F], F]:
    """On which data statistics are measured, and how it is read."""
    return group(
        "data",
        _dataset,
        option(
            sections.INPUTS, "--inputs", required=required, metavar="PATH", type=click.Path(),
            help="An .npz file with an array [N, …] per input, a folder of .npz or .npy files, "
            "test_data_set_* folders, or a folder of images.",
        ),
        option(
            sections.INPUTS, "--batch", default=32, show_default=True, metavar="N",
            type=click.IntRange(min=1), help="Batch size, if the model leaves it open.",
        ),
        option(
            sections.INPUTS, "--mean", metavar="R,G,B",
            help="For images: subtracted from value/255.",
        ),
        option(
            sections.INPUTS, "--std", metavar="R,G,B",
            help="For images: what the difference is divided by.",
        ),
        option(
            sections.INPUTS, "--layout", type=click.Choice(get_args(ImageLayout)), default="NCHW",
            show_default=True, help="For images: the layout that the model expects.",
        ),
        option(
            sections.INPUTS, "--resize", metavar="HxW",
            help="For images: the size that the model expects.  [default: what it declares]",
        ),
        *_limit_options(86_400.0),
    )  # fmt: skip


def _dataset(
    *, inputs: str | None, mean: str | None, std: str | None, resize: str | None, providers: str,
    **others: Any,
) -> Dataset | None:  # fmt: skip
    if inputs is None:
        return None
    from bnfold.tuning.data_statistics import Dataset

    return Dataset(
        inputs, mean=floats(mean), std=floats(std), resize=image_size(resize),
        providers=comma_separated(providers), **others,
    )  # fmt: skip


assume_inference_option = option(
    sections.STATISTICS, "--assume-inference", is_flag=True,
    help="Treat BatchNormalizations in training mode as inference, with their running statistics.",
)  # fmt: skip


# --- general -------------------------------------------------------------------------------------

recursive_option = option(
    sections.GENERAL, "-r", "--recursive", is_flag=True, help="Search folders recursively."
)


def json_option(help_text: str) -> Callable[[F], F]:
    """Whether the result is printed for programs instead of people."""
    return option(sections.REPORTS, "--json", "as_json", is_flag=True, help=help_text)


def output_option(suffix: str, of: str = "MODEL") -> Callable[[F], F]:
    """Where a command writes that makes one model of another."""
    return option(
        sections.OUTPUT, "-o", "--output", metavar="PATH", type=click.Path(),
        help=f"Where to write.  [default: {of}.{suffix}.onnx beside it]",
    )  # fmt: skip


moments_option = option(  # which are written
    sections.OUTPUT, "--moments", "moments_file", metavar="FILE", type=click.Path(dir_okay=False),
    help="Also write what the BatchNormalizations said of the tensors that are left: mean, "
    "deviation and range, as .json, .csv or .overrides.json (for onnxruntime's quantiser).",
)  # fmt: skip
known_moments_option = partial(option, sections.STATISTICS, "--moments", "moments_file",  # read
                               metavar="FILE", type=click.Path(dir_okay=False))  # fmt: skip


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["bnfold.debug"] = True


debug_option = option(
    sections.GENERAL, "--debug", is_flag=True, expose_value=False, callback=_set_debug,
    help="Show the traceback of an error.",
)  # fmt: skip


def _display(*, quiet: bool, verbose: bool) -> Any:
    from bnfold.cli.terminal.display import Display

    return Display(quiet=quiet, verbose=verbose)


def display_options(function: F) -> F:
    """How much a command shows, and of its errors."""
    decorate = group(
        "display",
        _display,
        option(
            sections.GENERAL, "-q", "--quiet", is_flag=True,
            help="Show errors only; reports that were asked for are written all the same.",
        ),
        option(
            sections.GENERAL, "-v", "--verbose", is_flag=True,
            help="Show more: each layer, and the figures behind the result.",
        ),
    )  # fmt: skip
    return decorate(debug_option(function))
