"""export: student -> ONNX, checked against the student on real images."""

from __future__ import annotations

import onnx

from edgeoe import __version__
from edgeoe.errors import ExportError
from edgeoe.graph.export import OPSET, Exporter, check_parity, onnx_from_student
from edgeoe.models.checkpoint import load_student
from edgeoe.records import ExportRecord
from edgeoe.run import Run, file_sha256
from edgeoe.stages.facts import run_facts

__all__ = ["export"]


def export(run: Run, *, exporter: Exporter = "dynamo") -> ExportRecord:
    """Write student.onnx, checked against the student on real images, and its golden outputs."""
    facts = run_facts(run)
    student = load_student(run)
    images = facts.preprocess.normalise(run.read_tensors("probe.safetensors", made_by="compress")["pixels"])
    metadata = {"version": __version__, "classes": facts.classes, "precision": "fp32"}
    graph = onnx_from_student(student, preprocess=facts.preprocess, metadata=metadata, exporter=exporter)
    run.forget("export.json", "golden.safetensors", "student.onnx")
    path = run.write("student.onnx", lambda file: onnx.save(graph, file))
    try:
        parity, logits = check_parity(path, student, images, precision="fp32")
    except ExportError:
        run.forget("student.onnx")
        raise
    run.write_tensors("golden.safetensors", images=images, logits=logits)
    record = ExportRecord(
        path="student.onnx",
        sha256=file_sha256(path),
        precision="fp32",
        opset=OPSET,
        exporter=exporter,
        max_rel_error=parity.max_rel_error,
        agreement=parity.agreement,
        images=len(images),
    )
    run.write_record("export.json", record)
    return record
