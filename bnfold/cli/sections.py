"""Options in groups: which section of a command's help an option stands in."""

from __future__ import annotations

from typing import Any

import click

FOLDING = "What to fold"
STATISTICS = "Statistics"
MEASURING = "Measuring"
OUTPUT = "Output"
VERIFICATION = "Verification"
INPUTS = "Inputs and limits"
REPORTS = "Reports"
GENERAL = "General"
_ORDER = (FOLDING, STATISTICS, MEASURING, OUTPUT, VERIFICATION, INPUTS, REPORTS, GENERAL)


class SectionOption(click.Option):
    """An option that knows its section."""

    def __init__(self, *arguments: Any, section: str, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.section = section


class SectionCommand(click.Command):
    """A command whose help lists its options section by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in their order; --help is in the last one."""
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                section = getattr(parameter, "section", GENERAL)
                records.setdefault(section, []).append(record)
        for section in sorted(records, key=_ORDER.index):
            with formatter.section(section):
                formatter.write_dl(records[section])
