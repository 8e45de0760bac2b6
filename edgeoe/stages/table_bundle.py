"""Latency tables of a teacher, by the settings of compress: measured here, or bundled for a device elsewhere."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from edgeoe import __version__
from edgeoe.codec import record_text
from edgeoe.data.preprocess import Preprocess
from edgeoe.devices.unpacked import FACTS
from edgeoe.errors import TargetError, quoted
from edgeoe.machine.environment import environment
from edgeoe.methods.cuts.parts import Parts, block_choice
from edgeoe.methods.meter import Variants
from edgeoe.progress import Progress, silent
from edgeoe.records.bundle import BundleRecord
from edgeoe.records.latency_table import (
    FORMAT,
    FP32_TEACHER,
    TEACHER,
    LatencyTable,
    PartSaving,
    TableFacts,
    TableReport,
)
from edgeoe.run.layout import unpacked_table_folder
from edgeoe.settings import CompressSettings
from edgeoe.stages.archive import packer_of, program_files, write_archive
from edgeoe.stages.fp32_layers import fp32_layers_for
from edgeoe.stages.latency_table import cached_table, digest_of, measure_table
from edgeoe.stages.subject import load_subject, parts_for
from edgeoe.stages.timing_graph import fp32_graph, timing_graph
from edgeoe.targets.here import differences, is_of_every_machine, not_measured
from edgeoe.targets.limits import require_buildable
from edgeoe.targets.profile import Target

__all__ = ["bundle_table", "measure_parts", "table_files"]

_PERIOD = 4093  # values after which the weights of a bundled graph repeat; a prime, so that its channels differ
_WEIGHTS = (np.float32, np.float16, np.int8, np.uint8)


def measure_parts(
    settings: CompressSettings, target: Target, *, teacher: nn.Module | None = None, progress: Progress = silent
) -> TableReport:
    """What each kind of part of the teacher costs on `target`, measured here, or else as collected from the device.

    What is measured is kept, and `compress` with the same settings does not measure it again.

    teacher: the network itself, where `settings` only have its fingerprint.
    Raises TargetError if the target is another machine of which no table was collected.
    """
    require_buildable(target)
    subject = load_subject(settings, module=teacher)
    parts = parts_for(subject, settings, target, progress=progress)
    variants = parts.variants()
    kept_fp32 = fp32_layers_for(subject, settings, target, progress=progress)
    if differs := differences(target, environment()):
        network = digest_of(subject.teacher, subject.preprocess)
        table = cached_table(network, target, kept_fp32=kept_fp32)
        if table is None or not variants.keys() <= table.latencies_ms.keys():
            raise TargetError(
                f"target {target.name}: {not_measured(differs)}. Bundle the table for the device: add "
                f"--out {quoted(target.name)}.tar.gz"
            )
    else:
        table = measure_table(
            subject.teacher, variants, target, subject.preprocess, kept_fp32=kept_fp32, progress=progress
        )
    return TableReport(
        target=target.name,
        precision=target.precision,
        batch=target.measure.batch,
        teacher_ms=table.latencies_ms[TEACHER],
        parts=tuple(_savings(parts, table)),
        environment=table.environment,
        kept_fp32=kept_fp32,
    )


def _savings(parts: Parts, table: LatencyTable) -> Iterator[PartSaving]:
    teacher_ms = table.latencies_ms[TEACHER]
    saved_ms = parts.latency(table.latencies_ms).savings
    for alike in parts.group_kinds:
        first, names = alike[0], tuple(group.name for group in alike)
        for option, pruned in enumerate(parts.levels[first.name], 1):
            units, saved = len(first.order), saved_ms[first.name][option]
            yield PartSaving(
                names=names, units=units, remaining=units - pruned, saved_ms=saved, share=saved / teacher_ms
            )
    for blocks in parts.block_kinds:
        saved = saved_ms[block_choice(blocks[0])][1]
        yield PartSaving(names=tuple(blocks), units=None, remaining=None, saved_ms=saved, share=saved / teacher_ms)


def bundle_table(
    settings: CompressSettings,
    target: Target,
    *,
    out: Path,
    teacher: nn.Module | None = None,
    progress: Progress = silent,
) -> BundleRecord:
    """Write the archive `out`, which measures the latency table of the teacher on the device of `target`.

    Its graphs have the shapes of the networks, and weights that mean nothing: the teacher's stay here.

    out: its suffix is .tar.zst, .tar.gz or .tar.
    teacher: as for `measure_parts`.
    Raises ConfigError for another suffix, TargetError for a profile with unsupported settings, or one that names no
    device.
    """
    pack = packer_of(out)
    files = table_files(settings, target, teacher=teacher, progress=progress)
    digest, size_bytes = write_archive(out, pack, files, root=unpacked_table_folder(target.name))
    return BundleRecord(
        path=str(out),
        sha256=digest,
        size_bytes=size_bytes,
        target=target.name,
        precision=target.precision,
        test_images=0,
        files=tuple(sorted(files)),
    )


def table_files(
    settings: CompressSettings, target: Target, *, teacher: nn.Module | None = None, progress: Progress = silent
) -> dict[str, bytes]:
    """The files of the bundle that measures a latency table, by path. Raises as `bundle_table` does."""
    require_buildable(target)
    if is_of_every_machine(target):
        raise TargetError(
            f"target {target.name}: its profile names no device, so that what was measured elsewhere can't be told "
            "from this machine. Name the device in [device] of the profile: machine, board, cpu or gpu."
        )
    subject = load_subject(settings, module=teacher)
    variants = parts_for(subject, settings, target, progress=progress).variants()
    kept_fp32 = fp32_layers_for(subject, settings, target, progress=progress)
    files, graphs = {}, {}
    for number, (name, graph) in enumerate(_graphs(variants, target, subject.preprocess, kept_fp32, progress)):
        graphs[name] = f"graphs/{number:03d}.onnx.gz"
        files[graphs[name]] = gzip.compress(graph.SerializeToString(deterministic=True), compresslevel=9, mtime=0)
    files |= program_files(
        "edgeoe.devices.table_runner",
        target,
        does=f"Networks for {target.description or target.name}, and a program that measures their latencies.",
        result="table.json",
        collect="edgeoe collect table.json",
        budget=False,
    )
    facts = TableFacts(
        edgeoe=__version__,
        target=target,
        network=digest_of(subject.teacher, subject.preprocess),
        shape=subject.preprocess.shape,
        graphs=graphs,
        files={name: sha256(data).hexdigest() for name, data in sorted(files.items())},
        kept_fp32=tuple(sorted(kept_fp32)),
    )
    files[FACTS] = record_text(facts, format=FORMAT).encode()
    return files


def _graphs(
    variants: Variants, target: Target, preprocess: Preprocess, kept_fp32: Collection[str], progress: Progress
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graph of each variant, after the teacher's in fp32."""
    with progress("Exporting variants", len(variants) + 1) as advance:
        yield FP32_TEACHER, _without_weights(fp32_graph(variants[TEACHER](), preprocess))
        advance()
        for name, network in variants.items():
            graph = timing_graph(network(), target, preprocess, here=False, kept_fp32=kept_fp32)
            yield name, _without_weights(graph)
            advance()


def _without_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `graph` in which large weights repeat their first values: it packs to little, and is as fast."""
    light = onnx.ModelProto()
    light.CopyFrom(graph)
    for tensor in light.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.size > _PERIOD and values.dtype in _WEIGHTS:
            repeated = np.resize(values.reshape(-1)[:_PERIOD], values.shape)
            tensor.CopyFrom(numpy_helper.from_array(repeated, tensor.name))
    return light
