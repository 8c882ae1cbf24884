"""What a CI service is told without being asked, where its own environment variables are there.

On GitHub Actions: the report in the step summary, and an annotation for what failed. Nothing is
sent anywhere; the summary is a file that the runner names, annotations are lines of the log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.text.escape import on_github

if TYPE_CHECKING:
    from bnfold.reporting.content import Report

_LARGEST = 900_000  # bytes; GitHub drops a summary above 1 MiB
_MOST_ANNOTATIONS = 10  # GitHub shows no more of one step


def announce(report: Report, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Write the step summary; gives the annotations, to be printed."""
    if not on_github(environment):
        return
    if summary := environment.get("GITHUB_STEP_SUMMARY"):
        _summarise(report, Path(summary))
    yield from _annotations(report)


def _summarise(report: Report, path: Path) -> None:
    from bnfold.reporting.files import render

    text = render(report, ".md")
    if len(text.encode()) > _LARGEST:
        text = text.encode()[:_LARGEST].decode(errors="ignore").rpartition("\n")[0]
        text += "\n\n… and more than fits in a summary\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}")
    except OSError:  # the runner's own fault, and no verdict on the model
        return


def _annotations(report: Report) -> Iterator[str]:
    from bnfold.reporting.content import PASSED
    from bnfold.text.escape import workflow_message, workflow_property

    told = [
        (model.path, f"{fault.site}: {fault.sentence}")
        for model in report.models
        for fault in model.faults
    ]
    told += [
        (model.path, model.sentence)
        for model in report.models
        if model.status != PASSED and not model.faults
    ]
    for path, sentence in told[:_MOST_ANNOTATIONS]:
        file = workflow_property(path)
        title = workflow_property(f"bnfold {report.command}")
        yield f"::error file={file},title={title}::{workflow_message(sentence)}"
