"""validate: artifact + test images -> measurement and verdict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgeoe.backends import Backend, Runner
from edgeoe.codec import to_json
from edgeoe.data.samples import Samples, find_test, load_samples, rarest
from edgeoe.errors import RunError, quoted
from edgeoe.measure.accuracy import accuracy_from_predictions
from edgeoe.measure.artifact import measure_artifact
from edgeoe.measure.judge import judge
from edgeoe.measure.predictions import Predictions, predict
from edgeoe.measure.result import Result, write_result
from edgeoe.measure.statistics import paired_difference
from edgeoe.measure.summary import speed_from_samples
from edgeoe.progress import Progress, silent
from edgeoe.records.measurement import Artifact, Estimate, Measurement, Speed, Verdict
from edgeoe.registry import BACKENDS, resolve
from edgeoe.run.directory import Run, file_sha256
from edgeoe.run.facts import run_facts
from edgeoe.stages.build import require_runtime
from edgeoe.stages.overlap import report_test_overlap
from edgeoe.stages.precisions import graph_for, recipe_for
from edgeoe.stages.teacher import teacher_predictions
from edgeoe.targets.here import differences, not_measured
from edgeoe.targets.profile import Target

__all__ = ["built_artifact", "conclude", "read_test", "validate", "validate_record"]

_log = logging.getLogger(__name__)


def validate(run: Run, target: Target, *, test: Path, progress: Progress = silent) -> tuple[Measurement, Verdict]:
    """Measure the built artifact's accuracy on `test` and its speed here, and judge both.

    On a machine that is not the target's device no speed is measured, and the verdict is inconclusive at best.
    Raises BackendError where the artifact can't run here.
    """
    require_runtime(run, target)
    artifact = built_artifact(run, target)
    path = run.file(artifact.artifact, made_by=f"build {quoted(run.path)} --target {quoted(target.name)}")
    golden = run.read_tensors("golden.safetensors", made_by=f"export {quoted(run.path)}")
    samples = read_test(run, test, progress=progress)
    backend: Backend = resolve(BACKENDS, target.backend, kind="backend")()

    def predictions(runner: Runner) -> Predictions:
        return predict(
            lambda pixels: runner.infer(samples.images.preprocess.normalise(pixels)),
            samples.images.rows,
            samples.labels,
            progress=progress,
        )

    facts = run_facts(run)
    result = measure_artifact(
        path,
        target,
        backend,
        golden=golden,
        predictions=predictions,
        classes=facts.classes,
        rare=rarest(np.asarray(facts.counts)),
        settings=artifact.settings,
        progress=progress,
    )
    teacher = None if target.budget.max_drop is None else teacher_predictions(run, samples, progress=progress)
    return conclude(run, target, result, teacher)


def built_artifact(run: Run, target: Target) -> Artifact:
    """The record of what `build` made for `target`. Raises RunError if the graph has changed since."""
    made_by = f"build {quoted(run.path)} --target {quoted(target.name)}"
    artifact = run.read(Artifact, f"targets/{target.name}/engine.json", made_by=made_by)
    if artifact.graph_sha256 != file_sha256(graph_for(run, target)):
        raise RunError(f"{run.path / artifact.artifact}: built from another graph. Build again: edgeoe {made_by}")
    return artifact


def read_test(run: Run, test: Path, *, progress: Progress = silent) -> Samples:
    """The test images under `test`, labelled by the run's classes; what is skipped, or was trained on, is logged."""
    facts = run_facts(run)
    files = find_test(test, facts.classes)
    for skipped in files.skipped:
        _log.warning("%s", skipped)
    samples = load_samples(files, facts.preprocess, progress=progress, title="Reading test images")
    report_test_overlap(run, samples, progress=progress)
    return samples


def conclude(run: Run, target: Target, result: Result, teacher: Predictions | None) -> tuple[Measurement, Verdict]:
    """Make figures of a result, judge them by the budget of `target`, and write both into the run."""
    seen, differs = result.predictions, differences(target, result.environment)
    speed = None if differs or result.speed is None else speed_from_samples(result.speed, target.measure)
    watched = result.speed.watched if result.speed else {}
    measurement = Measurement(
        artifact_sha256=result.artifact_sha256,
        size_bytes=result.size_bytes,
        golden_agreement=result.golden_agreement or 0.0,
        accuracy=None
        if seen is None
        else accuracy_from_predictions(seen.chosen, seen.labels, classes=len(result.classes), rare=result.rare),
        drop=None if seen is None or teacher is None else _drop(teacher, seen),
        speed=speed,
        environment={**result.environment, **watched},
        settings={**result.settings, **asdict(target.measure), **asdict(target.runtime)},
        random_weights=run_facts(run).random_weights,
        not_measured="" if speed else not_measured(differs or ["the result has no speed"]),
        notes=_notes(result),
    )
    verdict = judge(measurement, target.budget)
    folder = f"targets/{target.name}"
    run.forget(f"{folder}/validation.json")
    run.write(f"{folder}/result.json", lambda path: write_result(path, result))
    run.write_record(f"{folder}/validation.json", validate_record(measurement, verdict, result.classes))
    return measurement, verdict


def _notes(result: Result) -> tuple[str, ...]:
    """What the reader should know of how the device computed."""
    target, bundled = result.target, bool(result.bundle_sha256)
    saturates = result.environment.get("int8_saturates") and target.on_cpu and target.precision == "int8"
    if not saturates or recipe_for(target, here=not bundled) == "int8-cpu-7bit":
        return ()
    return (
        "int8 sums saturate here, which makes the network less accurate: this x86 processor has no VNNI, and weights "
        f"have 8 bits. Set int8_dot = false in [device] of the profile, and {'bundle' if bundled else 'build'} again.",
    )


def _drop(teacher: Predictions, own: Predictions) -> Estimate:
    """Top-1 of the teacher less that of the artifact, on the same images."""
    right, teacher_right = own.chosen == own.labels, teacher.chosen == teacher.labels
    only_own, only_teacher = int((right & ~teacher_right).sum()), int((teacher_right & ~right).sum())
    return paired_difference(only_own, only_teacher, len(right))


def validate_record(measurement: Measurement, verdict: Verdict, classes: Sequence[str]) -> dict[str, object]:
    """The result record of `validate`: plain values under stable keys, their intervals under `intervals`."""
    return {
        **_accuracy_record(measurement, classes),
        **_speed_record(measurement.speed),
        "not_measured": measurement.not_measured or None,
        "verdict": verdict.outcome,
        "checks": to_json(verdict.checks),
        "classes": list(classes),
        "intervals": {
            "accuracy": to_json(measurement.accuracy),
            "drop": to_json(measurement.drop),
            "speed": to_json(measurement.speed),
        },
        "golden_agreement": measurement.golden_agreement,
        "artifact_sha256": measurement.artifact_sha256,
        "size_bytes": measurement.size_bytes,
        "environment": measurement.environment,
        "settings": measurement.settings,
        "random_weights": measurement.random_weights,
        "notes": list(measurement.notes),
    }


def _speed_record(speed: Speed | None) -> dict[str, object]:
    if speed is None:
        keys = ("latency_ms", "throughput_ips", "load_ms", "first_ms", "peak_memory_mb")
        return {**dict.fromkeys(keys), "noise": []}
    latency = speed.latency
    return {
        "latency_ms": {
            "p50": latency.p50.value,
            "p90": latency.p90.value,
            "p99": latency.p99.value,
            "n": latency.n,
            "batch": latency.batch,
            "processes": latency.processes,
        },
        "throughput_ips": {str(batch): rate.value for batch, rate in speed.throughput_ips.items()},
        "load_ms": speed.load_ms.value,
        "first_ms": speed.first_ms.value,
        "peak_memory_mb": speed.peak_memory_mb.value,
        "noise": list(speed.noise),
    }


def _accuracy_record(measurement: Measurement, classes: Sequence[str]) -> dict[str, object]:
    accuracy, drop = measurement.accuracy, measurement.drop
    if accuracy is None:
        keys = ("top1", "recall_per_class", "mean_recall", "rare_recall", "worst_recall", "drop")
        return {**dict.fromkeys(keys), "rare_classes": None, "images_per_class": None}
    return {
        "top1": accuracy.top1.value,
        "recall_per_class": [part.value if part else None for part in accuracy.recall_per_class],
        "mean_recall": accuracy.mean_recall.value,
        "rare_recall": accuracy.rare_recall.value if accuracy.rare_recall else None,
        "worst_recall": accuracy.worst_recall.value,
        "drop": drop.value if drop else None,
        "rare_classes": [classes[k] for k in accuracy.rare_classes],
        "images_per_class": list(accuracy.images_per_class),
    }
