"""The verdict on two files: by their proof, or by one that is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx.inliner
from onnx import ModelProto

from bnfold.onnx_io.model_file import ModelFile
from bnfold.proof.kernel.judge import Judgement, judge
from bnfold.proof.kernel.outcome import Certificate, Frame, Outcome, verdict_of
from bnfold.proof.kernel.regions import Correspondence, Regions, regions
from bnfold.proof.reading.model import Model
from bnfold.proof.search.frame import WHOLE, frame
from bnfold.proof.search.model_walk import Walk
from bnfold.proof.search.reading.model_view import View
from bnfold.proof.search.same_meaning import differences
from bnfold.steps import Proof


@dataclass(frozen=True)
class Static:
    """What two files tell without being run."""

    frame: Frame
    certificate: Certificate
    regions: Regions | None = None  # None where the check itself failed
    paired: bool = True  # whether the proof and the two files have the same nodes


def prove(
    original: ModelFile, folded: ModelFile, proofs: Sequence[Proof], *, cut: bool = True
) -> Static | None:  # fmt: skip
    """The verdict on two files by the first of these proofs that holds, or by the last one.

    None where there is no proof. `cut`: also find where both models can be cut open.
    """
    found: Static | None = None
    for proof in proofs:
        one = without_functions(original.model, proof.inlined)
        old = Model(one, original.storage, freeze=proof.freeze)
        new = Model(folded.model, folded.storage, freeze=proof.freeze)
        judgement = judge(old, new, proof)
        paired = judgement.known is not None
        found = Static(judgement.frame, judgement.certificate, paired=paired)
        if judgement.valid or proof is proofs[-1]:
            return replace(found, regions=_regions(old, new, judgement)) if cut else found
    return found


def _regions(old: Model, new: Model, judgement: Judgement) -> Regions | None:
    if judgement.known is None:
        return None
    one, two = (
        View(model.proto, model.storage, freeze=model.freeze, index=model.index)
        for model in (old, new)
    )
    return regions(one, two, judgement.known)


def without_functions(model: ModelProto, names: Sequence[tuple[str, str]]) -> ModelProto:
    """The model with the calls of these local functions written out."""
    there = {(function.domain, function.name) for function in model.functions}
    if not names or not there.issuperset(names):
        return model
    return onnx.inliner.inline_selected_functions(model, list(names))


def certify(
    original: ModelFile, folded: ModelFile, *, freeze: bool = False, loose: float = 0.0
) -> Static:
    """Judge two files of which there is no proof, by looking for one.

    `freeze` counts initializers that are also graph inputs as constants. With `loose`, constants
    may be as many units u·A off, as those of tools that round more than once are.
    """
    one, two = original.model, folded.model
    if list(one.functions) != list(two.functions):  # some were inlined: compare them all inlined
        one, two = _inlined(one), _inlined(two)
    old, new = View(one, original.storage, freeze=freeze), View(two, folded.storage, freeze=freeze)
    pairs = Walk(old, new, loose).run()
    findings = [*differences(old, new), *pairs.findings]
    if pairs.unexplained:  # what was done is not understood, so that nothing of it is known wrong
        findings = [replace(finding, verdict=Outcome.UNDECIDED) for finding in findings]
    certificate = Certificate(verdict_of(findings), tuple(pairs.folds), tuple(findings))
    found = _without(frame(old, new, pairs), certificate)
    values = {
        name: None if relation is None else (relation.f, relation.plain)
        for name, relation in pairs.known.items()
    }
    known = Correspondence(pairs.nodes, pairs.gone, values, pairs.changed)
    return Static(found, certificate, regions(old, new, known))


def doubted(found: Static, proven: Static | None) -> Static:
    """An explanation that was found, which is not enough where the kernel finds something wrong.

    It does where both files have the nodes that bnfold's own fold leaves.
    """
    if proven is None or not proven.paired or found.certificate.verdict is not Outcome.VALID:
        return found
    said = (*proven.certificate.findings, *proven.frame.findings)
    wrong = next((f for f in said if f.verdict is Outcome.INVALID), None)
    if wrong is None:
        return found
    doubt = replace(wrong, verdict=Outcome.UNDECIDED)
    certificate = replace(
        found.certificate, verdict=Outcome.UNDECIDED, findings=(doubt,)
    )  # fmt: skip
    return replace(found, certificate=certificate)


def _without(found: Frame, certificate: Certificate) -> Frame:
    """What nodes and tensors the walk did not come by says nothing: it is not decided, either."""
    if certificate.verdict is not Outcome.UNDECIDED:
        return found
    whole = [finding for finding in found.findings if finding.node == WHOLE]
    return Frame(verdict_of(whole) if whole else Outcome.UNDECIDED, tuple(whole))


def _inlined(model: ModelProto) -> ModelProto:
    return onnx.inliner.inline_local_functions(model) if model.functions else model
