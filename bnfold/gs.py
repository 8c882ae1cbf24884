"""For callers who hold an onnx-graphsurgeon Graph: export, fold, import.

The round trip is graphsurgeon's own and keeps what graphsurgeon keeps, which is not everything
(metadata_props and doc strings are lost). Callers with a file or a ModelProto should pass that.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from bnfold.api import FoldResult


def is_graph(value: object) -> bool:
    """Whether it is a graphsurgeon Graph. Does not import graphsurgeon: its Graph's owner has."""
    module = sys.modules.get("onnx_graphsurgeon")
    return module is not None and isinstance(value, module.Graph)


def fold_graph(
    graph: Any, fold: Callable[[onnx.ModelProto], FoldResult[onnx.ModelProto]]
) -> FoldResult[Any]:
    """Fold a copy of the graph; the result's model is a new Graph."""
    import onnx_graphsurgeon as gs

    result = fold(gs.export_onnx(graph, do_type_check=False))
    return dataclasses.replace(result, model=gs.import_onnx(result.model))
