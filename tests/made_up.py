"""Results that nobody measured, files of machines that are none, and settings that measure in no time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeoe.files import file_sha256
from edgeoe.records.result import Predictions, Result, SpeedSamples
from edgeoe.run.directory import Run
from edgeoe.run.layout import TargetFiles
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import MeasureSettings

QUICK = MeasureSettings(  # two processes, any noise: latencies of so few have no end, so no test judges them
    processes=2,
    warmup_seconds=0,
    warmup_max_seconds=0,
    min_seconds=0.02,
    min_iterations=20,
    max_variation=1e6,
    max_foreign_load=1e6,
)

QUICK_PROFILE = """\
backend = "onnxruntime"
description = "a quick look"

[measure]
processes = 2
warmup_seconds = 0
warmup_max_seconds = 0
min_seconds = 0.02
min_iterations = 20
max_variation = 1e6             # a busy machine is no failure
max_foreign_load = 1e6

[budget]
"""


def speed(*, ms: float = 2.0, seed: int = 0, spread: float = 0.01, processes: int = 8, **changes: Any) -> SpeedSamples:
    """Eight processes of 100 calls around `ms`, each with an effect of its own."""
    rng = np.random.default_rng(seed)
    calls = ms * np.exp(rng.normal(0, spread, (processes, 1)) + rng.normal(0, 0.02, (processes, 100)))
    made = SpeedSamples(
        batch=1,
        calls_ms=tuple(tuple(part) for part in calls.tolist()),
        load_ms=(20.0,) * processes,
        first_ms=(4.0,) * processes,
        peak_memory_mb=(80.0,) * processes,
        throughput_ips={1: (1000 / ms,) * processes},
        unsteady=0,
        watched={"foreign_load": 0.01},
        disturbed=(),
    )
    return replace(made, **changes)


def result(*, wrong: int = 10, images: int = 100, **changes: Any) -> Result:
    """A result on host-cpu; of its `images` test images in three classes the first `wrong` are taken for another."""
    labels = np.arange(images) % 3
    chosen = np.where(np.arange(images) < wrong, (labels + 1) % 3, labels)
    made = Result(
        target=load_target("host-cpu"),
        artifact="model.onnx",
        artifact_sha256="0" * 64,
        size_bytes=2_000_000,
        classes=("circle", "cross", "square"),
        rare=(2, 1),
        golden_agreement=1.0,
        predictions=Predictions(tuple(chosen.tolist()), tuple(labels.tolist()), "1" * 64),
        speed=speed(),
        environment={"cpu": "Some CPU", "cores": 4, "versions": {"onnxruntime": "1.30.0"}},
        settings={"threads": 1},
    )
    return replace(made, **changes)


def as_bundled(run: Run, name: str = "host-cpu", *, right: int = 15) -> Result:
    """A result that the run's bundle for target `name` might have written, with so many of its 30 test images right."""
    facts = run.read(TargetFiles(name).bundle)
    labels = np.arange(30) // 10
    chosen = np.where(np.arange(30) < right, labels, (labels + 1) % 3)
    measure = facts.target.measure
    calls_ms = ((2.0,) * max(100, -(-measure.min_iterations // measure.processes)),) * measure.processes
    predictions = None
    if facts.test:
        predictions = Predictions(tuple(chosen.tolist()), tuple(labels.tolist()), facts.test.test_sha256)
    return result(
        target=facts.target,
        artifact_sha256=facts.files["model.onnx"],
        size_bytes=facts.size_bytes,
        classes=facts.classes,
        rare=facts.rare,
        predictions=predictions,
        speed=speed(processes=measure.processes, calls_ms=calls_ms),
        bundle_sha256=file_sha256(run.file(TargetFiles(name).bundle)),
    )


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Write {name: text} under `root`: that folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
