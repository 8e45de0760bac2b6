"""A result as a file that travels: from a device, into a baseline, to a comparison. The standard library alone."""

from __future__ import annotations

from pathlib import Path

from edgeoe.codec import from_json, read_json_object, record_text
from edgeoe.errors import RunError
from edgeoe.files import write_atomic
from edgeoe.records.result import Result

__all__ = ["FORMAT", "artifact_folder", "artifact_of", "read_result", "write_result"]

FORMAT = 1


def write_result(path: Path, result: Result) -> None:
    """Write `result` as JSON, whole or not at all."""
    text = record_text(result, format=FORMAT)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_result(path: Path) -> Result:
    """The result that `write_result` wrote, of which every figure can be used. Raises RunError if the file is none."""
    try:
        data = read_json_object(path)
        if "verdict" in data:
            raise RunError(
                f"{path}: a verdict, as validate and collect write it, and no result. The result that it was made of "
                "is the result.json that run.py wrote on the device, or the one beside the run's validation.json."
            )
        if data.pop("format", None) != FORMAT:
            raise ValueError(f"format must be {FORMAT}")
        return from_json(Result, data)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file.") from None
    except OSError as reason:
        raise RunError(f"{path}: can't be read: {reason.strerror}.") from None
    except ValueError as reason:
        what = str(reason).removeprefix(f"{Result.__name__}.")
        raise RunError(f"{path}: not a result of this edgeoe ({what}).") from None


def artifact_folder(path: Path) -> Path:
    """Where a bundle keeps the artifact that its result at `path` is of."""
    return path.with_name(f"{path.stem}-artifact")


def artifact_of(path: Path, result: Result) -> Path:
    """Where the artifact of the result at `path` is: where a bundle keeps it, else beside it, as in a run."""
    kept = artifact_folder(path) / result.artifact
    return kept if kept.is_file() else path.with_name(result.artifact)
