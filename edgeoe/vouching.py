"""What this machine vouches for: a note for each hash, and a secret that seals what edgeoe wrote here.

What comes with a file and runs as a program (a teacher's source, a plan, a graph with foreign operators) runs only if
it is vouched for: by the command that wrote it on this machine, or by `edgeoe trust`.

~/.local/share/edgeoe/            mode 0700; below $XDG_DATA_HOME where that is set
  secret                          mode 0600; 32 random bytes, the key of seals (HMAC-SHA256)
  trusted/                        mode 0700
    source-<sha256>               mode 0600; its content says what was vouched for, for the reader alone
    artifact-<sha256>

Files and folders that others can write, or in the secret's case read, do not count.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

__all__ = ["Kind", "is_sealed", "is_vouched", "seal", "trusted_folder", "vouch"]

Kind = Literal["source", "artifact"]

_log = logging.getLogger(__name__)
_by_this_process: set[tuple[Kind, str]] = set()
_SECRET_BYTES = 32
_secret_of_this_process = os.urandom(_SECRET_BYTES)  # where none can be kept


def trusted_folder() -> Path:
    """The folder of the notes; it need not exist. Source: XDG base directories."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edgeoe" / "trusted"


def vouch(kind: Kind, sha256: str, *, what: object) -> None:
    """Note that this machine vouches for the content with hash `sha256`.

    If the note can't be written, this process alone vouches for it, and logs why.

    what: the note's text, for whoever looks into the folder.
    """
    _by_this_process.add((kind, sha256))
    with _kept():
        note = _private_folder(trusted_folder()) / f"{kind}-{sha256}"
        if not _counts(note):
            _write(note, f"{what}\n".encode())


@contextmanager
def _kept() -> Iterator[None]:
    """Log an OSError of the block, which keeps something for later commands."""
    try:
        yield
    except OSError as reason:
        _log.warning(
            "%s: can't keep what this machine vouches for: %s. Later commands will ask for edgeoe trust; XDG_DATA_HOME "
            "names another folder.",
            trusted_folder().parent,
            reason.strerror,
        )


def _private_folder(folder: Path) -> Path:
    """`folder`, created if missing. Raises OSError if others can write there."""
    home = trusted_folder().parent
    home.parent.mkdir(parents=True, exist_ok=True)
    for one in dict.fromkeys((home, folder)):
        one.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(one):
            raise PermissionError(0, f"others can write in {one}; chmod 700 it")
    return folder


def _write(path: Path, content: bytes) -> None:
    """Write `path` with mode 0600. What lies there is replaced; a link is not followed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_vouched(kind: Kind, sha256: str) -> bool:
    """Whether this machine vouches for the content with hash `sha256`."""
    if (kind, sha256) in _by_this_process:
        return True
    folder = trusted_folder()
    return _is_private(folder.parent) and _is_private(folder) and _counts(folder / f"{kind}-{sha256}")


def seal(content: bytes) -> str:
    """The seal of this machine on `content`: its HMAC-SHA256 with a secret that only its user can read.

    If no secret can be kept, the seal holds in this process alone, and the reason is logged.
    """
    return _hmac(_secret(), content)


def is_sealed(content: bytes, given: str) -> bool:
    """Whether `given` is this machine's seal on `content`."""
    return hmac.compare_digest(_hmac(_secret(), content).encode(), given.encode())


def _hmac(secret: bytes, content: bytes) -> str:
    return hmac.new(secret, content, hashlib.sha256).hexdigest()


def _secret() -> bytes:
    """The machine's secret, which the first call creates. One that others may know is replaced."""
    path, secret = trusted_folder().with_name("secret"), b""
    with _kept():
        _private_folder(path.parent)
        for _ in range(2):
            with suppress(FileNotFoundError):
                if _counts(path) and not path.lstat().st_mode & 0o077:
                    secret = path.read_bytes()
            if len(secret) == _SECRET_BYTES:
                return secret
            _write(path, os.urandom(_SECRET_BYTES))  # then read it: another process may have replaced it by its own
    return _secret_of_this_process


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
