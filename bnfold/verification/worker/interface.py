"""In what two models differ before any is run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto


def invalid(original: Path, folded: Path) -> str:
    """Why the folded file is not valid although the original is, "" if it is."""
    try:
        onnx.checker.check_model(folded)
    except Exception as error:
        with contextlib.suppress(Exception):  # not valid to begin with: nothing to hold it to
            onnx.checker.check_model(original)
            return f"the folded model is not valid ONNX: {error}"
    return ""


def difference(original: ModelProto, folded: ModelProto) -> str:
    """In what inputs or outputs the models differ, "" if in none."""
    for side in ("input", "output"):
        ours, theirs = (_listed(model, side) for model in (original, folded))
        if ours != theirs:
            return f"the {side}s differ: {', '.join(ours)} became {', '.join(theirs)}"
    return ""


def _listed(model: ModelProto, side: str) -> list[str]:
    """Names and element types, without the inputs that IR 3 lists for every initializer."""
    listed = model.graph.initializer if side == "input" and model.ir_version < 4 else ()
    hidden = {tensor.name for tensor in listed}
    return [
        f"{value.name}: {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()}"
        for value in getattr(model.graph, side)
        if value.name not in hidden
    ]
