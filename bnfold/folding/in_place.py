"""Folding a model in memory, with its functions inlined where that folds more."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import onnx
import onnx.inliner
from msgspec import structs

from bnfold.folding.apply import apply
from bnfold.folding.inlining import inlined
from bnfold.folding.plan import Plan, plan
from bnfold.folding.selection import require_sites
from bnfold.graph.index import BATCH_NORM, Index
from bnfold.graph.node_counts import NodeCounts
from bnfold.onnx_io.tensor_storage import Storage
from bnfold.options import Options
from bnfold.steps import Proof, from_json, to_json
from bnfold.verdict import Verdict

Model = TypeVar("Model")


@dataclass(frozen=True)
class FoldResult(Generic[Model]):
    """A folded model, with one verdict for every BatchNormalization of the original."""

    model: Model
    verdicts: tuple[Verdict, ...]
    before: NodeCounts
    after: NodeCounts
    copied_bytes: int = 0  # of copies of weights that others read as they were
    proof: str = ""  # what was done, step by step, as JSON

    @property
    def folded(self) -> tuple[Verdict, ...]:
        """The verdicts of the BatchNormalizations that are gone."""
        return tuple(verdict for verdict in self.verdicts if verdict.folded)

    @property
    def kept(self) -> tuple[Verdict, ...]:
        """The verdicts of those that stayed, each with its refusal."""
        return tuple(verdict for verdict in self.verdicts if not verdict.folded)


class Watch(Protocol):
    """Somebody who looks at a model before and after it is folded."""

    def planned(self, index: Index, plan: Plan) -> None:
        """The model as it was, and what is about to be done to it."""

    def applied(self, index: Index, proof: Proof) -> None:
        """The model as it is now, and what was done."""


def fold_in_place(
    model: onnx.ModelProto, storage: Storage, options: Options | None, *, may_inline: bool = True,
    watch: Watch | None = None,
) -> FoldResult[onnx.ModelProto]:  # fmt: skip
    """Fold a model in place, with its proof; whoever watches sees the model that is folded.

    Raises ModelError for a model that is not valid, UsageError for names that it does not have.
    """
    index = Index(model, storage)
    require_sites(index, options)
    before, planned = NodeCounts.of(index), plan(index, options)
    may_inline &= options is None or not (options.skip or options.only)  # which changes names
    best, kept = None, sum(v.op == BATCH_NORM and not v.folded for v in planned.verdicts)
    for copy, names in inlined(model, planned.verdicts) if may_inline and kept else ():
        inner = fold_in_place(copy, storage, options, may_inline=False)
        if inner.after.nodes <= before.nodes and inner.after.batch_norms < kept:
            best, kept = (inner, names), inner.after.batch_norms
        if not kept:
            break
    if best is not None:
        inner, names = best
        if watch is not None:  # who must not see what did not pay
            again = onnx.inliner.inline_selected_functions(model, list(names))
            fold_in_place(again, storage, options, may_inline=False, watch=watch)
        model.CopyFrom(inner.model)
        proof = structs.replace(from_json(inner.proof.encode()), inlined=names)
        text = to_json(proof).decode()
        return dataclasses.replace(inner, model=model, before=before, proof=text)
    if watch is not None:
        watch.planned(index, planned)
    applied = apply(index, planned)
    proof = structs.replace(
        applied.proof, freeze=options is not None and options.freeze_initializers
    )
    after = Index(model, storage)
    if watch is not None:
        watch.applied(after, applied.proof)
    return FoldResult(
        model, planned.verdicts, before, NodeCounts.of(after), applied.copied,
        to_json(proof).decode(),
    )  # fmt: skip
