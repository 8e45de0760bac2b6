"""The archive of a bundle: what runs on a device, and how it is packed; the same files give the same bytes."""

from __future__ import annotations

import gzip
import importlib.util
import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib import metadata
from pathlib import Path, PurePosixPath

import zstandard

from edgeoe.devices.unpacked import LIBRARY
from edgeoe.errors import ConfigError
from edgeoe.files import write_atomic
from edgeoe.registry import BACKENDS, QUANTITIES, Table
from edgeoe.stages.modules import reachable_modules, source
from edgeoe.targets.backends import traits_of
from edgeoe.targets.profile import Target

__all__ = ["packer_of", "program_files", "write_archive"]

Pack = Callable[[bytes], bytes]

_LEVEL = 19
_PACKERS: dict[str, Pack] = {
    ".tar.zst": lambda data: zstandard.ZstdCompressor(level=_LEVEL).compress(data),
    ".tar.gz": lambda data: gzip.compress(data, compresslevel=9, mtime=0),
    ".tar": lambda data: data,
}
_START = """\
import os
import sys

# Imports come from {library}/ or from installed packages, never from this folder or the working folder.
here = os.path.dirname(os.path.realpath(__file__))
installed = [path for path in sys.path if os.path.isabs(path) and os.path.realpath(path) not in (here, os.getcwd())]
sys.path[:] = [os.path.join(here, "{library}"), *installed]

from {runner} import main

if __name__ == "__main__":
    raise SystemExit(main())
"""


def packer_of(out: Path) -> Pack:
    """The function that packs the archive `out`. Raises ConfigError for a suffix that is none of an archive."""
    for suffix, pack in _PACKERS.items():
        if out.name.endswith(suffix):
            return pack
    raise ConfigError(f"--out must end with {', '.join(_PACKERS)}. Got {out.name!r}.")


def write_archive(out: Path, pack: Pack, files: Mapping[str, bytes], *, root: str) -> tuple[str, int]:
    """Write the archive `out`, which unpacks to the folder `root`.

    Returns its sha256 and its size in bytes. Raises ConfigError if it can't be written.
    """
    archive = pack(_tar(files, root=root))
    try:
        write_atomic(out, lambda path: path.write_bytes(archive))
    except OSError as reason:
        raise ConfigError(f"--out {out}: can't be written: {reason.strerror}.") from None
    return sha256(archive).hexdigest(), len(archive)


def _tar(files: Mapping[str, bytes], *, root: str) -> bytes:
    """A reproducible tar of `files` under the folder `root`: sorted, without times and owners."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(str(PurePosixPath(root, name)))
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def program_files(
    runner: str, target: Target, *, does: str, result: str, collect: str, further: Sequence[str] = (), budget: bool
) -> Iterator[tuple[str, bytes]]:
    """The program of a bundle: run.py, README.txt, and all modules that run on the device.

    runner: the module whose `main` run.py calls.
    does: what the bundle is, for its README.
    result: file that the program writes.
    collect: the command that reads it.
    further: modules that run there besides those that `runner` imports.
    budget: whether the quantities in the budget of `target` are measured.
    """
    yield "run.py", _START.format(library=LIBRARY, runner=runner).encode()
    yield "README.txt", _readme(target, does, result, collect).encode()
    rows = [(BACKENDS, target.backend), *((QUANTITIES, name) for name in target.budget if budget)]
    homes = [table[name].partition(":")[0] for table, name in rows]
    for module in reachable_modules((runner, *further, *homes)):
        path = source(module)
        name = f"{module.replace('.', '/')}{'/__init__' if path.name == '__init__.py' else ''}.py"
        yield f"{LIBRARY}/{name}", path.read_bytes()
    yield from _entry_points(rows)
    yield from _annotated_types()


def _readme(target: Target, does: str, result: str, collect: str) -> str:
    runtime = traits_of(target.backend).requirement
    needs = f"Python 3.10 or newer, numpy and {runtime}" if runtime else "Python 3.10 or newer and numpy"
    return (
        f"{does}\n\n"
        f"    python3 run.py --out {result}\n\n"
        f"It needs {needs}, and no network. Take {result} back:\n\n"
        f"    {collect}\n"
    )


def _annotated_types() -> Iterator[tuple[str, bytes]]:
    """The only package that the modules need beside numpy."""
    spec = importlib.util.find_spec("annotated_types")
    assert spec is not None  # noqa: S101 - a requirement
    assert spec.origin is not None  # noqa: S101
    yield f"{LIBRARY}/annotated_types/__init__.py", Path(spec.origin).read_bytes()
    licence = metadata.distribution("annotated-types").read_text("licenses/LICENSE")
    if licence:
        yield f"{LIBRARY}/annotated_types/LICENSE", licence.encode()


def _entry_points(rows: Sequence[tuple[Table, str]]) -> Iterator[tuple[str, bytes]]:
    """The metadata that registers rows of other distributions on the device; nothing for rows of edgeoe."""
    points: dict[str, list[str]] = {}
    for table, name in rows:
        if distribution := table.distribution(name):
            points.setdefault(distribution, []).append(f"[{table.group}]\n{name} = {table[name]}\n")
    for distribution, sections in points.items():
        project, _, version = distribution.partition(" ")
        folder = f"{LIBRARY}/{re.sub('[-_.]+', '_', project)}-{version}.dist-info"
        yield f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n".encode()
        yield f"{folder}/entry_points.txt", "".join(sections).encode()
