"""compare: two artifacts on a target -> whether the new one is slower, faster, or less often right.

Needs no torch: a CI job installs `edgeoe[gate]` in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np

from edgeoe.backends import backend_of
from edgeoe.errors import ConfigError, RunError, quoted
from edgeoe.files import file_sha256
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

__all__ = ["GateSettings", "Side", "compare", "find_side"]

_ALPHA = 0.002  # of the rank test, over all targets
_Quantity = Literal["p50", "p99"]
_QUANTITIES: dict[_Quantity, float] = {"p50": 0.50, "p99": 0.99}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What is too much: tolerance, p99_tolerance: shares of the base's latency. accuracy_tolerance, class_tolerance:
    of top-1 and of a rare class's recall, as fractions. most_rounds, most_seconds: where a comparison of one target
    ends undecided.
    """

    tolerance: float = 0.03
    p99_tolerance: float = 0.10
    accuracy_tolerance: float = 0.02
    class_tolerance: float = 0.10
    most_rounds: int = 40
    most_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two. artifact: where it is at hand. result: what was measured of it earlier."""

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
    """(target, base, new) for each target -> a comparison each.

    Where both artifacts are at hand, and this machine is the target's device, they are measured here, one against the
    other; else, or with `stored`, by what was measured of them earlier, on like devices. Raises RunError where neither
    can be done.
    """
    alpha, facts = _ALPHA / len(sides), environment()  # to stop by; with_holm then takes back what is too strict
    seen = []
    for target, base, new in sides:
        elsewhere = () if stored else differences(target, facts)
        if base.artifact and new.artifact and not stored and not elsewhere:
            seen.append(_interleaved(target, base, new, settings, alpha, progress))
        else:
            seen.append(_from_stored(target, base, new, settings, alpha, elsewhere))
    p50s = [change for one in seen for change in one.changes if change.quantity == "p50"]
    p99s = [change for one in seen for change in one.changes if change.quantity == "p99"]
    held = iter(zip(with_holm(p50s, _ALPHA), with_holm(p99s, _ALPHA), strict=True))
    return [
        _comparison(*side, replace(one, changes=next(held)) if one.changes else one, settings)
        for side, one in zip(sides, seen, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Latency:
    """What became of the latency on one target. reason: why nobody can tell, where there are no changes."""

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
        base=base.name,
        new=new.name,
        how=latency.how,
        latency=latency.changes,
        accuracy=accuracy,
        outcome=outcome,
        reason=reason,
        notes=notes,
        seconds=latency.seconds,
        environment=latency.environment,
    )


def find_side(text: str, target: Target, store: Store) -> Side:
    """What `text` names: a run, a result (.json), an artifact's file, or a baseline in `store`.

    Raises ConfigError or RunError where it is none, or lacks `target`.
    """
    path = Path(text)
    if (path / layout.MANIFEST).is_file():
        return _side_of_run(Run.open(path), target)
    if path.suffix == ".json" and path.is_file():
        result = read_result(path)
        if result.target.name != target.name:
            raise RunError(f"{path}: a result for {result.target.name}, not for {target.name}.")
        artifact = artifact_of(path, result)
        return Side(name=text, artifact=artifact if _is(artifact, result) else None, result=result)
    if path.is_file():
        suffix = traits_of(target.backend).suffix
        if path.suffix != suffix:
            raise ConfigError(f"{path}: {target.backend} of target {target.name} runs {suffix} files.")
        return Side(name=text, artifact=path, result=None)
    if path.exists() or path.parent != Path():
        raise ConfigError(f"{path}: no run, result (.json) or artifact.")
    found = Store.find(store, text, target.name)
    return Side(name=text, artifact=found.artifact, result=found.result)


def _side_of_run(run: Run, target: Target) -> Side:
    files = layout.TargetFiles(target.name)
    artifact = None
    result = run.read(files.result) if run.has(files.result) else None
    if run.has(files.engine):
        artifact = run.file(files.artifact(run.read(files.engine).file))
        if result and not _is(artifact, result):  # collected from a device
            artifact = None
    if not artifact and not result:
        raise RunError(f"{run.path}: nothing built for {target.name}. Build: {run.command(files.engine)}")
    return Side(name=str(run.path), artifact=artifact, result=result)


def _is(artifact: Path, result: Result) -> bool:
    return artifact.is_file() and file_sha256(artifact) == result.artifact_sha256


def _interleaved(
    target: Target, base: Side, new: Side, settings: GateSettings, alpha: float, progress: Progress
) -> _Latency:
    assert base.artifact is not None  # noqa: S101 - its caller looked
    assert new.artifact is not None  # noqa: S101
    start = monotonic()
    rounds: list[Round] = []
    changes: tuple[LatencyChange, ...] = ()
    due = looks(fewest_rounds(alpha), settings.most_rounds)
    with progress(f"Comparing on {target.name}", due[-1]) as advance:
        while True:
            rounds.append(measure_round(base.artifact, new.artifact, target, len(rounds)))
            advance()
            late = monotonic() - start > settings.most_seconds
            if len(rounds) in due or late:
                changes = tuple(_decide(rounds, quantity, settings, alpha) for quantity in _QUANTITIES)
                if late or len(rounds) == due[-1] or changes[0].change != "inconclusive":
                    break
    return _Latency(
        how="interleaved",
        changes=changes,
        seconds=monotonic() - start,
        environment={**environment(), "versions": backend_of(target).versions()},
    )


def _decide(rounds: Sequence[Round], quantity: _Quantity, settings: GateSettings, alpha: float) -> LatencyChange:
    pairs = np.asarray([one.p50() if quantity == "p50" else one.p99() for one in rounds])
    return decide_paired(
        pairs[:, 0], pairs[:, 1], quantity=quantity, tolerance=_tolerance(quantity, settings), alpha=alpha
    )


def _tolerance(quantity: _Quantity, settings: GateSettings) -> float:
    return settings.tolerance if quantity == "p50" else settings.p99_tolerance


def _from_stored(
    target: Target, base: Side, new: Side, settings: GateSettings, alpha: float, elsewhere: Sequence[str]
) -> _Latency:
    """elsewhere: what tells this machine from the target's device, where that is why nothing is measured here."""
    one, other = (_measured_on_device(target, side, elsewhere) for side in (base, new))
    assert base.result is not None  # noqa: S101 - it has a speed
    assert new.result is not None  # noqa: S101
    differs = [*_differences(base.result, new.result), *(text for side in (base, new) for text in _disturbed(side))]
    changes: tuple[LatencyChange, ...] = ()
    if not differs:
        changes = tuple(_decide_stored(one, other, quantity, settings, alpha) for quantity in _QUANTITIES)
    return _Latency(
        how="stored",
        changes=changes,
        reason=f"the stored latencies can't be compared: {'; '.join(differs)}" if differs else "",
        environment=new.result.environment,
    )


def _measured_on_device(target: Target, side: Side, elsewhere: Sequence[str]) -> SpeedSamples:
    """What was measured of `side` on the target's own device. Raises RunError, with the way out, if nothing was."""
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
    told = [
        *differing(base.environment, new.environment),
        *(
            (f"[runtime] {key}", getattr(base.target.runtime, key), getattr(new.target.runtime, key))
            for key in ("threads", "spinning", "affinity", "provider", "unit")
        ),
        ("batch", *(side.speed.batch if side.speed else None for side in (base, new))),
        ("backend", base.target.backend, new.target.backend),
    ]
    for field, was, now in told:
        if was != now:
            yield f"{field} was {was} and is {now}"


def _disturbed(side: Side) -> list[str]:
    speed = side.result.speed if side.result else None
    return [f"{side.name} was disturbed: {why}" for why in (speed.disturbed if speed else ())]


def _decide_stored(
    base: SpeedSamples, new: SpeedSamples, quantity: _Quantity, settings: GateSettings, alpha: float
) -> LatencyChange:
    base_ms, new_ms = (
        np.asarray([nearest_rank(np.asarray(calls), _QUANTITIES[quantity]) for calls in speed.calls_ms])
        for speed in (base, new)
    )
    return decide_unpaired(base_ms, new_ms, quantity=quantity, tolerance=_tolerance(quantity, settings), alpha=alpha)


def _accuracy(base: Side, new: Side, settings: GateSettings) -> tuple[tuple[AccuracyChange, ...], tuple[str, ...]]:
    """Changes of accuracy, or why there are none."""
    sides = {"base": base, "new": new}
    for which, side in sides.items():
        if side.result is None or side.result.predictions is None:
            return (), (
                f"accuracy is not compared: no predictions of {which}, {side.name}: edgeoe validate makes them",
            )
        if side.artifact and not _is(side.artifact, side.result):
            return (), (f"accuracy is not compared: the predictions of {which} {side.name} are of another artifact",)
    assert base.result is not None  # noqa: S101 - seen above
    assert new.result is not None  # noqa: S101
    before, after = base.result.predictions, new.result.predictions
    assert before is not None  # noqa: S101
    assert after is not None  # noqa: S101
    if before.test_sha256 != after.test_sha256:
        return (), ("accuracy is not compared: the two were tested on other images",)
    changes = accuracy_changes(
        before.chosen,
        after.chosen,
        after.labels,
        classes=new.result.classes,
        rare=new.result.rare,
        tolerance=settings.accuracy_tolerance,
        class_tolerance=settings.class_tolerance,
    )
    return changes, ()
