"""collect: a result that a bundle wrote on a device -> measurement and verdict in the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from edgeoe.backends import Backend
from edgeoe.codec import to_json
from edgeoe.devices.bundle_runner import FORMAT
from edgeoe.errors import RunError, quoted
from edgeoe.measure.predictions import Predictions, labels_sha256
from edgeoe.measure.result import Result, read_result
from edgeoe.measure.speed import SpeedSamples, measured_batches
from edgeoe.records.measurement import Measurement, Verdict
from edgeoe.registry import BACKENDS, resolve
from edgeoe.run.directory import Run, file_sha256
from edgeoe.stages.bundle import bundle_facts_file, teacher_file
from edgeoe.stages.validate import conclude
from edgeoe.targets.profile import MeasureSettings, Target, target_from_json

__all__ = ["collect"]


def collect(run: Run, path: Path, *, target: Target | None = None) -> tuple[Target, Measurement, Verdict]:
    """Read the result at `path` into the run, and judge it.

    What the run knows itself (target, budget, classes, artifact, labels) comes from its own `bundle.json`.
    target: a profile whose budget judges instead of the one that was bundled.
    Raises RunError if the result did not come from this run's latest bundle for its target, or a field contradicts it.
    """
    result = read_result(path)
    name = result.target.name
    if target is not None and target.name != name:
        raise RunError(f"{path}: a result for {name}, not for {target.name}.")
    made_by = f"bundle {quoted(run.path)} --target {quoted(name)}"
    bundled = run.file(bundle_facts_file(name), made_by=made_by)
    facts = run.read_record(bundle_facts_file(name), made_by=made_by)
    if facts["format"] != FORMAT:
        raise RunError(f"{bundled}: of another edgeoe. Bundle again: edgeoe {made_by}")
    if file_sha256(bundled) != result.bundle_sha256:
        raise RunError(f"{path}: not from the bundle that {run.path} made last for {name}. Run that one on the device.")
    for field, got, wanted in _contradictions(result, facts):
        raise RunError(
            f"{path}: {field} is {_said(got)}, and by the bundle that {run.path} made last for {name} it is "
            f"{_said(wanted)}. "
            "Run that bundle on the device, and collect what it wrote, unchanged."
        )
    teacher = None
    if (run.path / teacher_file(name)).is_file():
        decode = partial(Predictions.from_json, classes=len(result.classes))
        teacher = run.decoded(decode, teacher_file(name), made_by=made_by)
    judged_by = target or target_from_json(facts["target"])
    measurement, verdict = conclude(run, judged_by, result, teacher)
    return judged_by, measurement, verdict


def _said(value: object) -> object:
    return "not set" if value is None else value


def _contradictions(result: Result, facts: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """(field, what the result has, what it is by the bundle's facts) for all that can't be of that bundle."""
    yield from _unequal("target", to_json(result.target), facts["target"])
    target = target_from_json(facts["target"])
    backend: Backend = resolve(BACKENDS, target.backend, kind="backend")()
    known = {"classes": tuple(facts["classes"]), "rare": tuple(facts["rare"]), "artifact": f"model{backend.suffix}"}
    if backend.portable:  # the artifact is the graph; a plan is built on the device, and nobody else knows it
        known |= {"artifact_sha256": facts["files"]["model.onnx"], "size_bytes": facts["size_bytes"]}
    for field, wanted in known.items():
        if getattr(result, field) != wanted:
            yield field, getattr(result, field), wanted
    if result.golden_agreement is None:
        yield "golden_agreement", result.golden_agreement, "a share from 0 to 1"
    yield from _of_predictions(result.predictions, facts["test"])
    if result.speed:
        yield from _of_speed(result.speed, target.measure)


def _unequal(name: str, got: Any, wanted: Any) -> Iterator[tuple[str, object, object]]:
    if isinstance(got, dict) and isinstance(wanted, dict):
        for key in {**wanted, **got}:
            yield from _unequal(f"{name}.{key}", got.get(key), wanted.get(key))
    elif got != wanted:
        yield name, got, wanted


def _of_predictions(seen: Predictions | None, test: Mapping[str, Any] | None) -> Iterator[tuple[str, object, object]]:
    if seen is None or test is None:
        if seen or test:
            yield "predictions", "there" if seen else "missing", "there" if test else "missing"
        return
    for field in ("labels", "chosen"):
        if getattr(seen, field).shape != (test["images"],):
            yield f"predictions.{field}", f"of {getattr(seen, field).size} images", f"of {test['images']}"
    if labels_sha256(seen.labels) != test["labels_sha256"]:
        yield "predictions.labels", "of other labels", "that of the test folder"
    if seen.test_sha256 != test["test_sha256"]:
        yield "predictions.test_sha256", seen.test_sha256, test["test_sha256"]


def _of_speed(speed: SpeedSamples, settings: MeasureSettings) -> Iterator[tuple[str, object, object]]:
    if speed.batch != settings.batch:
        yield "speed.batch", speed.batch, settings.batch
    lists = {field: getattr(speed, field) for field in ("calls_ms", "load_ms", "first_ms", "peak_memory_mb")}
    lists |= {f"throughput_ips.{batch}": rates for batch, rates in speed.throughput_ips.items()}
    for field, values in lists.items():
        if len(values) != settings.processes:
            yield f"speed.{field}", f"of {len(values)} processes", f"of {settings.processes}"
    fewest, least = min(map(len, speed.calls_ms)), ceil(settings.min_iterations / settings.processes)
    if fewest < least:
        yield "speed.calls_ms", f"of {fewest} calls in a process", f"of {least} at least"
    batches = sorted(speed.throughput_ips)
    if batches != measured_batches(settings):
        yield "speed.throughput_ips", f"at batches {batches}", f"at {measured_batches(settings)}"
