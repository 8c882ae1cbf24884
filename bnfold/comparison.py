"""What became of comparing two models, as data."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.check.outcome import Certificate, Frame, Outcome


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
    of all in `max_rel`). `bound` is what rounding explains: 4 × `noise` plus 4 ulp of the largest
    value. `noise` is how far the original moves from itself when its weights and inputs move by
    one ulp or, if that is more, when it is evaluated in float32 instead of float64. Where
    tolerances were given, `bound` is atol + rtol·|original| at the largest value, `noise` is 0.

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
    rmse: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    top1: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What became of comparing two models: as they stand, and run on the same inputs.

    `mismatch` says why their results could not even be compared. Where `runs` is 0 they were not
    run, and `not_run` says why, if they were to be. `foreign`: the second was made by another tool,
    so that its frame says nothing of equality.
    """

    outputs: tuple[OutputDifference, ...]
    inputs: tuple[InputUsed, ...]
    runs: int
    mismatch: str = ""
    frame: Frame | None = None
    certificate: Certificate | None = None
    not_run: str = ""
    foreign: bool = False

    @property
    def equal(self) -> bool:
        """Whether nothing was found that makes the models differ.

        Every output of every run differs by no more than rounding explains, every constant that
        was changed is right, and nothing else has changed. A certificate that is not decided
        neither adds to that nor takes from it; where nothing was run, it must be valid.
        """
        verdicts = [self.certificate.verdict if self.certificate else None]
        if not self.foreign:
            verdicts.append(self.frame.verdict if self.frame else None)
        if self.mismatch or Outcome.INVALID in verdicts:
            return False
        ran = self.runs > 0 or self.certificate is None
        return all(o.equal for o in self.outputs) and (
            ran or all(v in (None, Outcome.VALID) for v in verdicts)
        )

    @property
    def worst(self) -> OutputDifference | None:
        """The output closest to its bound, or furthest beyond it."""
        return max(
            self.outputs, key=lambda o: (not o.equal, o.max_abs / (o.bound or 1)), default=None
        )
