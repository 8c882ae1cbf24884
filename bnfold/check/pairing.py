"""Walks the original and tells of each of its values what it is in terms of the folded model's.

A value o of the original and a value f of the folded model that stands in its place are o = p(z) and
f = q(z) for one and the same z, with affine maps p and q. Going down the original,

    a map that is gone      composes with p;
    a node that is there    lets both pass (`laws`), or takes both into its constants (`absorbed`);

and what p and q have in common drops out. At the outputs o = f must be left. Nothing that the
folder did or wrote down is used: only what stands in the two files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bnfold.check import absorbed, kernels, sites
from bnfold.check.absorbed import Absorption
from bnfold.check.counterparts import Counterparts, Read, attributes
from bnfold.check.exact import Real
from bnfold.check.laws import LAWS, carried
from bnfold.check.maps import Map, identity, quotient
from bnfold.check.outcome import CertifiedFold, Finding, Verdict
from bnfold.check.shared import shared
from bnfold.check.view import View
from bnfold.check.wanted import Candidate, Wanted
from bnfold.graph import Node, Scope
from bnfold.protos import bodies

_PASSES_AS_NOTHING = ("Identity", "Dropout", "Cast")
_CHANGES = {  # attributes that may come or go with a change of operator
    "Gemm": ("alpha", "beta", "transA", "transB", "broadcast"), "Max": (), "Add": (),
}  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """A value o = p(z) of the original, and the value f = q(z) of the folded model, called `f`."""

    f: str
    p: Map = field(default_factory=identity)
    q: Map = field(default_factory=identity)

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
    scopes: list[tuple[Scope, Scope]] = field(default_factory=list)


class Walk:
    """One walk over two models."""

    def __init__(self, original: View, folded: View, loose: float = 0.0) -> None:
        self.original = original
        self.folded = folded
        self.wanted = Wanted(original)
        self.loose = loose
        self.pairs = Pairs()

    def run(self) -> Pairs:
        """Walk the main graphs and all bodies."""
        main, other = self.original.main, self.folded.main
        known: dict[str, Relation | None] = {}
        for name in main.inputs:
            if self.original.is_constant(main, name):  # IR 3 lists every initializer here
                continue
            known[name] = Relation(name) if name in other.inputs else None
            if name not in other.inputs and name not in main.initializers:
                self._wrong("", f"the input {name!r} is gone")
        self._scope(main, other, known)
        for old, new in zip(main.container.output, other.container.output, strict=False):
            self._output(main, known.get(old.name), old.name, new.name)
        if len(main.container.output) != len(other.container.output):
            self._wrong("", "the models have not the same number of outputs")
        return self.pairs

    # --- findings --------------------------------------------------------------------------------

    def _wrong(self, node: str, sentence: str) -> None:
        self.pairs.findings.append(Finding(Verdict.INVALID, node, sentence))

    def _unknown(self, node: str, sentence: str) -> None:
        self.pairs.findings.append(Finding(Verdict.UNDECIDED, node, sentence))

    def _output(self, scope: Scope, relation: Relation | None, old: str, new: str) -> None:
        if relation is None:
            if self.original.is_constant(scope, old):
                self._constant_output(scope, old, new)
            return  # what was not decided has been said
        maker = scope.producers.get(old)
        label = maker.label if maker else old
        if relation.f != new:
            self._wrong(label, f"the output {new!r} is not made from what makes it in the original")
        elif not relation.plain:
            self._wrong(label, f"the output {old!r} {self._apart(relation)}")

    def _constant_output(self, scope: Scope, old: str, new: str) -> None:
        one = self.original.array(scope, old)
        other = self.folded.array(self.folded.main, new)
        if one is None or other is None or one.tobytes() != other.tobytes():
            self._unknown(old, f"the constant output {old!r} is not the same constant")

    def _apart(self, relation: Relation) -> str:
        settled = quotient(relation.p, relation.q)
        if settled is None:
            return "cannot be told from the folded model's, which has lost a channel"
        away = ~(
            (np.abs(settled.scale.value - 1) <= settled.scale.error).repeat(
                len(settled) // len(settled.scale)
            )
            & (np.abs(settled.shift.value) <= settled.shift.error).repeat(
                len(settled) // len(settled.shift)
            )
        )
        channel = int(np.argmax(away))
        return f"would be {settled.channel(channel)} of the folded model's, in channel {channel}"

    # --- one scope -------------------------------------------------------------------------------

    def _scope(self, scope: Scope, other: Scope, known: dict[str, Relation | None]) -> None:
        self.pairs.scopes.append((scope, other))
        counterparts = Counterparts(self.folded, other, scope)
        constant: set[str] = set()
        for node in scope.nodes:
            self._node(node, counterparts, known, constant)

    def _node(
        self, node: Node, counterparts: Counterparts, known: dict[str, Relation | None],
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
        if any(known.get(name) is None for name in computed) or self._captures_unknown(node, known):
            known.update(dict.fromkeys(filter(None, node.proto.output)))
            return
        relations = {name: known[name] for name in computed}
        read = tuple(
            relations[name].f if name in relations else None  # type: ignore[union-attr]
            for name in _trimmed(list(node.proto.input))
        )
        other = counterparts.find(node, read)
        inputs = [relations.get(name) for name in node.proto.input]
        if other is None:
            found = self._without(node, inputs, counterparts)
            known.update(found)
            return
        counterparts.taken[other] = node
        self.pairs.nodes[node] = other
        if difference := _different(node, other):
            self._wrong(node.label, f"{other.label} has another {difference} than in the original")
        known.update(self._through(node, other, inputs, known))

    def _is_constant(
        self, scope: Scope, name: str, known: dict[str, Relation | None], constant: set[str]
    ) -> bool:
        if name in known:
            return False
        return name in constant or self.original.is_constant(scope, name)

    def _captures_unknown(self, node: Node, known: dict[str, Relation | None]) -> bool:
        return any(
            known[name] is None for _, body in bodies(node.proto) for name in _captured(body)
            if name in known
        )  # fmt: skip

    def _without(
        self, node: Node, inputs: list[Relation | None], counterparts: Counterparts
    ) -> dict[str, Relation | None]:
        """What a node makes that is not there any more: a map that went elsewhere, or nothing."""
        at = self.wanted.site(node)
        nothing: dict[str, Relation | None] = dict.fromkeys(filter(None, node.proto.output))
        if at is not None and (relation := inputs[at[0]]) is not None:
            p = relation.p.then(at[1])
            if p is None:
                self._unknown(node.label, "it works along another axis than the map before it")
                return nothing
            self.pairs.gone.append(node)
            return {node.output: self._settled(Relation(relation.f, p, relation.q))}
        if node.op in _PASSES_AS_NOTHING and inputs[0] is not None and self._is_idle(node):
            self.pairs.gone.append(node)
            return {**nothing, node.output: inputs[0]}
        named = counterparts.named(node)
        if named is None:
            self._unknown(node.label, "it is gone, and no fold explains that")
            return nothing
        counterparts.taken[named] = node
        self.pairs.nodes[node] = named
        here = [r.f if r is not None else None for r in inputs]
        self._wrong(node.label, _reads_otherwise(node, named, here))
        return {
            old: Relation(new)
            for old, new in zip(node.proto.output, named.proto.output, strict=False)
            if old
        } | {name: None for name in nothing if name not in node.proto.output[: len(named.proto.output)]}

    def _is_idle(self, node: Node) -> bool:
        if node.op == "Cast":
            source = self.original.element_type(node.scope, node.input(0))
            return source is not None and source == node.attribute("to", 0)
        if node.op == "Dropout":
            training = self.original.array(node.scope, node.input(2)) if node.input(2) else None
            inert = not node.input(2) or (training is not None and not training.any())
            return inert and (node.scope.opset >= 7 or bool(node.attribute("is_test", 0)))
        return True

    # --- one pair --------------------------------------------------------------------------------

    def _through(
        self, node: Node, other: Node, inputs: list[Relation | None],
        known: dict[str, Relation | None],
    ) -> dict[str, Relation | None]:  # fmt: skip
        """What the outputs of a node are, in terms of those of its counterpart."""
        nothing: dict[str, Relation | None] = dict.fromkeys(filter(None, node.proto.output))
        same = {
            old: Relation(new)
            for old, new in zip(node.proto.output, other.proto.output, strict=False)
            if old
        }
        if node.op in ("Shape", "Size"):  # which do not read values
            return dict(same)
        at = self.wanted.site(node)
        if at is not None and other.op in ("BatchNormalization", "Add", "Sub", "Mul", "Div"):
            return self._kept_map(node, other, at, inputs, same) or nothing
        if node.op in kernels.LINEAR and other.op in kernels.LINEAR:
            found = self._linear(node, other, inputs, same)
            if found is not None:
                return found
        plain = all(relation is None or relation.plain for relation in inputs)
        single = not any(node.proto.output[1:]) or node.op == "Split"
        if plain:
            return self._unchanged(node, other, known, same)
        if node.op in LAWS and single and inputs[0] is not None:
            if all(relation is None or relation.plain for relation in inputs[1:]):
                return self._passed(node, other, inputs[0], same)
        if (found := shared(self.original, node, other, inputs)) is not None:
            if isinstance(found, str):
                return self._stopped(node, found, inputs, nothing)
            p, q = found
            return {node.output: self._settled(Relation(other.output, p, q))}
        if node.op in ("Add", "Sub", "Mul", "Div", "LayerNormalization", *_NORMS):
            return self._held(node, other, inputs, same) or nothing
        return self._stopped(node, "an operator that lets no map pass", inputs, nothing)

    def _stopped(
        self, node: Node, why: str, inputs: list[Relation | None],
        nothing: dict[str, Relation | None],
    ) -> dict[str, Relation | None]:  # fmt: skip
        held = next(r for r in inputs if r is not None and not r.plain)
        apart = self._apart(held)
        sentence = f"what it reads {apart}, which does not pass it: {why}"
        if node.op in LAWS:
            self._wrong(node.label, sentence)
        else:
            self._unknown(node.label, sentence)
        return nothing

    def _passed(
        self, node: Node, other: Node, relation: Relation, same: dict[str, Relation]
    ) -> dict[str, Relation | None]:
        found: dict[str, Relation | None] = {}
        for place, name in enumerate(node.proto.output):
            if not name:
                continue
            p = carried(self.original, node, relation.p, place)
            q = carried(self.original, node, relation.q, place)
            if isinstance(p, str) or isinstance(q, str):
                why = p if isinstance(p, str) else str(q)
                found.update(self._stopped(node, why, [relation], {name: None}))
            else:
                found[name] = self._settled(Relation(same[name].f, p, q))
        return found

    def _unchanged(
        self, node: Node, other: Node, known: dict[str, Relation | None],
        same: dict[str, Relation],
    ) -> dict[str, Relation | None]:  # fmt: skip
        """Equal inputs make equal outputs, if the constants and the bodies are equal."""
        if node.op in ("Add", "Sub", "Mul", "Div", "LayerNormalization", *_NORMS):
            constants = [
                (a, b) for a, b in zip(node.proto.input, other.proto.input, strict=False)
                if a and self.original.is_constant(node.scope, a)
            ]  # fmt: skip
            if constants and any(not self._equal(node, a, other, b) for a, b in constants):
                found = self._held(node, other, [None] * len(node.proto.input), same)
                return found or dict.fromkeys(same)
        for slot, name in enumerate(node.proto.input):
            theirs = other.input(slot)
            constant = name and name not in known and self.original.is_constant(node.scope, name)
            if constant and not self._equal(node, name, other, theirs):
                self._wrong(node.label, f"its constant {name!r} is not the same")
        for (_, old), (_, new) in zip(bodies(node.proto), bodies(other.proto), strict=False):
            self._body(node, old, new, known)
        return dict(same)

    def _body(
        self, node: Node, old: object, new: object, known: dict[str, Relation | None]
    ) -> None:
        inner, other = self.original.body(old), self.folded.body(new)
        if len(inner.inputs) != len(other.inputs):
            self._unknown(node.label, "a body with other inputs")
            return
        inside = dict(known)
        inside.update({a: Relation(b) for a, b in zip(inner.inputs, other.inputs, strict=True)})
        self._scope(inner, other, inside)
        for a, b in zip(inner.container.output, other.container.output, strict=False):
            self._output(inner, inside.get(a.name), a.name, b.name)

    def _equal(self, node: Node, name: str, other: Node, theirs: str) -> bool:
        one, two = self.original.array(node.scope, name), self.folded.array(other.scope, theirs)
        if one is None or two is None:
            return one is two is None and name == theirs
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()

    # --- what takes maps in ----------------------------------------------------------------------

    def _linear(
        self, node: Node, other: Node, inputs: list[Relation | None], same: dict[str, Relation]
    ) -> dict[str, Relation | None] | None:
        one, two = kernels.linear(self.original, node), kernels.linear(self.folded, other)
        if one is None or two is None:
            return None
        data = inputs[1 - one.slot] if node.op == "MatMul" else inputs[0]
        if data is None or (node.op != "MatMul" and any(r is not None for r in inputs[1:])):
            return None
        nothing: dict[str, Relation | None] = {node.output: None}
        e = quotient(data.p, data.q)
        if e is None:
            self._unknown(node.label, "what it reads has lost a channel")
            return nothing
        candidates = self.wanted.of(node.scope, node.output)
        if other.op == "MatMul":  # which has no place for a shift
            candidates = [c for c in candidates if not c.map.shifts]
        passed = e.shift if other.op == "MatMul" and e.shifts else None
        result = absorbed.linear(
            one, two, e.scale_only() if passed is not None else e, candidates, self.loose
        )
        if isinstance(result, str):
            self._wrong(node.label, f"{other.label} cannot stand for it: {result}")
            return nothing
        found = self._took(node, other, result, same[node.output].f)
        if passed is not None:  # W(x + t) = W(x) + ΣW·t, which is still to come
            response = absorbed.response(one, passed.spread(one.inputs))
            p = Map(one.out_axis, Real.full(1.0, one.channels), response)
            q = result.chosen.map
            found[node.output] = self._settled(Relation(same[node.output].f, p, q))
        return found

    def _kept_map(
        self, node: Node, other: Node, at: tuple[int, Map], inputs: list[Relation | None],
        same: dict[str, Relation],
    ) -> dict[str, Relation | None] | None:  # fmt: skip
        relation = inputs[at[0]]
        theirs = sites.site(self.folded, other)
        assert relation is not None
        if theirs is None:
            self._unknown(node.label, f"{other.label} is no map that can be read")
            return None
        own = relation.p.then(at[1])
        new = relation.q.then(theirs[1])
        candidates = self.wanted.of(node.scope, node.output)
        equal = relation.plain and at[1].near(theirs[1])
        if equal:
            return {node.output: Relation(other.output)}
        if own is None or new is None:
            self._unknown(node.label, "it works along another axis than the map before it")
            return None
        result = _nearest(self.folded, other, theirs[1], own, relation.q, candidates, self.loose)
        if result is None:
            self._unknown(node.label, f"no map is known that {other.label} could hold")
            return None
        return self._took(node, other, result, other.output)

    def _held(
        self, node: Node, other: Node, inputs: list[Relation | None], same: dict[str, Relation]
    ) -> dict[str, Relation | None] | None:
        """Constants that do not vary along one axis only, and the ends of normalisations."""
        from bnfold.check.held import held

        found = held(self.original, self.folded, node, other, inputs, self.wanted, self.loose)
        if isinstance(found, str):
            self._unknown(node.label, found)
            return None
        return self._took(node, other, found, other.output)

    def _took(
        self, node: Node, other: Node, result: Absorption, f: str
    ) -> dict[str, Relation | None]:
        """Record what a node took; the maps it made are now part of what it gives."""
        tallies = result.tallies
        if tallies:
            self.pairs.taken.setdefault(other, set()).update(tallies)
            self.pairs.folds.append(
                CertifiedFold(
                    other.label, other.op, result.chosen.sites, result.length,
                    max(t.k for t in tallies.values()),
                    sum(t.numbers for t in tallies.values()),
                    sum(t.misrounded for t in tallies.values()),
                    sum(t.decided for t in tallies.values()), result.faults,
                )
            )  # fmt: skip
        for name, tally in tallies.items():
            if tally.faults:
                self._wrong(other.label, _told(name, tally, result.chosen))
        return {node.output: self._settled(Relation(f, identity(), result.chosen.map))}

    def _settled(self, relation: Relation) -> Relation:
        """The relation without what both sides have in common, if that leaves no scale."""
        settled = quotient(relation.p, relation.q)
        if settled is None or settled.scales:
            return relation
        return Relation(relation.f, settled)


_NORMS = ("InstanceNormalization", "GroupNormalization")


def _nearest(
    folded: View, other: Node, theirs: Map, own: Map, q: Map, candidates: list[Candidate],
    loose: float,
) -> Absorption | None:  # fmt: skip
    """The candidate u for which the kept node holds u∘own, with the fewest wrong numbers."""
    best: Absorption | None = None
    for candidate in candidates:
        whole = own.then(candidate.map)
        total = quotient(whole, q) if whole is not None else None
        if total is None:
            continue
        result = _holds(folded, other, total, candidate, loose)
        if result is not None and (best is None or result.faults < best.faults):
            best = result
    return best


def _holds(
    folded: View, other: Node, total: Map, candidate: Candidate, loose: float
) -> Absorption | None:
    if other.op == "BatchNormalization":
        parameters = sites.batch_norm(folded, other)
        if parameters is None or total.axis not in (None, 1):
            return None
        names = (other.input(1), other.input(2))
        dtypes = [folded.array(other.scope, name) for name in names]
        assert dtypes[0] is not None
        assert dtypes[1] is not None
        if len(total) not in (1, len(parameters[0])):
            return None
        return absorbed.batch_norm(
            parameters, names, (dtypes[0].dtype, dtypes[1].dtype), total, candidate, loose
        )
    slot = next(s for s in (0, 1) if folded.is_constant(other.scope, other.input(s)))
    stored = folded.array(other.scope, other.input(slot))
    rank = folded.rank(other.scope, other.input(1 - slot))
    if stored is None or rank is None:
        return None
    ones, zero = np.ones(()), np.zeros(())
    axis = None if total.axis is None else total.axis - rank
    name = other.input(slot)
    if other.op == "Add" and not total.scales:
        value = total.shift
    elif other.op == "Sub" and slot == 1 and not total.scales:
        value = -total.shift
    elif other.op == "Mul" and not total.shifts:
        value = total.scale
    elif other.op == "Div" and slot == 1 and not total.shifts and np.all(total.scale.value):
        value = total.scale.inverse()
    else:
        return None
    del ones
    lifted = stored.reshape((1,) * (rank - stored.ndim) + stored.shape)
    place = None if axis is None else axis + rank
    return absorbed.constant(lifted, zero, place, value, value, name, candidate, loose)


def _told(name: str, tally: object, chosen: Candidate) -> str:
    wrong = tally.wrong[0]  # type: ignore[attr-defined]
    by = f" with {', '.join(chosen.sites)} folded in" if chosen.sites else ""
    more = f", and {tally.faults - 1} more" if tally.faults > 1 else ""  # type: ignore[attr-defined]
    return (
        f"{name}{list(wrong.index)} is {wrong.stored:.9g}, and the original makes it "
        f"{wrong.expected:.9g}{by}: {wrong.ulps:.3g} ulp apart{more}"
    )


def _different(node: Node, other: Node) -> str:
    """The attribute in which two nodes differ, "" for none."""
    one, two = attributes(node), attributes(other)
    ignored = set(_CHANGES.get(other.op, ())) if node.op != other.op else {"beta"}
    if node.op == other.op == "BatchNormalization" or node.op != other.op:
        ignored |= {"epsilon", "momentum", "spatial", "training_mode"}
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


def _trimmed(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names.pop()
    return names


def _captured(graph) -> set[str]:  # type: ignore[no-untyped-def]
    made = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    made |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    for node in graph.node:
        for _, body in bodies(node):
            read |= _captured(body)
    return {name for name in read if name} - made


__all__ = ["Pairs", "Read", "Relation", "Walk"]
