"""One site: a chain of maps that is one map, and what is tried with it (see `plan`)."""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.sites.chains import Chain, DraftedChain
from bnfold.folding.sites.constant_sites import stored_instead
from bnfold.folding.sites.equal_sites import equals_of
from bnfold.folding.sites.partial_folds import (
    Partial,
    merged_into_one,
    scale_up_shift_stays,
    shift_stays_scale_down,
)
from bnfold.folding.walk.propagation import Propagation
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.graph.index import BATCH_NORM, Node
from bnfold.reasons import Reason, Refusal
from bnfold.verdict import Verdict


class Site:
    """One chain, and what is to become of it."""

    def __init__(self, draft: Draft, chain: Chain) -> None:
        self.draft = draft
        self.chain = DraftedChain(draft, chain)
        self.first, self.last = chain[0], chain[-1]
        self.into: tuple[str, ...] = ()
        self.also: list[Node] = []  # of other chains, which went with this one

    def verdicts(self) -> Iterator[Verdict]:
        """Fold the chain if it can be folded; one verdict for each BatchNormalization in it.

        A chain without one gets a verdict if it is gone, or if it scales, as a disguise does.
        """
        planned = len(self.draft.edits)
        readers = stored_instead(self.draft, self.last.node)
        total: Affine | Refusal | None = None
        gone: set[Node] = set()
        refusals: tuple[Refusal | None, Refusal | None] = (None, None)
        if isinstance(readers, tuple):
            gone = self.chain.nodes
            self.into = tuple(reader.label for reader in readers)
            if not self.chain.has_norm() and len(self.draft.edits) == planned:
                return  # arithmetic, of which folds behind it have made use already
        else:
            total = readers or self._shadowed() or self._total_map()
        if isinstance(total, Refusal):
            refusals = (total, None)
        elif total is None:
            pass
        else:
            gone, refusals = self._fold(total)
        reported = [link.node for link in self.chain.links if link.node.op == BATCH_NORM]
        if not gone.intersection(reported):
            others = [link.node for link in self.chain.links if link.node.op != BATCH_NORM]
            scales = isinstance(total, Affine) and total.scales
            reported += others[-1:] if gone or (scales and not reported) else []
        gone.update(self.also)
        for node in (*reported, *(n for n in self.also if n.op == BATCH_NORM)):
            folded = node in gone or (bool(gone) and node.op != BATCH_NORM)
            yield Verdict(
                node.label, node.op, node.scope.label, node.output,
                self.into if folded else (), *((None, None) if folded else refusals),
            )  # fmt: skip

    def _total_map(self) -> Affine | Refusal:
        """The map of the whole chain, as it stands in the draft."""
        total = Affine.identity()
        first = self.first
        if isinstance(self.draft.operand(first.node, first.slot), Operand):
            what = f"the constant {first.node.input(first.slot)}"
            return Refusal(Reason.NO_LINEAR_PRODUCER, first.node.label, what)
        for link in self.chain.links:
            found = affine_map(self.draft, link.node)
            if found is None:  # it is made of constants
                return Refusal(Reason.NO_LINEAR_PRODUCER, link.node.label, "a constant")
            if isinstance(found, Refusal):
                return found
            joined = total.then(found[1])
            assert joined is not None, "recut has seen to that"
            total = joined
        return total

    # --- what is tried ---------------------------------------------------------------------------

    def _fold(self, a: Affine) -> tuple[set[Node], tuple[Refusal | None, Refusal | None]]:
        """The nodes that go, or why none does: the refusals of going all up and all down."""
        if (cost := self.draft.too_costly.get(self.last.node)) is not None:
            refusal = Refusal(Reason.SHARED_WEIGHT, self.last.node.label, str(cost))
            return set(), (refusal, None)
        everything, done = self.chain.nodes, (None, None)
        nothing = Affine.identity()
        if a.is_identity and self.chain.bypassable():
            self.chain.remove(everything)
            return everything, done
        holds_shift = self.chain.shift_holder() is not None
        if holds_shift and self.chain.follows("MatMul"):
            part = scale_up_shift_stays(self.chain, a)
            if part is not None:
                return self._all_but(part), done
        up = self._try(a, nothing)
        if up is None:
            return everything, done
        if up.reason in (Reason.ANOTHER_READER, Reason.OTHER_BRANCH) and self._with_equals(a):
            return everything, done
        down = self._try(nothing, a)
        if down is None:
            return everything, done
        if not self.chain.may_be_batch_norm(a):  # a bias: at home where it stands
            return set(), (up, None)
        if self._split(a):
            return everything, done
        part = None
        if up.reason is not Reason.UNDERFLOW:  # without its shift less would show, and be lost
            part = scale_up_shift_stays(self.chain, a)
        part = part or shift_stays_scale_down(self.chain, a)
        if part is not None:
            return self._all_but(part), done
        part = merged_into_one(self.chain, a)
        return set() if part is None else self._all_but(part), (up, down)

    def _all_but(self, part: Partial) -> set[Node]:
        """The nodes that go, of a chain of which one stays and has become something else."""
        self.into = part.into
        becomes_an_add = part.stays.op == BATCH_NORM and self.draft.op(part.stays) != BATCH_NORM
        return self.chain.nodes - (set() if becomes_an_add else {part.stays})

    def _with_equals(self, a: Affine) -> bool:
        """The same map of one value, or of all parts of it, goes up once for all its readers."""
        others = equals_of(self.chain)
        if not others or not self.chain.may_be_batch_norm(a):
            return False
        chains = [self.chain, *(DraftedChain(self.draft, links) for links in others)]
        going = {(chain.first.node, chain.first.slot) for chain in chains}
        propagation = Propagation(self.draft, going)
        refusal = propagation.push_up(self.first.node, self.first.slot, a)
        if refusal is None and self.first.node.scope.is_function:
            refusal = self._more_nodes(propagation)
        if refusal is not None or not all(chain.bypassable() for chain in chains):
            propagation.undo()
            return False
        self.into = tuple(dict.fromkeys(propagation.absorbed_by))
        self.also = [link.node for links in others for link in links]
        for chain in chains:
            chain.remove(chain.nodes)
        return True

    def _split(self, a: Affine) -> bool:
        """Part of the map up, the rest down."""
        if not (a.shifts and a.scales):
            return False
        first = a.shift_first()
        return self._try(a.scale_only(), a.shift_only()) is None or (
            first is not None and self._try(first, a.scale_only()) is None
        )

    def _try(self, above: Affine, below: Affine) -> Refusal | None:
        """Move `above` up and `below` down; None means that it is done and the chain goes."""
        propagation = Propagation(self.draft)
        refusal = propagation.push_up(self.first.node, self.first.slot, above)
        if refusal is None:
            refusal = propagation.push_down(self.last.node, self.last.node.output, below)
        if refusal is None and not self.chain.bypassable():
            refusal = Refusal(Reason.RESULT, self.last.node.label, self.last.node.output)
        if (
            refusal is None
            and not self.chain.may_be_batch_norm(above)
            and propagation.changed_operators()
        ):
            refusal = Refusal(
                Reason.NO_PLACE_FOR_SHIFT, propagation.absorbed_by[-1]
            )  # MatMul + Add is a bias
        lone = not self.chain.may_be_batch_norm(below) and below.shifts
        if refusal is None and lone and not propagation.meets_product():
            refusal = Refusal(Reason.NO_PLACE_FOR_SHIFT, self.last.node.label)
        if refusal is None and self.first.node.scope.is_function:
            refusal = self._more_nodes(propagation)
        if refusal is None:
            self.into = tuple(dict.fromkeys(propagation.absorbed_by))
            self.chain.remove(self.chain.nodes)
        else:
            propagation.undo()
        return refusal

    def _more_nodes(self, propagation: Propagation) -> Refusal | None:
        """In a function a new constant is a node: there must not be more of them than go."""
        scope, nodes = self.first.node.scope, self.chain.nodes
        read = {name for node in nodes for name in node.proto.input if name in scope.producers}
        going = [
            name
            for name in read
            if scope.producers[name].op == "Constant"
            and all(use.node in nodes for use in scope.uses[name])
        ]
        if propagation.new_constants() <= len(nodes) + len(going):
            return None
        return Refusal(Reason.MORE_NODES, self.last.node.label)

    # --- small things ----------------------------------------------------------------------------

    def _shadowed(self) -> Refusal | None:
        """A name that a body inside uses as well cannot be given to a value made earlier."""
        scope, node = self.first.node.scope, self.last.node
        for name in (self.first.node.input(self.first.slot), node.output):
            if name in scope.inner_names:
                return Refusal(Reason.SHADOWED, node.label, name)
        return None
