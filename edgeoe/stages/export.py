"""export: student -> ONNX graphs, checked against the student on real images."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgeoe import __version__
from edgeoe.backends.admission import require_admitted
from edgeoe.errors import ExportError, RunError, quoted
from edgeoe.files import file_sha256
from edgeoe.graph.export import OPSET, Exporter, Parity, check_parity, onnx_from_student
from edgeoe.graph.precision import Int8Settings, precision_of
from edgeoe.models.checkpoint import load_student
from edgeoe.progress import Progress, silent
from edgeoe.records.graphs import ExportRecord, GraphRecord, RefusedGraph
from edgeoe.registry import PRECISIONS
from edgeoe.run import layout
from edgeoe.run.chain import require_golden, require_graph, require_student
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.trust import source_in
from edgeoe.stages.precisions import reduced_files, retry, source_of, write_graphs

__all__ = ["ExporterChoice", "export"]

ExporterChoice = Literal["auto", "dynamo", "legacy"]
_FP32 = layout.graph_file("fp32", precision="fp32")
_REAL_IMAGES = 32
_log = logging.getLogger(__name__)


@writes_run
def export(
    run: Run,
    *,
    exporter: ExporterChoice = "auto",
    precisions: Collection[str] = (),
    int8: Int8Settings | None = None,
    variants: Collection[str] | None = None,
    progress: Progress = silent,
) -> ExportRecord:
    """Write student.onnx, its golden outputs, and the graphs of the other `precisions`.

    student.onnx is checked against the student on the golden images, and on some of the images for calibration, which
    may be labelled samples; of these only the former, which travel to devices, are kept with their outputs. The other
    graphs are written from student.onnx: student-fp16.onnx, and for int8 one graph per recipe. A graph that fails its
    check is refused: it is recorded with its reason, and does not prevent the others.

    Where a run from elsewhere holds source that this machine does not vouch for, and a graph, the fp32 graph stays.

    exporter: "auto" uses the legacy exporter, and logs why, if dynamo fails or its graph does not pass.
    int8: settings of int8 graphs; without a drop that of `compress` counts. Layers that its budget paid for stay fp32.
    variants: the graphs that are required; None writes all of each precision, and requires one.
    Raises ExportError, with every reason, if no fp32 graph passes, or a required graph is refused; RunError for source
    that this machine does not vouch for.
    """
    kept = exporter == "auto" and run.has(layout.EXPORT) and not _may_run(run)
    record = _kept_graph(run) if kept else _exported(run, exporter)
    run.save(layout.EXPORT, record)
    record, failures = _export_reduced(run, record, precisions, variants, int8 or Int8Settings(), progress)
    run.save(layout.EXPORT, record)
    if failures:
        raise ExportError(" ".join(failures))
    return record


def _exported(run: Run, exporter: ExporterChoice) -> ExportRecord:
    """Write student.onnx and its golden outputs. Returns their record. Raises ExportError if no exporter can."""
    facts = run.read(layout.FACTS)
    student_sha256 = require_student(run)
    student = load_student(run)
    golden = _golden_images(run)
    images = facts.preprocess.normalise(np.concatenate([golden, _real_images(run)]))
    metadata = {"version": __version__, "classes": facts.classes, "precision": "fp32"}
    choices: tuple[Exporter, ...] = ("dynamo", "legacy") if exporter == "auto" else (exporter,)
    reasons: list[str] = []
    for exporter_used in choices:
        try:
            parity, logits = _write_graph(
                run, student, images, preprocess=facts.preprocess, metadata=metadata, exporter=exporter_used
            )
            break
        except ExportError as reason:
            reasons.append(str(reason))
    else:
        if len(reasons) > 1:
            raise ExportError(f"no exporter can take this student. dynamo: {reasons[0]} legacy: {reasons[1]}")
        other = "dynamo" if exporter == "legacy" else "legacy"
        raise ExportError(f"{reasons[0]} Try: edgeoe export {quoted(run.path)} --exporter {other}")
    if reasons:
        _log.warning("the legacy exporter was used: %s", reasons[0])
    golden_file = run.save_tensors(layout.GOLDEN, images=images[: len(golden)], logits=logits[: len(golden)])
    path = run.path / _FP32.name
    return ExportRecord(
        path=path.name,
        sha256=file_sha256(path),
        precision="fp32",
        opset=OPSET,
        exporter=exporter_used,
        max_rel_error=parity.max_rel_error,
        agreement=parity.agreement,
        images=len(images),
        student_sha256=student_sha256,
        golden_sha256=file_sha256(golden_file),
    )


def _may_run(run: Run) -> bool:
    """Whether `run` holds no source, or source that this machine vouches for."""
    source = source_in(run)
    return source is None or source.vouched


def _kept_graph(run: Run) -> ExportRecord:
    """The record of the fp32 graph that `run` brought from elsewhere, without those of reduced precisions.

    No source runs for it: the graph is compared with the golden outputs that came with it.
    """
    graph = require_graph(run, _FP32)
    require_golden(run)
    earlier, golden = run.read(layout.EXPORT), run.read_tensors(layout.GOLDEN)
    require_admitted(graph)
    parity, _ = check_parity(graph, lambda _: torch.from_numpy(golden["logits"]), golden["images"], precision="fp32")
    _log.warning(
        "%s: this machine does not vouch for the source in it, so the fp32 graph that came with it is kept, and was "
        "compared with the golden outputs that came with it. To export again: edgeoe trust %s",
        run.path,
        quoted(run.path),
    )
    run.forget(*reduced_files())
    return replace(
        earlier,
        max_rel_error=parity.max_rel_error,
        agreement=parity.agreement,
        images=len(golden["images"]),
        graphs=(),
        refused=(),
    )


def _export_reduced(
    run: Run,
    record: ExportRecord,
    precisions: Collection[str],
    variants: Collection[str] | None,
    int8: Int8Settings,
    progress: Progress,
) -> tuple[ExportRecord, list[str]]:
    """`record` with the graphs of the other `precisions`, and messages for required graphs that were refused."""
    graphs: list[GraphRecord] = []
    refused: list[RefusedGraph] = []
    failures: list[str] = []
    names = [name for name in PRECISIONS if name in precisions and precision_of(name).writer]
    if not names:
        return record, []
    compressed = run.read(layout.COMPRESS)
    kept_fp32 = compressed.budget.kept_fp32 if compressed.budget else {}
    if int8.max_drop is None:
        int8 = replace(int8, max_drop=compressed.max_drop)
    source = source_of(run, int8, kept_fp32=kept_fp32, progress=progress)
    for name in names:
        variants_of = precision_of(name).variants
        results = [
            *write_graphs(run, source, name, [each for each in variants_of if variants is None or each in variants])
        ]
        written = [each for each in results if isinstance(each, GraphRecord)]
        for graph in written:
            _report_other_layers(graph, kept_fp32)
        graphs += written
        refused_now = [each for each in results if isinstance(each, RefusedGraph)]
        if refused_now and (variants is not None or len(refused_now) == len(variants_of)):
            failures.append(" ".join([*(each.reason for each in refused_now), retry(run, refused_now[0])]).rstrip())
        refused += refused_now
    return replace(record, graphs=tuple(graphs), refused=tuple(refused)), failures


def _report_other_layers(graph: GraphRecord, kept_fp32: Mapping[str, Collection[str]]) -> None:
    """Log which layers of an int8 graph are not as the budget's student was measured.

    kept_fp32: {variant: layers that were fp32 in it}.
    """
    if graph.precision not in kept_fp32:
        return
    measured = kept_fp32[graph.precision]
    if further := [layer for layer in graph.kept_fp32 if layer not in measured]:
        _log.warning(
            "%s: %s must stay fp32, too, and the student's latency was measured with int8 there: validate judges it",
            graph.precision,
            ", ".join(further),
        )
    if missing := [layer for layer in measured if layer not in graph.kept_fp32]:
        _log.warning(
            "%s: the graph names no layer %s, which was measured in fp32 and is int8 now: validate judges it",
            graph.precision,
            ", ".join(missing),
        )


def _golden_images(run: Run) -> NDArray[np.uint8]:
    """The golden images of `run`, (n, C, H, W). Raises RunError if an earlier version took labelled samples."""
    tensors = run.read_tensors(layout.PROBE)
    if "golden" not in tensors:
        raise RunError(
            f"{run.path / layout.PROBE.name}: of an earlier version of edgeoe, in which labelled samples went to "
            f"devices. Make it again: {run.command(layout.PROBE)}"
        )
    return tensors["golden"]


def _real_images(run: Run) -> NDArray[np.uint8]:
    """Some of the images for calibration, evenly spaced, (n, C, H, W)."""
    pixels = run.read_tensors(layout.CALIBRATION)["pixels"]
    return pixels[:: max(1, len(pixels) // _REAL_IMAGES)][:_REAL_IMAGES]


def _write_graph(
    run: Run, student: nn.Module, images: NDArray[np.float32], **options: Any
) -> tuple[Parity, NDArray[np.float32]]:
    """Write student.onnx, and remove it again if it fails the check. Raises ExportError."""
    graph = onnx_from_student(student, **options)
    run.forget(layout.EXPORT, layout.GOLDEN, _FP32, *reduced_files())
    path = run.write(_FP32, lambda file: onnx.save(graph, file))
    try:
        return check_parity(path, student, images, precision="fp32")
    except ExportError:
        run.forget(_FP32)
        raise
