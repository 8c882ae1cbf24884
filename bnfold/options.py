"""What a caller may allow beyond the default. Imports nothing of bnfold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Choices of `fold`, `inspect` and `optimize`, all of them off.

    `freeze_initializers`: an initializer that is also a graph input counts as constant. The inputs
    stay, but what callers feed to those that were folded has no effect, or a wrong one.
    `allow_max`: Relu(x) + t may become Max(x + t, t), which lets a shift pass a Relu upwards.
    `merge_branches`: branches that are linear in one value and are added up become one convolution.
    """

    freeze_initializers: bool = False
    allow_max: bool = False
    merge_branches: bool = False
