"""The model as it will be: the index, and on top of it the edits planned so far.

Rules read constants through a draft, so that the second fold into one weight starts from what the
first one left, still in float64: however many maps a weight takes, it is rounded once.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from bnfold import steps
from bnfold.folding.weights.affine import FloatArray
from bnfold.folding.weights.carried_maps import refs_of, relation_of
from bnfold.folding.weights.constants import Constant, Constants
from bnfold.folding.weights.edits import (
    Carry,
    Edit,
    Remove,
    Rescale,
    Scatter,
    SetOperator,
    Supply,
    effective,
)
from bnfold.folding.weights.range_checks import exceeded
from bnfold.folding.weights.recipe import Recipe
from bnfold.graph.budget import Budget
from bnfold.graph.index import Index, Node, Role, Scope, Use
from bnfold.graph.operator_signature import signature_fault
from bnfold.graph.shape_inference import InferredShapes, Shape
from bnfold.options import Options
from bnfold.reasons import Reason, Refusal

T = TypeVar("T")

_GROWTH = 1 << 16  # elements up to which a constant may be written out instead of broadcast


@dataclass(frozen=True)
class Operand:
    """What is known of a constant input, with the planned edits made."""

    name: str
    shape: tuple[int, ...]
    dtype: int
    quantized: bool  # what changes is the DequantizeLinear that it comes out of


class Draft:
    """An index with planned edits, which can be taken back. Nothing here touches the model."""

    def __init__(
        self, index: Index, options: Options, *, computed: bool = True,
        too_costly: Mapping[Node, object] | None = None,
    ) -> None:  # fmt: skip
        """`computed`: constants may be computed, as far as the budget goes.

        `too_costly` are nodes behind which a site must stay, and what its fold would cost.
        """
        self.too_costly = too_costly or {}
        self.index = index
        self.options = options
        self.inferred = InferredShapes(
            index.model, index.storage, freeze=options.freeze_initializers
        )
        self.budget = Budget.of(index, computed=computed)
        self.constants = Constants(index, self.inferred, options, self.budget)
        self.edits: list[Edit] = []
        self._inputs: dict[tuple[Node, int], list[Rescale | Supply]] = {}
        self._operators: dict[Node, list[SetOperator]] = {}
        self._removed: dict[Node, int | None] = {}  # the slot that readers get instead
        self._versions: Counter[Node] = Counter()  # how often edits of it came or went
        self._signature_faults: dict[Node, str] = {}
        self._carries: dict[tuple[Node, int, int | None], list[Carry]] = {}
        self.scattered: Counter[Node] = Counter()  # those that carry maps along several axes
        self.compared: set[tuple[Scope, str]] = set()  # values of which all readers were compared
        self._refs: dict[Node, steps.Ref] = {}
        self.merged: set[Node] = set()  # the roots of sums that one convolution makes
        self._ends: dict[tuple[Node, int], list[int] | None] = {}
        self._remembered: dict[Node, tuple[int, Any]] = {}

    # --- constants -------------------------------------------------------------------------------

    def operand(self, node: Node, slot: int) -> Operand | Refusal:
        """The constant that `node` reads at `slot`, or why there is none."""
        planned = self._planned(node, slot)
        first = planned[0] if planned else None
        if isinstance(first, Supply):
            name, shape, dtype = first.name, first.values.shape, first.dtype
            quantized = False
        else:
            constant = self.constants.find(node, slot)
            if isinstance(constant, Refusal):
                return constant
            name, shape, dtype = constant.name, constant.shape, constant.dtype
            quantized = constant.quantized
        for edit in planned:
            if isinstance(edit, Rescale):
                shape = edit.shape_of(shape)
        return Operand(name, shape, dtype, quantized)

    def has(self, node: Node, slot: int) -> bool:
        """Whether the input is there, or will be."""
        return bool(node.input(slot)) or (node, slot) in self._inputs

    def values(self, node: Node, slot: int) -> FloatArray:
        """The values at `slot` with every planned edit, in float64, not yet rounded."""
        return self.recipe(node, slot).values()

    def recipe(self, node: Node, slot: int) -> Recipe:
        """What `slot` will hold, with every planned edit."""
        planned = self._planned(node, slot)
        if planned and isinstance(planned[0], Supply):
            return Recipe(None, tuple(planned), planned[0].dtype)
        constant = self.constants.find(node, slot)
        assert isinstance(constant, Constant), "rules look before they read"
        return Recipe(constant, tuple(planned), constant.dtype)

    def _planned(self, node: Node, slot: int) -> list[Rescale | Supply]:
        return effective(self._inputs.get((node, slot), []))

    def is_edited(self, node: Node, slot: int) -> bool:
        """Whether an edit of what `node` reads at `slot` is planned."""
        return bool(self._planned(node, slot))

    def is_private(self, node: Node, slot: int) -> bool:
        """Whether `node` alone reads a stored constant at `slot`, in the model as it is."""
        constant = self.constants.find(node, slot)
        if isinstance(constant, Refusal) or not constant.is_stored:
            return False
        return len(constant.scope.uses[constant.name]) == 1

    # --- nodes -----------------------------------------------------------------------------------

    def op(self, node: Node) -> str:
        """The node's operator, as it will be."""
        changes = self._operators.get(node)
        return changes[-1].op_type if changes else node.op

    def malformed(self, node: Node) -> Refusal | None:
        """Refuses a node that breaks the specification of its operator, in the model as it is."""
        if node not in self._signature_faults:
            scope = node.scope
            found = signature_fault(node, lambda name: self.inferred.element_type(scope, name))
            self._signature_faults[node] = found
        if not (wrong := self._signature_faults[node]):
            return None
        return Refusal(Reason.MALFORMED, node.label, wrong)

    def attribute(self, node: Node, name: str, default: Any) -> Any:
        """The value of an attribute, as it will be."""
        for change in reversed(self._operators.get(node, [])):
            if name in change.put:
                return change.put[name]
            if name in change.drop:
                return default
        return node.attribute(name, default)

    def numbers(self, node: Node, name: str) -> list[Any] | None:
        """The value of a list attribute, as it will be; None where it is not set."""
        for change in reversed(self._operators.get(node, [])):
            if name in change.put:
                return list(change.put[name])  # type: ignore[arg-type]
        return node.numbers(name)

    def is_removed(self, node: Node) -> bool:
        """Whether the node will be gone."""
        return node in self._removed

    def producer(self, scope: Scope, name: str) -> Node | None:
        """The node of this very scope that will make `name`; removed ones are seen through."""
        node = scope.producers.get(name)
        while node is not None and node in self._removed:
            slot = self._removed[node]
            node = None if slot is None else scope.producers.get(node.input(slot))
        return node

    def origin(self, scope: Scope, name: str) -> str:
        """The name, in the model as it is, of the value that `name` will stand for."""
        node = scope.producers.get(name)
        while node is not None and node in self._removed:
            slot = self._removed[node]
            assert slot is not None, "nobody reads what a dropped node made"
            name = node.input(slot)
            node = scope.producers.get(name)
        return name

    def uses(self, scope: Scope, name: str) -> Iterator[Use]:
        """Every use that the value `name` of this scope will have."""
        for use in scope.uses[name]:
            node = use.node
            if node is None or node not in self._removed:
                yield use
            elif self._removed[node] == use.slot:  # its readers read the value instead
                if use.role is Role.READ:
                    yield from self.uses(node.scope, node.output)
                else:
                    yield use

    def shape(self, node: Node, slot: int) -> Shape | None:
        """The shape of what `node` reads at `slot`."""
        return self.inferred.shape(node.scope, node.input(slot))

    def output_shape(self, node: Node, output: int = 0) -> Shape | None:
        """The shape of an output of `node`."""
        return self.inferred.shape(node.scope, node.proto.output[output])

    def join_offsets(self, node: Node, axis: int) -> list[int] | None:
        """Where along `axis` of a Concat's result its inputs begin, and where the last one ends.

        None where the size of one is not known.
        """
        if (node, axis) not in self._ends:
            shapes = [self.shape(node, slot) for slot in range(len(node.proto.input))]
            sizes = [s[axis] for s in shapes if s is not None and axis < len(s)]
            numbers = [size for size in sizes if isinstance(size, int)]
            known = len(numbers) == len(shapes)
            self._ends[node, axis] = [0, *itertools.accumulate(numbers)] if known else None
        return self._ends[node, axis]

    # --- what a proof says ------------------------------------------------------------------------

    def relation(self, node: Node, output: int = 0) -> tuple[steps.Map, steps.Map]:
        """How what `node` makes relates: p(z) in the model as it is, q(z) as it will be."""
        return relation_of(self._carries.get((node, output, None), []))

    def own_map(self, node: Node, slot: int) -> steps.Map:
        """The map that a node applies to what it reads at `slot`, with the planned edits.

        f = q_out(p_out⁻¹(a(p_in(q_in⁻¹(f_in))))) with the map a of the model as it is.
        """
        p, q = self.relation_at(node, slot)
        p_out, q_out = self.relation(node)
        total = steps.then(steps.between(q, p), steps.NodeMap(self.ref(node)))
        return steps.then(total, steps.between(p_out, q_out))

    def relation_at(self, node: Node, slot: int) -> tuple[steps.Map, steps.Map]:
        """How what `node` reads at `slot` relates, through the nodes in between that will go."""
        scope, name = node.scope, node.input(slot)
        between: list[steps.Map] = []
        inside = False
        producer = scope.producers.get(name)
        while producer is not None and (through := self._removed.get(producer)) is not None:
            if producer in self.merged:  # the convolution's relation is that of the sum
                inside = True
            elif not inside:
                between.append(steps.NodeMap(self.ref(producer)))
            name = producer.input(through)
            producer = scope.producers.get(name)
        p: steps.Map = steps.IDENTITY
        q: steps.Map = steps.IDENTITY
        if producer is not None:
            p, q = self.relation(producer, list(producer.proto.output).index(name))
        for own in reversed(between):
            p = steps.then(p, own)
        return p, q

    def ref(self, node: Node) -> steps.Ref:
        """How a proof names a node of the model as it is."""
        if not self._refs:
            self._refs = refs_of(self.index)
        return self._refs[node]

    # --- planning --------------------------------------------------------------------------------

    def refusal_of(self, edit: Edit) -> Refusal | None:
        """Why the edit must not be made: values that overflow, vanish or were never finite.

        Or the node is to stay as it is.
        """
        if self.options.skips(edit.node.label):
            return Refusal(Reason.LEFT_OUT, edit.node.label)
        if not isinstance(edit, Rescale | Supply):
            return None
        if isinstance(edit, Supply):
            before, name = Recipe(None, (), edit.dtype), edit.name
        else:
            operand = self.operand(edit.node, edit.slot)
            assert isinstance(operand, Operand), "rules look before they edit"
            before, name = self.recipe(edit.node, edit.slot), operand.name
            try:
                shape = edit.shape_of(operand.shape)
            except ValueError:  # a model that contradicts itself
                detail = f"{name} of shape {list(operand.shape)} does not fit its node"
                return Refusal(Reason.SHAPE_MISMATCH, edit.node.label, detail)
            if math.prod(shape) > max(_GROWTH, 2 * math.prod(operand.shape)):
                detail = f"{name} stored as {list(shape)} instead of broadcast"
                return Refusal(Reason.TOO_LARGE, edit.node.label, detail)
        reason = exceeded(edit, before)
        if reason is Reason.QUANTIZED:
            return Refusal(reason, edit.node.label, f"{name} would not fit into them")
        return Refusal(reason, edit.node.label, name) if reason else None

    def cached(self, node: Node, function: Callable[[Draft, Node], T]) -> T:
        """What `function` says of a node and its constants, asked again after each edit of it.

        There is room for one function.
        """
        version, answer = self._remembered.get(node, (-1, None))
        if version != self._versions[node]:
            answer = function(self, node)
            self._remembered[node] = (self._versions[node], answer)
        return answer  # type: ignore[no-any-return]

    def add(self, edit: Edit) -> None:
        """Add an edit to the plan."""
        self.edits.append(edit)
        self._versions[edit.node] += 1
        if isinstance(edit, Rescale | Supply):
            self._inputs.setdefault((edit.node, edit.slot), []).append(edit)
        elif isinstance(edit, SetOperator):
            self._operators.setdefault(edit.node, []).append(edit)
        elif isinstance(edit, Carry):
            self._carries.setdefault(edit.value, []).append(edit)
        elif isinstance(edit, Scatter):
            self.scattered[edit.node] += 1
        else:
            self._removed[edit.node] = edit.slot if isinstance(edit, Remove) else None

    def undo_to(self, count: int) -> None:
        """Take edits back until `count` are left."""
        while len(self.edits) > count:
            edit = self.edits.pop()
            self._versions[edit.node] += 1
            if isinstance(edit, Rescale | Supply):
                planned = self._inputs[edit.node, edit.slot]
                planned.pop()
                if not planned:
                    del self._inputs[edit.node, edit.slot]
            elif isinstance(edit, SetOperator):
                self._operators[edit.node].pop()
                if not self._operators[edit.node]:
                    del self._operators[edit.node]
            elif isinstance(edit, Carry):
                self._carries[edit.value].pop()
            elif isinstance(edit, Scatter):
                self.scattered[edit.node] -= 1
            else:
                del self._removed[edit.node]
