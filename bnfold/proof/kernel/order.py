"""The order in which the nodes of a scope can be looked at."""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.graph.index import Node, Scope
from bnfold.onnx_io.protos import bodies, captured


def in_order(scope: Scope) -> Iterator[Node]:
    """The nodes as they stand, but each after those that it reads: some exporters do not sort."""
    done: set[Node] = set()
    opened: set[Node] = set()
    for first in scope.nodes:
        stack = [first]
        while stack:
            node = stack[-1]
            before = [] if node in opened else _before(node, scope)
            opened.add(node)
            waiting = [maker for maker in before if maker not in opened]
            stack.extend(reversed(waiting))
            if waiting:
                continue
            stack.pop()
            if node not in done:
                done.add(node)
                yield node


def _before(node: Node, scope: Scope) -> list[Node]:
    names = set(node.proto.input).union(*(captured(body) for _, body in bodies(node.proto)))
    return [scope.producers[name] for name in sorted(names) if name in scope.producers]
