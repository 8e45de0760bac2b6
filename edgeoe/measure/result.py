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

__all__ = ["Result", "artifact_folder", "artifact_of", "read_result", "write_result"]

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """artifact: its file name. classes, rare: names, and the indices of those with the fewest few samples.

    golden_agreement: share of the golden images on which it decides as the student does; None where nobody looked.
    speed: None where it was not measured, as the machine is not the target's device. environment: facts on the machine,
    with `versions` of the runtime. bundle_sha256: of the bundle that it ran from;
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
    speed: SpeedSamples | None
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
    """The result that `write_result` wrote. Raises RunError if the file is none, or holds what nobody can measure."""
    data = _read_json(path)
    if "verdict" in data and "checks" in data:
        raise RunError(
            f"{path}: a verdict, as validate and collect write it, and no result. The result that it was made of is "
            "the result.json that run.py wrote on the device, or the one beside the run's validation.json."
        )
    if data.pop("format", None) != _FORMAT:
        raise RunError(f"{path}: not a result of this edgeoe: it has no key format, or another than {_FORMAT}.")
    try:
        seen, speed = data.pop("predictions"), data.pop("speed")
        result = Result(
            target=target_from_json(data.pop("target")),
            classes=tuple(data.pop("classes")),
            rare=tuple(data.pop("rare")),
            predictions=Predictions.from_json(seen) if seen else None,
            speed=SpeedSamples.from_json(speed) if speed else None,
            **data,
        )
    except KeyError as missing:
        raise RunError(f"{path}: not a result of this edgeoe: it has no key {missing}.") from None
    except (ValueError, TypeError, AttributeError) as reason:
        raise RunError(f"{path}: not a result of this edgeoe: {reason}.") from None
    for key, kind in (("environment", dict), ("settings", dict), ("size_bytes", int), ("artifact", str)):
        if not isinstance(getattr(result, key), kind):
            raise RunError(f"{path}: {key} is {getattr(result, key)!r}, which is no {kind.__name__}.")
    if result.speed and (field := result.speed.impossible()):
        raise RunError(f"{path}: speed.{field}.")
    return result


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file.") from None
    except OSError as reason:
        raise RunError(f"{path}: can't be read: {reason.strerror}.") from None
    except ValueError:
        raise RunError(f"{path}: not a result of this edgeoe: no JSON.") from None
    if not isinstance(data, dict):
        raise RunError(f"{path}: not a result of this edgeoe: no JSON object.")
    return data


def artifact_folder(path: Path) -> Path:
    """Where a bundle keeps the artifact that its result at `path` is of."""
    return path.with_name(f"{path.stem}-artifact")


def artifact_of(path: Path, result: Result) -> Path:
    """Where the artifact of the result at `path` is: where a bundle keeps it, else beside it, as in a run."""
    name = Path(result.artifact).name
    kept = artifact_folder(path) / name
    return kept if kept.is_file() else path.with_name(name)
