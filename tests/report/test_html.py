"""The page of a run: it has what was measured, whatever the names are, and is always the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from made_up import result, speed

from edgeoe.errors import RunError
from edgeoe.records.graphs import GraphRecord, LayerSensitivity, RefusedGraph
from edgeoe.report.axis import Axis, figure
from edgeoe.report.html import read_report, report_page, write_report
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.stages.build import build
from edgeoe.stages.validate import conclude, record_validation
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Budget, DeviceFacts

UNCLOSED = {"meta"}


class Page(HTMLParser):
    """The tags that are open, the text and the links of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.lefts: list[float] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in UNCLOSED:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            self.lefts += [float(number) for number in re.findall(r"(?:left|right|width):([-\d.e+na]+)%", value or "")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def judged(path: Path, *, budget: Budget | None = None, target: str = "host-cpu", **changes: Any) -> Run:
    """The run at `path`, with a made-up result in it."""
    run, made = Run.open(path), result(**changes)
    profile = replace(made.target, name=target, budget=budget or Budget())
    measured = replace(made, target=profile)
    record_validation(run, measured, conclude(measured, profile, teacher=made.predictions, random_weights=False))
    return run


def page_of(run: Run) -> Page:
    """The page of `run`, parsed."""
    return Page(report_page(read_report(run)))


def test_the_page_shows_verdict_classes_and_latency(exported: Path) -> None:
    text = page_of(judged(exported, budget=Budget(p50_ms=5.0, size_mb=1.0))).text()
    assert "run failed" in text
    assert "p50_ms passed 2.0" in text
    assert "size_mb failed 2.000 at most 1" in text
    assert "Accuracy on 100 test images" in text
    assert re.search(r"square rare 1 33 \d\d\.\d % \[", text), "the rarest class"
    assert text.index("square rare") < text.index("cross rare") < text.index("circle 12")
    assert "800 calls in 8 processes" in text
    assert "images/s at batch 1" in text
    assert "Some CPU" in text
    assert "steps = 6" in text, "the settings"


def test_every_target_has_its_part_and_the_worst_comes_first(exported: Path) -> None:
    judged(exported, target="b", budget=Budget(p50_ms=5.0))
    run = judged(exported, target="a", budget=Budget(p50_ms=5.0), speed=speed(disturbed=("others used the cores",)))
    text = page_of(run).text()
    assert "run inconclusive" in text
    assert text.index("a inconclusive") < text.index("b passed")
    assert "Noise: others used the cores" in text


def test_a_page_needs_nothing_else(exported: Path) -> None:
    page = page_of(judged(exported))
    assert page.open == []
    assert page.links == []
    assert "script" not in page.tags
    assert all(0 <= place <= 100 for place in page.lefts)
    assert len(page.lefts) > 30


def test_a_run_that_nobody_validated_has_its_samples(exported: Path) -> None:
    text = page_of(Run.open(exported)).text()
    assert "Nothing has been validated yet: edgeoe validate" in text
    assert "circle 12 cross 5 square 1" in text


def test_without_test_images_there_is_no_accuracy(exported: Path) -> None:
    text = page_of(judged(exported, predictions=None, budget=Budget(top1=0.9))).text()
    assert "Accuracy on" not in text
    assert "top1 inconclusive at least 0.9" in text


def test_an_interval_without_an_end_says_so(exported: Path) -> None:
    page = page_of(judged(exported, speed=speed(processes=2), budget=Budget(p99_ms=2.5)))
    assert re.search(r"p99_ms inconclusive [\d.]+ \[[\d.]+, \?\] at most 2.5", page.text())
    assert all(0 <= place <= 100 for place in page.lefts)


def test_names_are_text(exported: Path) -> None:
    hostile = "<script>alert(1)</script>&\"'"
    classes = (hostile, "cross", "square")
    run = judged(exported, classes=classes, environment={"cpu": hostile, "flags": ["a", "<b>"], "versions": {}})
    run.save(layout.FACTS, replace(run.read(layout.FACTS), classes=classes))
    page = page_of(run)
    assert "script" not in page.tags
    assert hostile in page.text()


def test_a_validation_of_other_classes_is_refused(exported: Path) -> None:
    run = judged(exported)
    run.save(layout.FACTS, replace(run.read(layout.FACTS), classes=("one", "two"), counts=(1, 1)))
    with pytest.raises(RunError, match=r"the validation on host-cpu is of other classes than facts\.json"):
        page_of(run)


def test_a_config_that_is_no_text_is_shown(exported: Path) -> None:
    run = judged(exported)
    run.write(layout.CONFIG, lambda path: path.write_bytes(b"a = \xff\n"))
    assert r"a = \xff" in page_of(run).text()


def test_random_weights_are_said(exported: Path) -> None:
    run = judged(exported)
    run.save(layout.FACTS, replace(run.read(layout.FACTS), random_weights=True))
    assert "the teacher is untrained" in page_of(run).text()


def test_int8_graphs_that_were_refused_and_sums_that_saturate_are_said(exported: Path) -> None:
    run, made = Run.open(exported), result(environment={"cpu": "Some CPU", "int8_saturates": True, "versions": {}})
    profile = replace(made.target, precision="int8", device=DeviceFacts(int8_dot=True))
    measured = replace(made, target=profile)
    record_validation(run, measured, conclude(measured, profile, teacher=None, random_weights=False))
    reason = "in int8-trt 50.0 % of <256> images"
    refused = RefusedGraph(precision="int8-trt", agreement=0.5, images=256, reason=reason)
    run.save(layout.EXPORT, replace(run.read(layout.EXPORT), refused=(refused,)))
    text = page_of(run).text()
    assert "int8-trt was not written: in int8-trt 50.0 % of <256> images" in text
    assert "Note: int8 sums saturate here" in text


def test_sensitivities_of_layers_are_there_if_they_were_measured(exported: Path) -> None:
    run = judged(exported)
    graph = GraphRecord(
        path="student-int8-cpu.onnx",
        sha256="0" * 64,
        precision="int8-cpu",
        size_bytes=500_000,
        max_rel_error=0.05,
        agreement=0.99,
        images=256,
        calibration="percentile",
        calibration_images=200,
        bias_corrected=True,
        kept_fp32=("head",),
        layers=(LayerSensitivity("head", error=0.031, drop=0.02),),
    )
    run.save(layout.EXPORT, replace(run.read(layout.EXPORT), graphs=(graph,)))
    text = page_of(run).text()
    assert "int8-cpu student-int8-cpu.onnx 0.500 99.0 % of 256 0.05 percentile, 200 images, biases corrected" in text
    assert "sensitivity of each layer" in text
    assert "head 3.10 % 2.0 %" in text


def test_the_same_run_gives_the_same_page(exported: Path, edgeoe: Callable[..., tuple[int, str, str]]) -> None:
    built = build(Run.open(exported), load_target("host-cpu"))
    run = judged(exported, artifact=built.file, artifact_sha256=built.sha256)
    first = write_report(run).read_bytes()
    code, out, _ = edgeoe("report", exported)
    assert (code, out) == (0, f"report: {exported / 'report.html'}\n")
    assert (exported / "report.html").read_bytes() == first
    assert run.file(layout.REPORT)


def test_a_changed_record_is_not_shown(exported: Path) -> None:
    run = judged(exported)
    path = exported / "targets/host-cpu/validation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "verdict": "passed!"}))
    with pytest.raises(RunError, match=r"validation\.json: changed since edgeoe wrote it"):
        read_report(run)


@example(-0.3, 0.0)  # a third of it is less than the power of ten that its logarithm tells
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_are_few_round_and_within(low: float, high: float) -> None:
    assume(high - low > 1e-6 * max(abs(low), abs(high), 1e-3))
    axis = Axis(low, high)
    ticks = axis.ticks()
    room = 1e-6 * (high - low)
    assert 3 <= len(ticks) <= 9
    assert all(low - room <= tick <= high + room for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_an_axis_places_by_percent() -> None:
    axis = Axis(2.0, 4.0)
    assert [axis.at(value) for value in (2.0, 3.0, 4.0, 9.0, -9.0, float("inf"))] == [0, 50, 100, 100, 0, 100]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"),
        (12.345, "12.3"),
        (0.0012345, "0.00123"),
        (0.0, "0"),
        (-2.5, "-2.50"),
        (float("inf"), "?"),
        (99.99, "100.0"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text
