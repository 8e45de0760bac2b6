"""Latency, throughput, memory and load time of an artifact, measured in several processes."""

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

__all__ = ["measure_speed", "throughput_batches"]

_THROUGHPUT_SECONDS = 0.5


def measure_speed(artifact: Path, target: Target, *, progress: Progress = silent) -> SpeedSamples:
    """Measure `artifact` with the settings of `target`, in fresh processes one after another.

    Raises BackendError if it can't be loaded or run.
    """
    settings, probes = target.measure, Probes(target)
    with (
        NoiseWatch(cores=target.runtime.affinity, gpu=runs_on(target) == "nvidia") as watch,
        progress("Measuring latency", settings.processes) as advance,
    ):
        samples = []
        for _ in range(settings.processes):
            samples.append(_measure_process(artifact, target, probes))
            advance()
    return SpeedSamples(
        batch=settings.batch,
        calls_ms=tuple(sample.calls_ms for sample in samples),
        load_ms=tuple(sample.load_ms for sample in samples),
        first_ms=tuple(sample.first_ms for sample in samples),
        peak_memory_mb=tuple(sample.peak_memory_mb for sample in samples),
        throughput_ips={
            batch: tuple(sample.throughput_ips[batch] for sample in samples) for batch in throughput_batches(settings)
        },
        unsteady=sum(not sample.steady for sample in samples),
        watched=watch.facts(),
        disturbed=watch.reasons(settings.max_foreign_load),
        probed=probes.measured(),
        not_probed=probes.failed(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProcessSample:
    calls_ms: tuple[float, ...]
    load_ms: float
    first_ms: float
    peak_memory_mb: float
    throughput_ips: dict[int, float]
    steady: bool


def _measure_process(artifact: Path, target: Target, probes: Probes) -> _ProcessSample:
    settings = target.measure
    with Process(artifact, target) as process:
        loading = process.loaded()
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
        return _ProcessSample(
            calls_ms=calls_ms,
            load_ms=loading["load_ms"],
            first_ms=loading["first_ms"],
            peak_memory_mb=peak,
            throughput_ips=rates,
            steady=warm["steady"],
        )


def throughput_batches(settings: MeasureSettings) -> list[int]:
    """The batch sizes at which throughput is measured, ascending."""
    return sorted({settings.batch, *settings.throughput_batches})
