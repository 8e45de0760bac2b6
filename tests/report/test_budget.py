"""What reports show of the search for the student of a budget."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.codec import from_json, to_json
from edgeoe.records.budget import BudgetSearch, Limit, SearchRound
from edgeoe.records.compression import CompressRecord
from edgeoe.records.measurement import Check, Estimate
from edgeoe.report.budget import HEIGHT, WIDTH, budget_view, cut_text, fp32_text, limit_texts, time_text
from edgeoe.report.html import read_report, report_page
from edgeoe.report.json import compress_json
from edgeoe.report.terminal import out, show_budget
from edgeoe.report.wording import check_text
from edgeoe.run import layout
from edgeoe.run.directory import Run

LATENCY = Limit("pi5", "p50_ms", 0.67, precision="int8", origin="--latency-ms")
RATE = Limit("x86", "throughput_ips", 900.0, sense="at least", precision="fp32")
ROUNDS = (
    SearchRound(predicted=(0.66, 910.0), measured=(0.72, None), loss=0.5, macs_kept=0.5, dropped=6),
    SearchRound(predicted=(0.665, 950.0), measured=(0.65, None), loss=0.6, macs_kept=0.4, dropped=7),
    SearchRound(predicted=(0.665, 905.0), measured=(0.68, None), loss=0.55, macs_kept=0.45, dropped=0),
)
SEARCH = BudgetSearch(
    limits=(LATENCY, RATE),
    teacher=(1.09, 412.0),
    rounds=ROUNDS,
    student=(0.655, 950.0),
    loss=0.21,
    table_seconds=41.2,
    loss_seconds=32.4,
    search_seconds=25.0,
)


@pytest.fixture
def record(exported: Path) -> CompressRecord:
    """The record of a run, as if it had been made to a budget."""
    return replace(Run.open(exported).read(layout.COMPRESS), budget=SEARCH, macs_kept=0.4)


def test_teacher_student_and_limit_stand_side_by_side() -> None:
    assert limit_texts(SEARCH) == [
        "p50_ms on pi5: teacher 1.09 (int8), student 0.655, limit 0.67 (from --latency-ms)",
        "throughput_ips on x86: teacher 412 (fp32), student 950 by its latency table, limit 900",
    ]


def test_what_was_cut_is_said_and_what_the_search_cost(record: CompressRecord) -> None:
    assert cut_text(record, SEARCH) == "40.0 % of the MACs kept, 7 blocks dropped"
    assert cut_text(replace(record, macs_kept=0.45), SEARCH) == "45.0 % of the MACs kept"
    whole = replace(SEARCH, rounds=(replace(ROUNDS[0], macs_kept=1.0, dropped=0),))
    assert cut_text(replace(record, macs_kept=1.0), whole) == "the teacher meets the budget: nothing is pruned"
    assert time_text(SEARCH) == "latency table 41 s, losses 32 s, 3 cuts tried 25 s"


def test_layers_that_stay_fp32_are_shown(
    record: CompressRecord, exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fp32_text(replace(SEARCH, kept_fp32={"int8-cpu": ()})) == ""
    search = replace(SEARCH, kept_fp32={"int8-cpu": ("stem.0", "head"), "int8-trt": ("head",), "int8-cpu-7bit": ()})
    text = "kept in fp32, and measured so: stem.0, head in int8-cpu; head in int8-trt"
    assert fp32_text(search) == text
    monkeypatch.setattr(out, "width", 200)
    record = replace(record, budget=search)
    show_budget(record)
    assert capsys.readouterr().out.splitlines()[-1] == text
    page = html.unescape(report_page(replace(read_report(Run.open(exported)), compressed=record)))
    assert f"Layers {text}." in " ".join(page.split())
    assert from_json(BudgetSearch, compress_json(record, Run.open(exported).read(layout.FACTS))["budget"]) == search


def test_the_terminal_and_json_show_it(
    record: CompressRecord, exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 200)
    show_budget(replace(record, budget=None))
    show_budget(record)
    assert capsys.readouterr().out.splitlines() == [
        *limit_texts(SEARCH),
        f"{cut_text(record, SEARCH)}; {time_text(SEARCH)}",
    ]
    budget = compress_json(record, Run.open(exported).read(layout.FACTS))["budget"]
    assert from_json(BudgetSearch, budget) == SEARCH


def test_the_page_shows_the_limits_and_the_way_there(record: CompressRecord, exported: Path) -> None:
    report = read_report(Run.open(exported))
    assert "Cuts that were tried" not in report_page(report), "without a budget there is no section"
    page = html.unescape(report_page(replace(report, compressed=record)))
    text = " ".join(page.split())
    assert "40.0 % of the MACs kept, 7 blocks dropped." in text
    assert "at most 0.6700 <small>from --latency-ms</small>" in text
    assert "at least 900.0 <small></small>" in text
    assert "950.0 <small>predicted</small>" in text
    assert text.count("<svg") == 1, "nothing was measured on x86"
    assert text.count("<b>student</b>") == 1
    assert "2 <b>student</b>" in text
    assert "Latency is not judged" not in text


def test_the_page_of_one_cut_has_no_chart(record: CompressRecord) -> None:
    one = replace(SEARCH, rounds=ROUNDS[1:2])
    view = budget_view(replace(record, budget=one))
    assert view is not None
    assert view.charts == ()


def test_a_limit_from_an_option_says_so() -> None:
    figure = Estimate(1.0, 0.9, 1.1)
    check = Check(name="p50_ms", limit=0.123456, sense="at most", measured=figure, outcome="failed")
    assert check_text(check) == "p50_ms 1 [0.9, 1.1], at most 0.123456"
    asked = replace(check, origin="--speedup")
    assert check_text(asked) == "p50_ms 1 [0.9, 1.1], at most 0.1235 (from --speedup)"


FIGURES = st.floats(1e-3, 1e4)


@given(st.lists(st.tuples(FIGURES, FIGURES), min_size=2, max_size=10), FIGURES)
def test_a_chart_lies_within_its_drawing_and_a_larger_figure_higher(
    figures: list[tuple[float, float]], limit: float
) -> None:
    rounds = tuple(SearchRound((predicted,), (measured,), 0.1, 0.5, 0) for predicted, measured in figures)
    search = BudgetSearch(
        limits=(replace(LATENCY, limit=limit),), teacher=(1.0,), rounds=rounds, student=(1.0,), loss=0
    )
    view = budget_view(_made_to(search))
    assert view is not None
    (chart,) = view.charts
    heights = [(limit, chart.limit_y), *((value, y) for y, value in chart.ticks)]
    for (predicted, measured), point in zip(figures, chart.points, strict=True):
        assert 0 <= point.x <= WIDTH
        heights += [(predicted, point.predicted), (measured, point.measured)]
    assert all(0 <= y <= HEIGHT for _, y in heights)
    for (value, y), (larger, higher) in zip(sorted(heights), sorted(heights)[1:], strict=False):
        assert y >= higher - 1e-6, (value, larger)


def _made_to(search: BudgetSearch) -> CompressRecord:
    facts: dict[str, Any] = {
        "method": "mir", "oe": True, "macs_kept": 0.5, "params_kept": 0.5, "macs": 1, "params": 1, "steps": 1,
        "best_step": 1, "seconds": 1.0, "images_per_second": 1.0, "seed": 0, "accelerator": "cpu", "precision": "fp32",
        "channel_multiple": 8,
    }  # fmt: skip
    record = CompressRecord(**facts, budget=search)
    assert from_json(CompressRecord, to_json(record)) == record
    return record
