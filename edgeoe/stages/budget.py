"""The budget of `compress`: its limits, and a meter that measures networks against them."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import lcm
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from torch import nn

from edgeoe.backends import backend_of
from edgeoe.codec import from_json, to_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import TargetError, quoted
from edgeoe.machine.environment import environment
from edgeoe.measure.quantity import limited_quantities, quantity
from edgeoe.measure.speed import measure_speed
from edgeoe.measure.summary import speed_from_samples
from edgeoe.method import load_method
from edgeoe.methods.meter import Variants
from edgeoe.progress import Progress, silent
from edgeoe.records.budget import BudgetSearch, Limit
from edgeoe.records.latency_table import FP32_TEACHER
from edgeoe.records.measurement import Measurement, Speed
from edgeoe.run.saved_work import SavedWork
from edgeoe.settings import CompressSettings
from edgeoe.stages.fp32_layers import CalibrationImages, fp32_layers, images_for
from edgeoe.stages.latency_probe import time_interleaved
from edgeoe.stages.latency_table import cached_table, digest_of, measure_table
from edgeoe.stages.precisions import variant_for
from edgeoe.stages.subject import load_subject, parts_for
from edgeoe.stages.timing_graph import timing_graph
from edgeoe.targets.here import differences, not_measured
from edgeoe.targets.profile import Target

__all__ = [
    "BudgetMeter",
    "budget_limits",
    "has_budget",
    "lacks_table",
    "pays_for_fp32",
    "require_tables",
    "same_limits",
]

_CALLS, _MIN_TURNS, _SECONDS = 3, 20, 2.0
_ATTEMPTS = 3  # to measure an artifact while the machine is noisy
_log = logging.getLogger(__name__)


def has_budget(settings: CompressSettings, targets: Sequence[Target]) -> bool:
    """Whether the student is to meet a budget: one of the settings, or without a share to keep that of a profile."""
    if settings.latency_ms is not None or settings.speedup is not None:
        return True
    steers = not settings.keeps_share and load_method(settings.method).to_budget
    return bool(steers) and any(limit for target in targets for limit in _aims(target))


def pays_for_fp32(settings: CompressSettings, targets: Sequence[Target]) -> bool:
    """Whether the student depends on the layers that int8 leaves in fp32: a budget pays for them."""
    return has_budget(settings, targets) and any(target.precision == "int8" for target in targets)


def _aims(target: Target) -> Iterator[Limit]:
    """The limits of a profile that a cut can aim at; of another machine those that a latency table tells."""
    elsewhere = bool(differences(target, environment()))
    for name, record in limited_quantities(target.budget).items():
        in_table = record.follows == "latency" and record.sense == "at most"
        if in_table or (record.follows and not elsewhere):
            yield Limit(target.name, name, target.budget[name], record.sense, target.precision)


def budget_limits(
    settings: CompressSettings, targets: Sequence[Target], fp32_ms: Callable[[Target], float]
) -> Iterator[Limit]:
    """The limits that the student is to meet.

    fp32_ms: p50 of the teacher in fp32 on a target.
    """
    for target in targets:
        if settings.latency_ms is not None:
            yield _p50_limit(target, settings.latency_ms, origin="--latency-ms")
        elif settings.speedup is not None:
            yield _p50_limit(target, fp32_ms(target) / settings.speedup, origin="--speedup")
        else:
            yield from _aims(target)


def same_limits(search: BudgetSearch | None, settings: CompressSettings, targets: Sequence[Target]) -> bool:
    """Whether the student of `search` was made to the limits of `settings` and `targets`; None was made to none."""
    if search is None or not has_budget(settings, targets):
        return search is None and not has_budget(settings, targets)
    made = [replace(limit, limit=0.0) if limit.origin == "--speedup" else limit for limit in search.limits]
    return made == [*budget_limits(settings, targets, lambda _: 0.0)]  # a speed-up is compared with the settings


def require_tables(
    settings: CompressSettings,
    targets: Sequence[Target],
    *,
    teacher: nn.Module | None = None,
    progress: Progress = silent,
) -> None:
    """Raise TargetError unless the latency tables are there that a student for each of `targets` alone needs.

    Those of this machine are measured when they are needed; those of other machines were collected.

    teacher: the network itself, where `settings` only have its fingerprint.
    """
    here = environment()
    elsewhere = [target for target in targets if differences(target, here) and has_budget(settings, [target])]
    if not elsewhere:
        return
    subject = load_subject(settings, module=teacher)
    meters = [
        BudgetMeter(
            subject.teacher,
            settings,
            [target],
            subject.preprocess,
            images=partial(images_for, subject, settings, progress=progress),
            progress=progress,
        )
        for target in elsewhere
    ]
    for meter in meters:
        meter.require_tables()
    for meter, target in zip(meters, elsewhere, strict=True):
        meter.require_tables(parts_for(subject, settings, target, progress=progress).variants())


def lacks_table(
    settings: CompressSettings, target: Target, *, teacher: nn.Module | None = None, progress: Progress = silent
) -> bool:
    """Whether a budget on `target`, another machine, needs a latency table that is not in the cache."""
    try:
        require_tables(settings, [target], teacher=teacher, progress=progress)
    except TargetError:
        return True
    return False


def _p50_limit(target: Target, limit_ms: float, *, origin: str) -> Limit:
    return Limit(target.name, "p50_ms", limit_ms, precision=target.precision, origin=origin)


def p50_of(measured: Measurement) -> float:
    """The median latency in milliseconds of a measurement on this machine."""
    assert measured.speed is not None  # noqa: S101 - elsewhere nothing is measured
    return measured.speed.latency.p50.value


class BudgetMeter:
    """Measures networks on the runtimes of `targets` that are this machine; a device elsewhere has a latency table.

    images: a function that reads calibration images, to find the layers that stay fp32 for `settings.max_drop`.
    work: what an interrupted compression has measured.
    Raises TargetError if a target is another machine of which no table was collected.
    """

    def __init__(
        self,
        teacher: nn.Module,
        settings: CompressSettings,
        targets: Sequence[Target],
        preprocess: Preprocess,
        *,
        images: Callable[[], CalibrationImages] | None = None,
        work: SavedWork | None = None,
        progress: Progress = silent,
    ) -> None:
        self._images = images
        self._teacher, self._preprocess, self._progress = teacher, preprocess, progress
        self._work = work or SavedWork()
        self._targets = {target.name: target for target in targets}
        self._has_multiple = settings.channel_multiple is not None
        machine = environment()
        self._elsewhere = {target.name: differences(target, machine) for target in targets}
        for target in targets:
            if not self._elsewhere[target.name]:
                backend_of(target).check(target)
        self._settings = settings
        self._teachers: dict[str, Measurement] = {}  # by target
        self._noisy: set[str] = set()  # targets whose measurements were disturbed

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """All limits; a speed-up becomes milliseconds, for which the teacher is measured."""
        limits = tuple(budget_limits(self._settings, [*self._targets.values()], self._fp32_ms))
        for name in dict.fromkeys(limit.target for limit in limits):
            if self._elsewhere[name]:
                _log.warning(
                    "target %s is another machine: its latency table predicts the student's latency, and only "
                    "edgeoe bundle measures it",
                    name,
                )
        return limits

    @cached_property
    def kept_fp32(self) -> Mapping[str, tuple[str, ...]]:
        """{variant: layers that stay fp32} of the int8 graphs of the targets."""
        int8 = [target for target in self._targets.values() if target.precision == "int8"]
        variants, max_drop = [*dict.fromkeys(map(variant_for, int8))], self._settings.max_drop
        if max_drop is None or not variants:
            return dict.fromkeys(variants, ())
        assert self._images is not None  # noqa: S101 - who asks for a drop has images
        return fp32_layers(
            self._teacher, self._preprocess, self._images(), variants, max_drop=max_drop, progress=self._progress
        )

    def _kept_on(self, target: Target) -> tuple[str, ...]:
        return self.kept_fp32.get(variant_for(target), ())

    def _fp32_ms(self, target: Target) -> float:
        """p50 of the teacher in fp32: that in the target's precision, times their ratio within turns."""
        if self._elsewhere[target.name]:
            return self._collected(target)[FP32_TEACHER]
        p50 = p50_of(self._teacher_on(target))
        if target.precision == "fp32":
            return p50
        return p50 * self._ratio(target, (self._teacher, self._teacher), precisions=(target.precision, "fp32"))

    def follows_latency(self, limit: Limit) -> bool:
        return quantity(limit.quantity).follows == "latency"

    def latencies(self, variants: Variants) -> dict[str, dict[str, float]]:
        tables: dict[str, dict[str, float]] = {}
        for name in dict.fromkeys(limit.target for limit in self.limits if self.follows_latency(limit)):
            target = self._targets[name]
            if self._elsewhere[name]:
                tables[name] = self._collected(target, variants)
            else:
                table = measure_table(
                    self._teacher,
                    variants,
                    target,
                    self._preprocess,
                    kept_fp32=self._kept_on(target),
                    progress=self._progress,
                )
                tables[name] = table.latencies_ms
        return tables

    def require_tables(self, variants: Variants | None = None) -> None:
        """Raise TargetError unless a table was collected from each target that is another machine.

        variants: those that the tables must have; None asks for the teacher's latency alone.
        """
        for name, target in self._targets.items():
            if self._elsewhere[name]:
                self._collected(target, variants)

    def costs(self, model: nn.Module, *, final: bool) -> tuple[float | None, ...]:
        costs: dict[str, float] = {}
        for target in self._targets.values():
            limits = [limit for limit in self.limits if limit.target == target.name]
            if limits and not self._elsewhere[target.name]:
                quick = not final and all(map(self.follows_latency, limits))
                costs |= self._beside_teacher(model, target, limits) if quick else self._final(model, target, limits)
        return tuple(costs.get(str(limit)) for limit in self.limits)

    def _beside_teacher(self, model: nn.Module, target: Target, limits: Sequence[Limit]) -> dict[str, float]:
        """Costs that follow the latency, from its ratio to the teacher's within turns."""
        ratio = self._ratio(target, (self._teacher, model))
        return {name: cost * ratio for name, cost in self._final(self._teacher, target, limits).items()}

    def _ratio(self, target: Target, models: Sequence[nn.Module], *, precisions: Sequence[str] | None = None) -> float:
        """Latency of the second of two networks by that of the first."""
        base_ms, new_ms = time_interleaved(
            models,
            target,
            self._preprocess,
            precisions=precisions,
            min_turns=_MIN_TURNS,
            seconds=_SECONDS,
            calls=_CALLS,
            kept_fp32=self._kept_on(target),
        )
        return statistics.median(new / base for base, new in zip(base_ms, new_ms, strict=True))

    def _final(self, model: nn.Module, target: Target, limits: Sequence[Limit]) -> dict[str, float]:
        measured = self._teacher_on(target) if model is self._teacher else self._measured(model, target)
        costs = {}
        for limit in limits:
            estimate = quantity(limit.quantity).estimate(measured)
            assert estimate is not None  # noqa: S101 - such quantities are measured for every artifact
            costs[str(limit)] = limit.cost(estimate.high if limit.sense == "at most" else estimate.low)
        return costs

    def _teacher_on(self, target: Target) -> Measurement:
        """The teacher's measurement, which is made once."""
        if target.name not in self._teachers:
            key, teacher = f"teacher on {target.name}", self._teacher
            measured = self._work.kept(key, lambda: to_json(self._measured(teacher, target)))
            self._teachers[target.name] = from_json(Measurement, measured)
        return self._teachers[target.name]

    def _measured(self, model: nn.Module, target: Target) -> Measurement:
        """Size and speed of the artifact of `model`, as `validate` measures them."""
        backend = backend_of(target)
        with TemporaryDirectory() as folder:
            graph, artifact = Path(folder, "model.onnx"), Path(folder, f"model{backend.traits.suffix}")
            kept = self._kept_on(target)
            onnx.save(timing_graph(model, target, self._preprocess, kept_fp32=kept, as_exported=True), graph)
            built = artifact if artifact != graph else Path(folder, f"built{backend.traits.suffix}")
            backend.build(graph, target, built)
            speed = self._speed(built, target)
            size_bytes = built.stat().st_size
        if speed.noise and target.name not in self._noisy:
            self._noisy.add(target.name)
            _log.warning("%s: the budget is uncertain, as this machine is noisy: %s", target.name, speed.noise[0])
        return Measurement(
            artifact_sha256="",
            size_bytes=size_bytes,
            golden_agreement=1.0,
            accuracy=None,
            drop=None,
            speed=speed,
            environment={},
            settings={},
            random_weights=False,
            not_measured="",
        )

    def _speed(self, artifact: Path, target: Target) -> Speed:
        """The speed of an artifact, measured once more, or twice, where noise disturbs it; then the least uncertain."""
        speeds: list[Speed] = []
        while len(speeds) < _ATTEMPTS and (not speeds or speeds[-1].noise):
            samples = measure_speed(artifact, target, progress=self._progress)
            speeds.append(speed_from_samples(samples, target.measure))
        return min(speeds, key=lambda speed: (bool(speed.noise), speed.latency.p50.high / speed.latency.p50.low))

    def _collected(self, target: Target, variants: Variants | None = None) -> dict[str, float]:
        """The latency table that was collected from the device of `target`, with all `variants`."""
        network = digest_of(self._teacher, self._preprocess)
        table = cached_table(network, target, kept_fp32=self._kept_on(target))
        if table is None or not {*(variants or [FP32_TEACHER])} <= table.latencies_ms.keys():
            raise TargetError(
                f"target {target.name}: {not_measured(self._elsewhere[target.name])}, and no latency table of this "
                "teacher with these options was collected from it. Take the same options to make one: "
                f"edgeoe latency-table {self._alone(target)} -o {quoted(target.name)}.tar.gz"
            )
        return table.latencies_ms

    def _alone(self, target: Target) -> str:
        """The options that name `target` alone, with the multiple of channels that suits all targets."""
        multiple = lcm(*(one.channel_multiple for one in self._targets.values()))
        widths = "" if self._has_multiple or multiple == target.channel_multiple else f" --channel-multiple {multiple}"
        return f"--target {quoted(target.name)}{widths}"
