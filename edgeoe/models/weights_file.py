"""A file of weights: its format, recognised by its content and not by its name, and what it holds."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from edgeoe.errors import TeacherError, first_line, pass_on_out_of_memory

__all__ = ["Placeholder", "pickled_object", "read_weights_file"]

_START = 4096  # bytes that identify a format
_SAVE = "Save the weights alone: torch.save(model.state_dict(), 'weights.pt'), or better, safetensors.torch.save_file."
_STARTS: tuple[tuple[bytes, str], ...] = (  # how a file begins that holds no weights, and what to do
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves. Fetch them: git lfs pull."),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it. Weights of a PyTorch network are needed."),
    (b"\x1f\x8b", "a gzip archive. Unpack it, and name the file inside."),
    (b"\xfd7zXZ\x00", "an xz archive. Unpack it, and name the file inside."),
    (b"BZh", "a bzip2 archive. Unpack it, and name the file inside."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it, and name the file inside."),
    (b"\x28\xb5\x2f\xfd", "a zstd archive. Unpack it, and name the file inside."),
    (b"GGUF", "a GGUF file. Weights of a PyTorch network are needed."),
)


class Placeholder:
    """Replaces an object in a pickle whose class is not loaded: it only remembers the name of the class."""

    name = ""

    def __init__(self, *_: object) -> None: ...

    def __new__(cls, *_: object) -> Placeholder:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None: ...


def read_weights_file(path: Path) -> Any:
    """The content of a safetensors file, or of a file of torch.save, on the CPU.

    No code in the file is run: objects that are neither tensors nor plain data become Placeholders.
    Raises TeacherError for a missing file, or one of another format.
    """
    if path.is_dir():
        raise TeacherError(f"--weights {path}: a folder. Name the file of weights in it.")
    if not path.is_file():
        raise TeacherError(f"--weights {path}: no such file.")
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
    except OSError as reason:
        raise TeacherError(f"--weights {path}: can't be read: {reason.strerror}.") from None
    if what := _something_else(path, start):
        raise TeacherError(f"--weights {path}: {what}")
    named = path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80"))
    if named or _is_safetensors(start, path.stat().st_size):
        return _from_safetensors(path)
    return _from_torch_save(path)


def _is_safetensors(start: bytes, size: int) -> bool:
    """A safetensors file begins with the length of its header, 8 bytes, and the header, JSON."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= size - 8


def _something_else(path: Path, start: bytes) -> str:
    """What the file is if it holds no weights of a PyTorch network, and what to do; "" otherwise."""
    if not start:
        return "an empty file. Was a download cut short?"
    for beginning, what in _STARTS:
        if start.startswith(beginning):
            return what
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (HTML), not the weights. Download the file itself: its raw link, not the page that shows it."
    if start[257:262] == b"ustar":
        return "a tar archive. Unpack it, and name the file inside."
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite graph. Weights of a PyTorch network are needed."
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and start[2:3] == b"\x12"):
        return "an ONNX graph. The weights that it was exported from are needed."
    return _what_archive(path) if start.startswith(b"PK") else ""


def _what_archive(path: Path) -> str:
    """What a ZIP file is that torch.save did not write; "" if it did."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "a damaged archive. Was a download or a copy cut short?"
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends:
        return (
            "a TorchScript archive, which holds code. Save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')."
        )
    if "data.pkl" in ends:
        return ""
    if "archive_format" in ends or "models/model.json" in ends:
        return "a program of torch.export, which holds a graph. The weights that it was exported from are needed."
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras model. Weights of a PyTorch network are needed."
    if names and all(name.endswith(".npy") for name in names):
        return f"arrays of numpy. {_SAVE}"
    return "a ZIP archive. Unpack it, and name the file inside."


def _from_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as reason:
        raise TeacherError(f"--weights {path}: not a safetensors file: {reason}") from None


def _from_torch_save(path: Path) -> Any:
    names = _foreign_names(path)
    for _ in range(64):  # classes are named one by one in files of torch below 1.6
        try:
            with path.open("rb") as stream, torch.serialization.safe_globals(_placeholders(names)):
                return torch.load(stream, map_location="cpu", weights_only=True)  # a path's suffix would count
        except pickle.UnpicklingError as reason:
            name = re.search(r"GLOBAL (\S+) was not an allowed global", str(reason))
            if name is None:
                break
            names.add(name[1] if "." in name[1] else f"builtins.{name[1]}")
        except Exception as reason:  # the unpickler raises nearly anything over a file that is none of its own
            pass_on_out_of_memory(reason)
            what = f"{type(reason).__name__}: {first_line(reason)}"
            raise TeacherError(f"--weights {path}: not a file of torch.save: {what}") from None
    raise pickled_object(path)


def pickled_object(path: Path, name: str = "") -> TeacherError:
    """The error over a file that holds an object, of the class `name`, where weights are needed."""
    kind = f" Its class: {name}." if name else ""
    return TeacherError(f"--weights {path}: a pickled object, which could run any code when loaded.{kind} {_SAVE}")


def _foreign_names(path: Path) -> set[str]:
    """Classes and functions named in the file, other than those of tensors and plain data."""
    try:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as reason:  # not the format that torch writes now; `torch.load` tells if it is its own
        pass_on_out_of_memory(reason)
        return set()


def _placeholders(names: Iterable[str]) -> list[Any]:
    """(replacement, name) for each of the classes and functions `names`, in the form that torch expects."""
    known = {"collections.defaultdict": _as_dict}
    return [(known.get(name) or type(name.rpartition(".")[2], (Placeholder,), {"name": name}), name) for name in names]


def _as_dict(*_: object) -> dict[Any, Any]:
    return {}
