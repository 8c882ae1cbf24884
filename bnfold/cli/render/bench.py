"""What folding gained, to be read by people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from bnfold.benchmark.ratios import BenchMode, BenchResult, ExecutedGraph, Measurement
from bnfold.cli.render.console import table
from bnfold.graph.index import BATCH_NORM
from bnfold.text.formatting import count, plain, size

_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("load", "load", lambda value: seconds(value)),
    ("loaded", "memory after load", size),
    ("peak", "peak memory", size),
    ("latency", "latency", lambda value: seconds(value)),
)


def of_bench(result: BenchResult) -> RenderableType:
    """A table of all figures, and what they mean in a sentence for each mode."""
    columns = ("original", "folded", "folded / original")
    rows = table("", *columns, right=columns)
    heads: tuple[tuple[str, tuple[int, int], Callable[[float], str]], ...] = (
        ("file size", result.sizes, size),
        ("nodes", result.nodes, str),
        ("BatchNormalizations", result.batch_norms, str),
    )
    for name, (old, new), words in heads:
        rows.add_row(name, words(old), words(new), f"{new / old:.3f}" if old else "")
    for mode in result.modes:
        rows.add_row(f"\noptimisations {'on' if mode.optimised else 'off'}")
        if mode.original is not None and mode.folded is not None:
            for name, what in (("nodes run", "nodes"), ("BatchNormalizations run", "batch_norms")):
                pair = (getattr(graph, what) for graph in (mode.original, mode.folded))
                rows.add_row(f"  {name}", *map(str, pair), "")
        for field, name, words in _FIGURES:
            rows.add_row(f"  {name}", *_cells(getattr(mode, field), words))
    threads = result.threads or "onnxruntime's choice of"
    ran = f"\non {', '.join(map(plain, result.inputs)) or 'no inputs'}, {threads} threads, "
    ran += ", ".join(map(plain, result.providers))
    gone = result.batch_norms[0] - result.batch_norms[1]
    sentences = (
        Text(sentence, style="bold") for mode in result.modes for sentence in conclusion(mode, gone)
    )
    return Group(rows, Text(ran + "\n"), *sentences)


def conclusion(mode: BenchMode, gone: int) -> Iterator[str]:
    """What the model gets of folding `gone` BatchNormalizations, and what not."""
    folds_itself = mode.optimised and gone > 0
    head = f"with optimisations {'on' if mode.optimised else 'off'}"
    if mode.original is not None and mode.folded is not None:
        yield f"{head}, {_work(mode.original, mode.folded, folds_itself=folds_itself)}"
    for field, name, _ in _FIGURES:
        found: Measurement = getattr(mode, field)
        if found.low is None:
            continue
        change = f"{'less' if found.ratio < 1 else 'more'} by {abs(1 - found.ratio):.0%}"
        yield f"  {name}: {change if found.differs else 'no difference that these runs can show'}"


def _work(original: ExecutedGraph, folded: ExecutedGraph, *, folds_itself: bool) -> str:
    if original == folded:
        same = f"onnxruntime runs the same {count(folded.nodes, 'node')} of either"
        if not folds_itself:
            left = f", {count(folded.batch_norms, BATCH_NORM)} among them"
            return same + (left if folded.batch_norms else "")
        return f"{same}: it folds as well"
    gone, kept = original.nodes - folded.nodes, original.batch_norms
    said = f"onnxruntime runs {count(abs(gone), 'node')} {'fewer' if gone >= 0 else 'more'}"
    return f"{said}, and leaves {count(kept, BATCH_NORM)} of the original" if kept else said


def _cells(found: Measurement, words: Callable[[float], str]) -> Iterator[str]:
    for median, first, third in (found.original, found.folded):
        yield f"{words(median)} ({words(first)} … {words(third)})"
    held = "" if found.low is None else f" [{found.low:.3f}, {found.high:.3f}]"
    yield f"{found.ratio:.3f}{held}"


def seconds(value: float) -> str:
    """Seconds in the unit that fits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
