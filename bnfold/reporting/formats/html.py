"""A report as one HTML file that needs nothing else: no network, no script, below 200 kB.

The template is jinja2's, with autoescape: names of models are data there and nothing else. What
does not fit is left to the JSON report, and the page says how much that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from bnfold.reporting.content import PASSED, ModelReport, Report, SiteReport
from bnfold.reporting.formats import charts
from bnfold.reporting.formats.charts import Share
from bnfold.reporting.summary import statistics
from bnfold.text.escape import shown
from bnfold.text.formatting import count, number, size, times
from bnfold.tuning.prediction.consistency_plot import picture
from bnfold.verification.comparison import Comparison

LARGEST = 200_000  # bytes


@dataclass(frozen=True)
class Caps:
    """How much of each kind is shown, over all models."""

    models: int = 400
    rows: int = 240
    drawn: int = 12
    bars: int = 160
    letters: int = 200

    def halved(self) -> Caps:
        """Half of everything."""
        return Caps(
            self.models // 2, self.rows // 2, self.drawn // 2, self.bars // 2,
            max(self.letters // 2, 30),
        )  # fmt: skip


@dataclass
class _Section:
    """One model as the template shows it; pictures are markup, `svg` has escaped their names."""

    model: ModelReport
    sites: list[SiteReport] = field(default_factory=list)
    hidden_sites: int = 0
    ranges: Markup | None = None
    shares: Markup | None = None
    drawn: list[tuple[SiteReport, Markup]] = field(default_factory=list)
    hidden_drawn: int = 0
    statistics: Markup | None = None
    statistics_line: str = ""

    @property
    def open(self) -> bool:
        return bool(self.sites or self.ranges or self.shares or self.model.status != PASSED)


def render(report: Report) -> str:
    """The whole report."""
    caps = Caps()
    while len((page := _page(report, caps)).encode()) > LARGEST:
        caps = caps.halved()
    return page


def _page(report: Report, caps: Caps) -> str:
    environment = Environment(
        loader=PackageLoader("bnfold.reporting.formats", "."),
        autoescape=select_autoescape(("j2",), default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": lambda text: shown(str(text), caps.letters),
        "size": size,
        "figure": number,
        "count": count,
        "times": times,
    }
    models = sorted(report.models, key=_interest)
    sites = [site for model in models for site in model.sites]
    return environment.get_template("report.html.j2").render(
        report=report,
        sections=list(_sections(models[: caps.models], caps)),
        hidden_models=len(models) - len(models[: caps.models]),
        folded=sum(site.folded for site in sites),
        kept=sum(not site.folded for site in sites),
        bad=sum(model.status != PASSED for model in models),
        reasons=sorted({site.reason.code for site in sites if site.reason is not None}),
    )


def _interest(model: ModelReport) -> tuple[bool, bool]:
    """What went wrong first, then what stayed."""
    return model.status == PASSED, all(site.folded for site in model.sites)


def _sections(models: Iterable[ModelReport], caps: Caps) -> Iterator[_Section]:
    rows, drawn, bars = caps.rows, caps.drawn, caps.bars
    for model in models:
        section = _Section(model)
        ordered = sorted(model.sites, key=lambda site: site.folded)
        section.sites = ordered[:rows]
        section.hidden_sites = len(ordered) - len(section.sites)
        rows -= len(section.sites)
        layers = [site for site in model.sites if site.layer is not None and site.layer.scale]
        if layers[:bars]:
            section.ranges = Markup(charts.ranges(layers[:bars]))  # noqa: S704
            bars -= len(layers[:bars])
        section.statistics_line = statistics(model.statistics)
        if model.statistics[:bars]:
            section.statistics = Markup(picture(model.statistics[:bars]).as_svg())  # noqa: S704
            bars -= len(model.statistics[:bars])
        shares = list(_shares(model.comparison))[:bars]
        if shares:
            section.shares = Markup(charts.shares(shares))  # noqa: S704
            bars -= len(shares)
        kept = [site for site in ordered if site.layer is not None and site.layer.around]
        section.drawn = [(site, _drawn(site)) for site in kept[:drawn]]
        section.hidden_drawn = len(kept) - len(section.drawn)
        drawn -= len(section.drawn)
        yield section


def _drawn(site: SiteReport) -> Markup:
    assert site.layer is not None
    assert site.layer.around is not None
    blocker = "" if site.reason is None else site.reason.node
    return Markup(charts.around(site.layer.around, blocker))  # noqa: S704


def _shares(comparison: Comparison | None) -> Iterator[Share]:
    """The outputs, then the folds, those closest to their bounds first."""
    if comparison is None:
        return
    outputs = [
        Share(f"output {o.name}", _share(o.max_abs, o.bound), o.equal) for o in comparison.outputs
    ]
    folds = [Share(f.node, _share(f.c, f.gate), f.valid) for f in comparison.folds]
    for rows in (outputs, folds):
        yield from sorted(rows, key=lambda row: (row.valid, -(row.share or 0)))


def _share(value: float, bound: float) -> float | None:
    """None for what is no finite number."""
    if not (math.isfinite(value) and math.isfinite(bound)):
        return None
    return value / bound if bound else (0.0 if value == 0 else None)
