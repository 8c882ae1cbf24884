"""The verdict on two files: by their proof, or by one that is proposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx.inliner
from onnx import ModelProto

from bnfold.onnx_io.model_file import ModelFile
from bnfold.proof.kernel.judge import judge
from bnfold.proof.kernel.outcome import Certificate, Frame, Outcome, doubted
from bnfold.proof.kernel.regions import Correspondence, Regions, regions
from bnfold.proof.reading.model import Model
from bnfold.proof.search.proposal import proposed
from bnfold.steps import Proof


@dataclass(frozen=True)
class Static:
    """What two files tell without being run.

    `certain`: if they are called different, no other proof could show that they are equal.
    """

    frame: Frame
    certificate: Certificate
    certain: bool = False
    models: tuple[Model, Model] | None = None  # None where the check itself failed
    known: Correspondence | None = None  # None where proof and files have not the same nodes

    @cached_property
    def regions(self) -> Regions | None:
        """Where both models can be cut open."""
        if self.models is None or self.known is None:
            return None
        return regions(*self.models, self.known)

    @property
    def equal(self) -> bool:
        """Whether nothing was found that the nodes compute otherwise."""
        return self.certificate.verdict is Outcome.VALID

    @property
    def doubted(self) -> Static:
        """The same where the proof was a guess: what it finds wrong is not decided."""
        certificate, frame = doubted(self.certificate, self.frame)
        return replace(self, certificate=certificate, frame=frame)


def prove(original: ModelFile, folded: ModelFile, proof: Proof) -> Static:
    """The verdict on two files by a proof."""
    one = without_functions(original.model, proof.inlined)
    old = Model(one, original.storage, freeze=proof.freeze)
    new = Model(folded.model, folded.storage, freeze=proof.freeze)
    return _static(old, new, proof)


def explain(
    original: ModelFile, folded: ModelFile, guesses: Sequence[Proof], *, foreign: bool = False,
    freeze: bool = False, loose: float = 0.0,
) -> Static:  # fmt: skip
    """The verdict on two files of which there is no proof, by guesses and one that is proposed.

    The first that holds decides; a `foreign` file may have other names. Otherwise the models are
    called different where a guess leaves no other explanation. `freeze` counts initializers that
    are also graph inputs as constants. With `loose`, constants may be as many units u·A off, as
    those of tools that round more than once are.
    """
    tried = []
    for guess in guesses:
        tried.append(prove(original, folded, guess))
        if _holds(tried[-1], foreign=False):  # where nodes are told by their places, bytes count
            return tried[-1]
    found = certify(original, folded, freeze=freeze, loose=loose)
    if _holds(found, foreign=foreign):
        return found
    certain = next((static for static in (*tried, found) if static.certain), None)
    near = next(
        (static.doubted for static in tried if static.known is not None and not static.equal), None
    )
    return certain or near or found


def _holds(found: Static, *, foreign: bool) -> bool:
    return found.equal and (foreign or found.frame.verdict is Outcome.VALID)


def _static(old: Model, new: Model, proof: Proof, *, loose: float = 0.0) -> Static:
    judgement = judge(old, new, proof, loose)
    return Static(
        judgement.frame, judgement.certificate, judgement.certain, (old, new), judgement.known
    )


def without_functions(model: ModelProto, names: Sequence[tuple[str, str]]) -> ModelProto:
    """The model with the calls of these local functions written out."""
    there = {(function.domain, function.name) for function in model.functions}
    if not names or not there.issuperset(names):
        return model
    return onnx.inliner.inline_selected_functions(model, list(names))


def certify(
    original: ModelFile, folded: ModelFile, *, freeze: bool = False, loose: float = 0.0
) -> Static:
    """The verdict on two files by a proof that is proposed from them alone."""
    one, two = original.model, folded.model
    if list(one.functions) != list(two.functions):  # some were inlined: compare them all inlined
        one, two = _inlined(one), _inlined(two)
    old = Model(one, original.storage, freeze=freeze, sizes=True)
    new = Model(two, folded.storage, freeze=freeze, sizes=True)
    return _static(old, new, proposed(old, new), loose=loose)


def _inlined(model: ModelProto) -> ModelProto:
    return onnx.inliner.inline_local_functions(model) if model.functions else model
