"""The run directory: where each stage's files lie, how they are written, and that nobody changed them.

    runs/a/
      config.toml            every setting, resolved
      manifest.json          sha256 of every file, versions, seed
      compress.json          record of the stage; likewise export.json
      content.safetensors    hashes of the samples' and OOD images' pixels, to compare test images with
      probe.safetensors      a few real images (uint8) for the parity gate
      student/               plan.json, weights.safetensors; code/: the user's files that the teacher is built from
      student.onnx           precision fp32
      golden.safetensors     the probe's images as the network takes them, and the student's logits
      targets/<target>/      model.onnx, or model.plan and its sidecar model.plan.json; engine.json,
                             result.json (raw samples, predictions), validation.json (the verdict);
                             bundle.json, edgeoe-<target>.tar.gz (of deploy, for a target that is elsewhere)
      report.html            all of it for people

A file is written under a temporary name and renamed, so that it is whole or absent. A stage's record is
written last: it is there only if the stage finished.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edgeoe.codec import from_json, read_json_object, to_json
from edgeoe.errors import RunError, first_line, quoted
from edgeoe.files import file_sha256, new_parents, write_atomic
from edgeoe.interruption import shielded, work_begins
from edgeoe.toml_document import TomlDocument
from edgeoe.versions import versions

__all__ = ["Run", "file_sha256", "new_run", "versions", "write_atomic"]

Record = TypeVar("Record")


class Run:
    """One run directory. Raises RunError where a file is missing or not the one that was written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run at `path`, which `edgeoe compress` must have finished."""
        if not (path / "compress.json").is_file():
            raise RunError(f"{path}: no finished run here. Make one: edgeoe compress ... --out {quoted(path)}")
        return cls(path)

    def file(self, name: str, *, made_by: str) -> Path:
        """The path of `name`, checked against the hash in the manifest.

        made_by: the command that writes it, for the message.
        """
        path = self.path / name
        if not path.is_file():
            raise RunError(f"{path}: missing. Make it: edgeoe {made_by}")
        if file_sha256(path) != self._manifest()["files"].get(name):
            raise RunError(f"{path}: not the file that edgeoe wrote. Make it again: edgeoe {made_by}")
        return path

    def write(self, name: str, write: Callable[[Path], object]) -> Path:
        """Write file `name` atomically through `write(path)` and note its hash in the manifest."""
        write_atomic(self.path / name, write)
        return self.note(name)

    def note(self, name: str) -> Path:
        """Note the hash of file `name`, which a backend has written, in the manifest."""
        path = self.path / name
        manifest = self._manifest()
        manifest["files"][name] = file_sha256(path)
        self._write_json("manifest.json", manifest)
        return path

    def write_record(self, name: str, record: Any) -> Path:
        """Write `record` (a dataclass or JSON data) as file `name`."""
        return self.write(name, lambda path: _dump(path, record))

    def read_record(self, name: str, *, made_by: str) -> dict[str, Any]:
        """The JSON object in file `name`."""
        return self.decoded(lambda data: data, name, made_by=made_by)

    def read(self, kind: type[Record], name: str, *, made_by: str) -> Record:
        """The record of class `kind` in file `name`."""
        return self.decoded(lambda data: from_json(kind, data), name, made_by=made_by)

    def decoded(self, decode: Callable[[dict[str, Any]], Record], name: str, *, made_by: str) -> Record:
        """What `decode` makes of the JSON object in file `name`.

        Raises RunError where it raises ValueError: another edgeoe wrote it differently.
        """
        path = self.file(name, made_by=made_by)
        try:
            return decode(read_json_object(path))
        except ValueError as reason:
            raise RunError(f"{path}: not what this edgeoe writes ({reason}). Make it again: edgeoe {made_by}") from None

    def write_tensors(self, name: str, **arrays: NDArray[Any]) -> Path:
        """Write named arrays as file `name`, in safetensors format."""
        return self.write(name, lambda path: save_file(arrays, path))

    def read_tensors(self, name: str, *, made_by: str) -> dict[str, NDArray[Any]]:
        """The named arrays in file `name`."""
        path = self.file(name, made_by=made_by)
        try:
            return load_file(path)
        except SafetensorError as reason:
            raise RunError(f"{path}: damaged ({first_line(reason)}). Make it again: edgeoe {made_by}") from None

    def was_made_with(self, tables: Mapping[str, Any], *, whatever: Collection[str] = ()) -> bool:
        """Whether this is a finished run whose resolved settings are `tables`.

        whatever: options of [compress] that may differ.
        """
        config = self.path / "config.toml"
        if not (self.path / "compress.json").is_file() or not config.is_file():
            return False
        made = TomlDocument(config, error=RunError).tables
        differ = {key: made["compress"][key] for key in whatever if key in made["compress"]}
        return made == {**tables, "compress": {**tables["compress"], **differ}}

    def describe(self, **facts: Any) -> None:
        """Add `facts` (versions, seed, environment) to the manifest."""
        self._write_json("manifest.json", {**self._manifest(), **facts})

    def described(self) -> dict[str, Any]:
        """What `describe` added."""
        return {key: fact for key, fact in self._manifest().items() if key not in ("format", "files")}

    def forget(self, *names: str) -> None:
        """Remove files, their records first, because what they were made from is about to change."""
        manifest = self._manifest()
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            manifest["files"].pop(name, None)
        self._write_json("manifest.json", manifest)

    def _manifest(self) -> dict[str, Any]:
        path = self.path / "manifest.json"
        if not path.is_file():
            return {"format": 1, "files": {}}
        try:
            manifest = read_json_object(path)
        except ValueError:
            manifest = {}
        if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("versions", {}), dict):
            raise RunError(f"{path}: not a manifest of edgeoe. Make the run again.")
        return manifest

    def _write_json(self, name: str, data: Any) -> None:
        write_atomic(self.path / name, lambda path: _dump(path, data))


def _dump(path: Path, record: Any) -> None:
    path.write_text(json.dumps(to_json(record), indent=2) + "\n", encoding="utf-8")


@contextmanager
def new_run(path: Path, *, overwrite: bool) -> Iterator[Run]:
    """A run that appears at `path` only when the block ends without an exception.

    Raises RunError if `path` exists and is neither an empty folder nor, with `overwrite`, a run.
    """
    if path.is_symlink() or path.resolve() == Path.cwd():
        raise RunError(f"{path}: a link or the working folder can't be replaced by a run. Choose another --out.")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not (path / "manifest.json").is_file():
            raise RunError(f"{path}: exists and is no run of edgeoe. Choose another --out.")
        if not overwrite:
            raise RunError(f"{path}: already holds a run. Choose another --out, or pass --overwrite.")
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
    """Rename `temporary` to `path`; what was there goes, or comes back if that fails."""
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
