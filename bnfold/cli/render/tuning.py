"""What freezing, statistics and recalibrating gave, to be read by people and by programs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from bnfold.cli.render.comparison import of_comparison
from bnfold.cli.render.console import table
from bnfold.graph.index import BATCH_NORM
from bnfold.text.flags import as_flags
from bnfold.text.formatting import count, plain
from bnfold.text.json_encoding import dumps
from bnfold.tuning.data_statistics import RecalibrateResult, SkippedNode, StatsResult
from bnfold.tuning.drift import ChannelDrift, Fit
from bnfold.tuning.freezing.frozen_models import AssignResult, FreezeResult
from bnfold.tuning.freezing.recover import RecoverResult
from bnfold.tuning.freezing.recovery import Recovered

_STYLES = {Fit.FITS: "green", Fit.DRIFTED: "red", Fit.TOO_LITTLE: "yellow"}


def of_recover(result: RecoverResult, source: str, *, verbose: bool = False) -> RenderableType:
    """What was put back, and with which statistics."""
    verified = " and verified" if result.comparison is not None else ""
    total = count(len(result.recovered), BATCH_NORM)
    done = f"{total} put back{verified}" if result.recovered else "there is nothing to put back"
    parts: list[RenderableType] = [
        Text(f"{plain(source)} → {plain(str(result.model))}"),
        Text(f"{done}\n", style="bold"),
    ]
    rows = table(BATCH_NORM, "makes", "statistics")
    for one in result.recovered:
        rows.add_row(Text(plain(one.node)), Text(plain(one.tensor)), Text(_statistics(one)))
    if result.recovered:
        parts.append(rows)
    if result.comparison is not None and verbose:
        parts.append(of_comparison(result.comparison))
    return Group(*parts)


def _statistics(one: Recovered) -> str:
    if not one.known:
        return "unknown: μ is 0 and σ² is 1"
    if one.guessed:
        return f"from the file, but for μ of {count(one.guessed, 'channel')}, which is 0"
    return "from the file"


def of_freeze(result: FreezeResult, source: str, *, verbose: bool = False) -> RenderableType:
    """What was frozen and what was not; with `verbose` also how that was verified."""
    total = f"{len(result.frozen)} of {count(len(result.verdicts), BATCH_NORM)} frozen"
    verified = " and verified" if result.comparison is not None else ""
    parts: list[RenderableType] = [
        Text(f"{plain(source)} → {plain(str(result.model))}"),
        Text(f"{total}{verified}\n", style="bold"),
    ]
    rows = table("BatchNormalization", "frozen as")
    for one in result.frozen:
        rows.add_row(
            Text(plain(one.site)), Text(f"{plain(one.gamma_prime)}, {plain(one.beta_prime)}")
        )
    for verdict in result.verdicts:
        if verdict.refusal is not None:
            refusal = verdict.refusal
            text = Text(f"kept ({refusal.reason.code}): {plain(refusal.sentence)}", style="yellow")
            text.append(f"\n{as_flags(refusal.reason.remedy)}", style="dim")
            rows.add_row(Text(plain(verdict.site)), text)
    parts.append(rows)
    if result.comparison is not None and verbose:
        parts.append(of_comparison(result.comparison))
    if result.learnable is not None:
        parts.append(Text(f"\nlearnable parameters are listed in {plain(str(result.learnable))}"))
    return Group(*parts)


def of_assign(result: AssignResult) -> RenderableType:
    """The report of `bnfold assign`."""
    rows = table("parameter", "largest change", right=("largest change",))
    for name, moved in result.moved.items():
        rows.add_row(Text(plain(name)), f"{moved:.3g}")
    done = f"{count(len(result.moved), 'parameter')} written to {plain(str(result.model))}"
    return Group(rows, Text(f"\n{done}", style="bold"))


def of_stats(result: StatsResult) -> RenderableType:
    """The report of `bnfold stats`, a line for each BatchNormalization."""
    figures = ("mean shift", "variance", "drifted", "dead")
    rows = table("BatchNormalization", *figures, "", right=figures)
    for drift in result.drifts:
        alive = drift.channels - drift.dead
        rows.add_row(
            Text(plain(drift.node)), f"{drift.worst_shift:.2f} ± {_error(drift):.2f} σ",
            f"× {drift.worst_ratio:.3g}", f"{drift.drifted} of {alive}", str(drift.dead),
            Text(drift.fit.value, style=_STYLES[drift.fit]),
        )  # fmt: skip
    samples = result.drifts[0].samples if result.drifts else 0
    total = f"{len(result.drifted)} of {count(len(result.drifts), BATCH_NORM)} drifted"
    closing = Text(f"\n{total}, on {count(samples, 'sample')}", style="bold")
    return Group(rows, *_skipped(result.left), closing)


def _error(drift: ChannelDrift) -> float:
    """The standard error of the largest shift."""
    if not np.any(np.isfinite(drift.shift)):
        return 0.0
    worst = int(np.nanargmax(np.abs(drift.shift)))
    return float(np.nan_to_num(drift.shift_error[worst], nan=np.inf))


def of_recalibrate(result: RecalibrateResult, source: str) -> RenderableType:
    """The report of `bnfold recalibrate`."""
    norms = count(result.norms, BATCH_NORM)
    parts: list[RenderableType] = [
        Text(f"{plain(source)} → {plain(str(result.model))}\n"),
        Text(f"{norms} in {count(result.layers, 'layer')}, on {count(result.samples, 'sample')}"),
        *_skipped(result.left),
    ]
    if result.prior:
        parts.append(Text(f"what was stored counted like {result.prior:g} samples"))
    if result.before is not None and result.after is not None:
        parts.append(
            Text(f"held out: accuracy {result.before:.4f} before, {result.after:.4f} after")
        )
    return Group(*parts)


def _skipped(left: Sequence[SkippedNode]) -> list[RenderableType]:
    return [Text(f"skipped: {plain(one.sentence)}", style="yellow") for one in left]


def stats_as_json(result: StatsResult) -> str:
    """All of it, with the figures of every channel; null for dead ones."""
    entries = [
        {
            "node": drift.node,
            "fit": drift.fit.value,
            "samples": drift.samples,
            "channels": drift.channels,
            "dead": drift.dead,
            "drifted": drift.drifted,
            "worst_shift": drift.worst_shift,
            "worst_ratio": drift.worst_ratio,
            **{
                name: [float(v) if np.isfinite(v) else None for v in getattr(drift, name)]
                for name in ("shift", "shift_error", "ratio", "ratio_error")
            },
        }
        for drift in result.drifts
    ]
    left = [{"node": one.node, "sentence": one.sentence} for one in result.left]
    return dumps({"batchnorms": entries, "left_alone": left})
