"""A table for a pull request, whatever the names are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from report.changes import APART, FINE, comparison, validation

from edgeoe.records.measurement import Check, Estimate
from edgeoe.report.markdown import MARKER, markdown_of_comparisons, markdown_of_validation


def rows(document: str) -> list[str]:
    return [line for line in document.splitlines() if line.startswith("|")]


def test_the_outcome_comes_first_under_the_marker() -> None:
    lines = markdown_of_comparisons([comparison()]).splitlines()
    assert lines[0] == MARKER
    assert lines[1] == "**edgeoe: ❌ failed** on host-cpu"
    assert markdown_of_comparisons([FINE]).splitlines()[1] == "**edgeoe: ✅ passed** on host-cpu"
    assert "❔ inconclusive** on host-cpu, host-cpu" in markdown_of_comparisons([FINE, APART])


def test_every_quantity_has_a_row_with_its_interval() -> None:
    header, rule, p50, p99, top1 = rows(markdown_of_comparisons([comparison()]))
    assert header.count("|") == rule.count("|") == p50.count("|") == p99.count("|") == top1.count("|")
    assert "| 2.000 ms | 2.100 ms | +5.1 % \\[+4.2, +6.0] | +3 % | 0.00195 | 10 | ❌ regressed |" in p50
    assert "-0.7 points \\[-1.9, +0.6], 81 lost, 68 won of 2000 images | -2 points |" in top1


def test_a_comparison_that_was_not_made_says_why() -> None:
    document = markdown_of_comparisons([APART])
    assert "| host-cpu | latency |" in document
    assert "measured under other conditions: cpu was A and is B" in document


@given(st.text(), st.text())
def test_no_name_breaks_the_table(target: str, base: str) -> None:
    document = markdown_of_comparisons([comparison(target=target, base=base)])
    assert len(rows(document)) >= 5
    table = document[document.index("| target") : document.index("\n\n", document.index("| target"))].splitlines()
    assert len(table) == 5
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in table} == {10}


def test_a_verdict_has_a_row_for_each_check_and_tells_noise() -> None:
    check = Check(name="p50_ms", limit=2, sense="at most", measured=Estimate(1, 0.9, 1.1), outcome="passed")
    document = markdown_of_validation(
        validation(check, noise=("other processes used 62 % of the CPU",), notes=("int8 sums saturate here",))
    )
    assert "| ✅ passed | p50\\_ms 1 \\[0.9, 1.1], at most 2 |" in document
    assert "- noise: other processes used 62 % of the CPU\n- note: int8 sums saturate here" in document
    assert "800 calls in 8 processes, batch 1." in document
