"""bundle: a run and a target -> an archive that builds, checks and measures on a device without edgeoe."""

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
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from edgeoe import __version__
from edgeoe.codec import record_text, to_json
from edgeoe.data.samples import rarest
from edgeoe.devices.bundle_runner import LIBRARY
from edgeoe.errors import ConfigError
from edgeoe.files import write_atomic
from edgeoe.measure.predictions import labels_sha256, test_sha256
from edgeoe.measure.quantity import needs_teacher
from edgeoe.progress import Progress, silent
from edgeoe.records.bundle import BundleFacts, BundleRecord, Normalisation, TestFacts
from edgeoe.registry import BACKENDS, QUANTITIES, Table
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.stages.modules import reachable_modules, source
from edgeoe.stages.precisions import graph_file, graph_for
from edgeoe.stages.teacher import teacher_predictions
from edgeoe.stages.validate import read_test
from edgeoe.targets.backends import traits_of
from edgeoe.targets.limits import require_buildable
from edgeoe.targets.profile import Target

__all__ = ["bundle"]

_LEVEL = 19
_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar.zst": lambda data: zstandard.ZstdCompressor(level=_LEVEL).compress(data),
    ".tar.gz": lambda data: gzip.compress(data, compresslevel=9, mtime=0),
    ".tar": lambda data: data,
}
_START = f"""\
import os
import sys

# Imports come from {LIBRARY}/ or from installed packages, never from this folder or the working folder.
here = os.path.dirname(os.path.realpath(__file__))
installed = [path for path in sys.path if os.path.isabs(path) and os.path.realpath(path) not in (here, os.getcwd())]
sys.path[:] = [os.path.join(here, "{LIBRARY}"), *installed]

from edgeoe.devices.bundle_runner import main

if __name__ == "__main__":
    raise SystemExit(main())
"""


def bundle(
    run: Run, target: Target, *, out: Path, test: Path | None = None, progress: Progress = silent
) -> BundleRecord:
    """Write the archive `out`; the same run and target give the same bytes.

    out: its suffix is .tar.zst, .tar.gz or .tar.
    test: test images, a folder per class, for accuracy on the device.
    Raises ConfigError for another suffix, TargetError for a profile with unsupported settings.
    """
    pack = _packer(out)
    require_buildable(target)
    samples = read_test(run, test, progress=progress) if test else None
    pixels = samples.images.rows(np.arange(len(samples.labels))) if samples else None
    predictions = None
    if samples and needs_teacher(target.budget):
        predictions = teacher_predictions(run, samples, progress=progress)
    files = dict(_files(run, target))
    if samples and pixels is not None:
        files |= {"test-images.npy": _npy(pixels), "test-labels.npy": _npy(samples.labels)}
    hashes = {name: sha256(data).hexdigest() for name, data in sorted(files.items())}
    run_facts = run.read(layout.FACTS)
    facts = BundleFacts(
        edgeoe=__version__,
        target=target,
        classes=run_facts.classes,
        rare=rarest(np.asarray(run_facts.counts)),
        preprocess=Normalisation(run_facts.preprocess.mean, run_facts.preprocess.std),
        graph=_graph_record(run, graph_file(target, here=False).name),
        size_bytes=len(files["model.onnx"]),
        test=_test_facts(pixels, samples.labels) if samples and pixels is not None else None,
        files=hashes,
    )
    target_files = layout.TargetFiles(target.name)
    files["bundle.json"] = record_text(facts, format=target_files.bundle.format).encode()
    archive = pack(_tar(files, root=layout.unpacked_folder(target.name)))
    try:
        write_atomic(out, lambda path: path.write_bytes(archive))
    except OSError as reason:
        raise ConfigError(f"--out {out}: can't be written: {reason.strerror}.") from None
    run.forget(target_files.bundle, target_files.teacher)
    if predictions:
        run.save(target_files.teacher, predictions)
    run.save(target_files.bundle, facts)
    return BundleRecord(
        path=str(out),
        sha256=sha256(archive).hexdigest(),
        size_bytes=len(archive),
        target=target.name,
        precision=target.precision,
        test_images=len(samples.labels) if samples else 0,
        files=tuple(sorted(files)),
    )


def _packer(out: Path) -> Callable[[bytes], bytes]:
    for suffix, pack in _PACKERS.items():
        if out.name.endswith(suffix):
            return pack
    raise ConfigError(f"--out must end with {', '.join(_PACKERS)}. Got {out.name!r}.")


def _files(run: Run, target: Target) -> Iterator[tuple[str, bytes]]:
    yield "model.onnx", graph_for(run, target, here=False).read_bytes()
    for name, array in run.read_tensors(layout.GOLDEN).items():
        yield f"golden-{name}.npy", _npy(array)
    yield "run.py", _START.encode()
    yield "README.txt", _readme(target).encode()
    yield from _runner_files(target)


def _test_facts(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> TestFacts:
    return TestFacts(len(labels), labels_sha256(labels), test_sha256(pixels, labels))


def _graph_record(run: Run, name: str) -> dict[str, Any]:
    """The record of the graph `name` that `export` wrote, with the calibration of int8."""
    record = to_json(run.read(layout.EXPORT))
    graphs = [record, *record.pop("graphs")]
    graph: dict[str, Any] = next(graph for graph in graphs if graph["path"] == name)
    return graph


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _readme(target: Target) -> str:
    runtime = traits_of(target.backend).requirement
    needs = f"Python 3.10 or newer, numpy and {runtime}" if runtime else "Python 3.10 or newer and numpy"
    return (
        f"A model for {target.description or target.name}, and a program that builds, tests and measures it.\n\n"
        "    python3 run.py --out result.json\n\n"
        f"It needs {needs}, and no network. Take result.json back:\n\n"
        "    edgeoe collect RUN result.json\n"
    )


def _tar(files: Mapping[str, bytes], *, root: str) -> bytes:
    """A reproducible tar of `files` under the folder `root`: sorted, without times and owners."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(str(PurePosixPath(root, name)))
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def _runner_files(target: Target) -> Iterator[tuple[str, bytes]]:
    """The modules that run on the device, and the only package that they need beside numpy."""
    rows = [(BACKENDS, target.backend), *((QUANTITIES, name) for name in target.budget)]
    homes = [table[name].partition(":")[0] for table, name in rows]
    for module in reachable_modules(("edgeoe.devices.bundle_runner", "edgeoe.measure.worker", *homes)):
        path = source(module)
        name = f"{module.replace('.', '/')}{'/__init__' if path.name == '__init__.py' else ''}.py"
        yield f"{LIBRARY}/{name}", path.read_bytes()
    yield from _entry_points(rows)
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
