"""What was built, what was measured of it, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from edgeoe.bounds import Fraction
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What `build` made for one target; `sha256` vouches for the file before it is loaded.

    artifact: its name in the run.
    graph_sha256: of the graph that it was built from.
    settings: what it was built with.
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
    """Percentiles in milliseconds of n single calls in several processes.

    Nearest rank among all calls; the interval is that of `percentile_over_processes`.

    n: calls.
    batch: images of a call.
    """

    p50: Estimate
    p90: Estimate
    p99: Estimate
    n: int
    batch: int
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast an artifact runs, over processes.

    load_ms: from nothing to a loaded model.
    first_ms: the first call thereafter.
    peak_memory_mb: of the process, in 10^6 bytes.
    throughput_ips: images per second, by batch size.
    noise: why the figures can't be judged; empty if they can.
    probed: further quantities of the budget, each measured by its probe.
    not_probed: why the figures of others are unknown.
    """

    latency: Latency
    load_ms: Estimate
    first_ms: Estimate
    peak_memory_mb: Estimate
    throughput_ips: dict[int, Estimate]
    noise: tuple[str, ...] = ()
    probed: dict[str, Estimate] = field(default_factory=dict)
    not_probed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Accuracies as fractions, in class order; None where the test set has no image of the class."""

    top1: Estimate
    recall_per_class: tuple[Estimate | None, ...]
    mean_recall: Estimate
    rare_recall: Estimate | None
    worst_recall: Estimate
    rare_classes: tuple[int, ...]
    images_per_class: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured of one artifact, where and how.

    accuracy: None where there were no test images.
    drop: top-1 of the teacher less that of the artifact; None where no budget asks for it, or the teacher's predictions
        are unknown.
    speed: None where it was not measured.
    environment: facts on the machine.
    settings: what it was built and measured with.
    random_weights: the teacher was never trained, and the accuracy says nothing.
    notes: what the reader should know besides.
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
    """One limit against one measured value; without a limit, something that forbids to pass, and why."""

    name: str
    limit: float | None
    sense: Literal["at most", "at least"]
    measured: Estimate | None
    outcome: Outcome
    reason: str = ""


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Failed if one is, else inconclusive if one is, else passed."""
    found = set(outcomes)
    return "failed" if "failed" in found else "inconclusive" if "inconclusive" in found else "passed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks, and the worst of their outcomes."""

    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        return worst(check.outcome for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Validation:
    """One artifact on one target: what was measured of it, and the verdict.

    target: with the budget that judges.
    classes: names of all classes.
    """

    target: Target
    classes: tuple[str, ...]
    measurement: Measurement
    verdict: Verdict

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
