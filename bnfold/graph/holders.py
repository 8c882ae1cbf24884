"""Which node each body belongs to, who calls each function, and what comes out of them."""

from __future__ import annotations

from typing import cast

from onnx import FunctionProto

from bnfold.graph.index import Index, Node, Scope

STACKING = ("Loop", "Scan")  # which stack what their bodies make in each iteration
_SCAN_WITHOUT_BATCH = 9  # the opset from which on a Scan has no batch axis


class Holders:
    """Which node each body belongs to, and who calls each function."""

    def __init__(self, index: Index) -> None:
        self._of: dict[Scope, Node] = {}
        self._functions: dict[tuple[str, str, str], Scope] = {}
        self._calls: dict[Scope, list[Node]] = {}
        for scope in index.scopes:
            if scope.is_function:
                function = cast(FunctionProto, scope.container)
                key = (function.domain, function.name, function.overload)
                self._functions[key] = scope
        for node in index.nodes():
            self._of.update(dict.fromkeys(index.bodies_of(node), node))
            called = (node.proto.domain, node.proto.op_type, node.proto.overload)
            if called in self._functions:
                self._calls.setdefault(self._functions[called], []).append(node)

    def of(self, scope: Scope) -> Node | None:
        """The node that has this body; None for the main graph and functions."""
        return self._of.get(scope)

    def calls(self, scope: Scope) -> list[Node]:
        """Who calls this function."""
        return self._calls.get(scope, [])

    def called(self, node: Node) -> Scope | None:
        """The function that a node calls."""
        return self._functions.get((node.proto.domain, node.proto.op_type, node.proto.overload))

    def can_be_lifted(self, scope: Scope) -> bool:
        """Whether values of a scope can become outputs of the model.

        A branch within a loop cannot: its values would be stacked, and there are not always some.
        """
        conditional = False
        while (holder := self.of(scope)) is not None:
            if holder.op == "If":
                conditional = True
            elif (
                holder.op not in STACKING
                or conditional
                or (holder.op == "Scan" and holder.scope.opset < _SCAN_WITHOUT_BATCH)
            ):
                return False
            scope = holder.scope
        if not scope.is_function:
            return True
        return all(self.can_be_lifted(call.scope) for call in self.calls(scope)) and not (
            conditional and any(self._loops(call.scope) for call in self.calls(scope))
        )

    def _loops(self, scope: Scope) -> bool:
        while (holder := self.of(scope)) is not None:
            if holder.op in STACKING:
                return True
            scope = holder.scope
        return scope.is_function and any(self._loops(call.scope) for call in self.calls(scope))
