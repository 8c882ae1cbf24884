"""What a model is made of, for the before-and-after table."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.graph.index import BATCH_NORM, Index


@dataclass(frozen=True)
class NodeCounts:
    """Numbers of nodes in all graphs, bodies and functions of a model."""

    nodes: int
    batch_norms: int

    @classmethod
    def of(cls, index: Index) -> NodeCounts:
        """Count the nodes of every scope once, however often a function is called."""
        ops = [node.op for node in index.nodes()]
        return cls(nodes=len(ops), batch_norms=ops.count(BATCH_NORM))
