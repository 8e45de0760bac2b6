"""validate: artifact and test images -> measurement and verdict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from edgeoe.backends import Runner, backend_of
from edgeoe.data.samples import Samples, find_test, load_samples, rarest
from edgeoe.errors import RunError
from edgeoe.files import file_sha256
from edgeoe.graph.precision import precision_of
from edgeoe.measure.accuracy import accuracy_from_predictions
from edgeoe.measure.artifact import measure_artifact
from edgeoe.measure.judge import judge
from edgeoe.measure.predictions import predict
from edgeoe.measure.quantity import needs_teacher
from edgeoe.measure.statistics import paired_difference
from edgeoe.measure.summary import speed_from_samples
from edgeoe.progress import Progress, silent
from edgeoe.records.budget import Limit
from edgeoe.records.measurement import Artifact, Estimate, Measurement, Validation
from edgeoe.records.result import Predictions, Result
from edgeoe.run import layout
from edgeoe.run.chain import require_artifact, require_golden
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.layout import TargetFiles
from edgeoe.stages.build import require_runtime
from edgeoe.stages.overlap import report_test_overlap
from edgeoe.stages.precisions import graph_for
from edgeoe.stages.teacher import teacher_predictions
from edgeoe.targets.here import differences, not_measured
from edgeoe.targets.profile import Budget, Target

__all__ = ["built_artifact", "conclude", "limits_asked_for", "read_test", "record_validation", "validate"]

_log = logging.getLogger(__name__)


@writes_run
def validate(
    run: Run, target: Target, *, test: Path, follow_links: bool = False, progress: Progress = silent
) -> Validation:
    """Measure the artifact's accuracy on `test` and its speed on this machine, and judge both.

    The limits that --latency-ms or --speedup set for the student count, too, where those of the profile are wider.
    If this machine is not the target's device, speed is not measured, and the verdict is inconclusive at best.

    follow_links: follow links that lead out of `test`.
    Raises BackendError if the artifact can't run here.
    """
    require_runtime(run, target)
    files, facts = TargetFiles(target.name), run.read(layout.FACTS)
    artifact = built_artifact(run, target)
    path = run.file(files.artifact(artifact.file))
    require_golden(run)
    golden = run.read_tensors(layout.GOLDEN)
    samples = read_test(run, test, follow_links=follow_links, progress=progress)
    backend = backend_of(target)

    def predictions(runner: Runner) -> Predictions:
        return predict(
            lambda pixels: runner.infer(facts.preprocess.normalise(pixels)),
            samples.images.rows,
            samples.labels,
            progress=progress,
        )

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
    teacher = teacher_predictions(run, samples, progress=progress) if needs_teacher(target.budget) else None
    asked = limits_asked_for(run, target)
    validation = conclude(result, target, teacher=teacher, random_weights=facts.random_weights, asked=asked)
    return record_validation(run, result, validation)


def built_artifact(run: Run, target: Target) -> Artifact:
    """The record of the artifact for `target`. Raises RunError if the graph has changed since it was built."""
    engine = TargetFiles(target.name).engine
    artifact = require_artifact(run, target.name)
    if artifact.graph_sha256 != file_sha256(graph_for(run, target)):
        raise RunError(f"{run.path / artifact.artifact}: built from another graph. Build again: {run.command(engine)}")
    return artifact


def read_test(run: Run, test: Path, *, follow_links: bool = False, progress: Progress = silent) -> Samples:
    """The test images under `test`, with the run's classes. Logs images that are skipped or were used in training.

    follow_links: follow links that lead out of `test`.
    """
    facts = run.read(layout.FACTS)
    files = find_test(test, facts.classes, follow_links=follow_links)
    for skipped in files.skipped:
        _log.warning("%s", skipped)
    samples = load_samples(files, facts.preprocess, progress=progress, title="Reading test images")
    report_test_overlap(run, samples, progress=progress)
    return samples


def limits_asked_for(run: Run, target: Target) -> tuple[Limit, ...]:
    """The limits that options of `compress` set for the student of `run` on `target`, where its profile's are wider."""
    search = run.read(layout.COMPRESS).budget
    limits = search.limits if search else ()
    mine = (limit for limit in limits if limit.origin and limit.target == target.name)
    return tuple(
        limit
        for limit in mine
        if limit.quantity not in target.budget or limit.greatest_cost < limit.cost(target.budget[limit.quantity])
    )


def conclude(
    result: Result,
    target: Target,
    *,
    teacher: Predictions | None,
    random_weights: bool,
    asked: Sequence[Limit] = (),
) -> Validation:
    """Compute the figures of `result`, and judge them by the budget of `target`.

    teacher: its predictions on the same images, if the budget compares with it.
    random_weights: the teacher was not trained.
    asked: further limits, from options of `compress`.
    """
    predictions, differs = result.predictions, differences(target, result.environment)
    speed = None if differs or result.speed is None else speed_from_samples(result.speed, target.measure)
    accuracy = drop = None
    if predictions is not None:
        accuracy = accuracy_from_predictions(predictions, classes=len(result.classes), rare=result.rare)
        drop = None if teacher is None else _drop(teacher, predictions)
    measurement = Measurement(
        artifact_sha256=result.artifact_sha256,
        size_bytes=result.size_bytes,
        golden_agreement=result.golden_agreement or 0.0,
        accuracy=accuracy,
        drop=drop,
        speed=speed,
        environment={**result.environment, **(result.speed.watched if result.speed else {})},
        settings={**result.settings, **asdict(target.measure), **asdict(target.runtime)},
        random_weights=random_weights,
        not_measured="" if speed else not_measured(differs or ["the result has no speed"]),
        notes=_notes(result),
    )
    further = {limit.quantity: limit.limit for limit in asked}
    target = replace(target, budget=Budget(**{**target.budget, **further}))
    verdict = judge(measurement, target.budget, origins={limit.quantity: limit.origin for limit in asked})
    return Validation(target=target, classes=result.classes, measurement=measurement, verdict=verdict)


def record_validation(run: Run, result: Result, validation: Validation) -> Validation:
    """Write `result` and its validation into the run. Returns the latter, with the hash of the former."""
    files = TargetFiles(validation.target.name)
    run.forget(files.validation)
    validation = replace(validation, result_sha256=file_sha256(run.save(files.result, result)))
    run.save(files.validation, validation)
    return validation


def _notes(result: Result) -> tuple[str, ...]:
    """Notes for the reader about how the device computed."""
    note = precision_of(result.target.precision).note
    text = note(result.target, result.environment, bool(result.bundle_sha256)) if note else ""
    return (text,) if text else ()


def _drop(teacher: Predictions, student: Predictions) -> Estimate:
    """Drop of top-1 from the teacher to the artifact, on the same images."""
    right = np.equal(student.chosen, student.labels)
    teacher_right = np.equal(teacher.chosen, teacher.labels)
    only_student, only_teacher = int((right & ~teacher_right).sum()), int((teacher_right & ~right).sum())
    return paired_difference(only_student, only_teacher, len(right))
