"""What the walk over two models knows of their values, and what it found, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfold.check.maps import Map, identity, quotient
from bnfold.check.outcome import CertifiedFold, Finding
from bnfold.graph import Node, Scope

Known = dict[str, "Relation | None"]  # by the original's names; None: nothing can be told of it


@dataclass(frozen=True)
class Relation:
    """A value o = p(z) of the original, and the value f = q(z) of the folded model, called `f`."""

    f: str
    p: Map = field(default_factory=identity)
    q: Map = field(default_factory=identity)
    maker: str = ""  # the node whose constants have made the difference

    @property
    def plain(self) -> bool:
        """Whether o = f."""
        settled = quotient(self.p, self.q)
        return settled is not None and settled.is_identity


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


def maker(inputs: list[Relation | None]) -> str:
    """Whose constants have made the difference in what a node reads."""
    return next((r.maker for r in inputs if r is not None and not r.plain), "")


def outputs(node: Node, other: Node) -> dict[str, Relation]:
    """Each output of a node as that of its counterpart."""
    both = zip(node.proto.output, other.proto.output, strict=False)
    return {old: Relation(new) for old, new in both if old}
