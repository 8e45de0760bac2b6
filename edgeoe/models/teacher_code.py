"""The code of a teacher from a user's file: the file, the neighbours it imports, and the data they read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from edgeoe.errors import TeacherError
from edgeoe.models.own_modules import OwnModules, installed
from edgeoe.models.side_effects import contained
from edgeoe.records.student import CodeFiles

__all__ = ["TeacherCode"]

_MOST_BYTES = 2**28  # of the files that are copied into a run
_running: list[TeacherCode] = []  # whose code runs now, the innermost last


class TeacherCode:
    """The code of the teacher in `file`.

    file: the Python file that holds its factory.
    root: the folder that `only` is relative to; None where that is None.
    only: the files that the code may use; `file` is one of them. None looks for modules as Python does.
    """

    def __init__(self, file: Path, *, root: Path | None = None, only: CodeFiles | None = None) -> None:
        self.only, self.root = only, root
        self._data: list[Path] = []
        if root is None or only is None:
            self._modules = OwnModules(file)
        else:
            folders, files = [root / name for name in only.folders], [root / name for name in only.files]
            self._modules = OwnModules(file, folders=folders, files=files)

    @classmethod
    def of_copy(cls, root: Path, only: CodeFiles) -> TeacherCode:
        """The code in a copy of `only` that lies at `root`."""
        return cls(root / only.file, root=root, only=only)

    def factory(self, name: str) -> Callable[..., Any] | None:
        """The callable `name` of the file, which is imported at the first call; None if there is none.

        Raises what importing raises.
        """
        found = getattr(self._modules.load(), name, None)
        return found if callable(found) else None

    def names(self) -> list[str]:
        """The public callables of the file."""
        return [name for name, value in vars(self._modules.load()).items() if callable(value) and name[0] != "_"]

    def without_prefix(self, text: str) -> str:
        """`text` with modules called as the user's own files call them."""
        return self._modules.without_prefix(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the user's code runs: files that it reads are noted, what it prints is logged, and its changes of
        global state are undone afterwards."""
        _watch_files()
        _running.append(self)
        try:
            with contained(self._modules.location.name), self._modules.importable():
                yield
        finally:
            _running.pop()

    def note(self, path: str) -> bool:
        """Note that the code reads the file `path`, if it lies among the user's files and in no hidden folder.

        Returns whether it was unknown.
        """
        for file in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):  # noqa: PTH100 - links stay links
            if file in self._data or file in self._modules.loaded or "__pycache__" in file.parts:
                return False
            if any(file.is_relative_to(place) for place in installed()) or not file.is_file():
                continue
            for place in self._modules.places:
                if file.is_relative_to(place) and not any(p[0] == "." for p in file.relative_to(place).parts[:-1]):
                    self._data.append(file)
                    return True
        return False

    def root_and_files(self) -> tuple[Path, CodeFiles]:
        """The folder above all files that the code has used so far, and the files.

        Raises TeacherError if they are too large to be copied into a run.
        """
        files = list(dict.fromkeys([*self._modules.loaded, *self._data]))
        sizes = [file.stat().st_size for file in files]
        if sum(sizes) > _MOST_BYTES:
            size, largest = max(zip(sizes, files, strict=True))
            raise TeacherError(
                f"--teacher {self._modules.location}: building it reads {largest} ({size / 2**20:.0f} MiB), and a run "
                f"takes at most {_MOST_BYTES // 2**20} MiB along. If these are weights, let the factory return the "
                f"architecture alone, and name them: --weights {largest}"
            )
        root = Path(os.path.commonpath([*self._modules.folders, *(file.parent for file in files)]))
        relative = [
            tuple(path.relative_to(root).as_posix() for path in paths) for paths in (self._modules.folders, files)
        ]
        return root, CodeFiles(self._modules.location.relative_to(root).as_posix(), *relative)


@cache
def _watch_files() -> None:
    sys.addaudithook(_note_opened)


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: notes files that are opened for reading while a teacher's code runs."""
    if event != "open" or not _running:
        return
    path, mode, flags = arguments
    writes = any(letter in mode for letter in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
    if isinstance(path, (str, bytes)) and not writes:
        try:
            _running[-1].note(os.fsdecode(path))
        except (OSError, ValueError):
            return
