"""Parameters as the command line spells them.

The library's messages name parameters of the Python API, in backticks: `memory_limit`,
`verify="none"`, `bnfold.freeze(learnable=True)`. The command line and its reports show the same
messages with flags: --memory-limit, --verify none, bnfold freeze MODEL --learnable.
"""

from __future__ import annotations

import re

_OTHERWISE = {  # parameters that their flags do not follow letter by letter
    "data": "--inputs", "dims": "--dim", "form": "--as", "input_shapes": "--input-shape",
    "only_batch_norm": "--only-batchnorm", "path_out": "-o", "proof_file": "--proof",
    "moments_file": "--moments",
}  # fmt: skip
_CODE = re.compile(r"`(?:bnfold\.(?P<command>\w+)\()?(?P<name>[a-z_]+)(?:=(?P<value>[^`()]+))?\)?`")


def flag(parameter: str) -> str:
    """The flag of a parameter."""
    return _OTHERWISE.get(parameter, f"--{parameter.replace('_', '-')}")


def as_flags(text: str) -> str:
    """The text with flags in place of parameters."""
    return _CODE.sub(_spelled, text)


def _spelled(code: re.Match[str]) -> str:
    value = (code["value"] or "True").strip("\"'")
    words = [f"bnfold {code['command']} MODEL"] if code["command"] else []
    words += [flag(code["name"])] if value == "True" else [flag(code["name"]), value]
    return " ".join(words)
