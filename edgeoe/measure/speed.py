"""An artifact's running, replicated by process: latency, throughput, memory, time to load."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from edgeoe.machine.noise import NoiseWatch
from edgeoe.measure.probes import Probes
from edgeoe.measure.process import Process
from edgeoe.progress import Progress, silent
from edgeoe.records.result import SpeedSamples
from edgeoe.targets.backends import runs_on
from edgeoe.targets.profile import MeasureSettings, Target

__all__ = ["measure_speed", "measured_batches"]

_THROUGHPUT_SECONDS = 0.5


def measure_speed(artifact: Path, target: Target, *, progress: Progress = silent) -> SpeedSamples:
    """Run `artifact` as `target` says, in fresh processes one after another.

    Raises BackendError where it can't be loaded or run.
    """
    settings, probes = target.measure, Probes(target)
    with (
        NoiseWatch(cores=target.runtime.affinity, gpu=runs_on(target) == "nvidia") as watch,
        progress("Measuring latency", settings.processes) as advance,
    ):
        parts = []
        for _ in range(settings.processes):
            parts.append(_one_process(artifact, target, probes))
            advance()
    return SpeedSamples(
        batch=settings.batch,
        calls_ms=tuple(part.calls_ms for part in parts),
        load_ms=tuple(part.load_ms for part in parts),
        first_ms=tuple(part.first_ms for part in parts),
        peak_memory_mb=tuple(part.peak_memory_mb for part in parts),
        throughput_ips={
            batch: tuple(part.throughput_ips[batch] for part in parts) for batch in measured_batches(settings)
        },
        unsteady=sum(not part.steady for part in parts),
        watched=watch.facts(),
        disturbed=watch.reasons(settings.max_foreign_load),
        probed=probes.measured(),
        not_probed=probes.failed(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    calls_ms: tuple[float, ...]
    load_ms: float
    first_ms: float
    peak_memory_mb: float
    throughput_ips: dict[int, float]
    steady: bool


def _one_process(artifact: Path, target: Target, probes: Probes) -> _Part:
    settings = target.measure
    with Process(artifact, target) as process:
        loaded = process.loaded()
        warm = process.ask("warm_up", least_seconds=settings.warmup_seconds, most_seconds=settings.warmup_max_seconds)
        calls_ns = probes.around(
            lambda: process.ask(
                "time",
                seconds=settings.min_seconds / settings.processes,
                calls=ceil(settings.min_iterations / settings.processes),
            )["calls_ns"]
        )
        peak = process.ask("peak_memory")["peak_memory_mb"]  # before larger batches raise it
        rates = {
            batch: process.ask("throughput", batch=batch, seconds=_THROUGHPUT_SECONDS)["images_per_second"]
            for batch in settings.throughput_batches
        }
        calls_ms = tuple(ns / 1e6 for ns in calls_ns)
        rates[settings.batch] = settings.batch * len(calls_ms) / (sum(calls_ms) / 1e3)
        return _Part(
            calls_ms=calls_ms,
            load_ms=loaded["load_ms"],
            first_ms=loaded["first_ms"],
            peak_memory_mb=peak,
            throughput_ips=rates,
            steady=warm["steady"],
        )


def measured_batches(settings: MeasureSettings) -> list[int]:
    """The batch sizes that images per second are measured at, ascending."""
    return sorted({settings.batch, *settings.throughput_batches})
