"""The levels of verification, from what the files tell to what running them tells."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bnfold.errors import BnfoldError, UndecidedError
from bnfold.onnx_io.model_file import ModelFile
from bnfold.proof.certificate import Static, explain, prove
from bnfold.proof.kernel.outcome import Certificate, Finding, Frame, Outcome
from bnfold.runtime.answer_file import FALLBACK, write_answer
from bnfold.runtime.job import Job
from bnfold.steps import from_json
from bnfold.verification.comparison import Comparison

_OF_RUN = (
    "outputs", "inputs", "runs", "mismatch", "folds", "folds_not_run", "deployed", "counterexample",
)  # fmt: skip
FOREIGN_K = 8.0  # units u·A that float32 arithmetic throughout may be off: five roundings, and more


def verify(job: Job) -> dict[str, Any]:
    """Judge the two files as far as the request says. Raises BnfoldError where nothing was decided.

    A model that does not run, or crashes onnxruntime, is decided by its certificate, if that is
    valid.
    """
    request = job.request
    if job.first is not None:
        job.first.go_on_with(job.folded)
    job.stage("checking the fold from the two files")
    foreign = request["foreign"]
    static = _certified(job.original, job.folded, request)
    found = Comparison((), (), 0, frame=static.frame, certificate=static.certificate)
    told = asdict(found)
    if request["level"] in ("frame", "proof"):
        _require_decided(static, request["level"], foreign=foreign)
        return told if request["level"] == "proof" else told | {"certificate": None}
    from bnfold.verification.worker.model_runs import compare_by_running

    if request["level"] == "folds":
        _require_decided(static, "proof", foreign=foreign)
    checks = {static.certificate.verdict, *([] if foreign else [static.frame.verdict])}
    if checks == {Outcome.VALID} and job.first is None:  # beside a proof, either may have crashed
        write_answer(told, job.folder, FALLBACK)  # the original may crash onnxruntime
    try:
        run = compare_by_running(job, static)
    except UndecidedError as error:
        if Outcome.UNDECIDED in checks and Outcome.INVALID not in checks:
            raise
        return told | {"not_run": str(error)}
    return told | {name: value for name, value in run.items() if name in _OF_RUN}


def _certified(original: ModelFile, folded: ModelFile, request: dict[str, Any]) -> Static:
    """The certificate; not decided, with the reason, where the checker itself fails."""
    foreign = request["foreign"]
    try:
        proofs = [from_json(proof.encode()) for proof in request["proofs"]]
        allowed = [p for p in proofs if request["freeze"] or not p.freeze]
        if request["proven"] and not allowed:
            raise UndecidedError(
                "the proof takes inputs with defaults as constants, which callers may change",
                "set `freeze_initializers=True` if nobody does",
            )
        if request["proven"]:
            return prove(original, folded, proofs[0])
        return explain(
            original, folded, allowed, foreign=foreign, freeze=request["freeze"],
            loose=FOREIGN_K if foreign else 0.0,
        )  # fmt: skip
    except (BnfoldError, MemoryError):
        raise
    except Exception as error:
        sentence = f"the checker failed, please report it: {type(error).__name__}: {error}"
        undecided = Outcome.UNDECIDED
        finding = Finding(undecided, "", sentence)
        return Static(Frame(undecided, ()), Certificate(undecided, (), (finding,)))


def _require_decided(static: Static, level: str, *, foreign: bool) -> None:
    """Raises UndecidedError where a level that was asked for says neither yes nor no."""
    checks: list[Frame | Certificate] = [static.certificate] if level == "proof" else []
    if level == "frame" or not foreign:
        checks.append(static.frame)
    if any(check.verdict is Outcome.INVALID for check in checks):
        return
    for check in checks:
        if check.verdict is Outcome.UNDECIDED:
            where = next((f for f in check.findings if f.verdict is Outcome.UNDECIDED), None)
            what = f"{where.node}: {where.sentence}" if where else "the two files do not align"
            raise UndecidedError(
                f"the {level} is not decided: {what}",
                'compare results as well: `level="full"` of verify, `verify="full"` of optimize',
            )
