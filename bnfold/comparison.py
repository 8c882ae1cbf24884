"""What became of running two models on the same inputs, as data. Imports nothing of bnfold."""

from __future__ import annotations

from dataclasses import dataclass


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
    one ulp or, if that is more, when it is evaluated in float32 instead of float64.
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


@dataclass(frozen=True)
class Comparison:
    """What became of running both models. `mismatch` says why they could not even be compared."""

    outputs: tuple[OutputDifference, ...]
    inputs: tuple[InputUsed, ...]
    runs: int
    mismatch: str = ""

    @property
    def equal(self) -> bool:
        """Whether every output of every run differs by no more than rounding explains."""
        return not self.mismatch and all(output.equal for output in self.outputs)

    @property
    def worst(self) -> OutputDifference | None:
        """The output closest to its bound, or furthest beyond it."""
        return max(
            self.outputs, key=lambda o: (not o.equal, o.max_abs / (o.bound or 1)), default=None
        )
