"""Latency tables: measured on the runtime of a target, and kept in a cache between runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import onnx
from torch import nn

from edgeoe.backends import Runner, backend_of
from edgeoe.codec import to_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import RunError, quoted
from edgeoe.files import cache_folder
from edgeoe.machine.environment import environment
from edgeoe.machine.fingerprint import differing
from edgeoe.measure.latency_table import complete_table, read_table, write_table
from edgeoe.methods.meter import Variants
from edgeoe.progress import Progress, silent
from edgeoe.records.latency_table import FP32_TEACHER, TEACHER, LatencyTable
from edgeoe.stages.latency_probe import backend_here, opened
from edgeoe.stages.timing_graph import fp32_graph
from edgeoe.targets.here import differences, is_of_every_machine
from edgeoe.targets.profile import Target

__all__ = ["cached_table", "collect_table", "digest_of", "keep_table", "measure_table"]

_log = logging.getLogger(__name__)


def digest_of(network: nn.Module, preprocess: Preprocess) -> str:
    """The sha256 of the fp32 graph of `network` without the values of its weights: latency does not depend on them."""
    plain = onnx.ModelProto()
    plain.CopyFrom(fp32_graph(network, preprocess))
    del plain.metadata_props[:]
    for tensor in plain.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return sha256(plain.SerializeToString(deterministic=True)).hexdigest()


def measure_table(
    teacher: nn.Module,
    variants: Variants,
    target: Target,
    preprocess: Preprocess,
    *,
    kept_fp32: Collection[str] = (),
    progress: Progress = silent,
) -> LatencyTable:
    """Latencies of `variants` on this machine; those in the cache are not measured again.

    What is measured goes into the cache at once, so that an interrupted table goes on where it stopped.

    variants: with the teacher.
    kept_fp32: layers that stay fp32 in int8.
    Raises as `time_interleaved` does.
    """
    backend = backend_here(target)
    facts = {**environment(), "versions": backend.versions()}
    table = LatencyTable(
        network=digest_of(teacher, preprocess), target=target, environment=facts, kept_fp32=tuple(sorted(kept_fp32))
    )
    known = cached_table(table.network, target, kept_fp32=kept_fp32)
    if known is not None:
        table = replace(table, latencies_ms=known.latencies_ms)

    def opened_variant(name: str) -> AbstractContextManager[Runner]:
        return opened(variants[name](), target, preprocess, backend, kept_fp32=kept_fp32)

    return complete_table(table, variants, opened_variant, shape=preprocess.shape, keep=keep_table, progress=progress)


def cached_table(network: str, target: Target, *, kept_fp32: Collection[str] = ()) -> LatencyTable | None:
    """The table in the cache of that network on the device of `target`: this machine as it is now, or else a device
    whose table was collected. None if there is none.

    kept_fp32: layers that are fp32 in it.
    """
    here = environment()
    is_here = not differences(target, here)
    if is_here:
        here = {**here, "versions": backend_of(target).versions()}
    for table in _tables():
        if table.network != network or _essentials(table.target) != _essentials(target):
            continue
        if {*table.kept_fp32} != {*kept_fp32} or differences(target, table.environment):
            continue
        if not is_here or not differing(table.environment, here):
            return table
    return None


def collect_table(path: Path) -> LatencyTable:
    """Put the table that a bundle wrote on a device into the cache; one of the same teacher there keeps its variants.

    Returns the table at `path`. Raises RunError if it is damaged, incomplete, or not measured on its target's device.
    """
    table = read_table(path)
    name, latencies_ms = table.target.name, table.latencies_ms
    if is_of_every_machine(table.target):
        raise RunError(f"{path}: the profile {name} names no device, so nobody could tell that this is another's.")
    if missing := [variant for variant in (TEACHER, FP32_TEACHER) if variant not in latencies_ms]:
        raise RunError(f"{path}: the latency of the {missing[0]} is missing. Run the bundle on the device again.")
    if differs := differences(table.target, table.environment):
        raise RunError(f"{path}: not measured on the device: {'; '.join(differs)}. Run the bundle on the device.")
    known = _read(_path(table))
    if known is not None and TEACHER in known.latencies_ms:
        drift = latencies_ms[TEACHER] / known.latencies_ms[TEACHER]
        earlier = {variant: ms * drift for variant, ms in known.latencies_ms.items()}
        table = replace(table, latencies_ms={**earlier, **latencies_ms})
    try:
        write_table(_path(table), table)
    except OSError as reason:
        raise RunError(f"the cache {quoted(reason.filename)} can't be written: {reason.strerror}.") from None
    return replace(table, latencies_ms=latencies_ms)


def keep_table(table: LatencyTable) -> None:
    """Write `table` into the cache, in place of an earlier one of the same network, target and machine."""
    try:
        write_table(_path(table), table)
    except OSError as reason:
        _log.warning("the latency table can't be kept in %s: %s", reason.filename, reason.strerror)


def _path(table: LatencyTable) -> Path:
    """The file of `table` in the cache."""
    facts = {
        "network": table.network,
        "target": _essentials(table.target),
        "environment": _identity(table),
        "kept_fp32": sorted(table.kept_fp32),
    }
    digest = sha256(json.dumps(to_json(facts), sort_keys=True).encode()).hexdigest()
    return cache_folder("latency") / f"{digest[:32]}.json"


def _tables() -> Iterator[LatencyTable]:
    """All tables in the cache, the newest first."""
    for path in sorted(cache_folder("latency").glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        table = _read(path)
        if table is not None:
            yield table


def _read(path: Path) -> LatencyTable | None:
    """The table in a file of the cache; None if it is damaged, or of another version: it is measured again."""
    try:
        return read_table(path)
    except RunError:
        return None


def _essentials(target: Target) -> dict[str, object]:
    """What of a profile latency depends on."""
    data = to_json(target)
    names = ("backend", "precision", "device", "runtime", "engine", "options")
    return {**{name: data[name] for name in names}, "batch": target.measure.batch}


def _identity(table: LatencyTable) -> dict[str, object]:
    """Facts about a machine that tell its table from that of another."""
    return {name: ours or theirs for name, ours, theirs in differing(table.environment, {"versions": {}})}
