"""All that is measured of one artifact, the same on a device as where it was built. numpy alone, beside its runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends import Backend, Runner
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
    """Compare with the golden outputs, predict, and time in fresh processes; that only on the target's own device.

    golden: images (N, C, H, W) as the network takes them, and the student's logits (N, K). predictions: what the loaded
    artifact says of test images; None where there are none. Raises BackendError where it can't be loaded or run.
    """
    facts = environment()
    with backend.open(artifact, target) as runner:
        agreement = float((runner.infer(golden["images"]).argmax(1) == golden["logits"].argmax(1)).mean())
        predicted = predictions(runner)
    return Result(
        target=target,
        artifact=artifact.name,
        artifact_sha256=file_sha256(artifact),
        size_bytes=artifact.stat().st_size,
        classes=tuple(classes),
        rare=tuple(rare),
        golden_agreement=agreement,
        predictions=predicted,
        environment={**facts, "versions": backend.versions()},
        speed=None if differences(target, facts) else measure_speed(artifact, target, progress=progress),
        settings=settings,
        bundle_sha256=bundle_sha256,
    )
