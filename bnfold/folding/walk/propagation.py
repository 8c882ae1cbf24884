"""One walk of a map through the graph, up or down, until constants have absorbed all of it.

A walk adds edits to the draft as it goes, and takes them back where it fails. It gives up after a
fixed number of steps, so that planning is linear in the number of sites.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from bnfold.folding.rules.base import Step, broadcast_along, refuse
from bnfold.folding.rules.slicing import along_joined
from bnfold.folding.walk.table import DOWN, PRODUCTS, UP
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft, Operand
from bnfold.folding.weights.edits import Carry, Edit, Rescale, Scatter, SetOperator, Supply
from bnfold.graph.index import Node, Role, Scope, Use
from bnfold.reasons import Reason, Refusal

LONGEST = 100  # steps of one walk
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")  # which had another kind of broadcasting below opset 7


class Propagation:
    """Moves maps; `absorbed_by` are the labels of the nodes that took them.

    `going` are reads, by node and slot, of sites that make the same map and go as well.
    """

    def __init__(self, draft: Draft, going: Collection[tuple[Node, int]] = ()) -> None:
        self.going = going
        self.draft = draft
        self.absorbed_by: list[str] = []
        self.steps = 0
        self._start = len(draft.edits)

    def undo(self) -> None:
        """Take back whatever this walk has planned."""
        self.draft.undo_to(self._start)
        self.absorbed_by.clear()

    def changed_operators(self) -> bool:
        """Whether this walk made another operator of a node: a Gemm of a MatMul."""
        return any(
            isinstance(edit, SetOperator) and edit.op_type != edit.node.op
            for edit in self.draft.edits[self._start :]
        )

    def meets_product(self) -> bool:
        """Whether a linear operator takes a part of it, or what follows from it."""
        return any(edit.node.op in PRODUCTS for edit in self.draft.edits[self._start :])

    def new_constants(self) -> int:
        """How many of the constants that this walk changes cannot be changed where they stand."""
        changed = {
            (edit.node, edit.slot)
            for edit in self.draft.edits[self._start :]
            if isinstance(edit, Rescale | Supply) and not self._is_quantized(edit)
        }
        return sum(not self.draft.is_private(node, slot) for node, slot in changed)

    def _is_quantized(self, edit: Rescale | Supply) -> bool:
        operand = self.draft.operand(edit.node, edit.slot)
        return isinstance(operand, Operand) and operand.quantized

    # --- one node --------------------------------------------------------------------------------

    def make(self, node: Node, output: int, a: Affine) -> Refusal | None:
        """Have a node make a(value) at an output; whoever asks answers for its readers."""
        rule = UP.get(self.draft.op(node))
        if rule is None:
            return refuse(Reason.NOT_TRANSPARENT, node, self.draft.op(node))
        if (refusal := self._count_step(node)) is not None:
            return refusal
        return self._apply_rule(node, rule(self.draft, node, output, a), up=True)

    def make_up_for(self, node: Node, slot: int, a: Affine) -> Refusal | None:
        """Have a node that reads f where it read a(f) make what it did."""
        rule = DOWN.get(self.draft.op(node))
        if rule is None:
            return refuse(Reason.NOT_TRANSPARENT, node, self.draft.op(node))
        if (refusal := self._count_step(node)) is not None:
            return refusal
        return self._apply_rule(node, rule(self.draft, node, slot, a), up=False)

    # --- up --------------------------------------------------------------------------------------

    def push_up(self, reader: Node, slot: int, a: Affine) -> Refusal | None:
        """Have what `reader` reads at `slot` made as a(value) instead; None means it is."""
        if a.is_identity:
            return None
        draft, scope = self.draft, reader.scope
        operand = draft.operand(reader, slot)
        if isinstance(operand, Operand) and not operand.quantized:
            return self._into_constant(reader, slot, operand, a)
        name = draft.origin(scope, reader.input(slot))

        def is_mine(use: Use) -> bool:
            mine = use.node is reader and use.slot == slot and use.role is Role.READ
            return mine or self._goes(use)

        return self._have_made(reader, scope, name, a, is_mine)

    def _have_made(
        self, reader: Node, scope: Scope, name: str, a: Affine, is_mine: Callable[[Use], bool]
    ) -> Refusal | None:
        """Have a computed value of a scope made as a(value), which only `is_mine` may read."""
        draft = self.draft
        if (refusal := self._shape_mismatch(reader, scope, name, a)) is not None:
            return refusal
        producer = scope.producers.get(name)
        rule = UP.get(draft.op(producer)) if producer else None
        if producer is None or (rule is None and producer.op != "If"):
            return Refusal(Reason.NO_LINEAR_PRODUCER, reader.label, _describe_producer(scope, name))
        for use in draft.uses(scope, name):
            if not (is_mine(use) or _reads_only_the_shape(use)):
                return _other_use(producer, name, use)
        if (refusal := self._count_step(producer)) is not None:
            return refusal
        if rule is None:
            return self._in_both_branches(producer, list(producer.proto.output).index(name), a)
        if producer.op == "Split" and self._all_outputs_go(producer):
            return self._before_split(producer, a)
        output = list(producer.proto.output).index(name)
        if output != 0 and producer.op != "Split":  # masks, indices, statistics: another function
            return refuse(Reason.NOT_TRANSPARENT, producer, f"output {output} of {producer.op}")
        refusal = self._apply_rule(producer, rule(draft, producer, output, a), up=True)
        if refusal is None:
            draft.add(Carry(producer, a.origin, output=output))
        return refusal

    def _in_both_branches(self, choice: Node, output: int, a: Affine) -> Refusal | None:
        """A(If(then, else)) = If(A(then), A(else))."""
        for body in self.draft.index.bodies_of(choice):
            name = self.draft.origin(body, body.outputs[output])
            ends = [use for use in self.draft.uses(body, name) if use.role is Role.OUTPUT]
            if len(ends) > 1:
                return refuse(Reason.GRAPH_OUTPUT, choice, name)
            refusal = self._have_made(choice, body, name, a, lambda use: use.role is Role.OUTPUT)
            if refusal is not None:
                return refusal
        self.draft.add(Carry(choice, a.origin, output=output))
        return None

    def _goes(self, use: Use) -> bool:
        return use.node is not None and (use.node, use.slot) in self.going

    def _all_outputs_go(self, split: Node) -> bool:
        """Whether all that reads any part of a value makes the same map of it, and goes."""
        uses = [
            use for name in split.proto.output if name
            for use in self.draft.uses(split.scope, name)
        ]  # fmt: skip
        return bool(self.going) and all(map(self._goes, uses))

    def _before_split(self, split: Node, a: Affine) -> Refusal | None:
        """A(x₁), A(x₂), …  =  Split(A(x)) where A does not vary along the axis that is split."""
        if along_joined(self.draft, split, a) is not None:
            return refuse(Reason.OTHER_BRANCH, split, "the channels' axis, of all of them")
        refusal = self.push_up(split, 0, a)
        for output, name in enumerate(split.proto.output):
            if refusal is None and name:
                self.draft.add(Carry(split, a.origin, output=output))
        return refusal

    def _into_constant(self, node: Node, slot: int, operand: Operand, a: Affine) -> Refusal | None:
        rank = len(operand.shape)
        scale, shift = (
            broadcast_along(a.scale, a.axis, rank),
            broadcast_along(a.shift, a.axis, rank),
        )
        edit = Rescale(node, slot, operand.shape, scale, shift)
        refusal = self._apply_rule(node, Step((edit,)), up=True)
        if refusal is None:
            self.draft.add(Carry(node, a.origin, slot=slot))
        return refusal

    # --- down ------------------------------------------------------------------------------------

    def push_down(self, producer: Node, name: str, a: Affine) -> Refusal | None:
        """Have every reader of `name` make up for a map that is not made any more."""
        if a.is_identity or not name:  # an output without a name has no readers
            return None
        if (refusal := self._shape_mismatch(producer, producer.scope, name, a)) is not None:
            return refusal
        uses = [
            use for use in self.draft.uses(producer.scope, name) if not _reads_only_the_shape(use)
        ]
        readers = [use.node for use in uses]
        for use in uses:
            node = use.node
            if node is None or use.role is not Role.READ:
                return _other_use(producer, name, use, behind=True)
            rule = DOWN.get(self.draft.op(node))
            if rule is None:
                return refuse(Reason.NOT_TRANSPARENT, node, self.draft.op(node))
            if readers.count(node) > 1:
                return refuse(Reason.NOT_TRANSPARENT, node, f"{node.op} of a value with itself")
            if (refusal := self._count_step(node)) is not None:
                return refusal
            refusal = self._apply_rule(node, rule(self.draft, node, use.slot, a), up=False)
            if refusal is not None:
                return refusal
        if not self.draft.is_removed(producer):
            output = list(producer.proto.output).index(name)
            self.draft.add(Carry(producer, a.origin, down=True, output=output))
        return None

    # --- both ------------------------------------------------------------------------------------

    def edit(self, edit: Edit) -> Refusal | None:
        """Plan an edit. One of a constant out of a DequantizeLinear is owed by that node."""
        if (refusal := self.draft.refusal_of(edit)) is not None:
            return refusal
        if isinstance(edit, Rescale):
            operand = self.draft.operand(edit.node, edit.slot)
            assert isinstance(operand, Operand), "rules look before they edit"
            if operand.quantized:
                a = edit.as_affine(operand.shape)
                if a is None:
                    detail = f"{operand.name} would change along more than one axis"
                    return refuse(Reason.QUANTIZED, edit.node, detail)
                if (refusal := self.push_up(edit.node, edit.slot, a)) is not None:
                    return refusal
        self.draft.add(edit)  # also a quantised one: the draft knows its values by it
        return None

    def _shape_mismatch(self, node: Node, scope: Scope, name: str, a: Affine) -> Refusal | None:
        """Why no map of so many channels along that axis can stand on a value.

        What the shapes of a model say may contradict its constants.
        """
        if not self.draft.budget.spend_on_map(a.channels):
            detail = f"more maps for {name} than a model of this size needs"
            return refuse(Reason.TOO_LARGE, node, detail)
        shape = self.draft.inferred.shape(scope, name)
        if a.axis is None or shape is None:
            return None
        size = shape[a.axis] if a.axis < len(shape) else 1
        if isinstance(size, int) and size != a.channels:
            detail = f"{name} has {size} channels along axis {a.axis}, the map {a.channels}"
            return refuse(Reason.SHAPE_MISMATCH, node, detail)
        return None

    def _count_step(self, node: Node) -> Refusal | None:
        self.steps += 1
        if self.steps > LONGEST:
            return refuse(Reason.TOO_FAR, node, str(LONGEST))
        if from_call := node.call_attribute():
            return refuse(Reason.ATTRIBUTE_FROM_CALL, node, from_call)
        if node.scope.opset < 7 and node.op in _ARITHMETIC and node.attribute("broadcast", 0):
            return refuse(Reason.NOT_TRANSPARENT, node, f"{node.op} along an axis of its own")
        return self.draft.malformed(node)

    def _apply_rule(self, node: Node, step: Step | Refusal | None, *, up: bool) -> Refusal | None:
        """Plan a step and meet its demands; where that fails, what it offers otherwise."""
        refusal: Refusal | None = step if isinstance(step, Refusal) else None
        while isinstance(step, Step):
            edits, absorbed = len(self.draft.edits), len(self.absorbed_by)
            failed = self._plan_step(node, step, up=up)
            if failed is None:
                return None
            refusal = refusal or failed
            self.draft.undo_to(edits)
            del self.absorbed_by[absorbed:]
            step = step.otherwise() if step.otherwise is not None else None
        return refusal

    def _plan_step(self, node: Node, step: Step, *, up: bool) -> Refusal | None:
        for edit in step.edits:
            if (refusal := self.edit(edit)) is not None:
                return refusal
        if step.edits or not step.demands:
            self.absorbed_by.append(node.label)
        for demand in step.demands:
            path = demand.through or (node,)
            for between in path[:-1]:
                self.draft.add(Scatter(between))
            if up:
                refusal = self.push_up(path[0], demand.place, demand.affine)
            else:
                output = path[-1].proto.output[demand.place]
                refusal = self.push_down(path[-1], output, demand.affine)
            if refusal is not None:
                return refusal
        return None


def _other_use(producer: Node, name: str, use: Use, *, behind: bool = False) -> Refusal:
    """Why a value stays what it is; `behind` the site it is what others have come to rely on."""
    if use.role is Role.OUTPUT:
        return refuse(Reason.RESULT if behind else Reason.GRAPH_OUTPUT, producer, name)
    if use.role is Role.ANNOTATION:
        return refuse(Reason.ANNOTATED, producer, name)
    if use.role is Role.CAPTURE:
        return refuse(Reason.CAPTURED, producer, use.node.scope.label if use.node else "a body")
    assert use.node is not None
    return refuse(Reason.ANOTHER_READER, producer, use.node.label)


def _reads_only_the_shape(use: Use) -> bool:
    """Whether the reader wants to know how many elements there are, and not which."""
    return use.node is not None and use.node.op in ("Shape", "Size")


def _describe_producer(scope: Scope, name: str) -> str:
    if (producer := scope.producers.get(name)) is not None:
        return f"{producer.op} {producer.label}"
    owner = scope.owner(name)
    if owner is not None and owner is not scope:
        return f"{name}, a value of the graph around this body,"
    return f"the {'argument' if scope.is_function else 'graph input'} {name}"
