"""trust: a run or an artifact -> what of it runs as a program, and this machine's word for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeoe.records.trust import Trusted, TrustedFile
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.trust import source_in
from edgeoe.vouching import vouch

__all__ = ["examine", "trust"]


def examine(path: Path) -> Trusted:
    """What in the run or artifact at `path` runs as a program. Nothing of it is run.

    Raises RunError for a run that is damaged or unfinished.
    """
    return _of_run(Run.open(path))


def trust(record: Trusted) -> Trusted:
    """Vouch on this machine for exactly what `record` lists."""
    vouch(record.kind, record.sha256, what=f"{record.what} in {Path(record.path).absolute()}")
    return replace(record, vouched=True)


def _of_run(run: Run) -> Trusted:
    source, folder = source_in(run), run.path / layout.CODE
    if source is None:
        return Trusted(path=str(run.path), kind="source", what="nothing", sha256="", files=(), vouched=True)
    return Trusted(
        path=str(run.path),
        kind="source",
        what=f"the teacher's source, by {source.factory} of {source.code.file},",
        sha256=source.sha256,
        files=tuple(
            TrustedFile(path=str(folder / name), sha256=digest, size_bytes=(folder / name).stat().st_size)
            for name, digest in source.hashes.items()
        ),
        vouched=source.vouched,
    )
