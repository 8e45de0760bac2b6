"""Layers that stay fp32 in int8: a budget is measured with them, and export starts from them."""

from __future__ import annotations

import platform
import tarfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made_up import QUICK
from meters import count_instead
from torch import nn

from edgeoe.backends import backend_of
from edgeoe.codec import from_json, to_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.devices.table_runner import run_table
from edgeoe.errors import TargetError
from edgeoe.graph import int8
from edgeoe.graph.precision import Int8Settings, Source
from edgeoe.graph.quantize import quantisable_layers
from edgeoe.machine.environment import environment
from edgeoe.pipeline import Judged, compress, deploy, export
from edgeoe.progress import silent
from edgeoe.records.compression import CompressRecord
from edgeoe.records.latency_table import TEACHER, LatencyTable
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings
from edgeoe.stages import budget, latency_probe, table_bundle
from edgeoe.stages.budget import require_tables
from edgeoe.stages.fp32_layers import fp32_layers_for
from edgeoe.stages.latency_table import cached_table, collect_table, keep_table
from edgeoe.stages.precisions import variant_for
from edgeoe.stages.subject import load_subject
from edgeoe.stages.table_bundle import bundle_table, measure_parts
from edgeoe.stages.timing_graph import fp32_graph, timing_graph
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import DeviceFacts

INT8 = replace(load_target("host-cpu"), measure=QUICK, precision="int8")
VARIANT = variant_for(INT8)
PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of tables; what is measured takes as few turns as say anything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edgeoe.measure.latency_table._SECONDS", 0.0)
    monkeypatch.setattr(budget, "_SECONDS", 0.0)
    monkeypatch.setattr("edgeoe.stages.speedup._SECONDS", 0.0)


@pytest.fixture
def need(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`need(n)`: agreement is made up, so that the n most sensitive layers must stay fp32 for a drop of 0."""
    needed, kept, make = [0], [0], int8._Maker.make

    def making(self: int8._Maker, keep: Collection[str]) -> onnx.ModelProto:
        kept[0] = len({*keep})
        return make(self, keep)

    def agreement(self: Source, logits: np.ndarray) -> float:
        return 1 - max(0, needed[0] - kept[0]) / 100

    def needing(count: int) -> None:
        needed[0] = count

    monkeypatch.setattr(int8._Maker, "make", making)
    monkeypatch.setattr(Source, "agreement", agreement)
    return needing


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """A list that gets the graph of each network that is timed."""
    graphs: list[onnx.ModelProto] = []

    def noting(*arguments: Any, **options: Any) -> onnx.ModelProto:
        graphs.append(timing_graph(*arguments, **options))
        return graphs[-1]

    for stage in (budget, latency_probe, table_bundle):
        monkeypatch.setattr(stage, "timing_graph", noting)
    return graphs


@pytest.fixture(scope="module")
def asked(settings: CompressSettings) -> CompressSettings:
    """Settings under which a table has few variants, and a budget that every network meets."""
    return replace(settings, method="kd", channel_multiple=4, latency_ms=1000.0, max_drop=0.0)


def float_layers(graph: onnx.ModelProto) -> set[str]:
    """The layers whose weights are no integers."""
    return {*quantisable_layers(graph)}


def compressed(run: Run) -> CompressRecord:
    return run.read(layout.COMPRESS)


def test_a_layer_that_stays_fp32_is_float_in_the_graph_that_is_timed(network: Callable[[str], nn.Module]) -> None:
    model = network("residual")
    every = {*quantisable_layers(fp32_graph(model, PREPROCESS))}
    assert {"narrow.0", "head"} < every
    assert float_layers(timing_graph(model, INT8, PREPROCESS)) == set()
    kept = ("narrow.0", "head", "no.such.layer")
    assert float_layers(timing_graph(model, INT8, PREPROCESS, kept_fp32=kept)) == {"narrow.0", "head"}
    fp32 = timing_graph(model, replace(INT8, precision="fp32"), PREPROCESS, kept_fp32=kept)
    assert float_layers(fp32) == every


def test_what_is_measured_for_a_budget_is_what_is_built(
    asked: CompressSettings,
    need: Callable[[int], None],
    timed: list[onnx.ModelProto],
    pictures: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    need(2)
    (outcome,) = deploy(asked, out=tmp_path / "run", targets=[INT8], test=pictures / "test")
    assert isinstance(outcome, Judged)
    run = outcome.run
    search = compressed(run).budget
    assert search is not None
    kept = search.kept_fp32[VARIANT]
    assert len(kept) == 2
    assert len(timed) > 3, "the teacher, and with it the variants of the table"
    assert all(float_layers(graph) == {*kept} for graph in timed)
    (graph,) = run.read(layout.EXPORT).graphs
    assert {*graph.kept_fp32} == {*kept}
    assert float_layers(onnx.load(run.path / graph.path)) == {*kept}
    assert "must stay fp32" not in caplog.text

    subject = load_subject(asked)
    assert fp32_layers_for(subject, asked, INT8) == kept, "latency-table takes the same"
    timed.clear()
    assert measure_parts(asked, INT8).kept_fp32 == kept
    assert timed == [], "and finds the table of compress"
    measure_parts(replace(asked, max_drop=None), INT8)
    assert timed
    assert all(float_layers(graph) == set() for graph in timed), "another table"


def test_further_layers_of_the_student_are_reported(
    asked: CompressSettings, need: Callable[[int], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need(1)
    run = compress(asked, out=tmp_path / "run", targets=[INT8])
    assert run is not None
    search = compressed(run).budget
    assert search is not None
    (first,) = search.kept_fp32[VARIANT]
    need(3)
    (graph,) = export(run, precisions=["int8"], variants=[VARIANT]).graphs
    assert graph.kept_fp32[0] == first
    assert len({*graph.kept_fp32}) == 3
    further = ", ".join(graph.kept_fp32[1:])
    assert f"{VARIANT}: {further} must stay fp32, too" in caplog.text
    caplog.clear()
    (graph,) = export(run, precisions=["int8"], variants=[VARIANT], int8=Int8Settings(max_drop=1.0)).graphs
    assert graph.kept_fp32 == (first,), "the student's latency was measured so"
    assert "fp32" not in caplog.text


def test_a_layer_that_the_graph_does_not_name_is_reported(
    asked: CompressSettings, need: Callable[[int], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = compress(asked, out=tmp_path / "run", targets=[INT8])
    assert run is not None
    record = compressed(run)
    assert record.budget is not None
    assert record.budget.kept_fp32 == {VARIANT: ()}
    run.save(layout.COMPRESS, replace(record, budget=replace(record.budget, kept_fp32={VARIANT: ("lost",)})))
    export(run, precisions=["int8"], variants=[VARIANT])
    assert f"{VARIANT}: the graph names no layer lost" in caplog.text


def test_without_a_budget_export_takes_the_drop_of_compress(
    settings: CompressSettings, need: Callable[[int], None], pictures: Path, tmp_path: Path
) -> None:
    """And the student does not depend on it."""
    need(2)
    given = replace(settings, max_drop=0.0)
    run = compress(given, out=tmp_path / "run", targets=[INT8])
    assert run is not None
    assert (compressed(run).max_drop, compressed(run).budget) == (0.0, None)
    (graph,) = export(run, precisions=["int8"], variants=[VARIANT]).graphs
    assert len(graph.kept_fp32) == 2
    weights = (run.path / layout.WEIGHTS.name).stat().st_mtime_ns
    deploy(replace(settings, max_drop=None), out=run.path, targets=[INT8], test=pictures / "test")
    (graph,) = run.read(layout.EXPORT).graphs
    assert graph.kept_fp32 == ()
    assert (run.path / layout.WEIGHTS.name).stat().st_mtime_ns == weights


def test_layers_of_dropped_blocks_are_not_kept(
    settings: CompressSettings, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = ("early.0.one.0", "early.1.one.0", "late.0.two.0", "late.1.two.0", "head")
    count_instead(monkeypatch, kept_fp32={VARIANT: layers})
    given = replace(
        settings, teacher=f"{teacher_file}:stages", weights="random", method="practise", latency_ms=0.45, max_drop=0.1
    )
    run = compress(given, out=tmp_path / "run", targets=[INT8])
    assert run is not None
    search = compressed(run).budget
    assert search is not None
    kept = search.kept_fp32[VARIANT]
    assert {"head"} <= {*kept} < {*layers}
    assert len(layers) - len(kept) == search.rounds[-1].dropped


# Tables


def test_a_table_is_of_the_layers_that_stay_fp32() -> None:
    def table(kept: Sequence[str], ms: float) -> LatencyTable:
        facts = {**environment(), "versions": backend_of(INT8).versions()}
        return LatencyTable(
            network="a" * 64,
            target=INT8,
            environment=facts,
            latencies_ms={TEACHER: ms},
            kept_fp32=tuple(kept),
        )

    for ms, kept in enumerate(((), ("head",), ("head", "stem.0")), 1):
        keep_table(table(kept, ms))
    for ms, kept in enumerate(((), ("head",), ("stem.0", "head")), 1):
        known = cached_table("a" * 64, INT8, kept_fp32=kept)
        assert known is not None
        assert known.latencies_ms == {TEACHER: ms}
        assert from_json(LatencyTable, to_json(known)) == known
    assert cached_table("a" * 64, INT8, kept_fp32=("stem.0",)) is None


def test_the_bundle_of_a_table_measures_with_the_layers_in_fp32(
    asked: CompressSettings,
    need: Callable[[int], None],
    timed: list[onnx.ModelProto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = replace(INT8, name="away", device=DeviceFacts(machine=platform.machine()))
    need(1)
    kept = fp32_layers_for(load_subject(asked), asked, away)
    assert len(kept) == 1
    bundle_table(asked, away, out=tmp_path / "t.tar")
    assert all(float_layers(graph) == {*kept} for graph in timed)
    with tarfile.open(tmp_path / "t.tar") as opened:
        opened.extractall(tmp_path / "u", filter="data")
    (folder,) = (tmp_path / "u").iterdir()
    assert run_table(folder, tmp_path / "t.json", progress=silent).kept_fp32 == kept
    for stage in ("stages.budget", "stages.latency_table", "stages.table_bundle", "targets.here"):
        monkeypatch.setattr(f"edgeoe.{stage}.environment", lambda **_: {**environment(), "machine": "riscv64"})
    collect_table(tmp_path / "t.json")
    require_tables(asked, [away])
    assert measure_parts(asked, away).kept_fp32 == kept
    with pytest.raises(TargetError, match=r"no latency table of this teacher with these options"):
        require_tables(replace(asked, max_drop=None), [away])
