"""The options for reports, and what writes these. Heavy imports stay inside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from bnfold.cli import sections
from bnfold.cli.options import group, option
from bnfold.errors import BnfoldError, UsageError
from bnfold.reporting import files as report_writer
from bnfold.reporting import github
from bnfold.text.escape import escape_commands, on_github
from bnfold.text.formatting import plain

if TYPE_CHECKING:
    from bnfold.onnx_io.output_paths import PathLike
    from bnfold.reporting.content import Report


@dataclass(frozen=True)
class ReportRequest:
    """The report files that are asked for, and whether CI services are to be told nothing."""

    report: tuple[str, ...]
    no_ci: bool


report_options = group(
    "reports",
    ReportRequest,
    option(
        sections.REPORTS, "--report", multiple=True, metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Write a report: .json, .md, .html, .junit.xml or .sarif. Repeatable.",
    ),
    option(
        sections.REPORTS, "--no-ci", is_flag=True,
        help="Write no step summary and no annotations when running in CI.",
    ),
)  # fmt: skip


class Reporting:
    """What one command is to report, and where; a report that fails hides no verdict."""

    def __init__(
        self, command: str, request: ReportRequest, keep: Iterable[PathLike | None]
    ) -> None:
        """`keep` are all other files of the command; it is only read where there are reports.

        Raises UsageError for reports that could not be written, or that would replace one of these.
        """
        self._files = request.report
        if self._files:
            kept = [path for path in keep if path is not None]
            report_writer.require_writable(self._files, kept)
        self._command = command
        self._announces = not request.no_ci and on_github()
        self._failed = False

    @property
    def details(self) -> bool:
        """Whether what only a report draws is wanted."""
        return bool(self._files)

    def write(self, make: Callable[[], Report]) -> None:
        """Write all reports there are to be."""
        if not self._files and not self._announces:
            return
        report = make()
        for file in self._files:
            try:
                report_writer.save(report, file)
            except UsageError as error:
                self._failed = True
                click.echo(escape_commands(f"error: {plain(error.message)}"), err=True)
        if self._announces:
            for line in github.announce(report):
                click.echo(line, err=True)

    def exit_code(self, verdict: int = 0) -> int:
        """That of the verdict; where it was good, that of a report that was not written."""
        return verdict or (UsageError.exit_code if self._failed else 0)

    @contextlib.contextmanager
    def on_error(self, source: str) -> Iterator[None]:
        """Report an error as well, which goes on."""
        try:
            yield
        except BnfoldError as error:
            from bnfold.reporting import content

            failure = error
            self.write(lambda: content.of_error(self._command, source, failure))
            raise
