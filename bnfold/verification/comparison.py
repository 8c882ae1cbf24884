"""What became of comparing two models, as data."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.errors import BnfoldError
from bnfold.proof.kernel.outcome import Certificate, Frame, Outcome

FRAME_ALONE = "nothing has changed but what was folded; whether the folds are right was not checked"


@dataclass(frozen=True)
class InputUsed:
    """An input that both models were given, in the shape of the first run."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OutputDifference:
    """One output, in the run where it came closest to its bound, or went furthest beyond it.

    `max_abs` is the largest |folded − original|; `max_rel` the same divided by the largest
    |original|. For outputs that are not floating point both count differing elements (as a share
    of all in `max_rel`). `bound` is what rounding explains: the larger of 4 × `noise` and
    3 × `error_original`, plus 4 u of the largest value. `noise` is how far the original moves from
    itself when its weights and inputs move by one ulp, 0 where that was not needed.
    `error_original` and `error_folded` are how far both lie from the original evaluated in float64,
    None where that was not done or could not be. Where tolerances were given, `bound` is
    atol + rtol·|original| at the largest value, `noise` is 0.

    In run number `run` both differ most at the coordinates `place`, where they give `original` and
    `folded`, and float64 gives `exact`. `expected_original` and `expected_folded` are how far both
    are from the outputs that come with a test data set.

    Over all runs, for floating-point outputs: `rmse`, the root of the mean squared difference;
    `snr_db`, 10·log₁₀ of Σ original² / Σ difference²; `cosine` of the angle between the two; and
    for outputs of shape [N, classes], `top1`, the share of rows whose largest entry is the same.
    None where there is no such number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    bound: float
    noise: float
    equal: bool
    note: str = ""
    error_original: float | None = None
    error_folded: float | None = None
    run: int = 0
    place: tuple[int, ...] = ()
    original: float | None = None
    folded: float | None = None
    exact: float | None = None
    expected_original: float | None = None
    expected_folded: float | None = None
    rmse: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    top1: float | None = None


@dataclass(frozen=True)
class FoldRun:
    """One fold by itself, in the run where it came closest to its bound.

    The folded `node`, fed what the original computes there, against `output` of the original.
    `sites` are the nodes that it took. `c` is the largest difference in units of u·A(x), `gate` how
    large it may be: 2√n + 8 for each linear operator, and k beyond 1 of the certificate. There, at
    the coordinates `place` in `channel`, the models give `original` and `folded`; `exact`, for what
    failed, is what the original would give without rounding.
    """

    node: str
    sites: tuple[str, ...]
    output: str
    c: float
    gate: float
    valid: bool
    place: tuple[int, ...]
    channel: int
    original: float
    folded: float
    exact: float | None = None
    excused: bool = False


@dataclass(frozen=True)
class Deployed:
    """The folded model with all of onnxruntime's optimisations on, as it will be deployed.

    `max_abs` is the largest difference of all outputs from the original without optimisations;
    `note` says what is wrong, or why a difference is not held against the fold.
    """

    equal: bool
    max_abs: float
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """What became of comparing two models: as they stand, and run on the same inputs.

    `mismatch` says why their results could not even be compared. Where `runs` is 0 they were not
    run, and `not_run` says why, if they were to be. `foreign`: the second was made by another tool,
    so that its frame says nothing of equality.
    """

    IN_JSON = ("equal",)

    outputs: tuple[OutputDifference, ...]
    inputs: tuple[InputUsed, ...]
    runs: int
    mismatch: str = ""
    frame: Frame | None = None
    certificate: Certificate | None = None
    not_run: str = ""
    foreign: bool = False
    folds: tuple[FoldRun, ...] = ()
    folds_not_run: tuple[str, ...] = ()
    deployed: Deployed | None = None
    counterexample: str = ""  # the folder in which what shows a difference was saved

    @property
    def equal(self) -> bool:
        """Whether nothing was found that makes the models differ.

        Every output of every run differs by no more than rounding explains, every constant that
        was changed is right, nothing else has changed, every fold is right by itself, and the
        folded model gives the same with onnxruntime's optimisations on. A certificate that is not
        decided neither adds to that nor takes from it; where nothing was run, it must be valid.
        Never where only the frame was looked at: constants that are wrong are not seen there.
        """
        if self.frame_alone:
            return False
        verdicts = [self.certificate.verdict if self.certificate else None]
        if not self.foreign:
            verdicts.append(self.frame.verdict if self.frame else None)
        if self.mismatch or Outcome.INVALID in verdicts or not all(f.valid for f in self.folds):
            return False
        if self.deployed is not None and not self.deployed.equal:
            return False
        ran = self.runs > 0 or self.certificate is None
        return all(o.equal for o in self.outputs) and (
            ran or all(v in (None, Outcome.VALID) for v in verdicts)
        )

    @property
    def frame_alone(self) -> bool:
        """Whether only the frame was looked at: no constant was checked, and nothing was run."""
        return self.frame is not None and self.certificate is None and not self.runs

    @property
    def passed(self) -> bool:
        """Whether what was asked for holds: equality, or that nothing but folds has changed."""
        if self.frame_alone:
            return self.frame is not None and self.frame.verdict is Outcome.VALID
        return self.equal

    @property
    def worst(self) -> OutputDifference | None:
        """The output closest to its bound, or furthest beyond it."""
        return max(
            self.outputs, key=lambda o: (not o.equal, o.max_abs / (o.bound or 1)), default=None
        )


def require_equal(comparison: Comparison) -> None:
    """Raises NotEqualError, with what is wrong in one sentence, unless the models are equal."""
    if comparison.equal:
        return
    said = [c for c in (comparison.frame, comparison.certificate) if c is not None]
    wrong = [f for check in said for f in check.findings if f.verdict is Outcome.INVALID]
    told = "; ".join(f"{f.node}: {f.sentence}" if f.node else f.sentence for f in wrong[:1])
    remedy = "nothing was written; please report this model, it shows a fault in bnfold"
    worst, deployed = comparison.worst, comparison.deployed
    if told or comparison.mismatch:
        what = told or comparison.mismatch
    elif deployed is not None and not deployed.equal and all(o.equal for o in comparison.outputs):
        what = f"with onnxruntime's optimisations {deployed.note}"
        remedy = (
            "nothing was written; the fold is right, onnxruntime computes something else of it: "
            "keep that layer with `skip`, or fold first and quantise then"
        )
    elif worst is not None:
        what = f"output {worst.name!r} differs by {worst.max_abs:.3g}, rounding explains "
        what += f"{worst.bound:.3g}{f' ({worst.note})' if worst.note else ''}"
    else:
        what = "nothing was compared"
    raise NotEqualError(
        f"the folded model is not equal to the original: {what}", comparison, remedy
    )


class NotEqualError(BnfoldError):
    """The result differs from the original by more than rounding explains; nothing was written."""

    exit_code = 1

    def __init__(self, message: str, comparison: Comparison, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.comparison = comparison

    def __reduce__(self) -> tuple[type[BnfoldError], tuple[object, ...]]:
        """Likewise."""
        return type(self), (self.message, self.comparison, self.remedy)
