"""A run directory: atomic writes, and reads that verify each file's hash.

A file is written under a temporary name and renamed, so that it is complete or absent. A stage writes its record last:
the record exists only if the stage finished. `layout.py` shows the directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edgeoe.codec import read_record, record_text
from edgeoe.errors import EdgeoeError, RunError, first_line, quoted
from edgeoe.files import file_sha256, new_parents, sweep, way_out, write_atomic
from edgeoe.lock import BusyError, locked
from edgeoe.registry import PAGES
from edgeoe.run import layout
from edgeoe.run.layout import File, RecordFile, TargetFiles
from edgeoe.run.placement import LOCK, restore, sweep_discarded
from edgeoe.run.saved_work import saved_work_folder, sweep_saved_work

__all__ = ["PATIENCE_S", "Run", "writes_run"]

Record = TypeVar("Record")
Rest = ParamSpec("Rest")
Returned = TypeVar("Returned")
_FORMAT = 1  # of the manifest
_MANIFEST = File(layout.MANIFEST, "compress")
PATIENCE_S = 5.0  # how long a command waits for another that uses the run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    """Hashes of all files, and the origin of the run.

    files: sha256 by name.
    seed: random seed.
    versions: of the packages that created the run.
    """

    files: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)


class Run:
    """One run directory. Raises RunError if a file is missing or was changed since it was written.

    private: no other command knows of it yet: it is not locked, and flushed to the disk as a whole.
    """

    def __init__(self, path: str | Path, *, private: bool = False) -> None:
        self.path = Path(path)
        self._private = private

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open the run at `path`. Raises RunError unless `edgeoe compress` has finished there."""
        run = cls(path)
        restore(run.path, timeout_s=PATIENCE_S)
        if not run.has(layout.COMPRESS):
            raise RunError(f"{path}: no finished run here. Make one: edgeoe compress ... --out {quoted(path)}")
        return run

    def __repr__(self) -> str:
        try:
            return f"Run({str(self.path)!r}: {self._summary()})"
        except (EdgeoeError, OSError) as reason:
            return f"Run({str(self.path)!r}: {first_line(reason)})"

    def _summary(self) -> str:
        """One line on the content of the run."""
        if not self.has(layout.COMPRESS):
            return "no finished run"
        record = self.read(layout.COMPRESS)
        oe = "with" if record.oe else "without"
        student = f"{record.method} {oe} OE, {100 * record.macs_kept:.1f} % of the MACs"
        verdicts = [f"{files.name} {self.read(files.validation).outcome}" for files in self.validated()]
        return "; ".join([student, ", ".join(verdicts) or "not validated"])

    def _repr_html_(self) -> str | None:
        """The report, for notebooks; None if it can't be shown."""
        show: Callable[[Run], str | None] = PAGES.load("run")
        return show(self)

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Keep other commands from changing the run for a block, and unless `shared` from reading it.

        Raises RunError, with the other command, if the run is still in use after `PATIENCE_S`.
        """
        if self._private or (shared and not self.path.is_dir()):
            yield
            return
        lock = self.path / LOCK
        with new_parents(lock), ExitStack() as stack:
            try:
                stack.enter_context(locked(lock, shared=shared, timeout_s=PATIENCE_S))
            except BusyError as reason:
                raise RunError(f"{self.path}: in use by {reason}. Wait until that has ended.") from None
            yield

    def is_finished(self) -> bool:
        """Whether the directory holds what `edgeoe compress` finished, by its content."""
        try:
            return self.has(layout.COMPRESS) and layout.COMPRESS.name in self._manifest().files
        except RunError:
            return False

    def foreign_files(self) -> list[str]:
        """Names of the files in the directory that are not of the run, sorted."""
        names = (path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir())
        listed = self._manifest().files
        return sorted(name for name in names if name not in listed and not layout.is_of_a_run(name))

    def has(self, file: File) -> bool:
        """Whether `file` exists, changed or not."""
        return self.place(file).is_file()

    def place(self, file: File) -> Path:
        """The path of `file`, whether or not it exists.

        Raises RunError if a link stands there or on the way: a run from elsewhere must not reach what is outside it.
        """
        if (link := way_out(self.path, file.name)) is not None:
            raise RunError(
                f"{link}: a link, a pipe, or a path out of the run. A run holds its own files: put a copy in its place."
            )
        return self.path / file.name

    def file(self, file: File) -> Path:
        """The path of `file`, after checking its hash against the manifest."""
        path = self.place(file)
        if not path.is_file():
            if self.has(layout.STRIPPED) and any(
                fnmatchcase(file.name, pattern) for pattern in self.read(layout.STRIPPED).removed
            ):
                raise RunError(f"{path}: removed by edgeoe run strip. Use the run as it was before.")
            raise RunError(f"{path}: missing. Make it: {self.command(file)}")
        if file_sha256(path) != self._manifest().files.get(file.name):
            raise RunError(f"{path}: changed since edgeoe wrote it. Make it again: {self.command(file)}")
        return path

    def command(self, file: File) -> str:
        """The command that writes `file`."""
        return f"edgeoe {file.made_by.replace('{run}', quoted(self.path))}"

    def write(self, file: File, write: Callable[[Path], object]) -> Path:
        """Write `file` atomically through `write(path)`, and record its hash in the manifest."""
        with self.locked():
            write_atomic(self.place(file), write, durable=not self._private)
            return self.note(file)

    def note(self, file: File) -> Path:
        """Record the hash of the existing `file` in the manifest."""
        path = self.place(file)
        with self.locked():
            manifest = self._manifest()
            self._write_manifest(replace(manifest, files={**manifest.files, file.name: file_sha256(path)}))
        return path

    def save(self, file: RecordFile[Record], record: Record) -> Path:
        """Write `record` as `file`."""
        text = record_text(record, format=file.format)
        return self.write(file, lambda path: path.write_text(text, encoding="utf-8"))

    def read(self, file: RecordFile[Record]) -> Record:
        """Read the record in `file`. Raises RunError if it has a different format, as of another version of edgeoe."""
        path = self.file(file)
        try:
            return read_record(file.kind, path, format=file.format)
        except ValueError as reason:
            remedy = f"Make it again: {self.command(file)}"
            raise RunError(f"{path}: not in the format of this version of edgeoe ({reason}). {remedy}") from None

    def save_tensors(self, file: File, **arrays: NDArray[Any]) -> Path:
        """Write named arrays as `file`, in safetensors format."""
        return self.write(file, lambda path: save_file(arrays, path))

    def read_tensors(self, file: File) -> dict[str, NDArray[Any]]:
        """Read the named arrays in `file`."""
        path = self.file(file)
        try:
            return load_file(path)
        except SafetensorError as reason:
            raise RunError(f"{path}: damaged ({first_line(reason)}). Make it again: {self.command(file)}") from None

    def validated(self) -> list[TargetFiles]:
        """The targets on which the run was validated, by name."""
        pattern = TargetFiles("*").validation.name
        return [TargetFiles(path.parent.name) for path in sorted(self.path.glob(pattern))]

    def describe(self, *, seed: int, versions: dict[str, str]) -> None:
        """Record the seed and package versions of the run in the manifest."""
        with self.locked():
            self._write_manifest(replace(self._manifest(), seed=seed, versions=versions))

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that created the run."""
        return self._manifest().versions

    def forget(self, *files: File) -> None:
        """Remove files, in this order, because their inputs are about to change."""
        with self.locked():
            hashes = dict(self._manifest().files)
            for file in files:
                (self.place(file)).unlink(missing_ok=True)
                hashes.pop(file.name, None)
            self._write_manifest(replace(self._manifest(), files=hashes))

    def _manifest(self) -> _Manifest:
        path = self.place(_MANIFEST)
        if not path.is_file():
            return _Manifest()
        try:
            return read_record(_Manifest, path, format=_FORMAT)
        except ValueError:
            raise RunError(f"{path}: not a manifest of edgeoe. Make the run again.") from None

    def _write_manifest(self, manifest: _Manifest) -> None:
        text = record_text(manifest, format=_FORMAT)
        write_atomic(
            self.place(_MANIFEST),
            lambda path: path.write_text(text, encoding="utf-8"),
            durable=not self._private,
        )


def writes_run(stage: Callable[Concatenate[Run, Rest], Returned]) -> Callable[Concatenate[Run, Rest], Returned]:
    """`stage(run, ...)`, during which no other command reads or changes the run.

    What killed commands left half-written in the run is removed before it.
    """

    @wraps(stage)
    def stage_alone(run: Run, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Returned:
        with run.locked():
            sweep(run.path, everything=True)
            sweep_discarded(run.path)
            with suppress(RunError):  # of a run that is not finished
                if saved_work_folder(run.path).exists():
                    sweep_saved_work(run.path, run.read(layout.COMPRESS).student_sha256)
            return stage(run, *args, **kwargs)

    return stage_alone
