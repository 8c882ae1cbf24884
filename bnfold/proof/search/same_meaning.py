"""What must be the same before two files can be compared node by node, whoever made them.

The opsets that operators are read by, the names and order of inputs and outputs, the defaults of
inputs that callers may leave out, functions, and names that mean one thing in every scope.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto

from bnfold.graph.index import DEFAULT_DOMAINS, Scope
from bnfold.proof.kernel.outcome import Finding, Outcome
from bnfold.proof.kernel.structure import WHOLE
from bnfold.proof.search.reading.model_view import View, alike


def differences(original: View, folded: View) -> Iterator[Finding]:
    """What keeps two models from being compared, or shows that they differ."""
    one, two = original.model, folded.model
    opsets = [_opsets(model) for model in (one, two)]
    for domain in sorted(opsets[0].keys() & opsets[1].keys()):
        old, new = (versions[domain] for versions in opsets)
        if old != new:
            yield _undecided(f"opset {old} of {domain or 'ONNX'} became {new}")
    for what in ("input", "output"):
        ours, theirs = (_names(view, what) for view in (original, folded))
        if ours != theirs:
            sentence = f"the {what}s {', '.join(ours)} became {', '.join(theirs)}"
            yield Finding(Outcome.INVALID, WHOLE, sentence)
    yield from _defaults(original, folded)
    if any(function.overload for model in (one, two) for function in model.functions):
        yield _undecided("functions with overloads, which are not told apart here")
    before, after = (
        {name for scope in view.index.scopes for name in _shadowing(scope)}
        for view in (original, folded)
    )
    for name in sorted(after - before):
        yield _undecided(f"{name!r} of a body now hides one around it")


def _undecided(sentence: str) -> Finding:
    return Finding(Outcome.UNDECIDED, WHOLE, sentence)


def _opsets(model: ModelProto) -> dict[str, int]:
    return {
        "" if entry.domain in DEFAULT_DOMAINS else entry.domain: entry.version
        for entry in model.opset_import
    }


def _names(view: View, what: str) -> list[str]:
    hidden = view.main.initializers if what == "input" and view.index.ir_version < 4 else {}
    return [v.name for v in getattr(view.model.graph, what) if v.name not in hidden]


def _defaults(original: View, folded: View) -> Iterator[Finding]:
    """Inputs with a value that holds where the caller gives none."""
    if original.index.ir_version < 4:
        return
    for name in original.main.inputs:
        one, two = (view.main.initializers.get(name) for view in (original, folded))
        if one is None and two is None:
            continue
        same = one is not None and two is not None and alike(
            original.storage.array(one), folded.storage.array(two)
        )  # fmt: skip
        if not same:
            yield Finding(Outcome.INVALID, WHOLE, f"the default of the input {name!r} has changed")


def _shadowing(scope: Scope) -> set[str]:
    """Names of a body that the scopes around it define as well."""
    own = {*scope.producers, *scope.initializers, *scope.inputs}
    found: set[str] = set()
    outer = scope.parent
    while outer is not None:
        found |= own & {*outer.producers, *outer.initializers, *outer.inputs}
        outer = outer.parent
    return found
