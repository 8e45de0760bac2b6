"""What is wrong with a file from elsewhere is said in one way."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from edgeoe.codec import read_json_object
from edgeoe.errors import RunError
from edgeoe.run.received_file import errors_of_file


class Parcel:
    pass


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (FileNotFoundError(2, "No such file"), r"a\.json: no such file\.$"),
        (IsADirectoryError(21, "Is a directory"), r"a\.json: can't be read: Is a directory\.$"),
        (
            ValueError("Parcel.size: expected a number"),
            r"not a parcel of this version .* \(size: expected a number\)\.$",
        ),
    ],
)
def test_each_error_of_reading_becomes_one_that_names_the_file(reason: Exception, told: str) -> None:
    with pytest.raises(RunError, match=told), errors_of_file(Path("a.json"), Parcel, called="parcel"):
        raise reason


def test_an_error_that_says_more_passes() -> None:
    with pytest.raises(RunError, match=r"^a verdict$"), errors_of_file(Path("a.json"), Parcel, called="parcel"):
        raise RunError("a verdict")


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("edgeoe-pi/run.py"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (_tar(), "an archive, not a parcel. If it is a bundle: unpack it on the device, run its run.py there, and"),
        (gzip.compress(_tar()), "an archive, not a parcel. If it is a bundle: "),
        (zstandard.ZstdCompressor().compress(_tar()), "an archive, not a parcel. If it is a bundle: "),
        (b"\x08\x0a\x00\x12", "a binary file, not a parcel."),
        (b"\xff\xfe{}", "not a parcel of this version of edgeoe ("),
    ],
)
def test_an_archive_is_named_as_one(data: bytes, told: str, tmp_path: Path) -> None:
    (path := tmp_path / "parcel").write_bytes(data)
    with pytest.raises(RunError) as raised, errors_of_file(path, Parcel, called="parcel"):
        read_json_object(path)
    assert str(raised.value).startswith(f"{path}: {told}")


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = errors_of_file(tmp_path / "pipe", Parcel, called="parcel")
    with pytest.raises(RunError, match="not a parcel of this version"), reading:
        raise ValueError("no JSON")
