"""What a person reads of a comparison."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report.changes import APART, FINE, TOP1, comparison

from edgeoe.report.comparison import show_comparison


def test_figures_reasons_and_outcome(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show_comparison(comparison())
    shown = capsys.readouterr().out
    assert "2.000 ms" in shown
    assert "+5.1 % [+4.2, +6.0]" in shown
    assert "no worse     top-1: -0.7 points [-1.9, +0.6], 81 lost, 68 won of 2000 images" in shown
    assert "  p99: more rounds would tell\n" in shown
    assert shown.endswith("host-cpu: failed\n")


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(comparison(base="[bold]x[/]", accuracy=(replace(TOP1, subject="[red]class[/]"),)))
    shown = capsys.readouterr().out
    assert "[red]class[/]" in shown


def test_what_was_not_compared_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(APART)
    assert capsys.readouterr().out == ("host-cpu: inconclusive: measured under other conditions: cpu was A and is B\n")


def test_notes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(replace(FINE, notes=("accuracy is not compared: the two were tested on other images",)))
    assert "tested on other images" in capsys.readouterr().out
