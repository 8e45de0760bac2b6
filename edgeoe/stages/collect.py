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
from edgeoe.run.chain import require_bundle
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.layout import TargetFiles
from edgeoe.run.result_file import read_result
from edgeoe.stages.signing import require_signed
from edgeoe.stages.validate import conclude, limits_asked_for, record_validation
from edgeoe.targets.backends import traits_of
from edgeoe.targets.profile import MeasureSettings, Target

__all__ = ["collect"]


@writes_run
def collect(run: Run, path: str | Path, *, target: Target | None = None, verify: Path | None = None) -> Validation:
    """Read the result at `path` into the run, and judge it.

    Target, budget, classes, artifact and labels come from the run's own `bundle.json`, not from the result.

    target: a profile whose budget judges instead of the bundled one.
    verify: a public key; the result must be signed with its private one.
    Raises RunError if the result is not from this run's latest bundle for its target, or contradicts that bundle, or if
    its signature is missing or does not hold.
    """
    if verify:
        require_signed(Path(path), verify)
    result = read_result(Path(path))
    name = result.target.name
    if target is not None and target.name != name:
        raise RunError(f"{path}: a result for {name}, not for {target.name}.")
    files = TargetFiles(name)
    facts = require_bundle(run, name)
    if file_sha256(run.file(files.bundle)) != result.bundle_sha256:
        raise RunError(f"{path}: not from the latest bundle of {run.path} for {name}. Run that bundle on the device.")
    for field, actual, expected in _contradictions(result, facts):
        raise RunError(
            f"{path}: {field} is {_value_text(actual)}, but in the latest bundle of {run.path} for {name} it is "
            f"{_value_text(expected)}. "
            "Run that bundle on the device, and collect its result unchanged."
        )
    teacher = run.read(files.teacher) if run.has(files.teacher) else None
    random_weights = run.read(layout.FACTS).random_weights
    target = target or facts.target
    asked = limits_asked_for(run, target)
    validation = conclude(result, target, teacher=teacher, random_weights=random_weights, asked=asked)
    return record_validation(run, result, validation)


def _value_text(value: object) -> object:
    return "not set" if value is None else value


def _contradictions(result: Result, facts: BundleFacts) -> Iterator[tuple[str, object, object]]:
    """(field, value in the result, expected value) of every field that contradicts the bundle."""
    target = facts.target
    yield from _unequal("target", to_json(result.target), to_json(target))
    traits = traits_of(target.backend)
    expected_fields: dict[str, object] = {
        "classes": facts.classes,
        "rare": facts.rare,
        "artifact": f"model{traits.suffix}",
    }
    if traits.portable:  # the artifact is the graph; a plan is built on the device and is unknown here
        expected_fields |= {"artifact_sha256": facts.files["model.onnx"], "size_bytes": facts.size_bytes}
    for field, expected in expected_fields.items():
        if getattr(result, field) != expected:
            yield field, getattr(result, field), expected
    if result.golden_agreement is None:
        yield "golden_agreement", result.golden_agreement, "a share from 0 to 1"
    yield from _prediction_contradictions(result.predictions, facts.test)
    if result.speed:
        yield from _speed_contradictions(result.speed, target.measure)
        yield from _probe_contradictions(result.speed, target.budget)


def _unequal(name: str, actual: Any, expected: Any) -> Iterator[tuple[str, object, object]]:
    if isinstance(actual, dict) and isinstance(expected, dict):
        for key in {**expected, **actual}:
            yield from _unequal(f"{name}.{key}", actual.get(key), expected.get(key))
    elif actual != expected:
        yield name, actual, expected


def _prediction_contradictions(
    predictions: Predictions | None, test: TestFacts | None
) -> Iterator[tuple[str, object, object]]:
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


def _speed_contradictions(speed: SpeedSamples, settings: MeasureSettings) -> Iterator[tuple[str, object, object]]:
    if speed.batch != settings.batch:
        yield "speed.batch", speed.batch, settings.batch
    lists = {field: getattr(speed, field) for field in ("calls_ms", "load_ms", "first_ms", "peak_memory_mb")}
    lists |= {f"throughput_ips.{batch}": rates for batch, rates in speed.throughput_ips.items()}
    lists |= {f"probed.{name}": figures for name, figures in speed.probed.items()}
    for field, values in lists.items():
        if len(values) != settings.processes:
            yield f"speed.{field}", f"of {len(values)} processes", f"of {settings.processes}"
    calls, min_calls = min(map(len, speed.calls_ms)), ceil(settings.min_iterations / settings.processes)
    if calls < min_calls:
        yield "speed.calls_ms", f"of {calls} calls in a process", f"of {min_calls} at least"
    batches = sorted(speed.throughput_ips)
    if batches != throughput_batches(settings):
        yield "speed.throughput_ips", f"at batches {batches}", f"at {throughput_batches(settings)}"


def _probe_contradictions(speed: SpeedSamples, budget: Mapping[str, float]) -> Iterator[tuple[str, object, object]]:
    names = sorted({**speed.probed, **speed.not_probed})
    expected = sorted(name for name, quantity in limited_quantities(budget).items() if quantity.probe)
    if names != expected:
        yield "speed.probed", f"of {', '.join(names) or 'nothing'}", f"of {', '.join(expected) or 'nothing'}"
