"""Reports of the commands: the options, and what writes them. Heavy imports stay inside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnfold.cli.options import with_options
from bnfold.errors import BnfoldError, UsageError
from bnfold.reporting import files as report_writer
from bnfold.reporting import github
from bnfold.text.escape import escape_commands, on_github
from bnfold.text.formatting import plain

if TYPE_CHECKING:
    from bnfold.onnx_io.output_paths import PathLike
    from bnfold.reporting.content import Report

F = TypeVar("F", bound=Callable[..., Any])


def report_options(command: F) -> F:
    """The options that say what reports there are to be."""
    options = (
        click.option(
            "--report", "report_files", multiple=True, metavar="FILE",
            type=click.Path(dir_okay=False),
            help="Write a report: .json, .md, .html, .junit.xml or .sarif. Repeatable.",
        ),
        click.option(
            "--no-ci", is_flag=True,
            help="No step summary and no annotations where a CI service asks for them.",
        ),
    )  # fmt: skip
    return with_options(command, options)


class Reporting:
    """What one command is to report, and where; a report that fails hides no verdict."""

    def __init__(
        self, command: str, files: Sequence[str], no_ci: bool, keep: Iterable[PathLike | None]
    ) -> None:
        """Raises UsageError for files that could not be written, or that are others (`keep`)."""
        if files:  # only then is it worth finding out what there is to keep
            report_writer.require_writable(files, [path for path in keep if path is not None])
        self._command, self._files = command, files
        self._announces = not no_ci and on_github()
        self._failed = False

    @property
    def details(self) -> bool:
        """Whether what only a report draws is wanted."""
        return bool(self._files)

    def give(self, make: Callable[[], Report]) -> None:
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
            self.give(lambda: content.of_error(self._command, source, failure))
            raise
