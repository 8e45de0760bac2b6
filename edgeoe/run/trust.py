"""The source in a run, which is a program: it runs only if this machine vouches for it.

A run holds the files that its teacher is built from, and their hashes say nothing about whoever wrote them. `compress`
vouches for what it copies, as it has run it; for a run from elsewhere `edgeoe trust` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256

from edgeoe.errors import RunError, quoted
from edgeoe.files import file_sha256
from edgeoe.records.student import CodeFiles
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.vouching import is_vouched, vouch

__all__ = ["Source", "copied_source", "require_vouched", "source_in", "vouch_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of a run that a teacher is built from.

    factory: the function that is called.
    code: the files, relative to the run's folder `student/code`.
    hashes: sha256 of each file.
    """

    factory: str
    code: CodeFiles
    hashes: dict[str, str]

    @property
    def sha256(self) -> str:
        """Hash of all that decides what runs: the files, where modules are looked for, and the factory."""
        parts = [self.factory, self.code.file, list(self.code.folders), sorted(self.hashes.items())]
        return sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def vouched(self) -> bool:
        """Whether this machine vouches for it."""
        return is_vouched("source", self.sha256)


def source_in(run: Run) -> Source | None:
    """The source in `run`; None if it holds none.

    Raises RunError for missing or changed files, and for one that is a link.
    """
    plan = run.read(layout.PLAN)
    return None if plan.code is None else copied_source(run, plan.code, factory=plan.teacher.rpartition(":")[2])


def copied_source(run: Run, code: CodeFiles, *, factory: str) -> Source:
    """The source that consists of the copies of `code` in `run`, called by `factory`."""
    hashes = {name: file_sha256(run.file(layout.code_file(name))) for name in code.files}
    return Source(factory=factory, code=code, hashes=hashes)


def vouch_for(run: Run, source: Source) -> None:
    """Vouch for `source`, which lies in `run`."""
    vouch("source", source.sha256, what=f"{source.code.file}:{source.factory} in {run.path.absolute()}")


def require_vouched(run: Run) -> None:
    """Raise RunError, naming file and hash, if `run` holds source that this machine does not vouch for.

    So it does if a file lies beside the source that is none of it: code that changes sys.path might import it.
    """
    source = source_in(run)
    if source is None:
        return
    if source.vouched:
        _require_nothing_beside(run, source.code)
        return
    file, others = source.code.file, len(source.code.files) - 1
    raise RunError(
        f"{run.path / layout.CODE / file}: a program (sha256 {source.hashes[file]}"
        f"{f', with {others} further files' if others else ''}) that builds this run's teacher, and this machine does "
        f"not vouch for it. See what would run, read it, and vouch: edgeoe trust {quoted(run.path)}"
    )


def _require_nothing_beside(run: Run, code: CodeFiles) -> None:
    """Raise RunError for a file in `student/code` that is none of `code`. Compiled files there are never read."""
    folder = run.path / layout.CODE
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder and name.as_posix() not in code.files and "__pycache__" not in name.parts:
            raise RunError(f"{path}: not of the source that this machine vouches for, but might run. Remove it.")
