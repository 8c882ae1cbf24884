"""A report as JSON, by the schema in `schema.json` beside this module."""

from __future__ import annotations

from bnfold.json_text import dumps
from bnfold.reports.content import Report


def render(report: Report) -> str:
    """All of the report."""
    return dumps(report)
