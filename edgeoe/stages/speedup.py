"""Is the student faster than its teacher? Both are timed in turns with the runtime of each target, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import EdgeoeError, PruningError
from edgeoe.measure.decision import decide_paired
from edgeoe.models.structure import read_structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.prune import Pruned
from edgeoe.records.comparison import Change
from edgeoe.records.compression import Pace, SpeedUp
from edgeoe.stages.latency_probe import time_in_turns
from edgeoe.targets.profile import Target

__all__ = ["compare_speed"]

TOLERANCE = 0.02  # two sessions of one network may differ by so much
_CALLS, _MIN_TURNS, _SECONDS = 3, 12, 3.0
_OUTCOMES: dict[Change, Pace] = {"improved": "faster", "regressed": "slower"}


def compare_speed(
    teacher: nn.Module,
    pruned: Pruned,
    *,
    targets: Sequence[Target],
    channel_multiple: int,
    preprocess: Preprocess,
    progress: Progress = silent,
) -> tuple[SpeedUp, ...]:
    """How fast the student is beside its teacher on each of `targets`, as fp32 graphs, one image at a time.

    Faster or slower is only what the whole 95 % interval of the ratio shows, beyond the 2 % by which two sessions of
    one network may differ. The record says why there is no figure where the target is not this machine, its runtime is
    missing, or a network can't be exported.
    channel_multiple: that the student's widths were kept at. Returns nothing where nothing was pruned.
    """
    if not pruned.removed and not pruned.dropped:
        return ()
    found = []
    with progress("Timing beside teacher", len(targets)) as advance:
        for target in targets:
            found.append(_compare_on(target, teacher, pruned, channel_multiple, preprocess))
            advance()
    return tuple(found)


def _compare_on(
    target: Target, teacher: nn.Module, pruned: Pruned, channel_multiple: int, preprocess: Preprocess
) -> SpeedUp:
    try:
        base_ms, new_ms = time_in_turns(
            (teacher, pruned.model), target, preprocess, min_turns=_MIN_TURNS, seconds=_SECONDS, calls=_CALLS
        )
    except EdgeoeError as reason:  # a student that was made is not lost for it
        return SpeedUp(target=target.name, reason=str(reason).removeprefix(f"target {target.name}: "))
    change = decide_paired(base_ms, new_ms, quantity="p50", tolerance=TOLERANCE)
    outcome: Pace = _OUTCOMES.get(change.change, "about as fast")
    advice = "" if outcome == "faster" else "; ".join(_remedies(teacher, pruned, target, channel_multiple, preprocess))
    return SpeedUp(
        target=target.name,
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
    """What may make a student faster than its teacher."""
    fast = target.channel_multiple
    if pruned.removed and channel_multiple % fast:
        yield f"--channel-multiple {fast}, as {target.name} computes widths at multiples of {fast} fast"
    if not pruned.dropped and (blocks := _blocks(teacher, preprocess.shape)):
        yield f"--method practise, as {blocks} blocks of this teacher can be dropped whole"
    yield "to keep less"
    if target.precision == "fp32" and target.device.int8_dot is not False:
        yield f'precision = "int8" in the profile of {target.name}'


def _blocks(teacher: nn.Module, shape: tuple[int, int, int]) -> int:
    """The number of residual blocks that practise can drop."""
    try:
        return len(read_structure(teacher, shape).blocks)
    except PruningError:
        return 0
