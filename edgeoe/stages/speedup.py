"""Speed-up of a student over its teacher, measured interleaved on this machine with the runtime of each target."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import EdgeoeError, PruningError
from edgeoe.measure.decision import decide_paired
from edgeoe.models.structure import read_structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.prune import Pruned
from edgeoe.records.comparison import Change
from edgeoe.records.compression import Pace, SpeedUp
from edgeoe.stages.latency_probe import time_interleaved
from edgeoe.stages.precisions import variant_for
from edgeoe.targets.profile import Target

__all__ = ["compare_speed"]

TOLERANCE = 0.02  # by which two sessions of the same network may differ
_CALLS, _MIN_TURNS, _SECONDS = 3, 12, 3.0
_OUTCOMES: dict[Change, Pace] = {"improved": "faster", "regressed": "slower"}


def compare_speed(
    teacher: nn.Module,
    pruned: Pruned,
    *,
    targets: Sequence[Target],
    channel_multiple: int,
    preprocess: Preprocess,
    kept_fp32: Mapping[str, Collection[str]] | None = None,
    progress: Progress = silent,
) -> tuple[SpeedUp, ...]:
    """Measure the speed-up of the student on each of `targets`, in the target's precision and batch size.

    The student is faster or slower only if the whole 95 % interval of the ratio lies beyond TOLERANCE. If the target is
    not this machine, its runtime is missing, or a network can't be exported, the record has the reason instead.

    channel_multiple: multiple that the student's widths were rounded to.
    kept_fp32: {variant of a graph: layers that stay fp32 in it}; None is none.
    Returns nothing if nothing was pruned.
    """
    if not pruned.removed and not pruned.dropped:
        return ()
    speed_ups = []
    with progress("Timing beside teacher", len(targets)) as advance:
        for target in targets:
            kept = (kept_fp32 or {}).get(variant_for(target), ())
            speed_ups.append(_compare_on(target, teacher, pruned, channel_multiple, preprocess, kept))
            advance()
    return tuple(speed_ups)


def _compare_on(
    target: Target,
    teacher: nn.Module,
    pruned: Pruned,
    channel_multiple: int,
    preprocess: Preprocess,
    kept_fp32: Collection[str],
) -> SpeedUp:
    try:
        base_ms, new_ms = time_interleaved(
            (teacher, pruned.model),
            target,
            preprocess,
            min_turns=_MIN_TURNS,
            seconds=_SECONDS,
            calls=_CALLS,
            kept_fp32=kept_fp32,
        )
    except EdgeoeError as reason:  # the student is kept all the same
        return SpeedUp(
            target=target.name, precision=target.precision, reason=str(reason).removeprefix(f"target {target.name}: ")
        )
    change = decide_paired(base_ms, new_ms, quantity="p50", tolerance=TOLERANCE)
    outcome: Pace = _OUTCOMES.get(change.change, "about as fast")
    advice = "" if outcome == "faster" else "; ".join(_remedies(teacher, pruned, target, channel_multiple, preprocess))
    return SpeedUp(
        target=target.name,
        precision=target.precision,
        teacher_ms=change.base_ms,
        student_ms=change.new_ms,
        ratio=change.ratio,
        n=change.n,
        outcome=outcome,
        advice=advice,
    )


def _remedies(
    teacher: nn.Module, pruned: Pruned, target: Target, channel_multiple: int, preprocess: Preprocess
) -> Iterator[str]:
    """Advice that may make the student faster than its teacher."""
    fast = target.channel_multiple
    if pruned.removed and channel_multiple % fast:
        yield f"--channel-multiple {fast}, as {target.name} computes widths at multiples of {fast} fast"
    if not pruned.dropped and (blocks := _count_blocks(teacher, preprocess.shape)):
        yield f"--method practise, as {blocks} blocks of this teacher can be dropped whole"
    yield "to keep less"
    if target.precision == "fp32" and target.device.int8_dot is not False:
        yield f'precision = "int8" in the profile of {target.name}'


def _count_blocks(teacher: nn.Module, shape: tuple[int, int, int]) -> int:
    """The number of residual blocks that practise can drop."""
    try:
        return len(read_structure(teacher, shape).blocks)
    except PruningError:
        return 0
