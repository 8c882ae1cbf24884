"""A report as JUnit XML, which nearly every CI shows: a suite for each model.

A case for each BatchNormalization (skipped where it was kept, failed where the gate holds it
against the model), one for each output that was compared, and one for the model as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bnfold.reporting.content import ERROR, PASSED, ModelReport, Report
from bnfold.text.escape import shown
from bnfold.text.formatting import number
from bnfold.verification.comparison import OutputDifference


def render(report: Report) -> str:
    """The whole report."""
    root = Element("testsuites", name=f"bnfold {report.command}")
    for model in report.models:
        suite = SubElement(root, "testsuite", name=shown(model.path))
        suite.extend(_cases(report.command, model))
        _tally(suite)
    _tally(root)
    indent(root)
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return f"{head}{tostring(root, encoding='unicode')}\n"


def _tally(element: Element) -> None:
    for name, tag in (
        ("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped"),
    ):  # fmt: skip
        element.set(name, str(sum(1 for _ in element.iter(tag))))


def _cases(command: str, model: ModelReport) -> Iterator[Element]:
    where = shown(model.path)
    for site in model.sites:
        case = _case(where, site.full_name)
        if site.reason is not None:
            _outcome(case, "skipped", site.reason.sentence, site.reason.code, site.reason.remedy)
        yield case
    for fault in model.faults:
        case = _case(where, fault.site)
        _outcome(case, "failure", fault.sentence, "fault")
        yield case
    for fault in model.accepted:
        case = _case(where, fault.site)
        _outcome(case, "skipped", f"accepted: {fault.sentence}", "accepted")
        yield case
    for output in () if model.comparison is None else model.comparison.outputs:
        case = _case(where, f"output {output.name}")
        if not output.equal:
            _outcome(case, "failure", _difference(output), "not-equal", output.note)
        yield case
    whole = _case(where, f"bnfold {command}")
    if model.status != PASSED and not model.faults:
        kind = "not-equal" if model.error is None else model.error.kind
        remedy = "" if model.error is None else model.error.remedy
        tag = "error" if model.status == ERROR else "failure"
        _outcome(whole, tag, model.sentence, kind, remedy)
    yield whole


def _case(where: str, name: str) -> Element:
    return Element("testcase", classname=where, name=shown(name))


def _outcome(case: Element, tag: str, message: str, kind: str, more: str = "") -> None:
    attributes = {"message": shown(message)}
    if tag != "skipped":
        attributes["type"] = kind
    outcome = SubElement(case, tag, attributes)
    outcome.text = shown(f"{kind}: {more}" if more else kind)


def _difference(output: OutputDifference) -> str:
    return f"differs by {number(output.max_abs)}, rounding explains {number(output.bound)}"
