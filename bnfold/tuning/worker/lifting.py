"""Values of bodies and functions, as outputs of the model.

a branch of an If      an output more of both branches; empty where the other one is taken
a Loop, a Scan         an output of each iteration, which the operator stacks
a function             an output more of the function and of each of its calls
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from bnfold.graph.holders import STACKING, Holders
from bnfold.graph.index import Index, Node, Scope


@dataclass(frozen=True)
class Exported:
    """The outputs of the model that values have become; `stacked` axes stand in front of each."""

    names: tuple[str, ...]
    stacked: int


class Lifter:
    """Adds outputs to a model, and to what stands between them and a value."""

    def __init__(self, index: Index) -> None:
        self._index, self.holders = index, Holders(index)

    def exported(self, scope: Scope, names: Sequence[str], stacked: int = 0) -> Iterator[Exported]:
        """Make values of a scope outputs of the model, for each way that leads there.

        They are float64 but for the last, which is a shape.
        """
        if scope.is_main:
            self._index.model.graph.output.extend(ValueInfoProto(name=name) for name in names)
            yield Exported(tuple(names), stacked)
        elif scope.is_function:
            scope.container.output.extend(names)  # type: ignore[arg-type]
            count = len(scope.container.output) - len(names)
            for call in self.holders.calls(scope):
                yield from self._through(call, count, names, stacked)
        else:
            holder = self.holders.of(scope)
            assert holder is not None, "it is a body"
            scope.container.output.extend(_typed(names))  # type: ignore[arg-type]
            for other in self._index.bodies_of(holder) if holder.op == "If" else ():
                if other is not scope:
                    _give_nothing(other, [self._index.fresh_name(name) for name in names])
            for attribute in holder.proto.attribute:
                if attribute.name in ("scan_output_axes", "scan_output_directions"):
                    attribute.ints.extend([0] * len(names))
            count = len(holder.proto.output)
            yield from self._through(holder, count, names, stacked + (holder.op in STACKING))

    def _through(
        self, node: Node, count: int, names: Sequence[str], stacked: int
    ) -> Iterator[Exported]:
        """What a node makes of them; it may have left out the last of its `count` outputs."""
        missing = count - len(node.proto.output)
        node.proto.output.extend(self._index.fresh_name("bnfold:unread") for _ in range(missing))
        fresh = [self._index.fresh_name(name) for name in names]
        node.proto.output.extend(fresh)
        yield from self.exported(node.scope, fresh, stacked)


def _typed(names: Sequence[str]) -> list[ValueInfoProto]:
    kinds = [TensorProto.DOUBLE] * (len(names) - 1) + [TensorProto.INT64]
    return [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in zip(names, kinds, strict=True)
    ]


def _give_nothing(scope: Scope, names: Sequence[str]) -> None:
    """Empty tensors, for a branch that does not have the values."""
    nodes: list[NodeProto] = []
    for place, name in enumerate(names):
        last = place == len(names) - 1
        empty = np.zeros(0, np.int64) if last else np.zeros((0, 1, 1))
        value = numpy_helper.from_array(empty)
        nodes.append(helper.make_node("Constant", [], [name], value=value))
    scope.container.node.extend(nodes)
    scope.container.output.extend(_typed(names))  # type: ignore[arg-type]
