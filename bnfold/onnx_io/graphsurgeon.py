"""For callers who hold an onnx-graphsurgeon Graph: to a ModelProto and back.

The round trip is graphsurgeon's own and keeps what graphsurgeon keeps, which is not everything
(metadata_props and doc strings are lost). Callers with a file or a ModelProto should pass that.
"""

from __future__ import annotations

import sys
from typing import Any

import onnx


def is_graph(value: object) -> bool:
    """Whether it is a graphsurgeon Graph. Does not import graphsurgeon: its Graph's owner has."""
    module = sys.modules.get("onnx_graphsurgeon")
    return module is not None and isinstance(value, module.Graph)


def to_model(graph: Any) -> onnx.ModelProto:
    """The Graph as a new ModelProto."""
    import onnx_graphsurgeon as gs

    model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    return model


def to_graph(model: onnx.ModelProto) -> Any:
    """The model as a new Graph."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(model)
