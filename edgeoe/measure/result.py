"""What one artifact did on one device, as a JSON file that travels: from a device, into a baseline, to a comparison."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from edgeoe.bounds import Fraction
from edgeoe.codec import from_json, read_json_object, to_json
from edgeoe.errors import RunError
from edgeoe.files import write_atomic
from edgeoe.measure.predictions import Predictions
from edgeoe.measure.speed import SpeedSamples
from edgeoe.targets.profile import Target

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
    """The result that `write_result` wrote, of which every figure can be used. Raises RunError if the file is none."""
    try:
        data = read_json_object(path)
        if "verdict" in data and "checks" in data:
            raise RunError(
                f"{path}: a verdict, as validate and collect write it, and no result. The result that it was made of "
                "is the result.json that run.py wrote on the device, or the one beside the run's validation.json."
            )
        if data.pop("format", None) != _FORMAT:
            raise ValueError(f"it has no key format, or another than {_FORMAT}")
        plain = from_json(_Plain, {key: value for key, value in data.items() if key != "predictions"})
        seen = data.get("predictions")
        predictions = None if seen is None else Predictions.from_json(seen, classes=len(plain.classes))
        _check(plain)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file.") from None
    except OSError as reason:
        raise RunError(f"{path}: can't be read: {reason.strerror}.") from None
    except ValueError as reason:
        what = str(reason).removeprefix(f"{_Plain.__name__}.")
        raise RunError(f"{path}: not a result of this edgeoe ({what}).") from None
    return Result(predictions=predictions, **{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plain:
    """A Result without its arrays."""

    target: Target
    artifact: str
    artifact_sha256: str
    size_bytes: Annotated[int, Ge(1)]
    classes: tuple[str, ...]
    rare: tuple[Annotated[int, Ge(0)], ...]
    golden_agreement: Fraction | None
    speed: SpeedSamples | None
    environment: dict[str, Any]
    settings: dict[str, Any]
    bundle_sha256: str = ""


def _check(result: _Plain) -> None:
    """Raise ValueError where parts of `result` do not fit together."""
    if len(result.classes) < 2 or any(k >= len(result.classes) for k in result.rare):
        raise ValueError("classes and rare do not fit together")
    if not re.fullmatch("[0-9a-f]{64}", result.artifact_sha256):
        raise ValueError(f"artifact_sha256: {result.artifact_sha256!r} is none")
    if not result.artifact or Path(result.artifact).name != result.artifact:
        raise ValueError(f"artifact: {result.artifact!r} is no file's name")
    if result.speed is not None:
        _check_speed(result.speed)


def _check_speed(speed: SpeedSamples) -> None:
    """Raise ValueError unless every list has a value of each process."""
    processes = len(speed.calls_ms)
    lists = {"load_ms": speed.load_ms, "first_ms": speed.first_ms, "peak_memory_mb": speed.peak_memory_mb}
    lists |= {f"throughput_ips.{batch}": rates for batch, rates in speed.throughput_ips.items()}
    if processes < 2 or not all(speed.calls_ms):
        raise ValueError("speed.calls_ms: calls of at least 2 processes are expected, and of each")
    if speed.batch not in speed.throughput_ips:
        raise ValueError(f"speed.throughput_ips: none at the batch of {speed.batch}")
    for name, values in lists.items():
        if len(values) != processes:
            raise ValueError(f"speed.{name}: {len(values)} values of {processes} processes")


def artifact_folder(path: Path) -> Path:
    """Where a bundle keeps the artifact that its result at `path` is of."""
    return path.with_name(f"{path.stem}-artifact")


def artifact_of(path: Path, result: Result) -> Path:
    """Where the artifact of the result at `path` is: where a bundle keeps it, else beside it, as in a run."""
    name = Path(result.artifact).name
    kept = artifact_folder(path) / name
    return kept if kept.is_file() else path.with_name(name)
