"""What options select: patterns that fit no node, and options that would make something fold."""

from __future__ import annotations

import dataclasses
import difflib
from fnmatch import fnmatchcase

from bnfold.errors import UsageError
from bnfold.folding.plan import plan
from bnfold.folding.rules.affine_nodes import ARITHMETIC
from bnfold.graph.index import BATCH_NORM, Index
from bnfold.options import Options


def helpful_flags(index: Index, options: Options | None, folded: int) -> dict[str, int]:
    """How many sites more than `folded` each field of Options would fold that is not set yet."""
    own = options or Options()
    if own.skip or own.only:
        return {}
    tried = {
        "merge_branches": dataclasses.replace(own, merge_branches=True),
        "freeze_initializers": dataclasses.replace(own, freeze_initializers=True),
        "allow_max": dataclasses.replace(own, allow_max=True),
    }
    found = {
        name: sum(bool(verdict.folded) for verdict in plan(index, more).verdicts) - folded
        for name, more in tried.items()
        if more != own
    }
    return {name: more for name, more in found.items() if more > 0}


def require_sites(index: Index, options: Options | None) -> None:
    """Raises UsageError for a pattern of `skip` or `only` that no node's name fits.

    `only` must name what can be folded.
    """
    if options is None or not (options.skip or options.only):
        return
    nodes = list(index.nodes())
    sites = [node for node in nodes if node.op in (BATCH_NORM, *ARITHMETIC)]
    for patterns, among in ((options.skip, nodes), (options.only, sites)):
        names = [node.label for node in among]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                close = difflib.get_close_matches(pattern, names, 3, 0.4)
                what = "node" if among is nodes else "BatchNormalization, Mul, Add, Sub or Div"
                raise UsageError(
                    f"the model has no {what} {pattern!r}",
                    f"did you mean {', '.join(close)}?" if close else "see bnfold inspect",
                )
