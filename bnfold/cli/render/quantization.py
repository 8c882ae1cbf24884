"""What was done for quantisation, to be read by people. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from bnfold.cli.render.comparison import of_comparison
from bnfold.cli.render.console import table
from bnfold.graph.index import BATCH_NORM
from bnfold.quantization.correct import CorrectResult
from bnfold.quantization.equalization import Equalization, EqualizeResult
from bnfold.quantization.hazards import Hazard
from bnfold.text.flags import as_flags
from bnfold.text.formatting import count, plain


def of_equalize(result: EqualizeResult, source: str, *, verbose: bool = False) -> RenderableType:
    """The range of each layer before and after, and what stood in the way."""
    verified = " and verified" if result.comparison is not None else ""
    done = f"scales moved in {count(result.moved, 'region')}{verified}"
    parts: list[RenderableType] = [
        Text(f"{plain(source)} → {plain(str(result.model))}"),
        Text(f"{done if result.moved else 'nothing to move: the model is a copy'}\n", style="bold"),
        *ranges(result, verbose=verbose),
    ]
    if result.batch_norms:
        norms = count(result.batch_norms, BATCH_NORM)
        parts.append(Text(f"\n{norms} in the model: fold first, bnfold optimize", style="yellow"))
    if result.comparison is not None and verbose:
        parts.append(of_comparison(result.comparison))
    return Group(*parts)


def ranges(result: Equalization, *, verbose: bool = False) -> list[RenderableType]:
    """The range of each layer before and after, and what stood in the way."""
    figures = ("before", "after")
    rows = table("largest range / median", *figures, right=figures)
    for layer in result.layers:
        rows.add_row(Text(plain(layer.node)), f"{layer.before:.2f}", f"{layer.after:.2f}")
    parts: list[RenderableType] = [rows]
    kept = [region for region in result.regions if region.refusal is not None]
    if kept:
        rows = table("not equalised", "because")
        for region in kept:
            assert region.refusal is not None
            text = Text(plain(region.refusal.sentence), style="yellow")
            if verbose:
                text.append(f"\n{as_flags(region.refusal.reason.remedy)}", style="dim")
            rows.add_row(Text(plain(region.node)), text)
        parts += [Text(""), rows]
    return parts


def of_correct(result: CorrectResult, source: str) -> RenderableType:
    """By how much biases changed, and what stayed."""
    done = f"biases of {count(len(result.layers), 'layer')} corrected"
    parts: list[RenderableType] = [
        Text(f"{plain(source)} → {plain(str(result.model))}"),
        Text(f"{done if result.layers else 'nothing to correct: the model is a copy'}\n",
             style="bold"),
    ]  # fmt: skip
    if result.layers:
        figures = ("largest change", "rms", "steps")
        rows = table("means were off by", *figures, right=figures)
        for layer in result.layers:
            steps = f"{layer.steps:,}" if layer.steps else ""
            rows.add_row(Text(plain(layer.node)), f"{layer.largest:.3g}", f"{layer.rms:.3g}", steps)
        parts.append(rows)
    if result.left:
        rows = table("not corrected", "because")
        for one in result.left:
            rows.add_row(Text(plain(one.node)), Text(plain(one.sentence), style="yellow"))
        parts += [Text(""), rows]
    return Group(*parts)


def of_hazards(found: Sequence[Hazard]) -> RenderableType:
    """What will hurt, and what helps."""
    if not found:
        return Text("\nquantisation: nothing that will hurt was found")
    rows = table("quantisation will hurt", "because")
    for one in found:
        text = Text(f"{one.kind}: {plain(one.sentence)}", style="yellow")
        text.append(f"\n{as_flags(one.remedy)}", style="dim")
        rows.add_row(Text(plain(one.node)), text)
    return Group(Text(""), rows)
