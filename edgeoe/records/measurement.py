"""Records of an artifact, its measurement, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from edgeoe.bounds import Count, Fraction
from edgeoe.codec import UNBOUNDED
from edgeoe.registry import PAGES
from edgeoe.targets.profile import Target

__all__ = [
    "Accuracy",
    "Artifact",
    "Check",
    "Estimate",
    "Latency",
    "Measurement",
    "Outcome",
    "Speed",
    "Validation",
    "Verdict",
    "worst",
]

Outcome = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value and its 95 % interval, which may have no upper end."""

    value: float
    low: float
    high: Annotated[float, UNBOUNDED]

    @property
    def is_positive(self) -> bool:
        """Whether value and interval can be those of a time, a size or a rate."""
        return self.value > 0 and self.low >= 0 and self.high > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The artifact that `build` wrote for one target.

    artifact: path of its file in the run.
    sha256: of the file, verified before it is loaded.
    graph_sha256: of the graph that it was built from.
    settings: build settings.
    """

    artifact: str
    sha256: str
    size_bytes: Annotated[int, Ge(1)]
    backend: str
    versions: dict[str, str]
    target: str
    precision: str
    graph_sha256: str
    settings: dict[str, Any]

    @property
    def file(self) -> str:
        """The name of its file."""
        return self.artifact.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency percentiles in milliseconds of n calls in several processes.

    Percentiles are nearest ranks among all calls, with intervals by `percentile_over_processes`.
    n: number of calls.
    batch: images per call.
    """

    p50: Estimate
    p90: Estimate
    p99: Estimate
    n: Annotated[int, Ge(1)]
    batch: Annotated[int, Ge(1)]
    processes: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        _require_positive({"p50": self.p50, "p90": self.p90, "p99": self.p99})


def _require_positive(estimates: Mapping[str, Estimate]) -> None:
    """Raise ValueError, naming the first of `estimates` that is not positive."""
    for name, estimate in estimates.items():
        if not estimate.is_positive:
            raise ValueError(f"{name}: expected a positive value and interval. Got {estimate.value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Speed and memory of an artifact, over several processes.

    load_ms: time to load the model in a new process.
    first_ms: the first call after loading.
    peak_memory_mb: of the process, in 10^6 bytes.
    throughput_ips: images per second, by batch size.
    noise: why the figures can't be judged; empty if they can.
    probed: further quantities of the budget, each measured by its probe.
    not_probed: why the probes of other quantities gave no figures.
    """

    latency: Latency
    load_ms: Estimate
    first_ms: Estimate
    peak_memory_mb: Estimate
    throughput_ips: dict[int, Estimate]
    noise: tuple[str, ...] = ()
    probed: dict[str, Estimate] = field(default_factory=dict)
    not_probed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rates = {f"throughput_ips.{batch}": rate for batch, rate in self.throughput_ips.items()}
        single = {"load_ms": self.load_ms, "first_ms": self.first_ms, "peak_memory_mb": self.peak_memory_mb}
        _require_positive({**single, **rates, **{f"probed.{name}": one for name, one in self.probed.items()}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Accuracy as fractions.

    recall_per_class: in class order; None for a class without test images.
    rare_recall: mean recall of `rare_classes`; None if they have no test images.
    rare_classes: indices of the classes with the fewest labelled samples.
    """

    top1: Estimate
    recall_per_class: tuple[Estimate | None, ...]
    mean_recall: Estimate
    rare_recall: Estimate | None
    worst_recall: Estimate
    rare_classes: tuple[Count, ...]
    images_per_class: tuple[Count, ...]

    def __post_init__(self) -> None:
        classes = len(self.recall_per_class)
        if len(self.images_per_class) != classes:
            raise ValueError(f"images_per_class: {len(self.images_per_class)} values for {classes} classes")
        if any(k >= classes for k in self.rare_classes):
            raise ValueError(f"rare_classes: expected indices below {classes}, the number of classes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measurement of one artifact, with machine and settings.

    golden_agreement: share of the golden images that get the student's class.
    accuracy: None without test images.
    drop: top-1 of the teacher minus that of the artifact; None if no budget limits it, or if the teacher's predictions
        are unknown.
    speed: None if it was not measured.
    environment: facts about the machine.
    settings: build and measurement settings.
    random_weights: whether the teacher is untrained, which makes the accuracy meaningless.
    notes: further remarks for the reader.
    not_measured: why there is no speed; empty if there is.
    """

    artifact_sha256: str
    size_bytes: Annotated[int, Ge(1)]
    golden_agreement: Fraction
    accuracy: Accuracy | None
    drop: Estimate | None
    speed: Speed | None
    environment: dict[str, Any]
    settings: dict[str, Any]
    random_weights: bool = False
    notes: tuple[str, ...] = ()
    not_measured: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit compared with one measured value.

    limit: None for a check that only has a reason not to pass.
    origin: the option of `compress` that the limit is from; empty for the profile's budget.
    """

    name: str
    limit: float | None
    sense: Literal["at most", "at least"]
    measured: Estimate | None
    outcome: Outcome
    reason: str = ""
    origin: str = ""


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of `outcomes`: failed, then inconclusive, then passed; passed if there are none."""
    distinct = set(outcomes)
    return "failed" if "failed" in distinct else "inconclusive" if "inconclusive" in distinct else "passed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks, and the worst of their outcomes."""

    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        return worst(check.outcome for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Validation:
    """Measurement and verdict of one artifact on one target.

    target: the profile, with the budget.
    classes: names of all classes.
    result_sha256: of the file with the result that is judged.
    """

    target: Target
    classes: tuple[str, ...]
    measurement: Measurement
    verdict: Verdict
    result_sha256: str = ""

    def __post_init__(self) -> None:
        accuracy = self.measurement.accuracy
        if accuracy and len(accuracy.recall_per_class) != len(self.classes):
            raise ValueError(
                f"measurement.accuracy.recall_per_class: {len(accuracy.recall_per_class)} values for "
                f"{len(self.classes)} classes"
            )

    @property
    def outcome(self) -> Outcome:
        """The verdict's outcome."""
        return self.verdict.outcome

    def __repr__(self) -> str:
        return f"Validation({self.summary})"

    @property
    def summary(self) -> str:
        """Target, outcome and the main figures in a line."""
        speed, accuracy = self.measurement.speed, self.measurement.accuracy
        figures = [
            *([f"p50 {speed.latency.p50.value:.3g} ms"] if speed else []),
            *([f"top-1 {100 * accuracy.top1.value:.1f} %"] if accuracy else []),
        ]
        return f"{self.target.name!r}: {', '.join([self.outcome, *figures])}"

    def _repr_html_(self) -> str | None:
        """Figures and verdict as a page, for notebooks."""
        show: Callable[[Validation], str | None] = PAGES.load("validation")
        return show(self)
