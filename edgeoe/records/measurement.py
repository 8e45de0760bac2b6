"""What was built, what was measured of it, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Accuracy",
    "Artifact",
    "Check",
    "Estimate",
    "Latency",
    "Measurement",
    "Outcome",
    "Speed",
    "Verdict",
    "worst",
]

Outcome = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What `build` made for one target; `sha256` vouches for the file before it is loaded."""

    artifact: str
    sha256: str
    size_bytes: int
    backend: str
    versions: dict[str, str]
    target: str
    precision: str
    graph_sha256: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles in milliseconds of n single calls in several processes.

    Nearest rank among all calls; the interval is that of `percentile_over_processes`.
    """

    p50: Estimate
    p90: Estimate
    p99: Estimate
    n: int
    batch: int
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured of an artifact's running, over processes.

    load_ms: from nothing to a loaded model. first_ms: the first call thereafter. peak_memory_mb: of the process, in
    10^6 bytes. throughput_ips: images per second, by batch size. noise: why its figures can't be judged; empty if they
    can.
    """

    latency: Latency
    load_ms: Estimate
    first_ms: Estimate
    peak_memory_mb: Estimate
    throughput_ips: dict[int, Estimate]
    noise: tuple[str, ...] = ()


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

    accuracy: None where there were no test images. drop: top-1 of the teacher less that of the artifact, None where no
    budget asks for it, or nobody knows the teacher's predictions. speed: None where it was not measured, and
    `not_measured` why. random_weights: the teacher never learned, and the accuracy says nothing. notes: what the reader
    should know besides.
    """

    artifact_sha256: str
    size_bytes: int
    golden_agreement: float
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
