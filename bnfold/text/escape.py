"""Text from untrusted models in other people's formats, so that it stays text there.

Control characters become visible escapes everywhere (`formatting.plain`); what else has a meaning
depends on the format. HTML is jinja2's autoescape, XML ElementTree's, JSON json's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

from bnfold.text.formatting import plain

LONGEST = 300  # letters of a name or sentence that are shown; JSON has all of them
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#!|~&@$]|^[+-]|:(?=//|\w+:)|(?<=www)\.)", re.IGNORECASE)
_FENCE = re.compile(r"`+")


def shown(text: str, longest: int = LONGEST) -> str:
    """Without control characters, and cut in the middle where it is too long."""
    if len(text) > 8 * longest:  # the ends, before each letter is looked at
        text = text[: 2 * longest] + text[-2 * longest :]
    text = plain(text)
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def markdown(text: str) -> str:
    """As text in Markdown: no markup, no HTML, no link, no mention."""
    return _MARKDOWN.sub(r"\\\1", shown(text))


def code(text: str, *, in_table: bool = False) -> str:
    """As code in Markdown, where nothing has a meaning but backticks; and in tables, bars."""
    text = shown(text) or " "
    fence = "`" * (1 + max((len(run) for run in _FENCE.findall(text)), default=0))
    text = f" {text} " if text[0] in "` " or text[-1] in "` " else text
    inner = text.replace("|", "\\|") if in_table else text
    return f"{fence}{inner}{fence}"


def workflow_message(text: str) -> str:
    """As the message of a GitHub workflow command, which is one line."""
    text = shown(text, 2000)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def workflow_property(text: str) -> str:
    """As a property of a GitHub workflow command."""
    return workflow_message(text).replace(":", "%3A").replace(",", "%2C")


def uri(path: str) -> str:
    """A path as a relative reference, or as a file: URI where it is absolute."""
    path = path.replace("\\", "/") if os.name == "nt" else path
    quoted = quote(path.encode("utf-8", "surrogateescape"), safe="/-._~")
    return f"file://{quoted}" if path.startswith("/") else quoted


_COMMAND = re.compile(r"(?m)^((?:[^\S\n]|\x1b\[[0-9;]*m)*):(?=:)|##(?=[A-Za-z]*\[)")


def on_github(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this runs as a step of GitHub Actions."""
    return environment.get("GITHUB_ACTIONS") == "true"


def escape_commands(text: str) -> str:
    """Output that no CI service takes for its commands, whatever names are in it.

    GitHub obeys lines that begin with "::", and "##[" anywhere; Azure obeys "##vso[", TeamCity
    "##teamcity[".
    """
    return _COMMAND.sub(lambda m: "#\\x23" if m[0] == "##" else f"{m[1]}\\x3a", text)
