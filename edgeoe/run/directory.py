"""A run directory: atomic writes, and reads that verify each file's hash.

A file is written under a temporary name and renamed, so that it is complete or absent. A stage writes its record last:
the record exists only if the stage finished. `layout.py` shows the directory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edgeoe.codec import read_record, record_text
from edgeoe.errors import EdgeoeError, RunError, first_line, quoted
from edgeoe.files import file_sha256, new_parents, way_out, write_atomic
from edgeoe.interruption import shielded, work_begins
from edgeoe.registry import PAGES
from edgeoe.run import layout
from edgeoe.run.layout import File, RecordFile, TargetFiles

__all__ = ["Run", "new_run", "require_free"]

Record = TypeVar("Record")
_FORMAT = 1  # of the manifest
_MANIFEST = File(layout.MANIFEST, "compress")


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
    """One run directory. Raises RunError if a file is missing or was changed since it was written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open the run at `path`. Raises RunError unless `edgeoe compress` has finished there."""
        run = cls(path)
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
            raise RunError(f"{path}: missing. Make it: {self.command(file)}")
        if file_sha256(path) != self._manifest().files.get(file.name):
            raise RunError(f"{path}: changed since edgeoe wrote it. Make it again: {self.command(file)}")
        return path

    def command(self, file: File) -> str:
        """The command that writes `file`."""
        return f"edgeoe {file.made_by.replace('{run}', quoted(self.path))}"

    def write(self, file: File, write: Callable[[Path], object]) -> Path:
        """Write `file` atomically through `write(path)`, and record its hash in the manifest."""
        write_atomic(self.place(file), write)
        return self.note(file)

    def note(self, file: File) -> Path:
        """Record the hash of the existing `file` in the manifest."""
        path, manifest = self.place(file), self._manifest()
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
        self._write_manifest(replace(self._manifest(), seed=seed, versions=versions))

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that created the run."""
        return self._manifest().versions

    def forget(self, *files: File) -> None:
        """Remove files, in this order, because their inputs are about to change."""
        hashes = dict(self._manifest().files)
        for file in files:
            self.place(file).unlink(missing_ok=True)
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
        write_atomic(self.place(_MANIFEST), lambda path: path.write_text(text, encoding="utf-8"))


def require_free(path: Path, *, overwrite: bool) -> None:
    """Raise RunError if `path` exists and is neither an empty folder nor, with `overwrite`, a run."""
    if path.is_symlink() or path.resolve() == Path.cwd():
        raise RunError(f"{path}: a link or the working folder can't be replaced by a run. Choose another --out.")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not (path / layout.MANIFEST).is_file():
            raise RunError(f"{path}: exists and is not a run of edgeoe. Choose another --out.")
        if not overwrite:
            raise RunError(f"{path}: already holds a run. Choose another --out, or pass --overwrite.")


@contextmanager
def new_run(path: Path, *, overwrite: bool) -> Iterator[Run]:
    """Create a run that appears at `path` only if the block ends without an exception.

    Raises RunError as `require_free` does.
    """
    require_free(path, overwrite=overwrite)
    work_begins()
    with ExitStack() as stack:
        try:
            stack.enter_context(new_parents(path))
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        except OSError as reason:
            raise RunError(f"{path}: can't be created: {reason.strerror}. Choose another --out.") from None
        try:
            temporary.chmod(0o755)
            yield Run(temporary)
            with shielded():
                _put_in_place(temporary, path)
        finally:
            with shielded():
                shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, replacing an existing run, which is restored if that fails."""
    if not path.exists():
        temporary.rename(path)
        return
    discarded = temporary.with_suffix(".old")
    path.rename(discarded)
    try:
        temporary.rename(path)
    except OSError:
        discarded.rename(path)
        raise
    shutil.rmtree(discarded)
