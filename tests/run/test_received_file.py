"""What is wrong with a file from elsewhere is said in one way."""

from __future__ import annotations

from pathlib import Path

import pytest

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
