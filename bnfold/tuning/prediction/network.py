"""What is known of each value of a model, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import Index, Node, Scope
from bnfold.tuning.prediction.carried import Carried, UnknownMomentsError, Values
from bnfold.tuning.prediction.rules import RULES

# what rules raise where a model's attributes and constants do not fit what it reads
_WRONG = (ValueError, IndexError, TypeError, KeyError, ArithmeticError, MemoryError)


def carried_moments(index: Index, draft: Draft) -> Values:
    """The moments of all values of a model of which any are known, in one pass over its nodes."""
    values = Values(draft)
    left: Counter[tuple[Scope, str]] = Counter()  # how many nodes have yet to read a value
    left.update(read for node in index.nodes() for read in _read(node))
    for node in index.nodes():
        made = _made(values, node)
        for place, name in enumerate(node.proto.output):
            if name:
                values.known[node.scope, name] = _output(made, place, node)
        for read in _read(node):
            left[read] -= 1
            known = values.known.get(read)
            if not left[read] and isinstance(known, Carried):
                values.known[read] = known.without_table()
    return values


def _read(node: Node) -> Iterator[tuple[Scope, str]]:
    for name in filter(None, node.proto.input):
        owner = node.scope.owner(name)
        if owner is not None:
            yield owner, name


def _made(values: Values, node: Node) -> Carried | tuple[Carried, ...] | str:
    rule = RULES.get(node.op)
    try:
        if rule is None or node.call_attribute():
            return f"{node.label} stands in between"
        with np.errstate(all="ignore"):  # what is not finite is not judged
            return rule(values, node)
    except UnknownMomentsError as unknown:
        return str(unknown)
    except _WRONG:
        return f"{node.label} does not fit what it reads"


def _output(made: Carried | tuple[Carried, ...] | str, place: int, node: Node) -> Carried | str:
    """What one output is: rules tell all of them, or the first."""
    if isinstance(made, str):
        return made
    outputs = made if isinstance(made, tuple) else (made,)
    return outputs[place] if place < len(outputs) else f"{node.label} stands in between"
