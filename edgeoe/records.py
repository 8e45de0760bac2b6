"""The frozen facts that travel between stages, and how each is written as JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

__all__ = [
    "Accuracy",
    "Artifact",
    "Budget",
    "Check",
    "CompressRecord",
    "Estimate",
    "ExportRecord",
    "Latency",
    "MeasureSettings",
    "Measurement",
    "Outcome",
    "Positive",
    "RuntimeSettings",
    "Target",
    "Verdict",
    "to_json",
]

Outcome = Literal["passed", "failed", "inconclusive"]
Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0), Lt(float("inf"))]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """`[runtime]` of a profile: how the runtime is started on the device."""

    threads: Annotated[int, Ge(1)] = 1
    spinning: bool = False


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """`[measure]` of a profile: how latency is sampled."""

    batch: Annotated[int, Ge(1)] = 1
    warmup_seconds: Annotated[float, Ge(0), Lt(float("inf"))] = 0.5
    min_seconds: Positive = 3.0
    min_iterations: Annotated[int, Ge(10)] = 600  # fewer leave p99 without an upper end


@dataclass(frozen=True, slots=True)
class Budget:
    """`[budget]` of a profile: the limits that a verdict judges; None is no limit.

    Latencies in milliseconds, size in 10^6 bytes, accuracies as fractions.
    """

    p50_ms: Positive | None = None
    p90_ms: Positive | None = None
    p99_ms: Positive | None = None
    size_mb: Positive | None = None
    top1: Fraction | None = None
    mean_recall: Fraction | None = None
    rare_recall: Fraction | None = None
    worst_recall: Fraction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device that artifacts are built for: one file under targets/."""

    name: str
    backend: Literal["onnxruntime"]
    description: str = ""
    precision: Literal["fp32"] = "fp32"
    channel_multiple: Annotated[int, Ge(1)] = 1
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressRecord:
    """What `compress` did."""

    method: str
    oe: bool
    macs_kept: float
    params_kept: float
    macs: int
    params: int
    steps: int
    best_step: int
    seconds: float
    images_per_second: float
    seed: int
    student: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    device: str
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """What `export` wrote, and how far the graph is from the student."""

    path: str
    sha256: str
    precision: str
    opset: int
    exporter: str
    max_rel_error: float
    agreement: float
    images: int


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
    """Percentiles of n single calls, in milliseconds; nearest-rank, interval by order statistics."""

    p50: Estimate
    p90: Estimate
    p99: Estimate
    n: int
    batch: int


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
    """What was measured of one artifact, where and how."""

    artifact_sha256: str
    size_bytes: int
    golden_agreement: float
    accuracy: Accuracy
    latency: Latency
    environment: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit against one measured value."""

    name: str
    limit: float
    sense: Literal["at most", "at least"]
    measured: Estimate | None
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks; failed if one failed, else inconclusive if one is, else passed."""

    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        outcomes = {check.outcome for check in self.checks}
        for worst in ("failed", "inconclusive"):
            if worst in outcomes:
                return worst
        return "passed"


def to_json(record: Any) -> Any:
    """`record` as plain JSON data; dataclasses become objects with their fields' names."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None  # JSON has no infinity; an interval without an upper end
    return str(record) if isinstance(record, Path) else record
