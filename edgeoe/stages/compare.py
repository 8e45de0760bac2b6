"""compare: two artifacts on a target -> whether the new one is slower, faster, or less accurate.

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
from edgeoe.backends.admission import require_admitted
from edgeoe.errors import RunError, quoted
from edgeoe.files import path_in_report
from edgeoe.machine.environment import environment
from edgeoe.machine.fingerprint import differing
from edgeoe.measure.accuracy_change import accuracy_changes
from edgeoe.measure.decision import decide_paired, decide_unpaired, fewest_rounds, looks
from edgeoe.measure.gate import gate, with_holm
from edgeoe.measure.interleaved import Round, measure_round
from edgeoe.measure.statistics import nearest_rank
from edgeoe.progress import Progress, silent
from edgeoe.records.comparison import AccuracyChange, Comparison, LatencyChange, Origin
from edgeoe.records.result import Result, SpeedSamples
from edgeoe.stages.sides import Side, Tested, classes_of, is_artifact_of, rare_of
from edgeoe.targets.here import bundle_command, differences, not_measured
from edgeoe.targets.profile import Target

__all__ = ["GateSettings", "compare"]

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


def compare(
    sides: Sequence[tuple[Target, Side, Side]],
    settings: GateSettings,
    *,
    stored: bool = False,
    test: Path | None = None,
    follow_links: bool = False,
    verify: Path | None = None,
    progress: Progress = silent,
) -> list[Comparison]:
    """Compare base and new on each target.

    If both artifacts are available and this machine is the target's device, they are measured here, interleaved.
    Otherwise their earlier measurements on equal devices are compared. With `test` both artifacts predict here; else
    their earlier predictions are compared. What is not measured here is as reported by a result, or signed.

    sides: (target, base, new)
    stored: always compare earlier latencies.
    test: test images, a folder per class.
    follow_links: follow links that lead out of `test`.
    verify: a public key; results that figures are taken from must be signed with its private one.
    Raises RunError if neither is possible, or a signature is missing or does not hold; BackendError for an artifact
    that is a program and not vouched for.
    """
    origin: Origin = "signed" if verify else "as reported"
    predicted = [_predicted(*each, test, follow_links=follow_links, progress=progress) for each in sides]
    alpha, facts = _ALPHA / len(sides), environment()  # the level to stop at; with_holm then corrects less strictly
    latencies = []
    for target, base, new in sides:
        elsewhere = () if stored else differences(target, facts)
        here = bool(base.artifact and new.artifact) and not stored and not elsewhere
        if verify and not (here and test):
            _require_signed(base, new, verify)
        if here:
            latencies.append(_interleaved(target, base, new, settings, alpha, progress))
        else:
            latencies.append(_from_stored(target, base, new, settings, alpha, elsewhere))
    p50s = [change for latency in latencies for change in latency.changes if change.quantity == "p50"]
    p99s = [change for latency in latencies for change in latency.changes if change.quantity == "p99"]
    adjusted = iter(zip(with_holm(p50s, _ALPHA), with_holm(p99s, _ALPHA), strict=True))
    return [
        _comparison(
            *side, replace(latency, changes=next(adjusted)) if latency.changes else latency, settings, tested, origin
        )
        for side, latency, tested in zip(sides, latencies, predicted, strict=True)
    ]


def _require_signed(base: Side, new: Side, key: Path) -> None:
    """Raise RunError unless the results of both are signed."""
    from edgeoe.stages.signing import require_signed

    for file in (base.file, new.file):
        if file is not None:
            require_signed(file, key)


def _predicted(
    target: Target, base: Side, new: Side, test: Path | None, *, follow_links: bool, progress: Progress
) -> Tested | None:
    """Predictions of both artifacts on the images under `test`; None without them."""
    if test is None:
        return None
    from edgeoe.stages.tested import predict_here  # it needs Pillow, and compare without --test does not

    return predict_here(base, new, target, test=test, follow_links=follow_links, progress=progress)


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


def _comparison(
    target: Target,
    base: Side,
    new: Side,
    latency: _Latency,
    settings: GateSettings,
    tested: Tested | None,
    origin: Origin,
) -> Comparison:
    if tested is None:
        reported, notes = _reported(base, new)
    else:
        reported, notes = tested, ()
    accuracy = _accuracy_changes(reported, settings) if reported else ()
    outcome, reason = gate(latency.changes, accuracy)
    if latency.reason and outcome == "failed":  # accuracy can be compared where latency can't
        reason = f"{reason}; {latency.reason}"
    elif latency.reason:
        outcome, reason = "inconclusive", latency.reason
    elif outcome == "passed" and not reported and base.result and base.result.predictions:
        outcome, reason = "inconclusive", "; ".join(notes)  # else new would pass by not saying how often it is right
    return Comparison(
        target=target.name,
        base=path_in_report(base.name),
        new=path_in_report(new.name),
        how=latency.how,
        latency_from="measured here" if latency.how == "interleaved" else origin,
        accuracy_from=origin if tested is None else "measured here",
        latency=latency.changes,
        accuracy=accuracy,
        outcome=outcome,
        reason=reason,
        notes=notes,
        seconds=latency.seconds,
        environment=latency.environment,
    )


def _interleaved(
    target: Target, base: Side, new: Side, settings: GateSettings, alpha: float, progress: Progress
) -> _Latency:
    assert base.artifact is not None  # noqa: S101 - checked by the caller
    assert new.artifact is not None  # noqa: S101
    for artifact in (base.artifact, new.artifact):
        require_admitted(artifact)
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


def _reported(base: Side, new: Side) -> tuple[Tested | None, tuple[str, ...]]:
    """The predictions that the results of both sides report, or the reason why they can't be compared."""
    for which, side in {"base": base, "new": new}.items():
        if side.result is None or side.result.predictions is None:
            return None, (f"accuracy is not compared: no predictions of {which}, {side.name}: run edgeoe validate",)
        if side.artifact and not is_artifact_of(side.artifact, side.result):
            return None, (f"accuracy is not compared: the predictions of {which} {side.name} are of another artifact",)
    assert base.result is not None  # noqa: S101 - checked above
    assert new.result is not None  # noqa: S101
    base_predictions, new_predictions = base.result.predictions, new.result.predictions
    assert base_predictions is not None  # noqa: S101
    assert new_predictions is not None  # noqa: S101
    if (base_predictions.test_sha256, base_predictions.labels) != (new_predictions.test_sha256, new_predictions.labels):
        return None, ("accuracy is not compared: the two were tested on different images",)
    if classes_of(base) != classes_of(new):
        return None, ("accuracy is not compared: the two have different classes",)
    return Tested(base_predictions, new_predictions, classes_of(base), rare_of(base)), ()


def _accuracy_changes(tested: Tested, settings: GateSettings) -> tuple[AccuracyChange, ...]:
    return accuracy_changes(
        tested.base.chosen,
        tested.new.chosen,
        tested.base.labels,
        classes=tested.classes,
        rare=tested.rare,
        tolerance=settings.accuracy_tolerance,
        class_tolerance=settings.class_tolerance,
    )
