"""export: student -> ONNX, checked against the student on real images."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from edgeoe import __version__
from edgeoe.errors import ExportError, quoted
from edgeoe.files import file_sha256
from edgeoe.graph.export import OPSET, Exporter, Parity, check_parity, onnx_from_student
from edgeoe.graph.quantize import RECIPES, Recipe
from edgeoe.models.checkpoint import load_student
from edgeoe.progress import Progress, silent
from edgeoe.records.graphs import ExportRecord, GraphRecord, RefusedGraph
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.stages.precisions import Int8Settings, Int8Writer, retry_int8, write_fp16
from edgeoe.targets.profile import Precision

__all__ = ["ExporterChoice", "export"]

ExporterChoice = Literal["auto", "dynamo", "legacy"]
_FP32 = layout.graph_file("fp32", precision="fp32")
_REDUCED = (
    layout.graph_file("fp16", precision="fp16"),
    *(layout.graph_file(recipe, precision="int8") for recipe in RECIPES),
)
_log = logging.getLogger(__name__)


def export(
    run: Run,
    *,
    exporter: ExporterChoice = "auto",
    precisions: Collection[Precision] = (),
    int8: Int8Settings | None = None,
    recipes: Collection[Recipe] | None = None,
    progress: Progress = silent,
) -> ExportRecord:
    """Write student.onnx, checked against the student on real images, and its golden outputs; then, made of it, the
    graphs of the other `precisions`: student-fp16.onnx, and for int8 one for each recipe.

    exporter: "auto" takes the legacy one, and logs why, where the dynamo exporter fails or its graph does not pass.
    recipes: the int8 recipes that are needed; None tries all, and one that passes is enough. A recipe that fails is
    recorded with its reason and does not keep others from being written.
    Raises ExportError, with every reason, if no fp32 graph passes, or not the int8 recipes that are needed.
    """
    facts = run.read(layout.FACTS)
    student = load_student(run)
    images = facts.preprocess.normalise(run.read_tensors(layout.PROBE)["pixels"])
    metadata = {"version": __version__, "classes": facts.classes, "precision": "fp32"}
    choices: tuple[Exporter, ...] = ("dynamo", "legacy") if exporter == "auto" else (exporter,)
    failed: list[str] = []
    for used in choices:
        try:
            parity, logits = _write_graph(
                run, student, images, preprocess=facts.preprocess, metadata=metadata, exporter=used
            )
            break
        except ExportError as reason:
            failed.append(str(reason))
    else:
        if len(failed) > 1:
            raise ExportError(f"no exporter can take this student. dynamo: {failed[0]} legacy: {failed[1]}")
        other = "dynamo" if exporter == "legacy" else "legacy"
        raise ExportError(f"{failed[0]} Try: edgeoe export {quoted(run.path)} --exporter {other}")
    if failed:
        _log.warning("the legacy exporter was taken: %s", failed[0])
    run.save_tensors(layout.GOLDEN, images=images, logits=logits)
    path = run.path / _FP32.name
    record = ExportRecord(
        path=path.name,
        sha256=file_sha256(path),
        precision="fp32",
        opset=OPSET,
        exporter=used,
        max_rel_error=parity.max_rel_error,
        agreement=parity.agreement,
        images=len(images),
    )
    run.save(layout.EXPORT, record)
    graphs = [write_fp16(run)] if "fp16" in precisions else []
    refused: list[RefusedGraph] = []
    if "int8" in precisions:
        writer = Int8Writer(run, int8 or Int8Settings(), progress=progress)
        for tried in map(writer.write, RECIPES if recipes is None else recipes):
            if isinstance(tried, GraphRecord):
                graphs.append(tried)
            else:
                refused.append(tried)
    record = replace(record, graphs=tuple(graphs), refused=tuple(refused))
    run.save(layout.EXPORT, record)
    if refused and (recipes is not None or len(refused) == len(RECIPES)):
        raise ExportError(" ".join([*(one.reason for one in refused), retry_int8(run)]))
    return record


def _write_graph(
    run: Run, student: nn.Module, images: NDArray[np.float32], **options: Any
) -> tuple[Parity, NDArray[np.float32]]:
    """Write student.onnx; keep it only if it passes the check. Raises ExportError."""
    graph = onnx_from_student(student, **options)
    run.forget(layout.EXPORT, layout.GOLDEN, _FP32, *_REDUCED)
    path = run.write(_FP32, lambda file: onnx.save(graph, file))
    try:
        return check_parity(path, student, images, precision="fp32")
    except ExportError:
        run.forget(_FP32)
        raise
