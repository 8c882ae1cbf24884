"""Local functions whose constants come in from their calls.

Inside such a function nothing is constant, and what fits one call would be wrong for another.
Inlined, each call has a body of its own with its own weights, and both fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx.inliner
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from bnfold.onnx_io.protos import bodies
from bnfold.verdict import Verdict

_MOST_NODES = 100_000  # a few hundred bytes of nested functions can expand to billions


Names = tuple[tuple[str, str], ...]  # domains and names of functions


def inlined(
    model: ModelProto, verdicts: Iterable[Verdict]
) -> Iterator[tuple[ModelProto, Names]]:  # fmt: skip
    """Copies with the functions inlined in which a site was kept, and then those beside them too.

    None where they call each other in a circle, or would expand without bounds.
    """
    kept = {verdict.scope for verdict in verdicts if not verdict.folded}
    chosen = tuple(
        (function.domain, function.name)
        for function in model.functions
        if any(_stands_in(scope, function) for scope in kept)
    )
    if not chosen or _expanded(model) > _MOST_NODES:
        return
    for names in dict.fromkeys((chosen, _with_neighbours(model, chosen))):
        try:
            yield onnx.inliner.inline_selected_functions(model, list(names)), names
        except Exception:  # the inliner gives up on models that it does not understand
            return


def _with_neighbours(model: ModelProto, chosen: Names) -> Names:
    """Also the functions whose results theirs read, or that read theirs: a Conv before a norm."""
    functions = {(function.domain, function.name) for function in model.functions}
    found = dict.fromkeys(chosen)
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        calls = [node for node in nodes if (node.domain, node.op_type) in functions]
        ours = [node for node in calls if (node.domain, node.op_type) in chosen]
        read = {name for node in ours for name in node.input if name}
        made = {name for node in ours for name in node.output if name}
        for node in calls:
            if read.intersection(node.output) or made.intersection(node.input):
                found[node.domain, node.op_type] = None
    return tuple(found)


def _stands_in(scope: str, function: FunctionProto) -> bool:
    label = f"function {function.domain}::{function.name}"
    return scope == label or scope.startswith(f"{label}/")


def _expanded(model: ModelProto) -> float:
    """How many nodes the model has when every call is written out; infinite for a circle."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], float] = {}

    def size(nodes: Iterable[NodeProto], above: frozenset[tuple[str, str]]) -> float:
        total = 0.0
        for node in nodes:
            total += 1 + sum(size(body.node, above) for _, body in bodies(node))
            key = (node.domain, node.op_type)
            if key in above:
                return float("inf")
            if key in functions:
                if key not in sizes:
                    sizes[key] = size(functions[key].node, above | {key})
                total += sizes[key]
        return total

    main: GraphProto = model.graph
    return size(main.node, frozenset())
