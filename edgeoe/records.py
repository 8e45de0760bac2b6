"""The frozen facts that travel between stages, and how each is written as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from edgeoe.codec import from_json

__all__ = [
    "Accuracy",
    "AccuracyChange",
    "Artifact",
    "BlockShare",
    "Budget",
    "CalibrationMethod",
    "Change",
    "Check",
    "Comparison",
    "CompressRecord",
    "DeviceFacts",
    "EngineSettings",
    "Estimate",
    "ExportRecord",
    "GraphRecord",
    "GroupShare",
    "InspectRecord",
    "Latency",
    "LatencyChange",
    "LayerSensitivity",
    "MeasureSettings",
    "Measurement",
    "Outcome",
    "Pace",
    "Positive",
    "Precision",
    "RefusedGraph",
    "RuntimeSettings",
    "Speed",
    "SpeedUp",
    "Target",
    "TeacherAgreement",
    "Verdict",
    "target_from_json",
    "to_json",
    "worst",
]

Outcome = Literal["passed", "failed", "inconclusive"]
Change = Literal["regressed", "improved", "no worse", "inconclusive"]
Pace = Literal["faster", "about as fast", "slower"]
Backend = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]
CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]
Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0), Lt(float("inf"))]
Words = Annotated[str, MinLen(1)]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """`[runtime]` of a profile: how the runtime is started on the device.

    affinity: cores that the process is kept on, by the system's numbers; None is all. provider: of ONNX Runtime, what
    executes the graph. unit: the processor that OpenVINO, or ONNX Runtime's provider of that name, computes on.
    """

    threads: Annotated[int, Ge(1)] = 1
    spinning: bool = False
    affinity: tuple[Annotated[int, Ge(0)], ...] | None = None
    provider: Literal["cpu", "cuda", "tensorrt", "openvino"] = "cpu"
    unit: Literal["cpu", "gpu", "npu"] = "cpu"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """`[device]` of a profile: what the device is. A key that is left out is unknown, and nothing is compared with it.

    board: one that `edgeoe targets check` knows by name. machine, board_model, cpu, gpu: the architecture, and words in
    the names of the board (its device tree's), the processor and the GPU (nvidia-smi's). These five say which machines
    are the device; latency is measured on no other. memory_gb: in 10^9 bytes. tensorrt: the version on it.
    int8_dot: false for an x86 processor without VNNI, whose int8 sums saturate unless weights have 7 bits. Where the
    whole table is left out, the profile is of the machine that it is used on, whose processor tells.
    """

    board: str | None = None
    compute_capability: Annotated[float, Ge(5), Lt(100)] | None = None
    memory_gb: Positive | None = None
    dla_cores: Annotated[int, Ge(0)] | None = None
    tensorrt: str | None = None
    power_mode: str | None = None
    int8_dot: bool | None = None
    machine: Words | None = None
    board_model: Words | None = None
    cpu: Words | None = None
    gpu: Words | None = None


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
    """`[measure]` of a profile: how latency is sampled, and how much noise it may have.

    processes: fresh ones, one after another, that share the seconds and the calls. warmup_seconds, warmup_max_seconds:
    least and most that each warms up until its calls are steady. throughput_batches: sizes to measure images per second
    at. max_variation: of the processes' p50, standard deviation / mean. max_foreign_load: what others may use of the
    cores, as a share.
    """

    batch: Annotated[int, Ge(1)] = 1
    throughput_batches: tuple[Annotated[int, Ge(1)], ...] = ()
    processes: Annotated[int, Ge(2)] = 8
    warmup_seconds: Annotated[float, Ge(0), Lt(float("inf"))] = 0.2
    warmup_max_seconds: Annotated[float, Ge(0), Lt(float("inf"))] = 5.0
    min_seconds: Positive = 3.0
    min_iterations: Annotated[int, Ge(10)] = 1600  # fewer say little of p99
    max_variation: Positive = 0.10
    max_foreign_load: Positive = 0.25


@dataclass(frozen=True, slots=True)
class Budget:
    """`[budget]` of a profile: the limits that a verdict judges; None is no limit.

    Latencies in milliseconds, sizes in 10^6 bytes, accuracies as fractions. throughput_ips: images per second at the
    best of the measured batch sizes. max_drop: top-1 of the teacher less that of the artifact, on the same images.
    """

    p50_ms: Positive | None = None
    p90_ms: Positive | None = None
    p99_ms: Positive | None = None
    throughput_ips: Positive | None = None
    peak_memory_mb: Positive | None = None
    size_mb: Positive | None = None
    max_drop: Fraction | None = None
    top1: Fraction | None = None
    mean_recall: Fraction | None = None
    rare_recall: Fraction | None = None
    worst_recall: Fraction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device that artifacts are built for: one file under targets/."""

    name: str
    backend: Backend
    description: str = ""
    precision: Precision = "fp32"
    channel_multiple: Annotated[int, Ge(1)] = 8
    device: DeviceFacts = field(default_factory=DeviceFacts)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    budget: Budget = field(default_factory=Budget)

    @property
    def on_cpu(self) -> bool:
        """Whether a CPU does the work, not an accelerator."""
        runtime = self.runtime
        return self.backend != "tensorrt" and runtime.provider in ("cpu", "openvino") and runtime.unit == "cpu"

    @property
    def on_nvidia(self) -> bool:
        """Whether an NVIDIA GPU, or a DLA beside it, does the work."""
        return self.backend == "tensorrt" or self.runtime.provider in ("cuda", "tensorrt")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAgreement:
    """With how many labels of few samples the teacher agrees, in all and by class.

    of: labelled images that it was asked about, which may be a share of them all. note: what seems wrong; empty if
    nothing does.
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

    precision: of both graphs. teacher_ms, student_ms: medians of n turns; ratio: the median of student / teacher over
    turns. outcome: what the ratio's interval says. advice: what may help a student that is not faster. reason: why
    nothing could be timed; then there are no figures.
    """

    target: str
    precision: Precision = "fp32"
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

    channel_multiple: of widths, as far as the share allowed. speed: beside the teacher, on each target. notes: what
    the user should know of how the share asked for was met. teacher_agreement: None for random weights, or without
    labelled samples.
    """

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
    channel_multiple: int
    speed: tuple[SpeedUp, ...] = ()
    notes: tuple[str, ...] = ()
    teacher_agreement: TeacherAgreement | None = None


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
class LayerSensitivity:
    """How a student responds to one layer in int8, all others in fp32.

    error: of the logits, relative root mean square. drop: share of images that change class.
    """

    layer: str
    error: float
    drop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRecord:
    """A graph made of the fp32 graph, and how far it is from that on images that it was not calibrated with.

    kept_fp32: layers that stayed so to keep the drop small. layers: their sensitivities, the highest first; empty if
    they were not measured.
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
    layers: tuple[LayerSensitivity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedGraph:
    """A graph that is too far from the fp32 graph to be written. agreement: share of `images` with the same class."""

    precision: str
    agreement: float
    images: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """What `export` wrote, and how far the fp32 graph is from the student; `graphs` were made of that.

    refused: int8 graphs that were tried and not written.
    """

    path: str
    sha256: str
    precision: str
    opset: int
    exporter: str
    max_rel_error: float
    agreement: float
    images: int
    graphs: tuple[GraphRecord, ...] = ()
    refused: tuple[RefusedGraph, ...] = ()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyChange:
    """One quantity of two artifacts, lower being better.

    ratio: new / base. n: pairs of fresh processes, or the fewer processes of the two where they were not paired.
    """

    quantity: Literal["p50", "p99"]
    base_ms: float
    new_ms: float
    ratio: Estimate
    p_value: float
    tolerance: float
    n: int
    change: Change
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyChange:
    """How often two artifacts are right on the same test images.

    subject: "top-1" or a class. only_base, only_new: images that this one alone gets right. difference: share that new
    gets right less that of base.
    """

    subject: str
    images: int
    only_base: int
    only_new: int
    difference: Estimate
    p_value: float
    tolerance: float
    change: Change
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two artifacts on one target.

    how: interleaved, measured here one against the other; stored, from samples taken earlier. outcome: what a gate
    makes of it. notes: what the reader should know besides.
    """

    target: str
    base: str
    new: str
    how: Literal["interleaved", "stored"]
    latency: tuple[LatencyChange, ...]
    accuracy: tuple[AccuracyChange, ...]
    outcome: Outcome
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)


def target_from_json(data: Any) -> Target:
    """The Target that `to_json` made `data` of. Raises ValueError where it is none."""
    return from_json(Target, data)


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
