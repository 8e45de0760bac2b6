"""What `edgeoe trust` shows: the files that run as a program, and whether this machine vouches for them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeoe.vouching import Kind

__all__ = ["Trusted", "TrustedFile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedFile:
    """One file that takes part in what runs."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """What in a run or an artifact runs as a program.

    path: of the run or artifact.
    kind: of what is vouched for.
    what: in words.
    sha256: of all of it together.
    files: empty if nothing runs.
    vouched: whether this machine vouches for it.
    """

    path: str
    kind: Kind
    what: str
    sha256: str
    files: tuple[TrustedFile, ...]
    vouched: bool
