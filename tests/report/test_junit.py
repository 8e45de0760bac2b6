"""JUnit XML that any reader takes, and in which nothing inconclusive passes."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.changes import APART, FINE, P50, comparison, validation

from edgeoe.records.comparison import Comparison
from edgeoe.records.measurement import Check, Estimate, Outcome
from edgeoe.report.junit import junit_of_comparisons, junit_of_validation


def states(document: str) -> dict[str, str]:
    """Each test case and what readers take it for; counts and elements are checked on the way."""
    root = ElementTree.fromstring(document.encode())  # noqa: S314 - our own
    assert root.tag == "testsuites"
    found = {}
    for suite in root:
        assert next(part.tag for part in suite) == "properties"
        cases = suite.findall("testcase")
        for case in cases:
            assert {"classname", "name", "time"} <= set(case.attrib)
            (child,) = case
            assert child.tag in ("failure", "error", "system-out")
            found[case.attrib["name"]] = child.tag
        tags = [found[case.attrib["name"]] for case in cases]
        assert (int(suite.attrib["tests"]), int(suite.attrib["failures"]), int(suite.attrib["errors"])) == (
            len(cases), tags.count("failure"), tags.count("error"),
        )  # fmt: skip
        float(suite.attrib["time"])
    assert sum(int(suite.attrib["tests"]) for suite in root) == int(root.attrib["tests"]) == len(found)
    return found


def test_what_regressed_fails_and_what_could_not_be_told_is_an_error() -> None:
    assert states(junit_of_comparisons([comparison()])) == {"p50": "failure", "p99": "error", "top-1": "system-out"}


def test_what_does_not_hold_up_the_gate_passes_and_says_so() -> None:
    document = junit_of_comparisons([FINE])
    assert states(document) == {"p50": "system-out", "p99": "system-out", "top-1": "system-out"}
    assert "more rounds would tell" in document


def test_a_comparison_that_was_not_made_is_no_pass() -> None:
    document = junit_of_comparisons([APART])
    assert states(document) == {"comparison": "error"}
    assert "cpu was A and is B" in document


@pytest.mark.parametrize(
    ("outcome", "tag"), [("passed", "system-out"), ("failed", "failure"), ("inconclusive", "error")]
)
def test_checks_of_a_verdict_are_cases(outcome: Outcome, tag: str) -> None:
    check = Check(
        name="p50_ms", limit=2.0, sense="at most", measured=Estimate(2.1, 2.0, 2.2), outcome=outcome, reason="noise"
    )
    document = junit_of_validation(validation(check))
    assert states(document) == {"p50_ms": tag}
    assert 'name="versions.onnxruntime" value="1.30"' in document


@given(st.text(), st.text())
def test_any_name_is_well_formed(target: str, reason: str) -> None:
    odd: Comparison = comparison(target=target, latency=(P50,), accuracy=(), reason=reason, new=reason)
    assert states(junit_of_comparisons([odd])) == {"p50": "failure"}
