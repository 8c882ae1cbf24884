"""What a check found, as data: valid, invalid with a counterexample, or not decided and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

WHOLE = "the model"  # at which findings stand that no node has


class Outcome(Enum):
    """The three outcomes of a check. Not decided is never a pass."""

    VALID = "valid"
    INVALID = "invalid"
    UNDECIDED = "not decided"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that could not be decided, and the node it stands at."""

    verdict: Outcome
    node: str
    sentence: str


@dataclass(frozen=True)
class CertifiedFold:
    """One node of the folded model that took maps, or whose constants differ.

    The theorem holds with c = 2n + 8 + k: |y_fold − y_orig| ≤ c·u·A(x), where n is the length of
    the dot products and k how far, in units of u, the constants are from their exact values.
    """

    IN_JSON = ("c",)

    node: str
    op: str
    sites: tuple[str, ...]
    n: int
    k: float
    numbers: int
    misrounded: int  # of these, not the nearest number, but within the error of float64 arithmetic
    decided: int  # of these, decided by rationals
    faults: int  # of these, wrong

    @property
    def c(self) -> float:
        """The factor of the theorem."""
        return 2 * self.n + 8 + self.k


@dataclass(frozen=True)
class Certificate:
    """What follows from the two files alone, for every input."""

    verdict: Outcome
    folds: tuple[CertifiedFold, ...]
    findings: tuple[Finding, ...]

    @property
    def k(self) -> float:
        """The largest k of all folds."""
        return max((fold.k for fold in self.folds), default=0.0)


@dataclass(frozen=True)
class Frame:
    """Whether all that no fold explains is byte for byte the same."""

    verdict: Outcome
    findings: tuple[Finding, ...]


def doubted(certificate: Certificate, frame: Frame) -> tuple[Certificate, Frame]:
    """What a proof that was a guess shows: what is wrong by it is not decided.

    Of the frame only what no other guess would change stays.
    """
    findings = tuple(replace(found, verdict=Outcome.UNDECIDED) for found in certificate.findings)
    whole = tuple(found for found in frame.findings if found.node == WHOLE)
    return (
        replace(certificate, verdict=verdict_of(findings), findings=findings),
        Frame(verdict_of(whole) if whole else Outcome.UNDECIDED, whole),
    )


def verdict_of(findings: Sequence[Finding]) -> Outcome:
    """The worst of the findings' verdicts; valid where there are none."""
    verdicts = {finding.verdict for finding in findings}
    for verdict in (Outcome.INVALID, Outcome.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Outcome.VALID
