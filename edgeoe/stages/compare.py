"""compare: two artifacts on a target -> whether the new one is slower, faster, or less accurate.

Needs no torch: a CI job installs `edgeoe[gate]` in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np

from edgeoe.backends import backend_of
from edgeoe.errors import ConfigError, RunError, quoted
from edgeoe.files import file_sha256, path_in_report
from edgeoe.machine.environment import environment
from edgeoe.machine.fingerprint import differing
from edgeoe.measure.accuracy_change import accuracy_changes
from edgeoe.measure.decision import decide_paired, decide_unpaired, fewest_rounds, looks
from edgeoe.measure.gate import gate, with_holm
from edgeoe.measure.interleaved import Round, measure_round
from edgeoe.measure.statistics import nearest_rank
from edgeoe.progress import Progress, silent
from edgeoe.records.comparison import AccuracyChange, Comparison, LatencyChange
from edgeoe.records.result import Result, SpeedSamples
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.result_file import artifact_of, read_result
from edgeoe.stages.baseline import Store
from edgeoe.targets.backends import traits_of
from edgeoe.targets.here import bundle_command, differences, not_measured
from edgeoe.targets.profile import Target

__all__ = ["GateSettings", "Side", "compare", "find_side", "unchanged_sides"]

_ALPHA = 0.002  # of the rank test, over all targets
_Quantity = Literal["p50", "p99"]
_QUANTITIES: dict[_Quantity, float] = {"p50": 0.50, "p99": 0.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Tolerances and limits of a comparison.

    tolerance, p99_tolerance: slow-down of p50 and p99 that is allowed, as fractions of the base's latency.
    accuracy_tolerance, class_tolerance: loss of top-1 and of a rare class's recall that is allowed, as fractions.
    most_rounds, most_seconds: maximum per target, after which the comparison is inconclusive.
    """

    tolerance: float = 0.03
    p99_tolerance: float = 0.10
    accuracy_tolerance: float = 0.02
    class_tolerance: float = 0.10
    most_rounds: int = 40
    most_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two sides of a comparison.

    name: as the user calls it.
    artifact: None if only the result is available.
    result: its earlier measurement; None if there is none.
    """

    name: str
    artifact: Path | None
    result: Result | None


def compare(
    sides: Sequence[tuple[Target, Side, Side]],
    settings: GateSettings,
    *,
    stored: bool = False,
    progress: Progress = silent,
) -> list[Comparison]:
    """Compare base and new on each target.

    If both artifacts are available and this machine is the target's device, they are measured here, interleaved.
    Otherwise their earlier measurements on equal devices are compared.

    sides: (target, base, new)
    stored: always compare earlier measurements.
    Raises RunError if neither is possible.
    """
    alpha, facts = _ALPHA / len(sides), environment()  # the level to stop at; with_holm then corrects less strictly
    latencies = []
    for target, base, new in sides:
        elsewhere = () if stored else differences(target, facts)
        if base.artifact and new.artifact and not stored and not elsewhere:
            latencies.append(_interleaved(target, base, new, settings, alpha, progress))
        else:
            latencies.append(_from_stored(target, base, new, settings, alpha, elsewhere))
    p50s = [change for latency in latencies for change in latency.changes if change.quantity == "p50"]
    p99s = [change for latency in latencies for change in latency.changes if change.quantity == "p99"]
    adjusted = iter(zip(with_holm(p50s, _ALPHA), with_holm(p99s, _ALPHA), strict=True))
    return [
        _comparison(*side, replace(latency, changes=next(adjusted)) if latency.changes else latency, settings)
        for side, latency in zip(sides, latencies, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Latency:
    """Changes of latency on one target.

    reason: why there are no changes; empty if there are.
    """

    how: Literal["interleaved", "stored"]
    changes: tuple[LatencyChange, ...]
    environment: dict[str, Any]
    reason: str = ""
    seconds: float = 0.0


def _comparison(target: Target, base: Side, new: Side, latency: _Latency, settings: GateSettings) -> Comparison:
    accuracy, notes = _accuracy(base, new, settings)
    outcome, reason = gate(latency.changes, accuracy)
    if latency.reason and outcome == "failed":  # accuracy can be compared where latency can't
        reason = f"{reason}; {latency.reason}"
    elif latency.reason:
        outcome, reason = "inconclusive", latency.reason
    return Comparison(
        target=target.name,
        base=path_in_report(base.name),
        new=path_in_report(new.name),
        how=latency.how,
        latency=latency.changes,
        accuracy=accuracy,
        outcome=outcome,
        reason=reason,
        notes=notes,
        seconds=latency.seconds,
        environment=latency.environment,
    )


@contextmanager
def unchanged_sides(*texts: str) -> Iterator[None]:
    """A block in which no other command changes those runs that `texts` name, as `find_side` takes them."""
    with ExitStack() as stack:
        for path in map(Path, texts):
            if (path / layout.MANIFEST).is_file():
                stack.enter_context(Run(path).locked(shared=True))
        yield


def find_side(text: str, target: Target, store: Store) -> Side:
    """The side that `text` names: a run, a result (.json), an artifact's file, or a baseline in `store`.

    Raises ConfigError or RunError if it is none of these, or has nothing for `target`.
    """
    path = Path(text)
    if (path / layout.MANIFEST).is_file():
        return _side_of_run(Run.open(path), target)
    if path.suffix == ".json" and path.is_file():
        result = read_result(path)
        if result.target.name != target.name:
            raise RunError(f"{path}: a result for {result.target.name}, not for {target.name}.")
        artifact = artifact_of(path, result)
        return Side(name=text, artifact=artifact if _is_artifact_of(artifact, result) else None, result=result)
    if path.is_file():
        suffix = traits_of(target.backend).suffix
        if path.suffix != suffix:
            raise ConfigError(f"{path}: {target.backend} of target {target.name} runs {suffix} files.")
        return Side(name=text, artifact=path, result=None)
    if path.exists() or path.parent != Path():
        raise ConfigError(f"{path}: not a run, a result (.json) or an artifact.")
    baseline = Store.find(store, text, target.name)
    return Side(name=text, artifact=baseline.artifact, result=baseline.result)


def _side_of_run(run: Run, target: Target) -> Side:
    files = layout.TargetFiles(target.name)
    artifact = None
    result = run.read(files.result) if run.has(files.result) else None
    if run.has(files.engine):
        artifact = run.file(files.artifact(run.read(files.engine).file))
        if result and not _is_artifact_of(artifact, result):  # collected from a device
            artifact = None
    if not artifact and not result:
        raise RunError(f"{run.path}: nothing built for {target.name}. Build: {run.command(files.engine)}")
    return Side(name=str(run.path), artifact=artifact, result=result)


def _is_artifact_of(artifact: Path, result: Result) -> bool:
    return artifact.is_file() and file_sha256(artifact) == result.artifact_sha256


def _interleaved(
    target: Target, base: Side, new: Side, settings: GateSettings, alpha: float, progress: Progress
) -> _Latency:
    assert base.artifact is not None  # noqa: S101 - checked by the caller
    assert new.artifact is not None  # noqa: S101
    start = monotonic()
    rounds: list[Round] = []
    changes: tuple[LatencyChange, ...] = ()
    interim = looks(fewest_rounds(alpha), settings.most_rounds)
    with progress(f"Comparing on {target.name}", interim[-1]) as advance:
        while True:
            rounds.append(measure_round(base.artifact, new.artifact, target, len(rounds)))
            advance()
            timed_out = monotonic() - start > settings.most_seconds
            if len(rounds) in interim or timed_out:
                changes = tuple(_decide(rounds, quantity, settings, alpha) for quantity in _QUANTITIES)
                if timed_out or len(rounds) == interim[-1] or changes[0].change != "inconclusive":
                    break
    return _Latency(
        how="interleaved",
        changes=changes,
        seconds=monotonic() - start,
        environment={**environment(), "versions": backend_of(target).versions()},
    )


def _decide(rounds: Sequence[Round], quantity: _Quantity, settings: GateSettings, alpha: float) -> LatencyChange:
    pairs = np.asarray([each.p50() if quantity == "p50" else each.p99() for each in rounds])
    return decide_paired(
        pairs[:, 0], pairs[:, 1], quantity=quantity, tolerance=_tolerance(quantity, settings), alpha=alpha
    )


def _tolerance(quantity: _Quantity, settings: GateSettings) -> float:
    return settings.tolerance if quantity == "p50" else settings.p99_tolerance


def _from_stored(
    target: Target, base: Side, new: Side, settings: GateSettings, alpha: float, elsewhere: Sequence[str]
) -> _Latency:
    """Compare the earlier measurements of `base` and `new`.

    elsewhere: differences of this machine from the target's device, if that is why nothing is measured here.
    """
    base_speed, new_speed = (_speed_on_device(target, side, elsewhere) for side in (base, new))
    assert base.result is not None  # noqa: S101 - it has a speed
    assert new.result is not None  # noqa: S101
    differs = [*_differences(base.result, new.result), *(text for side in (base, new) for text in _disturbances(side))]
    changes: tuple[LatencyChange, ...] = ()
    if not differs:
        changes = tuple(_decide_stored(base_speed, new_speed, quantity, settings, alpha) for quantity in _QUANTITIES)
    return _Latency(
        how="stored",
        changes=changes,
        reason=f"the stored latencies can't be compared: {'; '.join(differs)}" if differs else "",
        environment=new.result.environment,
    )


def _speed_on_device(target: Target, side: Side, elsewhere: Sequence[str]) -> SpeedSamples:
    """The speed of `side` on the target's device. Raises RunError, with advice, if it was not measured there."""
    result = side.result
    differs = elsewhere or (differences(target, result.environment) if result else ())
    if result and result.speed and not differences(target, result.environment):
        return result.speed
    if differs:
        raise RunError(
            f"target {target.name}: {not_measured(differs)}, and no latency from the device is at hand for "
            f"{side.name}. Measure there: {bundle_command('RUN', target.name)}, and take the result back: "
            "edgeoe collect RUN result.json"
        )
    raise RunError(
        f"{side.name}: neither both artifacts nor both results are at hand for {target.name}. "
        f"Measure it: edgeoe validate {quoted(side.name)} --target {quoted(target.name)} --test DIR"
    )


def _differences(base: Result, new: Result) -> Iterator[str]:
    fields = [
        *differing(base.environment, new.environment),
        *(
            (f"[runtime] {key}", getattr(base.target.runtime, key), getattr(new.target.runtime, key))
            for key in ("threads", "spinning", "affinity", "provider", "unit")
        ),
        ("batch", *(side.speed.batch if side.speed else None for side in (base, new))),
        ("backend", base.target.backend, new.target.backend),
    ]
    for field, was, now in fields:
        if was != now:
            yield f"{field} was {was} and is {now}"


def _disturbances(side: Side) -> list[str]:
    speed = side.result.speed if side.result else None
    return [f"the measurement of {side.name} was disturbed: {why}" for why in (speed.disturbed if speed else ())]


def _decide_stored(
    base: SpeedSamples, new: SpeedSamples, quantity: _Quantity, settings: GateSettings, alpha: float
) -> LatencyChange:
    base_ms, new_ms = (
        np.asarray([nearest_rank(np.asarray(calls), _QUANTITIES[quantity]) for calls in speed.calls_ms])
        for speed in (base, new)
    )
    return decide_unpaired(base_ms, new_ms, quantity=quantity, tolerance=_tolerance(quantity, settings), alpha=alpha)


def _accuracy(base: Side, new: Side, settings: GateSettings) -> tuple[tuple[AccuracyChange, ...], tuple[str, ...]]:
    """Changes of accuracy, or the reason why there are none."""
    sides = {"base": base, "new": new}
    for which, side in sides.items():
        if side.result is None or side.result.predictions is None:
            return (), (f"accuracy is not compared: no predictions of {which}, {side.name}: run edgeoe validate",)
        if side.artifact and not _is_artifact_of(side.artifact, side.result):
            return (), (f"accuracy is not compared: the predictions of {which} {side.name} are of another artifact",)
    assert base.result is not None  # noqa: S101 - checked above
    assert new.result is not None  # noqa: S101
    base_predictions, new_predictions = base.result.predictions, new.result.predictions
    assert base_predictions is not None  # noqa: S101
    assert new_predictions is not None  # noqa: S101
    if base_predictions.test_sha256 != new_predictions.test_sha256:
        return (), ("accuracy is not compared: the two were tested on different images",)
    changes = accuracy_changes(
        base_predictions.chosen,
        new_predictions.chosen,
        new_predictions.labels,
        classes=new.result.classes,
        rare=new.result.rare,
        tolerance=settings.accuracy_tolerance,
        class_tolerance=settings.class_tolerance,
    )
    return changes, ()
