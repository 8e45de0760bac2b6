"""Errors of the operating system as one line: what, where, and how to fix it. Imports the standard library only."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator

__all__ = ["causes", "system_error", "system_error_text"]

_PERMISSIONS = "Change its permissions, or use another place."
_SPACE = "Free some space there (df -h, df -i), or write elsewhere."
_FIXES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "Write to another file system, or raise the limit (ulimit -f).",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "Write elsewhere.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EMFILE: "Raise the limit (ulimit -n).",
    errno.ENFILE: "Close other programs.",
    errno.EAGAIN: "Close other programs, or raise the limit of processes (ulimit -u).",
    errno.EIO: "Look at the disk, or use another.",
    errno.ELOOP: "Remove the link.",
    errno.EMLINK: "Write elsewhere.",
    errno.ETXTBSY: "Wait until the program that runs from it has ended.",
    errno.ESTALE: "Mount the file system again.",
    errno.ENOTDIR: "Choose another path.",
    errno.EISDIR: "Choose another path.",
}
_HIDDEN = (  # errors that other packages report in words, without a number: how torch's writer of archives does it
    ("failed writing", errno.ENOSPC),
    ("file write failed", errno.ENOSPC),
    ("can't start new thread", errno.EAGAIN),
    *((os.strerror(number).lower(), number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)),
    *((os.strerror(number).lower(), number) for number in (errno.EMFILE, errno.ENAMETOOLONG, errno.EIO, errno.EACCES)),
)
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|\berrno[ =:]+(\d+)", re.IGNORECASE)  # the first is Rust's


def causes(reason: BaseException) -> Iterator[BaseException]:
    """`reason` and the exceptions in its cause chain, each once."""
    visited: set[int] = set()
    one: BaseException | None = reason
    while one is not None and id(one) not in visited:
        visited.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def system_error(reason: BaseException) -> OSError | None:
    """The error of the operating system that `reason` is, was caused by, or has in its message; None without one."""
    if isinstance(reason, OSError) and reason.errno is not None:
        return reason
    for one in causes(reason):
        if isinstance(one, OSError) and one.errno in _FIXES:
            return one
        if isinstance(one, Exception) and (number := _number_in(str(one))):
            return OSError(number, os.strerror(number))
    return None


def _number_in(message: str) -> int | None:
    if found := _NUMBER.search(message):
        number = int(next(filter(None, found.groups())))
        return number if number in _FIXES else None
    return next((number for words, number in _HIDDEN if words in message.lower()), None)


def system_error_text(reason: OSError) -> str:
    """What, where and how to fix it, for the user."""
    place = " and ".join(os.fsdecode(name) for name in _names(reason))
    what, fix = (reason.strerror or str(reason)).lower(), _FIXES.get(reason.errno or 0, "")
    if "no usable temporary directory" in what:
        return f"{what}. Set TMPDIR to a folder that can be written to."
    if not place and reason.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f"the disk written to ({_temporary_place()})"
    return f"{place}: {what}. {fix}".rstrip() if place else f"the system says: {what}. {fix}".rstrip()


def _names(reason: OSError) -> Iterator[str | bytes]:
    for name in (reason.filename, reason.filename2):
        if isinstance(name, str | bytes | os.PathLike):
            yield os.fspath(name)
        elif name is not None:
            yield str(name)


def _temporary_place() -> str:
    try:
        return f"temporary files lie in {tempfile.gettempdir()}"
    except OSError:
        return "no folder takes temporary files"
