"""collect: a result that a bundle wrote on a device -> measurement and verdict in the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from edgeoe.codec import to_json
from edgeoe.errors import RunError
from edgeoe.files import file_sha256
from edgeoe.measure.predictions import labels_sha256
from edgeoe.measure.quantity import limited_quantities
from edgeoe.measure.speed import throughput_batches
from edgeoe.records.bundle import BundleFacts, TestFacts
from edgeoe.records.measurement import Validation
from edgeoe.records.result import Predictions, Result, SpeedSamples
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.layout import TargetFiles
from edgeoe.run.result_file import read_result
from edgeoe.stages.validate import conclude, record_validation
from edgeoe.targets.backends import traits_of
from edgeoe.targets.profile import MeasureSettings, Target

__all__ = ["collect"]


def collect(run: Run, path: str | Path, *, target: Target | None = None) -> Validation:
    """Read the result at `path` into the run, and judge it.

    What the run knows itself (target, budget, classes, artifact, labels) comes from its own `bundle.json`.

    target: a profile whose budget judges instead of the one that was bundled.
    Raises RunError if the result did not come from this run's latest bundle for its target, or a field contradicts it.
    """
    result = read_result(Path(path))
    name = result.target.name
    if target is not None and target.name != name:
        raise RunError(f"{path}: a result for {name}, not for {target.name}.")
    files = TargetFiles(name)
    facts = run.read(files.bundle)
    if file_sha256(run.file(files.bundle)) != result.bundle_sha256:
        raise RunError(f"{path}: not from the bundle that {run.path} made last for {name}. Run that one on the device.")
    for field, got, wanted in _contradictions(result, facts):
        raise RunError(
            f"{path}: {field} is {_said(got)}, and by the bundle that {run.path} made last for {name} it is "
            f"{_said(wanted)}. "
            "Run that bundle on the device, and collect what it wrote, unchanged."
        )
    teacher = run.read(files.teacher) if run.has(files.teacher) else None
    random_weights = run.read(layout.FACTS).random_weights
    validation = conclude(result, target or facts.target, teacher=teacher, random_weights=random_weights)
    record_validation(run, result, validation)
    return validation


def _said(value: object) -> object:
    return "not set" if value is None else value


def _contradictions(result: Result, facts: BundleFacts) -> Iterator[tuple[str, object, object]]:
    """(field, what the result has, what it is by the bundle's facts) for all that can't be of that bundle."""
    target = facts.target
    yield from _unequal("target", to_json(result.target), to_json(target))
    traits = traits_of(target.backend)
    known: dict[str, object] = {"classes": facts.classes, "rare": facts.rare, "artifact": f"model{traits.suffix}"}
    if traits.portable:  # the artifact is the graph; a plan is built on the device, and nobody else knows it
        known |= {"artifact_sha256": facts.files["model.onnx"], "size_bytes": facts.size_bytes}
    for field, wanted in known.items():
        if getattr(result, field) != wanted:
            yield field, getattr(result, field), wanted
    if result.golden_agreement is None:
        yield "golden_agreement", result.golden_agreement, "a share from 0 to 1"
    yield from _of_predictions(result.predictions, facts.test)
    if result.speed:
        yield from _of_speed(result.speed, target.measure)
        yield from _of_probes(result.speed, target.budget)


def _unequal(name: str, got: Any, wanted: Any) -> Iterator[tuple[str, object, object]]:
    if isinstance(got, dict) and isinstance(wanted, dict):
        for key in {**wanted, **got}:
            yield from _unequal(f"{name}.{key}", got.get(key), wanted.get(key))
    elif got != wanted:
        yield name, got, wanted


def _of_predictions(predictions: Predictions | None, test: TestFacts | None) -> Iterator[tuple[str, object, object]]:
    if predictions is None or test is None:
        if predictions or test:
            yield "predictions", "there" if predictions else "missing", "there" if test else "missing"
        return
    if len(predictions.labels) != test.images:
        yield "predictions.labels", f"of {len(predictions.labels)} images", f"of {test.images}"
    if labels_sha256(predictions.labels) != test.labels_sha256:
        yield "predictions.labels", "of other labels", "that of the test folder"
    if predictions.test_sha256 != test.test_sha256:
        yield "predictions.test_sha256", predictions.test_sha256, test.test_sha256


def _of_speed(speed: SpeedSamples, settings: MeasureSettings) -> Iterator[tuple[str, object, object]]:
    if speed.batch != settings.batch:
        yield "speed.batch", speed.batch, settings.batch
    lists = {field: getattr(speed, field) for field in ("calls_ms", "load_ms", "first_ms", "peak_memory_mb")}
    lists |= {f"throughput_ips.{batch}": rates for batch, rates in speed.throughput_ips.items()}
    lists |= {f"probed.{name}": figures for name, figures in speed.probed.items()}
    for field, values in lists.items():
        if len(values) != settings.processes:
            yield f"speed.{field}", f"of {len(values)} processes", f"of {settings.processes}"
    fewest, least = min(map(len, speed.calls_ms)), ceil(settings.min_iterations / settings.processes)
    if fewest < least:
        yield "speed.calls_ms", f"of {fewest} calls in a process", f"of {least} at least"
    batches = sorted(speed.throughput_ips)
    if batches != throughput_batches(settings):
        yield "speed.throughput_ips", f"at batches {batches}", f"at {throughput_batches(settings)}"


def _of_probes(speed: SpeedSamples, budget: Mapping[str, float]) -> Iterator[tuple[str, object, object]]:
    measured = sorted({**speed.probed, **speed.not_probed})
    wanted = sorted(name for name, one in limited_quantities(budget).items() if one.probe)
    if measured != wanted:
        yield "speed.probed", f"of {', '.join(measured) or 'nothing'}", f"of {', '.join(wanted) or 'nothing'}"
