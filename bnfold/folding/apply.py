"""Carries a plan out, in place. The only module that changes a model.

Everything an edit does not name stays as it was. What becomes unused *because of* an edit goes:
parameters of removed BatchNormalizations, and the Constant and Identity nodes that led to them.
What was unused before stays.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto, helper

from bnfold.folding.plan import Plan
from bnfold.folding.proof_writing import written
from bnfold.folding.weights.carried_maps import refs_of
from bnfold.folding.weights.constants import Constant
from bnfold.folding.weights.edits import (
    Drop,
    Insert,
    Remove,
    Rescale,
    SetOperator,
    Supply,
    effective,
)
from bnfold.folding.weights.recipe import Recipe
from bnfold.graph.index import Index, Node, Scope
from bnfold.onnx_io.protos import delete_named
from bnfold.steps import Proof, Ref

_Change = tuple[Node, int, Constant, Recipe]  # who reads what where, and what it shall hold


@dataclass(frozen=True)
class Applied:
    """What came of a plan: the bytes of copies of shared weights, and the steps that were taken."""

    copied: int
    proof: Proof


def apply(index: Index, plan: Plan) -> Applied:
    """Change `index.model` as the plan says. The index describes the old model afterwards."""
    refs = refs_of(index)
    editor = _ModelEditor(index, plan)
    editor.run()
    return Applied(editor.copied, written(refs, plan, editor.removed, editor.new_places))


class _ModelEditor:
    def __init__(self, index: Index, plan: Plan) -> None:
        self.index = index
        self.edits = plan.edits
        self.constants = plan.constants
        self.new_producers: dict[tuple[Scope, str], Node] = {}  # of values that were renamed
        self.readers: dict[tuple[Scope, str], list[tuple[Node | None, int]]] = {}  # as they are now
        self.dropped = {edit.node for edit in plan.edits if isinstance(edit, Drop)}
        self.bypassed = {edit.node: edit.slot for edit in plan.edits if isinstance(edit, Remove)}
        self.removed = {*self.dropped, *self.bypassed}
        self.gone: dict[Scope, set[str]] = defaultdict(set)  # names without a tensor behind them
        self.released: dict[tuple[Scope, str], int] = defaultdict(int)
        self.initializers: dict[Scope, list[TensorProto]] = defaultdict(list)  # to be added
        self.added: list[tuple[Node, TensorProto]] = []  # Constant nodes to put before a reader
        self.inserted: list[tuple[Node, NodeProto]] = []  # other nodes, likewise
        self.new: Counter[str] = Counter()  # the readers of both, by name
        self.made: dict[tuple[Scope, str, bytes], str] = {}  # what may serve another reader
        self.copied = 0  # bytes
        self.new_places: list[Ref] = []  # of the nodes that were put in, in the folded model

    def run(self) -> None:
        self._write_constants()
        for node in self.dropped:
            self.gone[node.scope].update(node.proto.output)
            for name in node.proto.input:
                self._release(node.scope, name)
        for edit in self.edits:
            if isinstance(edit, SetOperator):
                self._set_operator(edit)
            elif isinstance(edit, Remove):
                self._remove(edit)
            elif isinstance(edit, Insert):
                self._insert(edit)
        for scope in self.index.scopes:
            self._sweep(scope)

    # --- constants -------------------------------------------------------------------------------

    def _write_constants(self) -> None:
        changes: dict[tuple[Node, int], list[Rescale | Supply]] = defaultdict(list)
        for edit in self.edits:
            if isinstance(edit, Rescale | Supply) and edit.node not in self.removed:
                changes[edit.node, edit.slot].append(edit)
        cut = {e.node: e.inputs for e in self.edits if isinstance(e, SetOperator) and e.inputs}
        stored: dict[tuple[Scope, str], list[_Change]] = defaultdict(list)
        computed: dict[tuple[Scope, str], list[_Change]] = defaultdict(list)
        supplied: list[tuple[Node, int, Recipe, str]] = []
        for (node, slot), all_edits in changes.items():
            if slot >= cut.get(node, slot + 1):
                continue
            edits = effective(all_edits)
            first = edits[0]
            if isinstance(first, Supply):
                supplied.append((node, slot, Recipe(None, tuple(edits), first.dtype), first.name))
                continue
            constant = self.constants.find(node, slot)
            assert isinstance(constant, Constant), "it was there when it was planned"
            if constant.quantized:  # the edits of its DequantizeLinear have done that
                continue
            recipe = Recipe(constant, tuple(edits), constant.dtype)
            if constant.is_stored:
                stored[constant.scope, constant.name].append((node, slot, constant, recipe))
                continue
            computed[constant.scope, constant.name].append((node, slot, constant, recipe))
        for changes_of_one in computed.values():
            self._write_computed(changes_of_one)
        for node, slot, recipe, name in supplied:
            self._release(node.scope, node.input(slot))
            self._read_new(node, slot, recipe, name)
        # the rest last: exporters compute a bias from the shape of the weight, and only when that
        # computation is gone is the weight seen to have no other reader
        for changes_of_one in stored.values():
            self._write_stored(changes_of_one)

    def _write_computed(self, changes: list[_Change]) -> None:
        """New constants for the readers of one that is computed; who gets the same one shares it.

        Where what computed it has no other reader and is gone, the value keeps its name.
        """
        for node, _, constant, _ in changes:
            self._release(node.scope, constant.name)
        for node, slot, constant, recipe in changes:
            home, name = self._scope_for_constant(node.scope), constant.name
            free = self._remaining_uses(constant.scope, name) == 0 and not self.new[name]
            if free and home is constant.scope:
                self.made[home, name, recipe.key()] = name
                self._add_constant(node, self._tensor(recipe, name))
            else:
                self._read_new(node, slot, recipe, name)

    def _write_stored(self, changes: list[_Change]) -> None:
        """New values for the readers of one stored constant; who gets the same one shares it."""
        alike: dict[bytes, tuple[Recipe, list[tuple[Node, int]]]] = {}
        constant = changes[0][2]
        # what is computed later, or for several readers, must not start from what one has written
        aside = self.index.storage.lazy or len(changes) > 1
        base = constant.aside() if aside else constant
        for node, slot, _, edited in changes:
            recipe = dataclasses.replace(edited, base=base)
            key = recipe.key() if len(changes) > 1 else b""
            alike.setdefault(key, (recipe, []))[1].append((node, slot))
        for recipe, readers in alike.values():
            left = self._remaining_uses(constant.scope, constant.name)
            if left == len(readers) and recipe.shape == constant.shape:
                self._store(constant, recipe)
                continue
            # copy on write: somebody else reads the old value, or its shape is declared
            self.copied += len(recipe) if left > len(readers) else 0
            for node, slot in readers:
                self._release(node.scope, constant.name)
                self._read_new(node, slot, recipe, constant.name)

    def _store(self, constant: Constant, recipe: Recipe) -> None:
        """Replace a tensor's data and nothing else of it: name, doc string and metadata stay."""
        tensor, node = constant.tensor, constant.node
        self.index.storage.fill(tensor, recipe)
        if node is not None and not any(a.HasField("t") for a in node.proto.attribute):
            # value_float and value_floats hold no tensor: their Constant gets one
            del node.proto.attribute[:]
            node.proto.attribute.append(helper.make_attribute("value", tensor))

    def _tensor(self, recipe: Recipe, name: str) -> TensorProto:
        tensor = TensorProto(name=name, data_type=recipe.dtype, dims=recipe.shape)
        self.index.storage.fill(tensor, recipe, new=True)
        return tensor

    def _read_new(self, node: Node, slot: int, recipe: Recipe, wanted: str) -> None:
        """Have the node read a new constant, or one that was made like it."""
        home = self._scope_for_constant(node.scope)
        if home.is_function:  # where a constant would have to stand before both readers
            name = self.index.fresh_name(wanted)
            self._add_constant(node, self._tensor(recipe, name))
        else:
            key = (home, wanted, recipe.key())
            name = self.made.get(key, "")
            if name:
                self.new[name] += 1
            else:
                name = self.made[key] = self.index.fresh_name(wanted)
                self._add_constant(node, self._tensor(recipe, name))
        while len(node.proto.input) <= slot:
            node.proto.input.append("")
        node.proto.input[slot] = name

    def _add_constant(self, node: Node, tensor: TensorProto) -> None:
        """Make a place for a constant that `node` reads."""
        home = self._scope_for_constant(node.scope)
        self.new[tensor.name] += 1
        if home.is_function:  # functions have no initializers
            self.added.append((node, tensor))
        else:
            self.initializers[home].append(tensor)

    def _scope_for_constant(self, scope: Scope) -> Scope:
        """The scope whose initializers a new constant joins."""
        if self.index.ir_version < 4:  # where bodies have no inputs to list initializers among
            while scope.parent is not None:
                scope = scope.parent
        return scope

    # --- nodes -----------------------------------------------------------------------------------

    def _remove(self, edit: Remove) -> None:
        """Take a node out: rename what it reads, or, where others read that too, rewire readers."""
        node, scope = edit.node, edit.node.scope
        value, result = node.input(edit.slot), node.output
        for slot in range(len(node.proto.input)):
            if slot != edit.slot:
                self._release(scope, node.input(slot))
        owner = scope.owner(value)
        assert owner is not None
        producer = self.new_producers.get((owner, value)) or owner.producers.get(value)
        self.gone[scope].update(filter(None, node.proto.output[1:]))  # the mask of a Dropout
        others = [entry for entry in self._readers(owner, value) if entry != (node, edit.slot)]
        if owner is scope and producer is not None and not others:
            producer.proto.output[list(producer.proto.output).index(value)] = result
            self.new_producers[scope, result] = producer
            self.gone[scope].add(value)
            return
        for reader, slot in self._readers(scope, result):
            assert reader is not None, "a graph output keeps its name"
            reader.proto.input[slot] = value
        self.readers[owner, value] = [*others, *self._readers(scope, result)]
        self.gone[scope].add(result)

    def _readers(self, owner: Scope, name: str) -> list[tuple[Node | None, int]]:
        """Who reads a value now; the node is None for a graph output or an annotation."""
        if (owner, name) not in self.readers:
            self.readers[owner, name] = [
                (use.node, use.slot)
                for use in owner.uses[name]
                if use.node is None or self._still_reads(use.node, use.slot)
            ]
        return self.readers[owner, name]

    def _still_reads(self, node: Node, slot: int) -> bool:
        """Whether the node, or what takes its place, still reads this input."""
        return node not in self.dropped and self.bypassed.get(node, slot) == slot

    def _set_operator(self, edit: SetOperator) -> None:
        proto = edit.node.proto
        proto.op_type = edit.op_type
        del proto.output[1:]  # at most names that are empty: the others are refused
        delete_named(proto.attribute, {*edit.drop, *edit.put})
        proto.attribute.extend(
            helper.make_attribute(name, value) for name, value in edit.put.items()
        )
        for slot in reversed(range(edit.inputs or len(proto.input), len(proto.input))):
            self._release(edit.node.scope, proto.input[slot])
            del proto.input[slot]

    def _insert(self, edit: Insert) -> None:
        node, constant = edit.node, edit.constant
        recipe = Recipe(None, (constant,), constant.dtype)
        tensor = self._tensor(recipe, self.index.fresh_name(constant.name))
        self._add_constant(node, tensor)
        output = self.index.fresh_name(f"{edit.name}_output")
        inputs = [node.input(edit.slot), tensor.name]
        inserted = helper.make_node(edit.op_type, inputs, [output], edit.name)
        node.proto.input[edit.slot] = output
        self.inserted.append((node, inserted))

    def _remaining_uses(self, scope: Scope, name: str) -> int:
        return len(scope.uses[name]) - self.released[scope, name]

    def _release(self, scope: Scope, name: str) -> None:
        """One reader of a constant less; with the last one it goes, and what only made it."""
        if self.new[name]:
            self.new[name] -= 1
            if self.new[name]:
                return
            self.added = [entry for entry in self.added if entry[1].name != name]
            for tensors in self.initializers.values():
                tensors[:] = [tensor for tensor in tensors if tensor.name != name]
            return
        owner = scope.owner(name) if name else None
        if owner is None:
            return
        self.released[owner, name] += 1
        if self._remaining_uses(owner, name) > 0:
            return
        node = owner.producers.get(name)
        if name in owner.initializers:
            if name not in owner.inputs or (owner.is_main and self.index.ir_version < 4):
                self.gone[owner].add(name)
        elif node is not None and (
            node.op == "Constant" or self.constants.is_computed(owner, name)
        ):
            self.removed.add(node)
            self.gone[owner].update(node.proto.output)
            for source in node.proto.input:
                self._release(owner, source)

    def _sweep(self, scope: Scope) -> None:
        """Take out of the scope what is gone, and put in the new Constant nodes."""
        container, gone = scope.container, self.gone[scope]
        position = {node: number for number, node in enumerate(scope.nodes)}
        new = [(position[n], proto) for n, proto in self.inserted if n.scope is scope]
        new += [
            (position[n], helper.make_node("Constant", [], [tensor.name], value=tensor))
            for n, tensor in self.added if n.scope is scope
        ]  # fmt: skip
        inserted = set()
        for place, proto in sorted(new, key=lambda entry: entry[0], reverse=True):
            container.node.insert(place, proto)
            scope.nodes.insert(place, Node(container.node[place], scope))
            inserted.add(scope.nodes[place])
        kept = [node for node in scope.nodes if node not in self.removed]
        self.new_places += [
            Ref(scope.number, place) for place, node in enumerate(kept) if node in inserted
        ]
        for place in reversed(range(len(scope.nodes))):
            if scope.nodes[place] in self.removed:
                del container.node[place]
        stored = {tensor.name for tensor in self.initializers[scope]}  # values that were computed
        delete_named(container.value_info, gone - stored)
        if isinstance(container, GraphProto):
            delete_named(container.initializer, gone)
            if self.index.ir_version < 4 and scope.is_main:  # every initializer is an input there
                delete_named(container.input, gone & scope.initializers.keys())
                container.input.extend(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                    for tensor in self.initializers[scope]
                )
            container.initializer.extend(self.initializers[scope])
