"""bundle: a run and a target -> an archive that builds, checks and measures on a device without edgeoe."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeoe import __version__
from edgeoe.codec import record_text, to_json
from edgeoe.data.samples import rarest
from edgeoe.devices.unpacked import FACTS
from edgeoe.measure.predictions import labels_sha256, test_sha256
from edgeoe.measure.quantity import needs_teacher
from edgeoe.progress import Progress, silent
from edgeoe.records.bundle import BundleFacts, BundleRecord, Normalisation, TestFacts
from edgeoe.run import layout
from edgeoe.run.chain import require_golden
from edgeoe.run.directory import Run, writes_run
from edgeoe.stages.archive import packer_of, program_files, write_archive
from edgeoe.stages.precisions import graph_file, graph_for
from edgeoe.stages.sbom import SBOM, sbom_of
from edgeoe.stages.signing import signer_with
from edgeoe.stages.teacher import teacher_predictions
from edgeoe.stages.validate import read_test
from edgeoe.targets.backends import traits_of
from edgeoe.targets.limits import require_buildable
from edgeoe.targets.profile import Target
from edgeoe.versions import versions

__all__ = ["bundle", "bundle_files"]


@writes_run
def bundle(
    run: Run,
    target: Target,
    *,
    out: Path,
    test: Path | None = None,
    follow_links: bool = False,
    sign: Path | None = None,
    progress: Progress = silent,
) -> BundleRecord:
    """Write the archive `out`; the same run and target give the same bytes.

    out: its suffix is .tar.zst, .tar.gz or .tar.
    test: test images, a folder per class, for accuracy on the device.
    follow_links: follow links that lead out of `test`.
    sign: a private key, which signs the archive; the signature is written beside it.
    Raises ConfigError for another suffix, TargetError for a profile with unsupported settings.
    """
    pack, signer = packer_of(out), signer_with(sign) if sign else None
    files, facts = bundle_files(run, target, test=test, follow_links=follow_links, progress=progress)
    digest, size_bytes = write_archive(out, pack, files, root=layout.unpacked_folder(target.name))
    signature = str(signer(out)) if signer else ""
    return BundleRecord(
        path=str(out),
        sha256=digest,
        size_bytes=size_bytes,
        target=target.name,
        precision=target.precision,
        test_images=facts.test.images if facts.test else 0,
        files=tuple(sorted(files)),
        signature=signature,
    )


def bundle_files(
    run: Run, target: Target, *, test: Path | None, follow_links: bool = False, progress: Progress = silent
) -> tuple[dict[str, bytes], BundleFacts]:
    """The files of a bundle by path, and its facts, which the run keeps: `collect` takes results of this bundle alone.

    Raises as `bundle` does.
    """
    require_buildable(target)
    samples = read_test(run, test, follow_links=follow_links, progress=progress) if test else None
    pixels = samples.images.rows(np.arange(len(samples.labels))) if samples else None
    predictions = None
    if samples and needs_teacher(target.budget):
        predictions = teacher_predictions(run, samples, progress=progress)
    files = dict(_files(run, target))
    if samples and pixels is not None:
        files |= {"test-images.npy": _npy(pixels), "test-labels.npy": _npy(samples.labels)}
    files[SBOM] = _sbom(files, target).encode()
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
        files=_hashes(files),
    )
    target_files = layout.TargetFiles(target.name)
    files[FACTS] = record_text(facts, format=target_files.bundle.format).encode()
    run.forget(target_files.bundle, target_files.teacher)
    if predictions:
        run.save(target_files.teacher, predictions)
    run.save(target_files.bundle, facts)
    return files, facts


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """sha256 by name."""
    return {name: sha256(data).hexdigest() for name, data in sorted(files.items())}


def _sbom(files: Mapping[str, bytes], target: Target) -> str:
    """What the bundle contains, and what the device must have beside it."""
    packages = {name: version for name, version in versions("annotated-types").items() if name != "python"}
    needs = {"python": ">=3.10", "numpy": ""}
    runtime = re.match("[A-Za-z0-9_.-]*", traits_of(target.backend).requirement)
    if runtime and runtime[0]:
        needs[runtime[0]] = ""
    return sbom_of(layout.unpacked_folder(target.name), _hashes(files), packages=packages, needs=needs)


def _files(run: Run, target: Target) -> Iterator[tuple[str, bytes]]:
    yield "model.onnx", graph_for(run, target, here=False).read_bytes()
    require_golden(run)
    for name, array in run.read_tensors(layout.GOLDEN).items():
        yield f"golden-{name}.npy", _npy(array)
    yield from program_files(
        "edgeoe.devices.bundle_runner",
        target,
        does=f"A model for {target.description or target.name}, and a program that builds, tests and measures it.",
        result="result.json",
        collect="edgeoe collect RUN result.json",
        further=("edgeoe.measure.worker",),
        budget=True,
    )


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
