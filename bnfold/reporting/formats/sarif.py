"""A report as SARIF 2.1.0, for code scanning: what stays, what is left to fold, what went wrong.

Each result stands at the model's file, with the node as its logical location. Kept sites are notes
with a rule for each reason; a gate's faults and a failed comparison are errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from bnfold.reasons import Reason
from bnfold.reporting.content import ModelReport, Report
from bnfold.text.escape import shown, uri
from bnfold.text.flags import as_flags
from bnfold.text.json_encoding import dumps

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_OWN_RULES = {
    "fault": ("The gate holds this against the model", "Fold the model with bnfold optimize."),
    "not-equal": ("The folded model is not equal to the original", "Do not deploy it."),
    "error": ("The model could not be worked on", "See the message."),
}
_LONGEST = 1000
_MOST_RESULTS = 25_000  # GitHub takes no more of one run


def render(report: Report) -> str:
    """The whole report."""
    every = (result for model in report.models for result in _results(model))
    results = list(islice(every, _MOST_RESULTS))
    run = {
        "tool": {
            "driver": {
                "name": "bnfold",
                "version": report.bnfold,
                "rules": list(_rules({result["ruleId"] for result in results})),
            }
        },
        "automationDetails": {"id": f"bnfold/{report.command}/"},
        "invocations": [
            {"executionSuccessful": report.exit_code in (0, 1), "exitCode": report.exit_code}
        ],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _rules(used: Iterable[str]) -> Iterator[dict[str, Any]]:
    known = {
        reason.code: (
            reason.sentence.format(node="a node", detail="something"),
            as_flags(reason.remedy),
        )
        for reason in Reason
    }
    for name in sorted(used):
        text, remedy = (known | _OWN_RULES)[name]
        yield {"id": name, "shortDescription": {"text": text}, "help": {"text": remedy}}


def _results(model: ModelReport) -> Iterator[dict[str, Any]]:
    for site in model.sites:
        if site.reason is not None:
            said = f"{site.full_name} is kept: {site.reason.sentence}. {site.reason.remedy}"
            yield _result(model, site.reason.code, "note", said, site.full_name)
    for fault in model.faults:
        yield _result(model, "fault", "error", f"{fault.site}: {fault.sentence}", fault.site)
    for fault in model.accepted:
        result = _result(model, "fault", "error", f"{fault.site}: {fault.sentence}", fault.site)
        yield result | {"suppressions": [{"kind": "external", "justification": "in the baseline"}]}
    if model.error is not None and model.exit_code != 1:
        said = f"{model.error.message}. {model.error.remedy}".rstrip(" ")
        yield _result(model, "error", "error", said, "")
    elif model.exit_code == 1 and not model.faults:
        yield _result(model, "not-equal", "error", model.sentence, "")


def _result(model: ModelReport, rule: str, level: str, text: str, node: str) -> dict[str, Any]:
    place: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": uri(model.path)},
            "region": {"startLine": 1},
        }
    }
    if node:
        place["logicalLocations"] = [
            {"fullyQualifiedName": shown(node, _LONGEST), "kind": "element"}
        ]
    fingerprint = hashlib.sha256(f"{rule}\0{model.path}\0{node}".encode("utf-8", "replace"))
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": _message(text)},
        "locations": [place],
        "partialFingerprints": {"site/v1": fingerprint.hexdigest()},
    }


def _message(text: str) -> str:
    """As a message: no link of theirs, and no placeholder."""
    return shown(text, _LONGEST).replace("](", "] (").replace("{", "{{").replace("}", "}}")
