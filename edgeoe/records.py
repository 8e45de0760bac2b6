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
    "BlockShare",
    "Budget",
    "CalibrationMethod",
    "Check",
    "CompressRecord",
    "DeviceFacts",
    "EngineSettings",
    "Estimate",
    "ExportRecord",
    "GraphRecord",
    "GroupShare",
    "InspectRecord",
    "Latency",
    "LayerCost",
    "MeasureSettings",
    "Measurement",
    "Outcome",
    "Positive",
    "Precision",
    "RuntimeSettings",
    "Target",
    "Verdict",
    "to_json",
]

Outcome = Literal["passed", "failed", "inconclusive"]
Precision = Literal["fp32", "fp16", "int8"]
CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]
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
class DeviceFacts:
    """`[device]` of a profile: what the device is. A key that is left out is unknown, and nothing is compared with it.

    board: one that `edgeoe targets check` knows by name. memory_gb: in 10^9 bytes. tensorrt: the version on it.
    """

    board: str | None = None
    compute_capability: Annotated[float, Ge(5), Lt(100)] | None = None
    memory_gb: Positive | None = None
    dla_cores: Annotated[int, Ge(0)] | None = None
    tensorrt: str | None = None
    power_mode: str | None = None


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`[engine]` of a profile: how TensorRT builds the plan.

    batch_min, batch_opt, batch_max: of the optimisation profile; a plan is tuned for batch_opt. workspace_mb: scratch
    memory in 2^20 bytes, None is what the device has. tf32: fp32 layers may round their inputs to 10 bits of mantissa.
    dla_core: run on that DLA; with gpu_fallback, layers that it can't run go to the GPU.
    """

    batch_min: Annotated[int, Ge(1)] = 1
    batch_opt: Annotated[int, Ge(1)] = 1
    batch_max: Annotated[int, Ge(1)] = 1
    workspace_mb: Annotated[int, Ge(1)] | None = None
    optimization_level: Annotated[int, Ge(0), Le(5)] = 3
    tf32: bool = True
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    dla_core: Annotated[int, Ge(0)] | None = None
    gpu_fallback: bool = False
    timing_cache: bool = True


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
    backend: Literal["onnxruntime", "tensorrt"]
    description: str = ""
    precision: Precision = "fp32"
    channel_multiple: Annotated[int, Ge(1)] = 1
    device: DeviceFacts = field(default_factory=DeviceFacts)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
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
    random_weights: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShare:
    """Channels that go together, and what the network is rid of when half of them go, as shares of its whole.

    name: the first of `layers`, which make them; `readers` take them in. channels: of that layer. units: what goes
    at once is one of these (a channel, a head, a group of a grouped convolution). alike: a number for each kind of
    group; those of a kind have the same shapes, and were timed at once. refused: why they stay; then no shares.
    """

    name: str
    layers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int
    units: int
    alike: int | None = None
    macs_share: float | None = None
    params_share: float | None = None
    latency_share: float | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShare:
    """A residual block that can go, and what goes with it, as shares of the whole network."""

    name: str
    alike: int
    macs_share: float
    params_share: float
    latency_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectRecord:
    """What `inspect` found.

    shape: (C, H, W) of an image. untraced: layers whose channels no group holds. head, features: None, and
    `unread` why, where no single layer makes the outputs. latency_ms, noise_ms: of the whole network on `target`, and
    by how much several measurements of it differed.
    """

    teacher: str
    random_weights: bool
    shape: tuple[int, int, int]
    macs: int
    params: int
    groups: tuple[GroupShare, ...]
    untraced: tuple[str, ...]
    blocks: tuple[BlockShare, ...]
    head: str | None
    features: str | None
    unread: str
    target: str | None
    latency_ms: float | None
    noise_ms: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one layer in int8, all others in fp32, does to the logits: their relative error (root mean square), and the
    share of images that change class."""

    layer: str
    error: float
    drop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRecord:
    """A graph made of the fp32 graph, and how far it is from that on images that it was not calibrated with.

    kept_fp32: layers that stayed so to keep the drop small. layers: what each costs, dearest first; empty if nobody
    measured it.
    """

    path: str
    sha256: str
    precision: str
    size_bytes: int
    max_rel_error: float
    agreement: float
    images: int
    calibration: CalibrationMethod | None = None
    calibration_images: int = 0
    bias_corrected: bool = False
    kept_fp32: tuple[str, ...] = ()
    layers: tuple[LayerCost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """What `export` wrote, and how far the fp32 graph is from the student; `graphs` were made of that."""

    path: str
    sha256: str
    precision: str
    opset: int
    exporter: str
    max_rel_error: float
    agreement: float
    images: int
    graphs: tuple[GraphRecord, ...] = ()


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
    """What was measured of one artifact, where and how.

    random_weights: the teacher never learned, and the accuracy says nothing.
    """

    artifact_sha256: str
    size_bytes: int
    golden_agreement: float
    accuracy: Accuracy
    latency: Latency
    environment: dict[str, Any]
    settings: dict[str, Any]
    random_weights: bool = False


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
