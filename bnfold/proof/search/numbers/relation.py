"""How a value of the folded model relates to that of the original."""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfold.graph.index import Node
from bnfold.proof.search.numbers.maps import Map, identity, quotient

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


def maker(inputs: list[Relation | None]) -> str:
    """Whose constants have made the difference in what a node reads."""
    return next((r.maker for r in inputs if r is not None and not r.plain), "")


def outputs(node: Node, other: Node) -> dict[str, Relation]:
    """Each output of a node as that of its counterpart."""
    both = zip(node.proto.output, other.proto.output, strict=False)
    return {old: Relation(new) for old, new in both if old}
