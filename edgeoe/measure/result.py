"""What one artifact did on one device, as a JSON file that travels: from a device, into a baseline, to a comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeoe.errors import RunError
from edgeoe.files import write_atomic
from edgeoe.measure.predictions import Predictions
from edgeoe.measure.speed import SpeedSamples
from edgeoe.records import Target, target_from_json, to_json

__all__ = ["Result", "read_result", "write_result"]

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """artifact: its file name. classes, rare: names, and the indices of those with the fewest few samples.

    golden_agreement: share of the golden images on which it decides as the student does; None where nobody looked.
    environment: facts on the device, with `versions` of the runtime. bundle_sha256: of the bundle that it ran from;
    empty if from none.
    """

    target: Target
    artifact: str
    artifact_sha256: str
    size_bytes: int
    classes: tuple[str, ...]
    rare: tuple[int, ...]
    golden_agreement: float | None
    predictions: Predictions | None
    speed: SpeedSamples
    environment: dict[str, Any]
    settings: dict[str, Any]
    bundle_sha256: str = ""


def write_result(path: Path, result: Result) -> None:
    """Write `result` as JSON, whole or not at all."""
    seen = result.predictions
    data = {
        "format": _FORMAT,
        "target": to_json(result.target),
        "artifact": result.artifact,
        "artifact_sha256": result.artifact_sha256,
        "size_bytes": result.size_bytes,
        "classes": result.classes,
        "rare": result.rare,
        "golden_agreement": result.golden_agreement,
        "predictions": seen.to_json() if seen else None,
        "speed": to_json(result.speed),
        "environment": to_json(result.environment),
        "settings": to_json(result.settings),
        "bundle_sha256": result.bundle_sha256,
    }
    text = json.dumps(data, indent=1) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_result(path: Path) -> Result:
    """The result that `write_result` wrote. Raises RunError if the file is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != _FORMAT:
            raise ValueError("it has another format")
        seen = data.pop("predictions")
        return Result(
            target=target_from_json(data.pop("target")),
            classes=tuple(data.pop("classes")),
            rare=tuple(data.pop("rare")),
            predictions=Predictions.from_json(seen) if seen else None,
            speed=SpeedSamples.from_json(data.pop("speed")),
            **data,
        )
    except FileNotFoundError:
        raise RunError(f"{path}: no such file.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as reason:
        raise RunError(f"{path}: not a result of this edgeoe ({reason}).") from None
