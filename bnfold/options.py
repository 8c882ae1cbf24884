"""What a caller may allow beyond the default. Imports nothing of bnfold."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Options:
    """Choices of `fold`, `inspect` and `optimize`, all of them off.

    `freeze_initializers`: an initializer that is also a graph input counts as constant. The inputs
    stay, but what callers feed to those that were folded has no effect, or a wrong one.
    `allow_max`: Relu(x) + t may become Max(x + t, t), which lets a shift pass a Relu upwards.
    `merge_branches`: branches that are linear in one value and are added up become one convolution.
    `skip`: names of nodes, or patterns with *, ? and [], that stay as they are: they are not
    folded, and nothing is folded into them. `only`: likewise, what alone may be folded.
    `only_batch_norm`: constant Muls, Adds, Subs and Divs are not folded.
    """

    freeze_initializers: bool = False
    allow_max: bool = False
    merge_branches: bool = False
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    only_batch_norm: bool = False

    def skips(self, name: str) -> bool:
        """Whether the node of this name is to stay as it is."""
        return any(fnmatchcase(name, pattern) for pattern in self.skip)

    def leaves(self, name: str) -> bool:
        """Whether the node of this name is not to be folded."""
        others = bool(self.only) and not any(fnmatchcase(name, p) for p in self.only)
        return self.skips(name) or others
