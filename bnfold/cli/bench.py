"""The command that measures. Heavy imports stay inside it."""

from __future__ import annotations

import click

from bnfold.cli import sections
from bnfold.cli.options import command, display_options, json_option, option, run_options
from bnfold.cli.terminal.display import Display
from bnfold.options import RunOptions


@command()
@click.argument("original", type=click.Path())
@click.argument("folded", type=click.Path())
@option(
    sections.MEASURING,
    "--runs",
    default=15,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=1),
    help="Runs of each model, in turn, in one process.",
)
@option(
    sections.MEASURING,
    "--repeat",
    default=10,
    show_default=True,
    metavar="N",
    type=click.IntRange(1, 1000),
    help="Number of processes for that, and for loading each model; below 6 there is no interval. "
    "The limits of time and memory are those of each process.",
)
@option(
    sections.MEASURING,
    "--threads",
    default=0,
    metavar="N",
    type=click.IntRange(min=0),
    help="Threads per operator.  [default: onnxruntime's choice]",
)
@option(
    sections.MEASURING,
    "--optimisations",
    type=click.Choice(["off", "on", "both"]),
    default="both",
    show_default=True,
    help="onnxruntime's own optimisations.",
)
@run_options(comparing=False)
@json_option("Print the result as JSON.")
@display_options
def bench(
    original: str, folded: str, runs: int, repeat: int, threads: int, optimisations: str,
    run_options: RunOptions, as_json: bool, display: Display,
) -> None:  # fmt: skip
    """Measure what folding gains in onnxruntime.

    Load time, memory, latency, size and nodes; the models run in turn. Each ratio comes with its
    95 % interval, and counts as a gain only if that excludes 1. Latency often stays the same:
    onnxruntime folds what it can while loading.

    \b
    Examples:
      bnfold bench model.onnx model.folded.onnx
      bnfold bench model.onnx model.folded.onnx --threads 1 --input-shape image:8,3,224,224
    """
    import bnfold
    from bnfold.cli.render.bench import of_bench
    from bnfold.text.json_encoding import dumps

    modes = {"off": (False,), "on": (True,), "both": (False, True)}[optimisations]
    with display.progress() as progress:
        result = bnfold.bench(
            original, folded, run_options=run_options, runs=runs, repeat=repeat, threads=threads,
            modes=modes, progress=progress,
        )  # fmt: skip
    if as_json:
        click.echo(dumps(result), nl=False)
    else:
        display.print(of_bench(result))
