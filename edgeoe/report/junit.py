"""JUnit XML reports, which CI systems show among other tests.

An inconclusive result is an <error>: CI systems differ in how they treat <skipped>, but none treats an error as a pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgeoe.records.comparison import AccuracyChange, Change, Comparison, LatencyChange
from edgeoe.records.measurement import Outcome, Validation
from edgeoe.report.text_file import write_text
from edgeoe.report.wording import accuracy_text, change_in_percent, check_text, origin_text
from edgeoe.text import visible_lines

__all__ = ["JUnit", "junit_of_comparisons", "junit_of_validation"]

_OUTCOMES: dict[Change, Outcome] = {
    "regressed": "failed",
    "improved": "passed",
    "no worse": "passed",
    "inconclusive": "inconclusive",
}
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 can't hold


class JUnit:
    """Report format "junit"."""

    help = "Write JUnit XML here."
    takes_file = True

    def write_validation(self, validation: Validation, path: Path | None) -> None:
        write_text("--junit", path, junit_of_validation(validation))

    def write_comparisons(self, comparisons: Sequence[Comparison], path: Path | None) -> None:
        write_text("--junit", path, junit_of_comparisons(comparisons))


def junit_of_validation(validation: Validation) -> str:
    """A suite with a case for each check."""
    target, measurement = validation.target.name, validation.measurement
    cases = [(check.name, check.outcome, check_text(check)) for check in validation.verdict.checks]
    facts = {"target": target, "artifact_sha256": measurement.artifact_sha256, **_flat(measurement.environment)}
    return _document([_suite(f"edgeoe validate {target}", cases, facts, seconds=0.0)])


def junit_of_comparisons(comparisons: Sequence[Comparison]) -> str:
    """A suite for each target, with a case for each quantity and each class."""
    return _document([_comparison(one) for one in comparisons])


def _comparison(one: Comparison) -> ElementTree.Element:
    cases: list[tuple[str, Outcome, str]] = [
        (change.quantity, _case_outcome(change.change, one), _latency(change, one)) for change in one.latency
    ]
    cases += [(change.subject, _case_outcome(change.change, one), _accuracy(change, one)) for change in one.accuracy]
    if one.outcome == "inconclusive" and not any(outcome == "inconclusive" for _, outcome, _ in cases):
        cases.append(("comparison", "inconclusive", one.reason))
    facts = {"target": one.target, "base": one.base, "new": one.new, "how": one.how, "figures": origin_text(one)}
    facts |= _flat(one.environment)
    return _suite(f"edgeoe compare {one.target}", cases, facts, seconds=one.seconds)


def _case_outcome(change: Change, one: Comparison) -> Outcome:
    """Outcome of a single row; an inconclusive one that does not affect the gate passes, with its text."""
    outcome = _OUTCOMES[change]
    return "passed" if outcome == "inconclusive" and one.outcome == "passed" else outcome


def _latency(change: LatencyChange, one: Comparison) -> str:
    limit = f"allowed +{100 * change.tolerance:g} %"
    return f"{change_in_percent(change.ratio)}, {one.latency_from}, {limit}. {change.reason}".strip()


def _accuracy(change: AccuracyChange, one: Comparison) -> str:
    limit = f"allowed -{100 * change.tolerance:g} points"
    return f"{accuracy_text(change)}, {one.accuracy_from}, {limit}. {change.reason}".strip()


def _suite(
    name: str, cases: Iterable[tuple[str, Outcome, str]], facts: Mapping[str, str], *, seconds: float
) -> ElementTree.Element:
    rows = list(cases)
    counts = {kind: sum(outcome == kind for _, outcome, _ in rows) for kind in ("failed", "inconclusive")}
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(name),
        tests=str(len(rows)),
        failures=str(counts["failed"]),
        errors=str(counts["inconclusive"]),
        skipped="0",
        time=f"{seconds:.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in facts.items():
        ElementTree.SubElement(properties, "property", name=_clean(key), value=_clean(value))
    for subject, outcome, text in rows:
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(name), name=_clean(subject), time="0")
        if outcome == "passed":
            ElementTree.SubElement(case, "system-out").text = _clean(text)
        else:
            tag = "failure" if outcome == "failed" else "error"
            ElementTree.SubElement(case, tag, message=_clean(text), type=outcome).text = _clean(text)
    return suite


def _document(suites: Sequence[ElementTree.Element]) -> str:
    root = ElementTree.Element("testsuites", name="edgeoe")
    root.extend(suites)
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """Facts about the machine as text, with nested keys joined by dots."""
    facts = {}
    for key, value in environment.items():
        if isinstance(value, Mapping):
            facts.update({f"{key}.{name}": str(part) for name, part in value.items()})
        else:
            facts[key] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return facts


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", visible_lines(text))
