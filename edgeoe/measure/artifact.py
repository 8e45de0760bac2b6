"""Measurement of one artifact, the same on a device and on the build machine. Needs only numpy and the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends import Backend, Runner
from edgeoe.backends.admission import require_admitted
from edgeoe.files import file_sha256
from edgeoe.machine.environment import environment
from edgeoe.measure.speed import measure_speed
from edgeoe.progress import Progress
from edgeoe.records.result import Predictions, Result
from edgeoe.targets.here import differences
from edgeoe.targets.profile import Target

__all__ = ["measure_artifact"]


def measure_artifact(
    artifact: Path,
    target: Target,
    backend: Backend,
    *,
    golden: Mapping[str, NDArray[np.float32]],
    predictions: Callable[[Runner], Predictions | None],
    classes: Sequence[str],
    rare: Sequence[int],
    settings: dict[str, Any],
    bundle_sha256: str = "",
    progress: Progress,
) -> Result:
    """Compare `artifact` with the golden outputs, predict, and time it in fresh processes.

    It is timed only on the target's own device.

    golden: images (N, C, H, W) as the network takes them, and the student's logits (N, K).
    predictions: predicts the test images with the loaded artifact; None without test images.
    classes: names of the classes.
    rare: indices of the rare classes.
    settings: those that the artifact was built with.
    bundle_sha256: of the bundle that brought the artifact here; empty where it was built.
    Raises BackendError if the artifact can't be loaded or run, or is a program that this machine does not vouch for.
    """
    require_admitted(artifact)
    machine = environment()
    with backend.open(artifact, target) as runner:
        agreement = float((runner.infer(golden["images"]).argmax(1) == golden["logits"].argmax(1)).mean())
        result_predictions = predictions(runner)
    return Result(
        target=target,
        artifact=artifact.name,
        artifact_sha256=file_sha256(artifact),
        size_bytes=artifact.stat().st_size,
        classes=tuple(classes),
        rare=tuple(rare),
        golden_agreement=agreement,
        predictions=result_predictions,
        environment={**machine, "versions": backend.versions()},
        speed=None if differences(target, machine) else measure_speed(artifact, target, progress=progress),
        settings=settings,
        bundle_sha256=bundle_sha256,
    )
