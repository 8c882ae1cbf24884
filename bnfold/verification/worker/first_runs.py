"""The first runs of both models, in a thread of their own: while proofs are made and checked.

onnxruntime works without Python, so that both get on. What comes of it, also an error, is there for
whoever asks for it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from bnfold.onnx_io.model_file import ModelFile
from bnfold.runtime.input_files import InputSet
from bnfold.runtime.job import Job
from bnfold.runtime.sessions import Run
from bnfold.verification.worker.cut_points import common_roundings
from bnfold.verification.worker.model_runs import Runner
from bnfold.verification.worker.pair import Pair


class FirstRuns:
    """The runs of the original, and of the folded model when it is there."""

    def __init__(self, job: Job) -> None:
        """Begins at once."""
        self._pool = ThreadPoolExecutor(1, "bnfold-runs")
        self._runner = Runner(job, Pair(job.original, job.original))
        self._runner.stage = lambda *_: None
        try:
            self._original = self._pool.submit(self._runner.run_original)
        except RuntimeError as error:  # there is no room for a thread
            raise MemoryError from error
        self._folded: Future[list[Run]] | None = None
        self._optimised: Future[list[Run]] | None = None

    @classmethod
    def begin(cls, job: Job) -> FirstRuns | None:
        """None where nothing is to be run, or models are going to be cut open at roundings."""
        if job.request["level"] in ("frame", "proof"):
            return None
        return None if common_roundings(job.original, job.original) else cls(job)

    def go_on_with(self, folded: ModelFile) -> None:
        """Run the folded model as well, on the same inputs, without and with optimisations."""
        self._folded = self._pool.submit(self._runner.run_folded, folded)
        self._optimised = self._pool.submit(self._runner.run_optimised, folded)

    def of_original(self) -> tuple[list[InputSet], list[Run]]:
        """The inputs and what the original gives. Raises BnfoldError where it does not run."""
        outputs = self._original.result()
        return self._runner.sets, outputs

    def of_folded(self) -> list[Run]:
        """What the folded model gives. Raises what onnxruntime raises."""
        assert self._folded is not None
        return self._folded.result()

    def of_optimised(self) -> list[Run]:
        """Likewise, with onnxruntime's optimisations on."""
        assert self._optimised is not None
        return self._optimised.result()
