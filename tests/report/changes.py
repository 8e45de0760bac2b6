"""Comparisons and verdicts that nobody made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgeoe.records.comparison import AccuracyChange, Comparison, LatencyChange
from edgeoe.records.measurement import Check, Estimate, Latency, Measurement, Speed, Validation, Verdict
from edgeoe.targets.load import load_target

P50 = LatencyChange(
    quantity="p50",
    base_ms=2.0,
    new_ms=2.1,
    ratio=Estimate(1.051, 1.042, 1.060),
    p_value=0.00195,
    tolerance=0.03,
    n=10,
    change="regressed",
)
P99 = replace(P50, quantity="p99", change="inconclusive", reason="more rounds would tell", tolerance=0.1)
TOP1 = AccuracyChange(
    subject="top-1",
    images=2000,
    only_base=81,
    only_new=68,
    difference=Estimate(-0.0066, -0.0192, 0.0061),
    p_value=0.33,
    tolerance=0.02,
    change="no worse",
)


def comparison(**changes: Any) -> Comparison:
    made = Comparison(
        target="host-cpu",
        base="main",
        new="runs/b",
        how="interleaved",
        latency_from="measured here",
        accuracy_from="as reported",
        latency=(P50, P99),
        accuracy=(TOP1,),
        outcome="failed",
        reason="p50 regressed: new takes 1.051 of base's time",
        seconds=15.0,
        environment={"cpu": "Some CPU", "cores": 2, "versions": {"onnxruntime": "1.30.0"}},
    )
    return replace(made, **changes)


FINE = comparison(
    latency=(replace(P50, change="no worse", ratio=Estimate(1.0, 0.99, 1.01)), P99), outcome="passed", reason=""
)
APART = comparison(
    how="stored",
    latency=(),
    accuracy=(),
    outcome="inconclusive",
    reason="measured under other conditions: cpu was A and is B",
)


def validation(*checks: Check, noise: tuple[str, ...] = (), **changes: Any) -> Validation:
    """A verdict with these checks."""
    ms = Estimate(2.0, 1.9, 2.1)
    speed = Speed(
        latency=Latency(p50=ms, p90=ms, p99=ms, n=800, batch=1, processes=8),
        load_ms=ms,
        first_ms=ms,
        peak_memory_mb=ms,
        throughput_ips={1: ms},
        noise=noise,
    )
    made = Measurement(
        artifact_sha256="ab" * 32,
        size_bytes=1000,
        golden_agreement=1.0,
        accuracy=None,
        drop=None,
        speed=speed,
        environment={"cpu": "Some CPU", "versions": {"onnxruntime": "1.30"}},
        settings={},
    )
    return Validation(
        target=load_target("host-cpu"),
        classes=("a", "b"),
        measurement=replace(made, **changes),
        verdict=Verdict(checks),
    )
