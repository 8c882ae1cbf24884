"""The certificate of two files: every output equal for every input, up to the roundings it names."""

from __future__ import annotations

from bnfold.check.outcome import Certificate, verdict_of
from bnfold.check.pairing import Pairs, Walk
from bnfold.check.view import View


def certify(original: View, folded: View, loose: float = 0.0) -> tuple[Certificate, Pairs]:
    """Certify two models; with `loose`, constants may be off by as many units as that says."""
    pairs = Walk(original, folded, loose).run()
    findings = tuple(pairs.findings)
    return Certificate(verdict_of(pairs.findings), tuple(pairs.folds), findings), pairs
