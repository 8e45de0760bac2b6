"""The record of `run strip`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StripRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripRecord:
    """What was removed from a run, and what it can still be used for.

    removed: files, or patterns of their names.
    rewritten: files that hold less than before.
    class_names: whether classes are numbered instead of named.
    works: commands that still work.
    missing: commands that do not, each with the reason.
    unknown: files that edgeoe did not write; they are still there.
    """

    removed: tuple[str, ...]
    rewritten: tuple[str, ...]
    class_names: bool
    works: tuple[str, ...]
    missing: dict[str, str]
    unknown: tuple[str, ...] = ()
