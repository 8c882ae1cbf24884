"""One site: a chain of maps that is one map, and what is tried with it (see `plan`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnfold import steps
from bnfold.folding.chains import Chain, Link
from bnfold.folding.constant_sites import stored_instead
from bnfold.folding.propagation import Propagation
from bnfold.folding.rules.affine_nodes import DEFAULT_EPSILON, affine_map
from bnfold.folding.rules.base import broadcast_along
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Carry, Edit, Remove, Rescale, SetOperator, Supply
from bnfold.graph.index import BATCH_NORM, Node
from bnfold.reasons import Reason, Refusal
from bnfold.verdict import Verdict


class Site:
    """One chain, and what is to become of it."""

    def __init__(self, draft: Draft, chain: Chain) -> None:
        self.draft = draft
        self.chain = chain
        self.first, self.last = chain[0], chain[-1]
        self.into: tuple[str, ...] = ()

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
            gone = {link.node for link in self.chain}
            self.into = tuple(reader.label for reader in readers)
            if not self._has_norm() and len(self.draft.edits) == planned:
                return  # arithmetic, of which folds behind it have made use already
        else:
            total = readers or self._shadowed() or self._total_map()
        if isinstance(total, Refusal):
            refusals = (total, None)
        elif total is None:
            pass
        else:
            gone, refusals = self._fold(total)
        reported = [link.node for link in self.chain if link.node.op == BATCH_NORM]
        if not gone.intersection(reported):
            others = [link.node for link in self.chain if link.node.op != BATCH_NORM]
            scales = isinstance(total, Affine) and total.scales
            reported += others[-1:] if gone or (scales and not reported) else []
        for node in reported:
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
        for link in self.chain:
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
        everything = {link.node for link in self.chain}
        nothing = Affine.identity()
        if a.is_identity and self._bypassable():
            self._remove(everything)
            return everything, (None, None)
        shift_holder = self._shift_holder()
        if (
            shift_holder is not None
            and self._follows("MatMul")
            and self._keep_shift(a, shift_holder)
        ):
            return everything - {shift_holder.node}, (None, None)
        up = self._try(a, nothing)
        if up is None:
            return everything, (None, None)
        if not self._may_be_batch_norm(a):  # a bias: at home where it stands
            return set(), (up, None)
        down = self._try(nothing, a)
        if down is None:
            return everything, (None, None)
        if self._split(a):
            return everything, (None, None)
        if (
            shift_holder is not None or up.reason is Reason.NO_PLACE_FOR_SHIFT
        ) and self._keep_shift(a, shift_holder):
            return everything - ({shift_holder.node} if shift_holder else set()), (None, None)
        kept = self._merge(a)
        return everything - {kept} if kept is not None else set(), (up, down)

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
        if refusal is None and not self._bypassable():
            refusal = Refusal(Reason.RESULT, self.last.node.label, self.last.node.output)
        if (
            refusal is None
            and not self._may_be_batch_norm(above)
            and propagation.changed_operators()
        ):
            refusal = Refusal(
                Reason.NO_PLACE_FOR_SHIFT, propagation.absorbed_by[-1]
            )  # MatMul + Add is a bias
        if refusal is None and self.first.node.scope.is_function:
            refusal = self._more_nodes(propagation)
        if refusal is None:
            self.into = tuple(dict.fromkeys(propagation.absorbed_by))
            self._remove({link.node for link in self.chain})
        else:
            propagation.undo()
        return refusal

    def _keep_shift(self, a: Affine, shift_holder: Link | None) -> bool:
        """The scale goes up; the shift stays, in the chain's own Add or in its BatchNormalization.

        The latter becomes an Add. Nothing is gained where there is but one Add.
        """
        if not a.shifts or (shift_holder is not None and len(self.chain) == 1):
            return False
        shape = self.draft.shape(self.first.node, self.first.slot)
        if shift_holder is None and (shape is None or self.last.node.op != BATCH_NORM):
            return False
        propagation = Propagation(self.draft)
        if propagation.push_up(self.first.node, self.first.slot, a.scale_only()) is not None:
            propagation.undo()
            return False
        rest = self._behind()
        edits = self._edits_that_keep_shift(a, shift_holder, len(shape or ()))
        longer = self.first.node.scope.is_function and propagation.new_constants() > 0
        if longer or not edits or any(propagation.edit(edit) is not None for edit in edits):
            propagation.undo()
            return False
        self.into = (*propagation.absorbed_by, (shift_holder or self.last).node.label)
        staying = (shift_holder or self.last).node
        self.draft.add(Carry(staying, rest[staying]))
        self._remove({link.node for link in self.chain} - {staying})
        return True

    def _edits_that_keep_shift(self, a: Affine, shift_holder: Link | None, rank: int) -> list[Edit]:
        shift = broadcast_along(a.shift, a.axis, rank)
        if shift_holder is not None:
            node, slot = shift_holder.node, 1 - shift_holder.slot
            operand = self.draft.operand(node, slot)
            assert isinstance(operand, Operand)
            if operand.quantized:  # which could not hold it in a step of its own
                return []
            sign = -1.0 if node.op == "Sub" else 1.0
            zero = broadcast_along(a.shift * 0, a.axis, rank)
            return [Rescale(node, slot, operand.shape, zero, sign * shift)]
        node = self.last.node
        bias = self.draft.operand(node, 2)
        dtype = self.draft.inferred.element_type(node.scope, node.input(0))
        if isinstance(bias, Refusal) or dtype is None:
            return []
        names = tuple(attribute.name for attribute in node.proto.attribute)
        return [
            SetOperator(node, "Add", drop=names, inputs=2),
            Supply(node, 1, shift, dtype, bias.name),
        ]

    def _merge(self, a: Affine) -> Node | None:
        """All into one BatchNormalization of the chain; None where it would gain nothing."""
        norms = [link for link in self.chain if link.node.op == BATCH_NORM]
        if len(self.chain) < 2 or not norms or a.axis != 1:
            return None
        kept = norms[0].node
        own = affine_map(self.draft, kept)
        assert isinstance(own, tuple)
        operands = [self.draft.operand(kept, slot) for slot in (1, 2)]
        if any(isinstance(operand, Operand) and operand.quantized for operand in operands):
            return None
        # γ/σ̂·(x−μ) + β = s·x + t   for   γ = s·σ̂  and  β = t + s·μ,  with σ̂ as it is
        variance, mean = self.draft.values(kept, 4), self.draft.values(kept, 3)
        sigma = np.sqrt(variance + kept.attribute("epsilon", DEFAULT_EPSILON))
        zero = 0 * sigma
        edits = (
            Rescale(kept, 1, sigma.shape, zero, a.scale * sigma),
            Rescale(kept, 2, sigma.shape, zero, a.shift + a.scale * mean),
        )
        propagation = Propagation(self.draft)
        rest = self._behind()
        if any(propagation.edit(edit) is not None for edit in edits):
            propagation.undo()
            return None
        self.draft.add(Carry(kept, rest[kept]))
        self.into = (kept.label,)
        self._remove({link.node for link in self.chain} - {kept})
        return kept

    def _more_nodes(self, propagation: Propagation) -> Refusal | None:
        """In a function a new constant is a node: there must not be more of them than go."""
        scope, nodes = self.first.node.scope, {link.node for link in self.chain}
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

    def _behind(self) -> dict[Node, steps.Map]:
        """For each node of the chain the map of all that stand behind it."""
        found: dict[Node, steps.Map] = {}
        rest: steps.Map = steps.IDENTITY
        for link in reversed(self.chain):
            found[link.node] = rest
            rest = steps.then(self.draft.own_map(link.node, link.slot), rest)
        return found

    # --- small things ----------------------------------------------------------------------------

    def _shadowed(self) -> Refusal | None:
        """A name that a body inside uses as well cannot be given to a value made earlier."""
        scope, node = self.first.node.scope, self.last.node
        for name in (self.first.node.input(self.first.slot), node.output):
            if name in scope.inner_names:
                return Refusal(Reason.SHADOWED, node.label, name)
        return None

    def _may_be_batch_norm(self, a: Affine) -> bool:
        """Whether the chain is, or may stand for, a BatchNormalization, and not for a bias."""
        return a.scales or self._has_norm()

    def _has_norm(self) -> bool:
        return any(link.node.op == BATCH_NORM for link in self.chain)

    def _shift_holder(self) -> Link | None:
        """An Add, or a Sub of a constant, in the chain."""
        for link in self.chain:
            if link.node.op == "Add" or (link.node.op == "Sub" and link.slot == 0):
                return link
        return None

    def _follows(self, op: str) -> bool:
        producer = self.draft.producer(
            self.first.node.scope, self.first.node.input(self.first.slot)
        )
        return producer is not None and self.draft.op(producer) == op

    def _bypassable(self) -> bool:
        """Whether the chain can go without a reader noticing: a graph output must keep its name."""
        scope, name = self.first.node.scope, self.first.node.input(self.first.slot)
        if all(use.node is not None for use in self.draft.uses(scope, self.last.node.output)):
            return True
        name = self.draft.origin(scope, name)
        return name in scope.producers and len(list(self.draft.uses(scope, name))) == 1

    def _remove(self, nodes: set[Node]) -> None:
        for link in self.chain:
            if link.node in nodes:
                self.draft.add(Remove(link.node, link.slot))
