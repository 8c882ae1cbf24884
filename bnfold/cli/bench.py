"""The command that measures. Heavy imports stay inside it."""

from __future__ import annotations

from typing import Any

import click

from bnfold.cli.options import debug_option, make_trial, run_options


@click.command()
@click.argument("original", type=click.Path())
@click.argument("folded", type=click.Path())
@click.option(
    "--runs", default=15, show_default=True, metavar="N", type=click.IntRange(min=1),
    help="Runs of each model, in turn, in one process.",
)  # fmt: skip
@click.option(
    "--repeat", default=10, show_default=True, metavar="N", type=click.IntRange(1, 1000),
    help="Processes for that, and for loading each model; below 6 there is no interval. The limits "
    "of time and memory are those of each process.",
)  # fmt: skip
@click.option(
    "--threads", default=0, metavar="N", type=click.IntRange(min=0),
    help="Threads of an operator.  [default: what onnxruntime chooses]",
)  # fmt: skip
@click.option(
    "--optimisations", type=click.Choice(["off", "on", "both"]), default="both",
    show_default=True, help="onnxruntime's own optimisations.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@run_options
@debug_option
def bench(
    original: str, folded: str, runs: int, repeat: int, threads: int, optimisations: str,
    as_json: bool, **trial: Any,
) -> None:  # fmt: skip
    """Measure what folding gains in onnxruntime.

    Load time, memory, latency, size and nodes. The models run in turn. A ratio is told with its
    95 % interval, and as a gain only where that does not hold 1. Latency often stays the same:
    onnxruntime folds what it can while it loads.

    \b
    Examples:
      bnfold bench model.onnx model.folded.onnx
      bnfold bench model.onnx model.folded.onnx --threads 1 --input-shape image:8,3,224,224
    """
    import bnfold
    from bnfold.cli.render.bench import of_bench
    from bnfold.cli.render.console import console
    from bnfold.text.json_encoding import dumps

    modes = {"off": (False,), "on": (True,), "both": (False, True)}[optimisations]
    from bnfold.cli.render.progress import Bar

    with Bar("measuring") as bar:
        result = bnfold.bench(
            original, folded, trial=make_trial(**trial), runs=runs, repeat=repeat,
            threads=threads, modes=modes, progress=bar,
        )  # fmt: skip
    if as_json:
        click.echo(dumps(result), nl=False)
    else:
        console().print(of_bench(result))
