"""Errors of the operating system, whoever reports them."""

from __future__ import annotations

import errno
import os

import pytest

from edgeoe.system_errors import system_error, system_error_text


def caused(reason: Exception, cause: Exception) -> Exception:
    reason.__cause__ = cause
    return reason


@pytest.mark.parametrize(
    ("reason", "number"),
    [
        (OSError(errno.EROFS, "x", "a"), errno.EROFS),
        (
            RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file data/0"),
            28,
        ),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (Exception("system error number 122, errno = 122"), errno.EDQUOT),
        (RuntimeError("unable to open file: Too many open files"), errno.EMFILE),
        (RuntimeError("can't start new thread"), errno.EAGAIN),
        (caused(ValueError("not a graph"), OSError(errno.EIO, "x")), errno.EIO),
        (OSError("without a number"), None),
        (RuntimeError("shape mismatch (os error 9999)"), None),
        (caused(ValueError("x"), OSError(errno.ENOENT, "x")), None),
        (KeyError("x"), None),
    ],
)
def test_an_error_of_the_system_is_found_where_it_hides(reason: Exception, number: int | None) -> None:
    found = system_error(reason)
    assert (found.errno if found else None) == number


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            OSError(errno.EACCES, "Permission denied", b"a"),
            "a: permission denied. Change its permissions, or use another",
        ),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a and b: invalid cross-device link."),
        (OSError(errno.EMFILE, "Too many open files"), "the system says: too many open files. Raise the limit (ulimit"),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "no usable temporary directory found",
        ),
    ],
)
def test_a_message_has_what_where_and_how_to_fix_it(reason: OSError, text: str) -> None:
    assert system_error_text(reason).startswith(text)


def test_a_full_disk_is_reported_even_where_no_folder_takes_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    text = system_error_text(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert text.startswith("the disk written to (no folder takes temporary files): no space left on device. Free")
