"""Methods tuned to a speed-up: which student is chosen, and what a run is asked to do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_budget import METHODS, Row, key_of, settings_for
from budget_tuning import Ladder, NoStudentError, Pace, Ranking, Rankings, TunedCut
from hypothesis import given
from hypothesis import strategies as st


def ladder(speedups: Sequence[float]) -> Ladder:
    """Students that are stand-ins, each with its speed-up as its model."""
    students: list[Any] = [partial(SimpleNamespace, model=speedup) for speedup in speedups]
    return Ladder(8, students)


def pace_of(model: Any) -> Pace:
    return Pace(model, 10 / model)


@given(st.lists(st.floats(1, 9), min_size=1).map(sorted), st.floats(1, 9))
def test_the_largest_student_with_the_speedup_is_chosen(speedups: list[float], wanted: float) -> None:
    student = ladder(speedups).first(wanted, pace_of)
    fast = [speedup for speedup in speedups if speedup >= wanted]
    assert (None if student is None else student().model) == (fast[0] if fast else None)


def test_a_student_is_chosen_though_smaller_ones_are_slower() -> None:
    peak = [1 + at / 40 for at in range(40)] + [1.5] * 30
    student = ladder(peak).first(1.9, pace_of)
    assert student is not None
    assert student().model == peak[36]


def test_no_student_is_measured_twice() -> None:
    measured: list[float] = []

    def note(model: Any) -> Pace:
        measured.append(model)
        return pace_of(model)

    students = ladder([1, 2, 3, 4, 5, 6, 7, 8])
    for wanted in (2.5, 7, 2.5, 7):
        students.first(wanted, note)
    assert len(measured) == len(set(measured)) < 8


def tuned(tmp_path: Path, speedup: float, *ladders: Ladder) -> TunedCut:
    settings: Any = SimpleNamespace(method="mir", options=(), seed=0)
    stopwatch: Any = SimpleNamespace(pace_of=pace_of, fp32=1.5)
    rankings = Rankings(tmp_path, {"mir () seed 0": Ranking(ladders, seconds=0)})
    return TunedCut(settings, speedup, stopwatch, rankings)


def test_finer_channel_counts_are_tried_where_coarse_ones_are_too_slow(tmp_path: Path) -> None:
    nothing: Any = None
    cut = tuned(tmp_path, 3, ladder([1, 2]), Ladder(4, ladder([2.5, 3.5]).students))
    assert cut.prune(nothing, nothing).model == 3.5
    assert cut.multiple == 4


def test_what_no_student_reaches_is_an_error_that_says_what_is_fastest(tmp_path: Path) -> None:
    nothing: Any = None
    with pytest.raises(NoStudentError, match=r"fastest is 4\.000 ms, 2\.50 times"):
        tuned(tmp_path, 3, ladder([1, 2]), ladder([2, 2.5])).prune(nothing, nothing)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_asked_for_with_its_options_and_in_fp32(method: str, tmp_path: Path) -> None:
    options = argparse.Namespace(data=tmp_path, teacher="resnet56", n=10, accelerator="cpu")
    row = Row(method=method, precision="int8", speedup_asked=4.6, seed=3, steps=7)
    settings = settings_for(row, options)
    assert (settings.method, settings.seed, settings.steps) == (METHODS[method].partition(":")[0], 3, 7)
    assert (settings.oe, settings.precision, settings.keep_macs) == (True, "fp32", None)
    assert settings.speedup == (4.6 if method == "budget" else None)
    assert key_of(asdict(row)) == (method, "int8", "4.6", "3", "7")


def test_nothing_is_pruned_where_the_teacher_is_fast_enough(tmp_path: Path) -> None:
    nothing: Any = None
    with pytest.raises(NoStudentError, match=r"1\.50 times faster: see method none"):
        tuned(tmp_path, 1.5, ladder([1, 2])).prune(nothing, nothing)
