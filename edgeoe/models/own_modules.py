"""The user's Python files that define a teacher, imported in isolation from everything else in this process.

The teacher's file and its neighbours become modules of a private package, `edgeoe_teacher_1.utils`, so that two
teachers may both have a `utils`, and a neighbour called `json` or `profile` is visible only to its neighbours. An
import statement in one of them looks, in this order, among Python's built-in modules, the neighbours, and installed
packages. Compiled files in __pycache__ are neither read nor written.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    BuiltinImporter,
    ExtensionFileLoader,
    FileFinder,
    FrozenImporter,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

__all__ = ["OwnModules", "installed"]

_PREFIX = "edgeoe_teacher_"
_number = itertools.count(1)
_by_package: dict[str, OwnModules] = {}  # by private package
_running: list[OwnModules] = []


class OwnModules:
    """The module in `file`, and the neighbours that it imports.

    folders: where neighbours are looked for. Empty: in the file's folder, or, if that is a package, in the folder of
        the top package; then in the working directory and entries of sys.path that the file lies below, and in what the
        code itself adds to sys.path.
    files: all files that may be imported; empty allows any.
    loaded: files that were imported, in this order.
    """

    def __init__(self, file: Path, *, folders: Sequence[Path] = (), files: Sequence[Path] = ()) -> None:
        self.loaded: list[Path] = []
        self.location = _real(file)
        self._given = [_real(folder) for folder in folders]
        self._only = frozenset(_real(file) for file in files)
        self._folders: list[Path] = []
        self._package = ""
        self._foreign: set[str] = set()
        self._path_before = set(_search_path())
        self._added: set[Path] = set()  # to the search path, by the code
        self._aliases: list[str] = []

    def load(self) -> ModuleType:
        """The module in the file, which runs at the first call. Raises what running it raises."""
        if not self._package:
            self._begin()
        return importlib.import_module(f"{self._package}.{self._name}")

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Within it importlib.import_module, called in one of the files, finds neighbours too."""
        _running.append(self)
        try:
            yield
        finally:
            _running.pop()
            self._added |= set(_search_path()) - self._path_before
            for name in self._aliases:
                sys.modules.pop(name, None)
            self._aliases.clear()

    def without_prefix(self, text: str) -> str:
        """`text` with modules called as the user's own files call them."""
        return text.replace(f"{self._package}.", "") if self._package else text

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders from which neighbours were imported."""
        return tuple(folder for folder in self._folders if any(file.is_relative_to(folder) for file in self.loaded))

    @property
    def places(self) -> tuple[Path, ...]:
        """Folders of the user's files, first those where neighbours are looked for."""
        if self._root in installed():
            return (self._root / self._name.partition(".")[0],)
        return (*self._folders, *self._fallbacks())

    # The private package

    def _begin(self) -> None:
        self._root, parts = self._package_of_file()
        if self.location.name != "__init__.py":
            parts = (*parts, self.location.stem.replace(".", "_"))
        self._name = ".".join(parts)
        self._folders = [*self._given] if self._given else [self._root]
        self._builtins = {**vars(builtins), "__import__": self._import}
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        self._package = f"{_PREFIX}{next(_number)}"
        _by_package[self._package] = self
        sys.modules[self._package] = module_from_spec(ModuleSpec(self._package, None, is_package=True))

    def _package_of_file(self) -> tuple[Path, tuple[str, ...]]:
        """The folder of the file's top package, and the packages from there to the file."""
        folder = self.location.parent
        parts: tuple[str, ...] = ()
        while folder.name.isidentifier() and self._is_there(folder / "__init__.py"):
            folder, parts = folder.parent, (folder.name, *parts)
        return folder, parts

    def _is_there(self, file: Path) -> bool:
        return file in self._only if self._only else file.is_file()

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002 - as the built-in one calls them
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """What an import statement in one of the files calls."""
        top = name.partition(".")[0]
        if level or not self.owns(top):
            module = builtins.__import__(name, globals, locals, fromlist, level)
            if not level:
                self._foreign.add(top)
            return module
        module = builtins.__import__(f"{self._package}.{name}", globals, locals, fromlist or ("__name__",), 0)
        return module if fromlist else sys.modules[f"{self._package}.{top}"]

    def owns(self, top: str) -> bool:
        """Whether `import top` in one of the files means a neighbour."""
        if top == "torch" or top in self._foreign:  # a teacher is made of the real torch
            return False
        if f"{self._package}.{top}" in sys.modules:
            return True
        if BuiltinImporter.find_spec(top) or FrozenImporter.find_spec(top):
            return False
        if (spec := self._find(self._folders, top)) and spec.loader:
            return True
        if not self._given:
            folder = _where(top)
            if folder is not None:
                if self._is_own(folder):
                    self._folders.append(folder)
                    return True
                return False
            self._folders += [place for place in self._fallbacks() if self._find([place], top)]
        return self._find(self._folders, top) is not None

    def _find(self, folders: Sequence[Path | str], name: str) -> ModuleSpec | None:
        """The spec of a module in the first of `folders` that has it; packages without an __init__.py come last, as in
        Python.

        name: the last part of the module's name.
        """
        fullname = f"{self._package}.{name}"
        if name == self._name:
            return spec_from_file_location(fullname, self.location, loader=_Source(fullname, str(self.location)))
        spaces: list[str] = []
        for folder in folders:
            if folder == self._root and self._root in installed() and name != self._name.partition(".")[0]:
                continue  # the others there are installed
            finder = FileFinder(str(folder), (_Extension, EXTENSION_SUFFIXES), (_Source, SOURCE_SUFFIXES))
            spec = finder.find_spec(fullname)
            if spec is None:
                continue
            if spec.loader is None:
                spaces += [place for place in spec.submodule_search_locations or () if self._has_python(Path(place))]
            elif not self._only or Path(spec.origin or "") in self._only:
                return spec
        if not spaces:
            return None
        namespace = ModuleSpec(fullname, None, is_package=True)
        namespace.submodule_search_locations = spaces
        return namespace

    def _has_python(self, folder: Path) -> bool:
        if self._only:
            return any(file.is_relative_to(folder) for file in self._only)
        return self.location.is_relative_to(folder) or any(
            next(folder.glob(pattern), None) for pattern in ("*.py", "*/*.py")
        )

    def _fallbacks(self) -> list[Path]:
        places = dict.fromkeys([self.location.parent, _real(os.curdir), *_search_path(), *self._added])
        return [place for place in places if place not in self._folders and self._is_own(place)]

    def _is_own(self, folder: Path) -> bool:
        if folder in installed():
            return False
        added = self._added | set(_search_path()) - self._path_before
        return folder in added or self.location.is_relative_to(folder)


def _real(path: Path | str) -> Path:
    return Path(os.path.realpath(path))


def _search_path() -> list[Path]:
    return [_real(entry or os.curdir) for entry in sys.path]


@cache
def installed() -> set[Path]:
    """Folders of Python's library and of installed packages."""
    paths = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return {_real(path) for path in [*paths, *site.getsitepackages(), site.getusersitepackages()]}


def _where(top: str) -> Path | None:
    """The folder from which a plain `import top` would load it; None if there is nothing, or only a folder."""
    try:
        spec = find_spec(top)
    except (ValueError, ImportError):  # it is incomplete, or was put into sys.modules by hand
        return Path(os.devnull)
    if spec is None or (spec.origin is None and spec.submodule_search_locations is not None):
        return None
    if not spec.has_location or not spec.origin:
        return Path(os.devnull)
    place = _real(spec.origin)
    return place.parent.parent if place.name == "__init__.py" else place.parent


class _Source(SourceFileLoader):
    """Runs a source file, with the import statement of its OwnModules."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        code = _by_package[module.__name__.partition(".")[0]]
        code.loaded.append(Path(self.path))
        vars(module)["__builtins__"] = code._builtins
        super().exec_module(module)


class _Extension(ExtensionFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        _by_package[module.__name__.partition(".")[0]].loaded.append(Path(self.path))
        super().exec_module(module)


class _Alias:
    """Loads the private module in place of the plain name that importlib.import_module was called with."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002 - an interface of importlib
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just replaced it


class _Finder:
    """Finds the modules of every OwnModules in its private package."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - an interface of importlib
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        code = _by_package.get(package)
        if code is not None:
            return code._find(path if path and "." in name else code._folders, name)
        code = _importing_code() if _running else None
        if code is None or not code.owns(package):
            return None
        code._aliases.append(fullname)
        return ModuleSpec(fullname, _Alias(importlib.import_module(f"{code._package}.{fullname}")))  # type: ignore[arg-type]


_finder = _Finder()


def _importing_code() -> OwnModules | None:
    """The OwnModules whose file called importlib.import_module; None if none did."""
    frame = sys._getframe(2)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == "importlib":
        frame = frame.f_back  # type: ignore[assignment]
    return _by_package.get(frame.f_globals.get("__name__", "").partition(".")[0]) if frame else None
