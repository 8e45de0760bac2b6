"""validate: artifact + test images -> measurement and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgeoe.backends import Backend
from edgeoe.data.samples import find_test, load_samples, rarest
from edgeoe.errors import RunError
from edgeoe.measure.accuracy import accuracy_from_predictions, predict
from edgeoe.measure.environment import environment
from edgeoe.measure.judge import judge
from edgeoe.measure.latency import latency_from_samples, sample_latency
from edgeoe.progress import Progress, silent
from edgeoe.records import Artifact, Measurement, Target, Verdict, to_json
from edgeoe.registry import BACKENDS, resolve
from edgeoe.run import Run, file_sha256
from edgeoe.stages.facts import run_facts
from edgeoe.stages.lower import graph_file

__all__ = ["validate", "validate_record"]


def validate(run: Run, target: Target, *, test: Path, progress: Progress = silent) -> tuple[Measurement, Verdict]:
    """Measure the built artifact's accuracy on `test` and its latency here, and judge both."""
    folder = f"targets/{target.name}"
    made_by = f"build {run.path} --target {target.name}"
    engine = Artifact(**run.read_record(f"{folder}/engine.json", made_by=made_by))
    graph = run.file(graph_file(target.precision, target.backend), made_by=f"export {run.path}")
    if engine.graph_sha256 != file_sha256(graph):
        raise RunError(f"{run.path / engine.artifact}: built from another graph. Build again: edgeoe {made_by}")
    path = run.file(engine.artifact, made_by=made_by)
    facts = run_facts(run)
    golden = run.read_tensors("golden.safetensors", made_by=f"export {run.path}")
    samples = load_samples(
        find_test(test, facts.classes), facts.preprocess, progress=progress, title="Reading test images"
    )
    backend: Backend = resolve(BACKENDS, target.backend, kind="backend")()
    where = environment()
    with backend.open(path, target) as runner:
        logits = runner.infer(golden["images"])
        predicted = predict(runner, samples, progress=progress)
        calls_ms = sample_latency(runner, golden["images"][0], target.measure, progress=progress)
    measurement = Measurement(
        artifact_sha256=engine.sha256,
        size_bytes=engine.size_bytes,
        golden_agreement=float((logits.argmax(1) == golden["logits"].argmax(1)).mean()),
        accuracy=accuracy_from_predictions(
            predicted,
            samples.labels,
            classes=len(facts.classes),
            rare=rarest(np.asarray(facts.counts)),
        ),
        latency=latency_from_samples(calls_ms, batch=target.measure.batch),
        environment={**where, "versions": backend.versions()},
        settings={**asdict(target.measure), **engine.settings},
        random_weights=facts.random_weights,
    )
    verdict = judge(measurement, target.budget)
    run.write_record(f"{folder}/latency.json", {"batch": target.measure.batch, "calls_ms": calls_ms.tolist()})
    run.write_record(f"{folder}/validation.json", validate_record(measurement, verdict, facts.classes))
    return measurement, verdict


def validate_record(measurement: Measurement, verdict: Verdict, classes: Sequence[str]) -> dict[str, object]:
    """The result record of `validate`: plain values under stable keys, their intervals under `intervals`."""
    accuracy, latency = measurement.accuracy, measurement.latency
    return {
        "top1": accuracy.top1.value,
        "recall_per_class": [part.value if part else None for part in accuracy.recall_per_class],
        "mean_recall": accuracy.mean_recall.value,
        "rare_recall": accuracy.rare_recall.value if accuracy.rare_recall else None,
        "worst_recall": accuracy.worst_recall.value,
        "latency_ms": {
            "p50": latency.p50.value,
            "p90": latency.p90.value,
            "p99": latency.p99.value,
            "n": latency.n,
            "batch": latency.batch,
        },
        "verdict": verdict.outcome,
        "checks": to_json(verdict.checks),
        "classes": list(classes),
        "rare_classes": [classes[k] for k in accuracy.rare_classes],
        "images_per_class": list(accuracy.images_per_class),
        "intervals": {"accuracy": to_json(accuracy), "latency_ms": to_json(latency)},
        "golden_agreement": measurement.golden_agreement,
        "artifact_sha256": measurement.artifact_sha256,
        "size_bytes": measurement.size_bytes,
        "environment": measurement.environment,
        "settings": measurement.settings,
        "random_weights": measurement.random_weights,
    }
