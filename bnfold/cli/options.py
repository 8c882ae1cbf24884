"""The options that several commands share, and the types of their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnfold import system

if TYPE_CHECKING:
    from bnfold.options import Options, RunOptions

    _ParamType = click.ParamType[tuple[str, Any]]
else:  # a generic class only in newer releases of click
    _ParamType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])


class _Named(_ParamType):
    """NAME<separator>VALUE; the name may hold the separator itself, as tensor names do."""

    def __init__(self, name: str, separator: str, read: Callable[[str], Any], example: str) -> None:
        self.name, self._separator, self._read, self._example = name, separator, read, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split into (name, value)."""
        name, separator, text = str(value).rpartition(self._separator)
        try:
            if not (name and separator):
                raise ValueError
            return name, self._read(text)
        except ValueError:
            self.fail(f"{value!r} does not read as {self.name}, for example {self._example}")


class _Seconds(click.FloatRange):
    """A time that ends: no NaN either, which passes every comparison of a range."""

    def __init__(self) -> None:
        super().__init__(min=0, max=1e6, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is not a number of seconds."""
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class _Megabytes(click.IntRange):
    """Megabytes, as a number of bytes."""

    def __init__(self) -> None:
        super().__init__(min=64, max=10**9)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """In bytes."""
        return super().convert(value, param, ctx) * 1_000_000


def _limited(_ctx: click.Context, _option: click.Parameter, value: int | None) -> int | None:
    """Say where a limit that was asked for cannot be held to."""
    if value is not None and not system.can_limit_memory():
        click.echo("--memory-limit: memory cannot be limited on this system, and is not", err=True)
    return value


class _Range(_ParamType):
    """[NAME:]LOW,HIGH; the name may hold a colon itself."""

    name = "[NAME:]LOW,HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split into (name, (low, high)); the name is "" for all inputs."""
        name, _, text = str(value).rpartition(":")
        try:
            low, high = (float(part) for part in text.strip("[]").split(","))
            if not -math.inf < low <= high < math.inf:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} does not read as {self.name}, for example x:0,255")
        return name, (low, high)


class _Tolerance(_ParamType):
    """[NAME:]V; the name may hold a colon itself."""

    name = "[NAME:]V"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split into (name, tolerance); the name is "" for all outputs."""
        name, _, text = str(value).rpartition(":")
        try:
            tolerance = float(text)
            if not 0 <= tolerance < math.inf:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} does not read as {self.name}, for example 1e-4 or y:1e-4")
        return name, tolerance


def _natural(text: str) -> int:
    number = int(text)
    if not 1 <= number < 1 << 31:
        raise ValueError
    return number


def _shape(text: str) -> tuple[int, ...]:
    text = text.strip("[]")
    return tuple(_natural(part) for part in text.split(",")) if text else ()


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["bnfold.debug"] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug,
    help="Show the traceback of an error.",
)  # fmt: skip


recursive_option = click.option(
    "-r", "--recursive", is_flag=True, help="Of folders also the models in their folders."
)


def with_options(command: F, options: Sequence[Callable[[F], F]]) -> F:
    """The command with these options, in this order in its help."""
    for option in reversed(options):
        command = option(command)
    return command


def listed(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def run_options(command: F) -> F:
    """The options that say on which inputs, and within which limits, models are run."""
    options = (
        click.option(
            "--inputs", metavar="PATH", type=click.Path(),
            help="What to run on: an .npz file with an array for each input, a folder of .npy or "
            ".npz files, test_data_set_* folders, or polygraphy's JSON. Default: drawn ones.",
        ),
        click.option(
            "--input-shape", "input_shapes", multiple=True, metavar="NAME:1,3,224,224",
            type=_Named("NAME:D1,D2,…", ":", _shape, "x:1,3,224,224"),
            help="Shape to run an input in, where the model leaves it open. Repeatable.",
        ),
        click.option(
            "--dim", "dims", multiple=True, metavar="NAME=N",
            type=_Named("NAME=N", "=", _natural, "batch=1"),
            help="Size of a symbolic dimension, for the runs only. Repeatable.",
        ),
        click.option(
            "--seed", default=0, show_default=True, type=click.IntRange(min=0),
            help="Seed of the drawn inputs.",
        ),
        click.option(
            "--fill", default="mixed", show_default=True,
            type=click.Choice(["mixed", "normal", "uniform", "zeros", "ones", "arange"]),
            help="What they are drawn from; mixed: normal and uniform in [0, 1) in turn.",
        ),
        click.option(
            "--val-range", multiple=True, metavar="[NAME:]LOW,HIGH", type=_Range(),
            help="The least and the largest number of an input, or of all. Repeatable.",
        ),
        limit_options(timeout=600.0),
    )  # fmt: skip
    return with_options(command, options)


def limit_options(timeout: float) -> Callable[[F], F]:
    """The options that say where models are run, and what that may take."""
    options = (
        click.option(
            "--providers", metavar="NAME,…", default="",
            help="onnxruntime's execution providers to run on.  [default: CPUExecutionProvider]",
        ),
        click.option(
            "--timeout", default=timeout, show_default=True, metavar="SECONDS",
            type=_Seconds(), help="Time that the runs may take.",
        ),
        click.option(
            "--memory-limit", metavar="MB", type=_Megabytes(), callback=_limited,
            help="Address space that the runs may take.  [default: 4096 or 8 × the model + 2048]",
        ),
    )  # fmt: skip
    return lambda command: with_options(command, options)


def trial_options(command: F) -> F:
    """Those, and the ones that say how two models are compared."""
    options = (
        run_options,
        click.option(
            "--check",
            default=3,
            show_default=True,
            metavar="N",
            type=click.IntRange(min=1, max=10_000),
            help="How many sets of inputs are drawn.",
        ),
        click.option(
            "--rtol",
            multiple=True,
            metavar="[NAME:]V",
            type=_Tolerance(),
            help="With --atol, obeyed literally instead of the measured bound. Repeatable.",
        ),
        click.option(
            "--atol",
            multiple=True,
            metavar="[NAME:]V",
            type=_Tolerance(),
            help="Likewise: |folded − original| ≤ atol + rtol × |original|. Repeatable.",
        ),
        click.option(
            "--counterexample",
            metavar="FOLDER",
            type=click.Path(),
            help="If something differs: save what shows it, as models and test_data_set_0.",
        ),
    )
    return with_options(command, options)


def fold_options(command: F) -> F:
    """The options that say what may be folded beyond the default."""
    options = (
        click.option(
            "--freeze-initializers", is_flag=True,
            help="Count initializers that are also graph inputs as constants. The inputs stay.",
        ),
        click.option(
            "--allow-max", is_flag=True,
            help="Let a Relu become a Max with a constant, where a shift can pass it then.",
        ),
        click.option(
            "--merge-branches", is_flag=True,
            help="Make one convolution of parallel branches that are added up (RepVGG, MobileOne).",
        ),
        click.option(
            "--skip", multiple=True, metavar="NAME",
            help="A node that is not folded, nor folded into. NAME may have * and ?. Repeatable.",
        ),
        click.option(
            "--only", multiple=True, metavar="NAME",
            help="A node that may be folded, where no other may. Likewise; repeatable.",
        ),
        click.option(
            "--only-batchnorm", "only_batch_norm", is_flag=True,
            help="Leave constant Muls, Adds, Subs and Divs alone.",
        ),
    )  # fmt: skip
    return with_options(command, options)


FOLD_OPTIONS = (
    "freeze_initializers", "allow_max", "merge_branches", "skip", "only", "only_batch_norm",
)  # fmt: skip


def make_options(given: dict[str, Any]) -> Options:
    """What the options of `fold_options` were given, taken out of `given`."""
    from bnfold.options import Options

    return Options(**{name: given.pop(name) for name in FOLD_OPTIONS})


def make_trial(
    *, inputs: str | None, input_shapes: Any, dims: Any, seed: int, fill: str, val_range: Any,
    providers: str, timeout: float, memory_limit: int | None, check: int = 1, rtol: Any = (),
    atol: Any = (), counterexample: str | None = None,
) -> RunOptions:  # fmt: skip
    """What the options of `trial_options`, or `run_options`, were given, as a RunOptions."""
    from bnfold.options import RunOptions

    return RunOptions(
        inputs,
        dict(input_shapes),
        dict(dims),
        seed,
        check,
        fill,
        dict(val_range),
        dict(rtol),
        dict(atol),
        listed(providers),
        timeout,
        memory_limit,
        counterexample,
    )
