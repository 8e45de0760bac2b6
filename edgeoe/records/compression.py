"""The record of `compress`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from edgeoe.bounds import Count, Fraction, NotNegative, Positive
from edgeoe.records.budget import BudgetSearch
from edgeoe.records.contents import Contents
from edgeoe.records.measurement import Estimate

__all__ = ["CompressRecord", "GoldenImages", "GoldenSource", "Pace", "SpeedUp", "TeacherAgreement"]

Pace = Literal["faster", "about as fast", "slower"]
GoldenSource = Literal["OOD images", "OOD and synthetic images", "synthetic images"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAgreement:
    """Agreement of the teacher with the labels of the samples, in total and by class.

    right: labels that the teacher predicts.
    of: labelled images that it was run on, possibly a subset.
    note: what seems wrong; empty if nothing does.
    """

    right: Count
    of: Count
    right_per_class: tuple[Count, ...]
    of_per_class: tuple[Count, ...]
    note: str = ""

    def __str__(self) -> str:
        return f"the teacher agrees with {self.right:,} of {self.of:,} labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """Latency of a student relative to its teacher, interleaved on this machine with the runtime of one target.

    precision: of both graphs, the target's.
    teacher_ms, student_ms: medians of n turns.
    ratio: median of student / teacher over turns.
    outcome: decided by the interval of the ratio.
    advice: what may help a student that is not faster.
    reason: why nothing could be timed; then there are no figures.
    """

    target: str
    precision: str = "fp32"
    teacher_ms: Positive | None = None
    student_ms: Positive | None = None
    ratio: Estimate | None = None
    n: Count = 0
    outcome: Pace | None = None
    advice: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GoldenImages:
    """Images on which artifacts are compared with the student, also on devices; none is a labelled sample.

    images: number of images.
    classes: number of classes that the student predicts on them.
    """

    source: GoldenSource
    images: int
    classes: int

    def __str__(self) -> str:
        return f"{self.images} {self.source}, on which the student predicts {self.classes} classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressRecord:
    """Result of `compress`.

    macs_kept, params_kept: shares of the teacher's.
    macs, params: of the student.
    steps: training steps.
    best_step: the step whose weights the student has.
    seconds: what it took, in all processes that went on with it, without what they lost.
    accelerator: the device that trained it, as torch names it: cpu, cuda:0.
    precision: training precision, as requested.
    channel_multiple: multiple of the widths, as far as the requested share allowed.
    speed: latency relative to the teacher, on each target.
    notes: remarks on how the requested share was met.
    budget: how the student was found, if it was made to a budget.
    max_drop: share of images whose class int8 may change, unless `export` is asked for another; None is any.
    golden: images on which artifacts are compared with the student; None in runs of earlier versions.
    teacher_agreement: None for random weights, or without labelled samples.
    contents: hashes of what the student is made of.
    student_sha256: of its files.
    """

    method: str
    oe: bool
    macs_kept: Fraction
    params_kept: Fraction
    macs: Count
    params: Count
    steps: Count
    best_step: Count
    seconds: NotNegative
    images_per_second: NotNegative
    seed: Count
    accelerator: str
    precision: str
    channel_multiple: Annotated[int, Ge(1)]
    speed: tuple[SpeedUp, ...] = ()
    notes: tuple[str, ...] = ()
    teacher_agreement: TeacherAgreement | None = None
    budget: BudgetSearch | None = None
    max_drop: Fraction | None = None
    golden: GoldenImages | None = None
    contents: Contents | None = None
    student_sha256: str = ""
