"""The certificate of two files: every output equal for every input, but for named roundings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx.inliner
from onnx import ModelProto

from bnfold.onnx_io.model_file import ModelFile
from bnfold.proof.frame import WHOLE, frame
from bnfold.proof.model_walk import Walk
from bnfold.proof.outcome import Certificate, Frame, Outcome, verdict_of
from bnfold.proof.reading.model_view import View
from bnfold.proof.regions import Regions, regions


@dataclass(frozen=True)
class Static:
    """What two files tell without being run."""

    frame: Frame
    certificate: Certificate
    regions: Regions | None = None  # None where the check itself failed


def certify(
    original: ModelFile, folded: ModelFile, *, freeze: bool = False, loose: float = 0.0
) -> Static:
    """Judge two files as they stand.

    `freeze` counts initializers that are also graph inputs as constants. With `loose`, constants
    may be as many units u·A off, as those of tools that round more than once are.
    """
    one, two = original.model, folded.model
    if list(one.functions) != list(two.functions):  # some were inlined: compare them all inlined
        one, two = _inlined(one), _inlined(two)
    old, new = View(one, original.storage, freeze=freeze), View(two, folded.storage, freeze=freeze)
    pairs = Walk(old, new, loose).run()
    findings = pairs.findings
    if pairs.unexplained:  # what was done is not understood, so that nothing of it is known wrong
        findings = [replace(finding, verdict=Outcome.UNDECIDED) for finding in findings]
    certificate = Certificate(verdict_of(findings), tuple(pairs.folds), tuple(findings))
    found = _without(frame(old, new, pairs), certificate)
    return Static(found, certificate, regions(old, new, pairs))


def _without(found: Frame, certificate: Certificate) -> Frame:
    """What nodes and tensors the walk did not come by says nothing: it is not decided, either."""
    if certificate.verdict is not Outcome.UNDECIDED:
        return found
    whole = [finding for finding in found.findings if finding.node == WHOLE]
    return Frame(verdict_of(whole) if whole else Outcome.UNDECIDED, tuple(whole))


def _inlined(model: ModelProto) -> ModelProto:
    return onnx.inliner.inline_local_functions(model) if model.functions else model
