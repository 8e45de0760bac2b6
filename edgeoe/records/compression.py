"""What `compress` did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeoe.bounds import Fraction
from edgeoe.records.measurement import Estimate

__all__ = ["CompressRecord", "Pace", "SpeedUp", "TeacherAgreement"]

Pace = Literal["faster", "about as fast", "slower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAgreement:
    """With how many labels of few samples the teacher agrees, in all and by class.

    of: labelled images that it was shown, which may be a share of them all.
    note: what seems wrong; empty if nothing does.
    """

    right: int
    of: int
    right_per_class: tuple[int, ...]
    of_per_class: tuple[int, ...]
    note: str = ""

    def __str__(self) -> str:
        return f"the teacher agrees with {self.right:,} of {self.of:,} labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """A student beside its teacher, timed in turns on this machine with the runtime of one target.

    precision: of both graphs.
    teacher_ms, student_ms: medians of n turns.
    ratio: median of student / teacher over turns.
    outcome: what the ratio's interval says.
    advice: what may help a student that is not faster.
    reason: why nothing could be timed; then there are no figures.
    """

    target: str
    precision: str = "fp32"
    teacher_ms: float | None = None
    student_ms: float | None = None
    ratio: Estimate | None = None
    n: int = 0
    outcome: Pace | None = None
    advice: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressRecord:
    """What `compress` did.

    macs_kept, params_kept: shares of the teacher's.
    macs, params: of the student.
    steps: training steps taken.
    best_step: the step whose weights the student has.
    accelerator: that computed, as torch names it: cpu, cuda:0.
    precision: of the training arithmetic, as asked for.
    channel_multiple: of widths, as far as the share allowed.
    speed: beside the teacher, on each target.
    notes: what the user should know of how the share asked for was met.
    teacher_agreement: None for random weights, or without labelled samples.
    """

    method: str
    oe: bool
    macs_kept: Fraction
    params_kept: Fraction
    macs: int
    params: int
    steps: int
    best_step: int
    seconds: float
    images_per_second: float
    seed: int
    accelerator: str
    precision: str
    channel_multiple: int
    speed: tuple[SpeedUp, ...] = ()
    notes: tuple[str, ...] = ()
    teacher_agreement: TeacherAgreement | None = None
