"""Writes the pages of the documentation that the code knows best.

python docs/generate.py

The tests hold what is in the repository against what this would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from reason_examples import EXAMPLES

import bnfold
from bnfold import Reason
from bnfold.cli.main import main as cli
from bnfold.reporting.files import SUFFIXES
from bnfold.reporting.schema import schema

DOCS = Path(__file__).parent


# --- reasons -------------------------------------------------------------------------------------


def reasons() -> str:
    """Each reason with its remedy and an example."""
    lines = [
        "# Reasons", "",
        "Why a BatchNormalization was kept, and what to do about it. The codes are stable; they "
        "stand in every report.", "",
        "Each has an example in ONNX's text syntax, to be read with `onnx.parser.parse_model`. s, "
        "b, m and v are initializers with the BatchNormalization's parameters, w and k others.",
        "",
    ]  # fmt: skip
    for reason in Reason:
        example = EXAMPLES[reason]
        sentence = reason.sentence.format(node="*node*", detail="*detail*")
        lines += [f"## {reason.code}", "", f"{sentence}.", "", f"**Remedy:** {reason.remedy}.", ""]
        opset = "" if example.opset == 17 else f"Opset {example.opset}. "
        if opset or example.words:
            lines += [f"{opset}{example.words}".strip(), ""]
        lines += ["```text", example.text.strip(), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


# --- commands ------------------------------------------------------------------------------------


def commands() -> str:
    """The help of every command."""
    lines = ["# Commands", "", "What `bnfold COMMAND --help` says.", ""]
    lines += ["```text", _help(cli, "bnfold"), "```", ""]
    for name, command in cli.commands.items():
        lines += [f"## bnfold {name}", "", "```text", _help(command, f"bnfold {name}"), "```", ""]
    lines += [
        "## Shell completion", "",
        "Commands and options complete in bash, zsh and fish:", "",
        "```sh",
        'eval "$(_BNFOLD_COMPLETE=bash_source bnfold)"   # in ~/.bashrc',
        'eval "$(_BNFOLD_COMPLETE=zsh_source bnfold)"    # in ~/.zshrc',
        "_BNFOLD_COMPLETE=fish_source bnfold | source    # in ~/.config/fish/config.fish",
        "```",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, terminal_width=88, max_content_width=88)
    return command.get_help(context)


def _alias(what: Any) -> str:
    return re.sub(
        r"\b(?:typing|collections\.abc|bnfold|pathlib|os)(?:\.[a-z_]+)*\.", "", str(what)
    ).replace("'", '"')


# --- the library ---------------------------------------------------------------------------------


def api() -> str:
    """Every public name with its signature and its docstring."""
    lines = [
        "# Python API", "",
        "Everything that `import bnfold` offers; the [tutorial](tutorial.md#in-python) has "
        "examples. Paths are `str` or `os.PathLike`. What can go wrong is a `BnfoldError`.", "",
    ]  # fmt: skip
    public = {name: getattr(bnfold, name) for name in dir(bnfold) if name != "__version__"}
    functions = [name for name, what in public.items() if inspect.isfunction(what)]
    from bnfold import torch

    lines += ["## Functions", ""]
    for name in functions:
        lines += _entry(f"bnfold.{name}", public[name])
    lines += _entry("bnfold.torch.export", torch.export)
    lines += ["## Types", ""]
    for name, what in public.items():
        if name not in functions:
            lines += _entry(f"bnfold.{name}", what)
    return "\n".join(lines).rstrip() + "\n"


def _entry(name: str, what: Any) -> Iterator[str]:
    yield from (f"### {name}", "")
    if not (inspect.isfunction(what) or isinstance(what, type)):  # an alias
        yield from ("```python", f"{name.rpartition('.')[2]} = {_alias(what)}", "```", "")
        return
    text = inspect.getdoc(what) or ""
    if inspect.isfunction(what) or hasattr(what, "__dataclass_fields__"):
        yield from ("```python", _signature(name.rpartition(".")[2], what), "```", "")
    yield from (text, "")


def _signature(name: str, what: Callable[..., Any]) -> str:
    """One parameter in each line, with the types as the source has them."""
    signature = inspect.signature(what)
    parts, keyword = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            parts.append("*")
            keyword = True
        default = parameter.default
        shown = parameter.replace(default=parameter.empty) if _is_made(default) else parameter
        text = str(shown).replace("'", "").replace("collections.abc.", "")
        parts.append(f"{text} = …" if _is_made(default) else text)
    body = "".join(f"    {part},\n" for part in parts)
    result = signature.return_annotation
    told = "" if result in (signature.empty, None, "None") else f" -> {result}"
    return f"{name}(\n{body}){told}" if body else f"{name}(){told}"


def _is_made(default: object) -> bool:
    """Whether a default is made anew for each call, and has no text worth reading."""
    return "factory" in repr(default)


# --- the report ----------------------------------------------------------------------------------


def report() -> str:
    """The fields of the JSON report, from its schema."""
    found = schema()
    lines = [
        "# Reports", "",
        f"`--report FILE` writes what a command found; the suffix is one of {', '.join(SUFFIXES)}.",
        "",
        "- **.json** has all of it, by a schema of which this page is the readable form. "
        "[schema.json](../bnfold/reporting/schema.json) comes with the package. Within one "
        "`schema_version` fields may be added, and none changes its meaning or goes.",
        "- **.md** is for people in a hurry: a CI's step summary, a pull request.",
        "- **.html** is one file below 200 kB that needs no network and runs no script: verdicts "
        "with filters, γ′ and weight ranges of each layer, errors in units of their bounds, the "
        "graph around what stays. What does not fit is counted. Where a server forbids styles as "
        "well, as Jenkins does unless told otherwise, it is plain and cannot be filtered.",
        "- **.junit.xml** has a suite for each model and a case for each BatchNormalization "
        "(skipped where it was kept), each output, and the model as a whole.",
        "- **.sarif** is for code scanning: kept sites are notes, with a rule for each reason; "
        "what the gate holds against a model and what is not equal are errors.", "",
        "Names come from models, which nobody vouches for. Control characters are written as "
        "escapes, and in every format text stays text.", "",
        "## The fields of the JSON report", "",
        "NaN and infinities are the strings `NaN`, `Infinity` and `-Infinity`. The root is "
        "a *Report*.", "",
    ]  # fmt: skip
    ordered = ["Report", *(name for name in found["$defs"] if name != "Report")]
    for name in ordered:
        entry = found["$defs"][name]
        described = re.sub(r" +", " ", entry.get("description", "")).strip()
        lines += [f"### {name}", "", described, "", "| field | type |", "|---|---|"]
        lines += [f"| `{key}` | {_type(kind)} |" for key, kind in entry["properties"].items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in kind:
        return f"`{kind['const']}`"
    if "enum" in kind:
        return " or ".join(f"`{value}`" for value in kind["enum"])
    if "anyOf" in kind:
        parts = [part for part in kind["anyOf"] if "Infinity" not in part.get("enum", ())]
        return " or ".join(dict.fromkeys(map(_type, parts)))
    if kind["type"] == "array" and "items" in kind and kind["items"] is not False:
        return f"list of {_type(kind['items'])}"
    if kind["type"] == "array":
        return f"[{', '.join(map(_type, kind['prefixItems']))}]"
    return str(kind["type"])


PAGES: dict[str, Callable[[], str]] = {
    "reasons.md": reasons, "commands.md": commands, "api.md": api, "report.md": report,
}  # fmt: skip


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
