"""Annotations are escaped as GitHub wants them, and pages are written only where it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from report.changes import APART, FINE, P50, comparison, validation

from edgeoe.records.measurement import Check
from edgeoe.report.github import GitHub
from edgeoe.report.markdown import markdown_of_comparisons


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a person's own machine, even where these tests run in GitHub Actions."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)


def test_what_changed_is_annotated(capsys: pytest.CaptureFixture[str]) -> None:
    GitHub().write_comparisons([comparison()], None)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "::error title=p50 regressed on host-cpu::+5.1 %25 [+4.2, +6.0], measured here."
    assert second.startswith("::warning title=p99 inconclusive on host-cpu::")


def test_what_did_not_change_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    GitHub().write_comparisons([comparison(latency=FINE.latency[:1], accuracy=FINE.accuracy)], None)
    assert capsys.readouterr().out == ""


def test_a_comparison_that_was_not_made_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    GitHub().write_comparisons([APART], None)
    assert capsys.readouterr().out.startswith("::warning title=latency inconclusive on host-cpu::measured under")


def test_properties_and_messages_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    GitHub().write_comparisons([comparison(target="a:b,c\n%", latency=(P50,), accuracy=())], None)
    line = "::error title=p50 regressed on a%3Ab%2Cc\\n%25::+5.1 %25 [+4.2, +6.0], measured here.\n"
    assert capsys.readouterr().out == line


def test_page_and_outputs_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("summary", "output"):
        (tmp_path / name).write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    GitHub().write_comparisons([FINE, APART], None)
    assert (tmp_path / "summary").read_text() == "before\n" + markdown_of_comparisons([FINE, APART])
    assert (tmp_path / "output").read_text() == "before\noutcome=inconclusive\n"


@pytest.mark.parametrize(("outcome", "level"), [("failed", "::error"), ("inconclusive", "::warning"), ("passed", "")])
def test_checks_that_do_not_pass_are_annotated(outcome: str, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    check = Check(name="top1", limit=0.9, sense="at least", measured=None, outcome=outcome, reason="no test images")  # type: ignore[arg-type]
    GitHub().write_validation(validation(check), None)
    printed = capsys.readouterr().out
    assert printed.startswith(level)
    assert bool(printed) == bool(level)
