"""Walks the original and tells of each of its values what it is in terms of the folded model's.

A value o of the original and a value f of the folded model that stands in its place are o = p(z)
and f = q(z) for one and the same z, with affine maps p and q. Going down the original,

    a map that is gone      composes with p;
    a node that is there    lets both pass (`laws`), or takes both (`absorption`);

and what p and q have in common drops out. At the outputs o = f must be left. Nothing that the
folder did or wrote down is used: only what stands in the two files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import ValueInfoProto

from bnfold.graph.index import Node, Scope
from bnfold.onnx_io.protos import bodies, captured
from bnfold.proof.kernel.order import in_order
from bnfold.proof.search.absorption.branch_sums import JOINS, Tree, trees
from bnfold.proof.search.absorption.kept_maps import written_out
from bnfold.proof.search.absorption.merged_conv import stands_for
from bnfold.proof.search.node_matching import Counterparts, attributes, trimmed
from bnfold.proof.search.numbers.maps import Map, quotient
from bnfold.proof.search.numbers.relation import Known, Relation, outputs
from bnfold.proof.search.pair_step import Through
from bnfold.proof.search.pairs import Pairs
from bnfold.proof.search.reading import affine_nodes
from bnfold.proof.search.reading.model_view import alike

_PASSES_AS_NOTHING = ("Identity", "Dropout", "Cast")
_CHANGES = {  # attributes that may come or go with a change of operator
    "Gemm": ("alpha", "beta", "transA", "transB", "broadcast"), "Max": (), "Add": (),
}  # fmt: skip


class Walk(Through):
    """One walk over two models."""

    trees: dict[Node, list[Tree]]  # of branches that may have been merged

    def run(self) -> Pairs:
        """Walk the main graphs and all bodies."""
        main, other = self.original.main, self.folded.main
        self.trees = {}
        known: Known = {}
        for name in main.inputs:
            if self.original.is_constant(main, name):  # IR 3 lists every initializer here
                continue
            known[name] = Relation(name) if name in other.inputs else None
            if name not in other.inputs and name not in main.initializers:
                self._wrong("", f"the input {name!r} is gone")
        self._scope(main, other, known)
        self.pairs.known = known
        for old, new in _outputs(main, other):
            self._output(main, other, known, old, new)
        if len(main.container.output) != len(other.container.output):
            self._wrong("", "the models have not the same number of outputs")
        if self._merged():
            self.pairs.unexplained = True
        return self.pairs

    def _merged(self) -> bool:
        """Whether there are fewer convolutions or sums, so that branches may have been merged.

        Those that are known to be are not counted.
        """
        gone = {node for node in self.trees if any(tree.matched for tree in self.trees[node])}
        counts = [
            sum(
                n.op in ("Conv", *JOINS) and n not in gone and affine_nodes.site(view, n) is None
                for n in view.index.nodes()
            )
            for view in (self.original, self.folded)
        ]
        return counts[0] > counts[1]

    def _output(self, scope: Scope, other: Scope, known: Known, old: str, new: str) -> None:
        relation, said = known.get(old), old in known  # what is known to be undecided has been said
        if relation is None:
            if self.original.is_constant(scope, old):
                self._constant_output(scope, other, old, new)
            elif not said:
                self._unknown(old, f"of the output {old!r} nothing is known")
            return
        maker = scope.producers.get(old)
        label = maker.label if maker else old
        if relation.f != new:
            self._wrong(label, f"the output {new!r} is not made from what makes it in the original")
        elif not relation.plain:
            self._wrong(relation.maker or label, f"the output {old!r} {self._apart(relation)}")

    def _constant_output(self, scope: Scope, other: Scope, old: str, new: str) -> None:
        one, two = self.original.array(scope, old), self.folded.array(other, new)
        if one is None or two is None or not alike(one, two):
            self._unknown(old, f"the constant output {old!r} is not the same constant")

    # --- one scope -------------------------------------------------------------------------------

    def _scope(self, scope: Scope, other: Scope, known: Known) -> None:
        self.pairs.scopes.append((scope, other))
        counterparts = Counterparts(self.original, scope, self.folded, other)
        constant: set[str] = set()
        if self._merged():
            self.trees |= trees(self.original, scope)
        for node in in_order(scope):
            self._node(node, counterparts, known, constant)

    def _node(
        self, node: Node, counterparts: Counterparts, known: Known,
        constant: set[str],
    ) -> None:  # fmt: skip
        names = [name for name in node.proto.input if name]
        computed = [n for n in names if not self._is_constant(node.scope, n, known, constant)]
        if node.op == "CastLike" and node.input(0) not in computed:
            computed = []  # of the other input it wants the type alone
        if node.op == "Constant" or (
            names and not computed and self.original.is_constant(node.scope, node.output)
        ):
            constant.update(filter(None, node.proto.output))
            return
        if self._summed(node, counterparts, known):
            return
        for name in computed:
            if name not in known:  # a sparse initializer, an output that the counterpart has not
                self._unknown(node.label, f"it reads {name!r}, of which nothing is known")
        if any(known.get(name) is None for name in computed) or self._captures_unknown(node, known):
            if not self.pairs.findings:
                self._unknown(node.label, "it reads what nothing is known of")
            known.update(dict.fromkeys(filter(None, node.proto.output)))
            return
        relations = {name: known[name] for name in computed}
        read = tuple(
            relations[name].f if name in relations else None  # type: ignore[union-attr]
            for name in trimmed(node.proto.input)
        )
        other = counterparts.find(node, read)
        inputs = [relations.get(name) for name in node.proto.input]
        if other is None:
            found = self._without(node, inputs, counterparts)
            known.update(found)
            return
        counterparts.taken[other] = node
        self.pairs.nodes[node] = other
        if [bool(n) for n in trimmed(node.proto.output)] != [
            bool(n) for n in trimmed(other.proto.output)
        ]:
            self._wrong(node.label, f"{other.label} has not the same outputs as in the original")
        if difference := _different(node, other):
            self._wrong(node.label, f"{other.label} has another {difference} than in the original")
        known.update(self._through(node, other, inputs, known))

    def _summed(self, node: Node, counterparts: Counterparts, known: Known) -> bool:
        """Whether one convolution stands for a sum of branches; then it is known what it gives."""
        for tree in self.trees.get(node, ()):
            relation = known.get(tree.source)
            if not tree.tried and relation is not None:
                tree.tried = True
                self._sum(tree, relation, counterparts, known)
            if tree.matched:
                return True
        return False

    def _sum(
        self, tree: Tree, relation: Relation, counterparts: Counterparts, known: Known
    ) -> None:  # fmt: skip
        """Look for the convolution that stands for a sum."""
        e = quotient(relation.p, relation.q)
        candidates = self.wanted.of(tree.root.scope, tree.root.output)
        for other in counterparts.scope.nodes:
            fits = other.op == "Conv" and other.input(0) == relation.f
            if e is None or not fits or other in counterparts.taken:
                continue
            result = stands_for(
                tree.form, e, self.folded, other, candidates, self.present, self.loose
            )
            if result is None or any(2 * t.far > t.numbers for t in result.tallies.values()):
                continue
            tree.matched = True
            convs = [node for node in tree.nodes if node.op == "Conv"]
            kept = next((n for n in convs if n.proto.name == other.proto.name), convs[0])
            counterparts.taken[other] = kept
            self.pairs.nodes[kept] = other
            self.pairs.gone.extend(node for node in tree.nodes if node is not kept)
            inner = (name for node in tree.nodes for name in node.proto.output if name)
            known.update(dict.fromkeys(inner))
            known.update(self._took(tree.root, other, result, other.output))
            return

    def _is_constant(self, scope: Scope, name: str, known: Known, constant: set[str]) -> bool:
        if name in known:
            return False
        return name in constant or self.original.is_constant(scope, name)

    def _captures_unknown(self, node: Node, known: Known) -> bool:
        return any(
            known[name] is None for _, body in bodies(node.proto) for name in captured(body)
            if name in known
        )  # fmt: skip

    def _without(
        self, node: Node, inputs: list[Relation | None], counterparts: Counterparts
    ) -> Known:
        """What a node makes that is not there any more: a map that went elsewhere, or nothing."""
        at = self.wanted.site(node)
        nothing: Known = dict.fromkeys(filter(None, node.proto.output))
        if at is not None and (relation := inputs[at[0]]) is not None:
            if found := self._written_out(node, at[1], relation, counterparts):
                return found
            p = relation.p.then(at[1])
            if p is None:
                self._unknown(node.label, "it works along another axis than the map before it")
                return nothing
            self.pairs.gone.append(node)
            return {node.output: self._settled(Relation(relation.f, p, relation.q, relation.maker))}
        first = inputs[0] if inputs else None
        if (
            node.op in _PASSES_AS_NOTHING
            and first is not None
            and affine_nodes.is_idle(self.original, node)
        ):
            more = [name for name in node.proto.output[1:] if name and node.scope.uses[name]]
            if more:
                self._unknown(node.label, f"it is gone, and something reads {more[0]!r}")
            self.pairs.gone.append(node)
            return {**nothing, node.output: first}
        named = counterparts.named(node)
        if named is None:
            self._unknown(node.label, "it is gone, and no fold explains that")
            self.pairs.unexplained = True
            return nothing
        counterparts.taken[named] = node
        self.pairs.nodes[node] = named
        here = [r.f if r is not None else None for r in inputs]
        self._wrong(node.label, _reads_otherwise(node, named, here))
        return nothing | outputs(node, named)

    def _written_out(
        self, node: Node, a: Map, relation: Relation, counterparts: Counterparts
    ) -> Known | None:  # fmt: skip
        """A BatchNormalization that is a Mul and an Add now: they must hold its map."""
        add = counterparts.scope.producers.get(node.output)
        if node.op != "BatchNormalization" or add is None or not relation.plain:
            return None
        mul = counterparts.scope.producers.get(add.input(0))
        if mul is None or {add, mul} & counterparts.taken.keys() or mul.input(0) != relation.f:
            return None
        result = written_out(self.folded, mul, add, a, node.label, self.loose)
        if result is None:
            return None
        counterparts.taken.update({add: node, mul: node})
        self.pairs.nodes[node] = add
        self.pairs.taken.setdefault(mul, set()).add(mul.input(1))
        return self._took(node, add, result, add.output)

    def _bodies(self, node: Node, other: Node, known: Known) -> None:
        ours, theirs = dict(bodies(node.proto)), dict(bodies(other.proto))
        if ours.keys() != theirs.keys():
            self._wrong(node.label, f"{other.label} has other bodies than in the original")
            return
        for name, body in ours.items():
            self._body(node, body, theirs[name], known)

    def _body(self, node: Node, old: Any, new: Any, known: Known) -> None:
        inner, other = self.original.body(old), self.folded.body(new)
        sizes = [(len(s.inputs), len(s.container.output)) for s in (inner, other)]
        if sizes[0] != sizes[1]:
            self._unknown(node.label, "a body with other inputs or outputs")
            return
        own = {*inner.producers, *inner.initializers, *inner.sparse}
        inside = {name: relation for name, relation in known.items() if name not in own}
        inside.update({a: Relation(b) for a, b in zip(inner.inputs, other.inputs, strict=True)})
        self._scope(inner, other, inside)
        for a, b in _outputs(inner, other):
            self._output(inner, other, inside, a, b)


def _outputs(one: Scope, other: Scope) -> Iterator[tuple[str, str]]:
    for old, new in zip(one.container.output, other.container.output, strict=False):
        assert isinstance(old, ValueInfoProto), "functions are inlined, or equal"
        assert isinstance(new, ValueInfoProto)
        yield old.name, new.name


def _different(node: Node, other: Node) -> str:
    """The attribute in which two nodes differ, "" for none."""
    one, two = attributes(node), attributes(other)
    ignored = set(_CHANGES.get(other.op, ())) if node.op != other.op else set()
    if node.op == other.op == "Gemm":
        ignored = {"beta"}  # which goes with its C
    if node.op == other.op == "BatchNormalization" or node.op != other.op:
        ignored |= {"epsilon", "momentum", "spatial", "training_mode"}
    if node.op == other.op == "Pad":
        ignored = {"value"}  # which is compared as a constant
    for name in sorted({*one, *two} - ignored):
        if one.get(name) != two.get(name):
            return name
    return ""


def _reads_otherwise(node: Node, named: Node, here: list[str | None]) -> str:
    if named.op != node.op:
        return f"it was a {node.op}, and is a {named.op}"
    for name, mine in zip(here, named.proto.input, strict=False):
        if name is not None and name != mine:
            return f"it reads {mine!r} where it should read {name!r}"
    return "it has other inputs than in the original"
