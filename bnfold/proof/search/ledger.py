"""What the walk over two models writes down: what was taken, what is wrong, what is not known."""

from __future__ import annotations

import numpy as np

from bnfold.graph.index import Node
from bnfold.proof.kernel.outcome import CertifiedFold, Finding, Outcome
from bnfold.proof.numbers.correct_rounding import told
from bnfold.proof.search.absorption import linear_constants
from bnfold.proof.search.absorption.candidates import Wanted
from bnfold.proof.search.absorption.linear_constants import Absorption
from bnfold.proof.search.numbers.maps import identity, quotient
from bnfold.proof.search.numbers.relation import Known, Relation
from bnfold.proof.search.pairs import Pairs
from bnfold.proof.search.reading.model_view import View, alike


def _present(folded: View) -> set[str]:
    """The names of the nodes of a folded model.

    Where a Mul and an Add make a value, they may be a BatchNormalization without a name.
    """
    nodes = list(folded.index.nodes())
    written_out = {
        f"BatchNormalization→{add.output}" for add in nodes
        if add.op == "Add" and (mul := add.scope.producers.get(add.input(0))) and mul.op == "Mul"
    }  # fmt: skip
    return {node.label for node in nodes} | written_out


class Ledger:
    """Two models, and what was found of them so far."""

    def __init__(self, original: View, folded: View, loose: float = 0.0) -> None:
        self.original = original
        self.folded = folded
        maxima = any(node.op == "Max" for node in folded.index.nodes())
        self.wanted = Wanted(original, raises=maxima)
        self.loose = loose
        self.present = _present(folded)
        self.pairs = Pairs()

    # --- findings --------------------------------------------------------------------------------

    def _wrong(self, node: str, sentence: str) -> None:
        self.pairs.findings.append(Finding(Outcome.INVALID, node, sentence))

    def _unknown(self, node: str, sentence: str) -> None:
        self.pairs.findings.append(Finding(Outcome.UNDECIDED, node, sentence))

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

    # --- what was taken --------------------------------------------------------------------------

    def _equal(self, node: Node, name: str, other: Node, theirs: str) -> bool:
        one, two = self.original.array(node.scope, name), self.folded.array(other.scope, theirs)
        if one is None or two is None:
            return one is two is None and name == theirs
        return alike(one, two)

    def _equal_at(self, node: Node, other: Node, slot: int) -> bool:
        return self._equal(node, node.input(slot), other, other.input(slot))

    def _took(self, node: Node, other: Node, result: Absorption, f: str) -> Known:
        """Record what a node took; the maps it made are now part of what it gives."""
        tallies = result.tallies
        if tallies:
            k = max(tally.k for tally in tallies.values())
            self.pairs.changed[other] = 1.0 if result.faults else k
            if result.moved:
                self.pairs.taken.setdefault(other, set()).update(tallies)
            self.pairs.folds.append(
                CertifiedFold(
                    other.label, other.op, result.chosen.sites, result.length,
                    k, sum(t.numbers for t in tallies.values()),
                    sum(t.misrounded for t in tallies.values()),
                    sum(t.decided for t in tallies.values()), result.faults,
                )
            )  # fmt: skip
        if any(2 * tally.far > tally.numbers for tally in tallies.values()):
            self._unknown(other.label, "no map that stands behind it explains its constants")
            return {node.output: None}
        for name, tally in tallies.items():
            if tally.lost and not tally.faults:
                self._unknown(other.label, f"underflow has taken {tally.lost} of {name}")
            if tally.faults:
                self._wrong(other.label, told(name, tally, result.chosen.sites))
        return {node.output: self._settled(Relation(f, identity(), result.chosen.map, other.label))}

    def _divided(self, relation: Relation, *, scales: bool = False) -> Relation:
        settled = quotient(relation.p, relation.q, scales=scales)
        if settled is None:
            return relation
        return Relation(relation.f, settled, maker=relation.maker)

    def _settled(self, relation: Relation) -> Relation:
        """The relation without what both sides have in common, if that leaves no scale."""
        divided = self._divided(relation)
        return relation if divided.p.scales else divided

    def _loose(self, node: Node) -> float:
        """How far the constants of a node may be off, in u: those that are dequantised by more."""
        names = (name for name in node.proto.input if name)
        quantized = any(self.original.is_quantized(node.scope, name) for name in names)
        return max(self.loose, linear_constants.DEQUANTISED) if quantized else self.loose

    def _types(self, node: Node, view: View | None = None) -> list[str]:
        """The element types of a node's constants."""
        view = view or self.original
        arrays = (view.array(node.scope, name) for name in node.proto.input if name)
        return [array.dtype.name for array in arrays if array is not None]
