"""Latency tables: measured on the runtime of a target, and kept in a cache between runs."""

from __future__ import annotations

import json
import logging
import os
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import onnx
from torch import nn

from edgeoe.backends import backend_of
from edgeoe.codec import read_record, record_text, to_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.files import write_atomic
from edgeoe.graph.export import onnx_from_student
from edgeoe.machine.environment import environment
from edgeoe.machine.fingerprint import differing
from edgeoe.methods.meter import TEACHER, Variants
from edgeoe.progress import Progress, silent
from edgeoe.records.latency_table import LatencyTable
from edgeoe.stages.latency_probe import time_interleaved
from edgeoe.targets.here import differences
from edgeoe.targets.profile import Target

__all__ = ["cached_table", "keep_table", "measure_table", "network_digest"]

FORMAT = 1
_AT_ONCE = 12  # variants that are loaded and measured together, the teacher among them
_CALLS, _MIN_TURNS, _SECONDS = 3, 12, 1.5
_log = logging.getLogger(__name__)


def network_digest(graph: onnx.ModelProto) -> str:
    """The sha256 of an fp32 graph without the values of its weights: latency does not depend on them."""
    plain = onnx.ModelProto()
    plain.CopyFrom(graph)
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
    progress: Progress = silent,
) -> LatencyTable:
    """Latencies of `variants` on this machine; those in the cache are not measured again.

    What is measured is in the cache at once, so that an interrupted table goes on where it stopped.
    variants: with the teacher.
    Raises as `time_interleaved` does.
    """
    table = _here(teacher, target, preprocess)
    known = cached_table(table.network, target)
    if known is not None:
        table = replace(table, latencies_ms=known.latencies_ms)
    missing = [name for name in variants if name != TEACHER and name not in table.latencies_ms]
    with progress(f"Measuring on {target.name}", len(missing)) as advance:
        for at in range(0, len(missing), _AT_ONCE - 1):
            names = missing[at : at + _AT_ONCE - 1]
            measured = _measured(table, teacher, variants, names, preprocess)
            table = replace(table, latencies_ms={**table.latencies_ms, **measured})
            keep_table(table)
            for _ in names:
                advance()
    return table


def _measured(
    table: LatencyTable, teacher: nn.Module, variants: Variants, names: list[str], preprocess: Preprocess
) -> Mapping[str, float]:
    models = [teacher, *(variants[name]() for name in names)]
    turns = time_interleaved(models, table.target, preprocess, min_turns=_MIN_TURNS, seconds=_SECONDS, calls=_CALLS)
    whole = table.latencies_ms.get(TEACHER) or statistics.median(turns[0])
    ratios = [statistics.median(ms / of for ms, of in zip(one, turns[0], strict=True)) for one in turns[1:]]
    return {TEACHER: whole, **{name: whole * ratio for name, ratio in zip(names, ratios, strict=True)}}


def _here(teacher: nn.Module, target: Target, preprocess: Preprocess) -> LatencyTable:
    """The empty table of this machine."""
    graph = onnx_from_student(teacher, preprocess=preprocess, metadata={}, exporter="legacy")
    facts = {**environment(), "versions": backend_of(target).versions()}
    return LatencyTable(network=network_digest(graph), target=target, environment=facts)


def cached_table(network: str, target: Target) -> LatencyTable | None:
    """The table in the cache of that network on the device of `target`: this machine as it is now, or else a device
    whose table was collected. None if there is none."""
    here = {**environment(), "versions": backend_of(target).versions()}
    for table in _tables(network, target):
        if differences(target, table.environment):
            continue
        if differences(target, here) or not differing(table.environment, here):
            return table
    return None


def keep_table(table: LatencyTable) -> Path:
    """Write `table` into the cache, in place of an earlier one of the same network, target and machine."""
    facts = {"network": table.network, "target": _essentials(table.target), "environment": _identity(table)}
    digest = sha256(json.dumps(to_json(facts), sort_keys=True).encode()).hexdigest()
    path = _folder() / f"{digest[:32]}.json"
    try:
        write_atomic(path, lambda file: file.write_text(record_text(table, format=FORMAT), encoding="utf-8"))
    except OSError as reason:
        _log.warning("the latency table can't be kept in %s: %s", path, reason.strerror)
    return path


def _tables(network: str, target: Target) -> Iterator[LatencyTable]:
    for path in sorted(_folder().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            table = read_record(LatencyTable, path, format=FORMAT)
        except (ValueError, OSError):
            continue  # damaged, or of another version: it is measured again
        if table.network == network and _essentials(table.target) == _essentials(target):
            yield table


def _essentials(target: Target) -> dict[str, object]:
    """What of a profile latency depends on."""
    data = to_json(target)
    names = ("backend", "precision", "device", "runtime", "engine", "options")
    return {**{name: data[name] for name in names}, "batch": target.measure.batch}


def _identity(table: LatencyTable) -> dict[str, object]:
    """Facts about a machine that tell its table from that of another."""
    return {name: ours or theirs for name, ours, theirs in differing(table.environment, {"versions": {}})}


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeoe" / "latency"
