"""A report as JSON, by the schema in `schema.json` beside this module."""

from __future__ import annotations

from bnfold.reporting.content import Report
from bnfold.text.json_encoding import dumps


def render(report: Report) -> str:
    """All of the report."""
    return dumps(report)
