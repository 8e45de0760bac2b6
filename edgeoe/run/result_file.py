"""Result files, which travel from devices to runs, baselines and comparisons. Imports the standard library only."""

from __future__ import annotations

from pathlib import Path

from edgeoe.codec import read_json_object, record_from, record_text
from edgeoe.errors import RunError
from edgeoe.files import write_atomic
from edgeoe.records.result import FORMAT, Result
from edgeoe.run.received_file import errors_of_file

__all__ = ["artifact_folder", "artifact_of", "read_result", "write_result"]


def write_result(path: Path, result: Result) -> None:
    """Write `result` as JSON, atomically."""
    text = record_text(result, format=FORMAT)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_result(path: Path) -> Result:
    """Read and validate the result that `write_result` wrote. Raises RunError if the file is not a valid result."""
    with errors_of_file(path, Result, called="result"):
        data = read_json_object(path)
        if "verdict" in data:
            raise RunError(
                f"{path}: a verdict, as validate and collect write it, not a result. Give the result that it was made "
                "from: the result.json that run.py wrote on the device, or the one beside the run's validation.json."
            )
        return record_from(Result, data, format=FORMAT)


def artifact_folder(path: Path) -> Path:
    """The folder in which a bundle keeps the artifact of its result at `path`."""
    return path.with_name(f"{path.stem}-artifact")


def artifact_of(path: Path, result: Result) -> Path:
    """Path of the artifact of the result at `path`: in a bundle's `artifact_folder`, otherwise beside the result."""
    bundled = artifact_folder(path) / result.artifact
    return bundled if bundled.is_file() else path.with_name(result.artifact)
