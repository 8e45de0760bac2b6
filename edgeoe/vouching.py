"""What this machine vouches for: a note for each hash, in a folder that nobody but its user can write.

What comes with a file and runs as a program (a teacher's source, a plan, a graph with foreign operators) runs only if
it is vouched for: by the command that wrote it on this machine, or by `edgeoe trust`.

~/.local/share/edgeoe/trusted/    mode 0700; below $XDG_DATA_HOME where that is set
  source-<sha256>                 mode 0600; its content says what was vouched for, for the reader alone
  artifact-<sha256>
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Literal

__all__ = ["Kind", "is_vouched", "trusted_folder", "vouch"]

Kind = Literal["source", "artifact"]

_log = logging.getLogger(__name__)
_by_this_process: set[tuple[Kind, str]] = set()


def trusted_folder() -> Path:
    """The folder of the notes; it need not exist. Source: XDG base directories."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edgeoe" / "trusted"


def vouch(kind: Kind, sha256: str, *, what: object) -> None:
    """Note that this machine vouches for the content with hash `sha256`.

    If the note can't be written, this process alone vouches for it, and logs why.

    what: the note's text, for whoever looks into the folder.
    """
    _by_this_process.add((kind, sha256))
    folder = trusted_folder()
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        for private in (folder.parent, folder):
            private.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(folder):
            raise PermissionError(0, "others can write there; chmod 700 it")
        _write_note(folder / f"{kind}-{sha256}", f"{what}\n")
    except OSError as reason:
        _log.warning(
            "%s: can't note what this machine vouches for: %s. Later commands will ask for edgeoe trust; XDG_DATA_HOME "
            "names another folder.",
            folder,
            reason.strerror,
        )


def _write_note(note: Path, text: str) -> None:
    """Write `note` unless it is there and counts. What lies at its place otherwise is replaced, never followed."""
    if _counts(note):
        return
    temporary = note.with_name(f".{note.name}.{os.getpid()}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(note)
    finally:
        temporary.unlink(missing_ok=True)


def is_vouched(kind: Kind, sha256: str) -> bool:
    """Whether this machine vouches for the content with hash `sha256`."""
    if (kind, sha256) in _by_this_process:
        return True
    folder = trusted_folder()
    return _is_private(folder) and _counts(folder / f"{kind}-{sha256}")


def _counts(note: Path) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(note.lstat().st_mode) and _is_private(note)
    return False


def _is_private(path: Path) -> bool:
    """Whether nobody but this user, or root, can write `path`. A link is not followed."""
    with suppress(OSError):
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            return False
        return not hasattr(os, "geteuid") or (
            facts.st_uid in (os.geteuid(), 0) and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        )
    return False
