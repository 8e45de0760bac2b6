"""fp32 graph -> graphs of reduced precision, each compared with it on images that are not used for calibration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from math import isfinite
from pathlib import Path

import numpy as np
import onnx

from edgeoe.errors import RunError, quoted
from edgeoe.files import file_sha256
from edgeoe.graph.precision import Draft, Int8Settings, Source, logits_of, precision_of, precision_with
from edgeoe.progress import Progress, silent
from edgeoe.records.graphs import GraphRecord, RefusedGraph
from edgeoe.registry import PRECISIONS
from edgeoe.run import layout
from edgeoe.run.chain import require_graph
from edgeoe.run.directory import Run
from edgeoe.targets.profile import Target

__all__ = ["graph_file", "graph_for", "reduced_files", "retry", "source_of", "variant_for", "write_graphs"]


def variant_for(target: Target, *, here: bool = True) -> str:
    """The variant of its precision that `target` computes fast and exactly.

    here: the graph runs on this machine, whose processor decides if the profile does not.
    """
    return precision_of(target.precision).variant(target, here=here)


def graph_file(target: Target, *, here: bool = True) -> layout.File:
    """The file of a run with the graph for `target`.

    here: as for `variant_for`.
    """
    return layout.graph_file(variant_for(target, here=here), precision=target.precision)


def reduced_files() -> list[layout.File]:
    """The files of all graphs of reduced precision."""
    records = {name: precision_of(name) for name in PRECISIONS}
    return [
        layout.graph_file(variant, precision=name)
        for name, precision in records.items()
        if precision.writer
        for variant in precision.variants
    ]


def graph_for(run: Run, target: Target, *, here: bool = True) -> Path:
    """The graph of `run` for `target`.

    here: as for `variant_for`.
    Raises RunError if it was not exported of the run's student, with the reason if `export` refused it.
    """
    file, variant = graph_file(target, here=here), variant_for(target, here=here)
    for refused in run.read(replace(layout.EXPORT, made_by=file.made_by)).refused:
        if refused.precision == variant:
            reason = f"{refused.reason} {retry(run, refused)}".rstrip()
            raise RunError(f"target {target.name} needs {run.path / file.name}, which export refused: {reason}")
    return require_graph(run, file)


def retry(run: Run, refused: RefusedGraph) -> str:
    """Advice about a refused graph, for messages; empty if the reason contains it."""
    return precision_with(refused.precision).retry.format(run=quoted(run.path))


def source_of(
    run: Run, settings: Int8Settings, *, kept_fp32: Mapping[str, Collection[str]], progress: Progress = silent
) -> Source:
    """The inputs of the graphs of reduced precision of `run`.

    kept_fp32: {variant: layers that stay fp32 in it}.
    """
    preprocess = run.read(layout.FACTS).preprocess
    pixels = run.read_tensors(layout.CALIBRATION)
    calibration, judging = (preprocess.normalise(pixels[key]) for key in ("pixels", "others"))
    graph = onnx.load(run.file(layout.graph_file("fp32", precision="fp32")))
    return Source(graph, calibration, judging, logits_of(graph, judging), settings, progress, kept_fp32)


def write_graphs(
    run: Run, source: Source, name: str, variants: Collection[str]
) -> Iterator[GraphRecord | RefusedGraph]:
    """Write the `variants` of precision `name`, and refuse those that differ too much from the fp32 graph."""
    writer = precision_of(name).writer
    if writer is None:
        return
    write = writer(source)
    for variant in variants:
        draft = write(variant)
        logits = logits_of(draft.graph, source.judging)
        error = float(np.abs(logits - source.expected).max() / np.abs(source.expected).max())
        agreement = source.agreement(logits)
        if reason := _too_far(name, variant, error, agreement, len(logits)):
            yield RefusedGraph(precision=variant, agreement=agreement, images=len(logits), reason=reason)
        else:
            yield _save(run, name, variant, draft, max_rel_error=error, agreement=agreement, images=len(logits))


def _too_far(name: str, variant: str, error: float, agreement: float, images: int) -> str:
    """The reason why a graph is refused; empty if it passes."""
    precision = precision_of(name)
    if isfinite(precision.max_rel_error) and not error <= precision.max_rel_error:
        return (
            f"in {variant} the logits of this student differ by {error:.2g} of the largest logit over {images} "
            f"images, allowed {precision.max_rel_error:g}: {precision.refusal}"
        )
    if agreement < precision.min_agreement:
        return (
            f"in {variant} this student predicts the same class as in fp32 on {100 * agreement:.1f} % of {images} "
            f"images, and {100 * precision.min_agreement:g} % are required."
        )
    return ""


def _save(
    run: Run, name: str, variant: str, draft: Draft, *, max_rel_error: float, agreement: float, images: int
) -> GraphRecord:
    path = run.write(layout.graph_file(variant, precision=name), lambda file: onnx.save(draft.graph, file))
    return GraphRecord(
        path=path.name,
        sha256=file_sha256(path),
        precision=variant,
        size_bytes=path.stat().st_size,
        max_rel_error=max_rel_error,
        agreement=agreement,
        images=images,
        **{field.name: getattr(draft, field.name) for field in fields(draft) if field.name != "graph"},
    )
