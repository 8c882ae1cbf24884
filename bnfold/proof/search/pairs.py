"""What the walk over two models knows of their values, and what it found, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfold.graph.index import Node, Scope
from bnfold.proof.kernel.outcome import CertifiedFold, Finding
from bnfold.proof.search.numbers.relation import Known


@dataclass
class Pairs:
    """What the walk found: who stands for whom, what is gone, what was taken, what is wrong."""

    nodes: dict[Node, Node] = field(default_factory=dict)  # by the original's node
    gone: list[Node] = field(default_factory=list)  # maps of the original that are no nodes now
    folds: list[CertifiedFold] = field(default_factory=list)
    taken: dict[Node, set[str]] = field(default_factory=dict)  # by the folded node: its constants
    findings: list[Finding] = field(default_factory=list)
    unexplained: bool = False  # whether something computes in another way than by folds
    scopes: list[tuple[Scope, Scope]] = field(default_factory=list)
    changed: dict[Node, float] = field(default_factory=dict)  # folded nodes that took, their k
    known: Known = field(default_factory=dict)  # of the values of the main graph
