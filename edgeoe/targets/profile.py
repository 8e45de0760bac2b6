"""The tables of a profile: what a device is, how its runtime starts, how it is measured, and its budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from edgeoe.bounds import Positive, Words

__all__ = [
    "Budget",
    "DeviceFacts",
    "EngineSettings",
    "MeasureSettings",
    "RuntimeSettings",
    "Target",
]


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """`[runtime]` of a profile: how the runtime is started on the device.

    affinity: cores that the process is kept on, by the system's numbers; None is all.
    provider: what executes the graph, of a backend that has a choice (traits: `providers`).
    unit: the processor that computes, of a backend or provider that has a choice (traits: `units`).
    """

    threads: Annotated[int, Ge(1)] = 1
    spinning: bool = False
    affinity: tuple[Annotated[int, Ge(0)], ...] | None = None
    provider: str = "cpu"
    unit: Literal["cpu", "gpu", "npu"] = "cpu"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """`[device]` of a profile: what the device is. A key that is missing is unknown, and nothing is compared with it.

    The keys board, machine, board_model, cpu and gpu say which machines are the device; latency is measured on no
    other. Without the whole table, the profile is of the machine that it is used on, whose processor is asked.

    board: one that `edgeoe targets check` knows by name.
    compute_capability: of its NVIDIA GPU.
    memory_gb: in 10^9 bytes.
    tensorrt: the version on it.
    power_mode: as /etc/nvpmodel.conf calls it.
    int8_dot: false for an x86 processor without VNNI, whose int8 sums saturate unless weights have 7 bits.
    machine: the architecture.
    board_model: words in the name of the board, in its device tree.
    cpu: words in the name of the processor.
    gpu: words in the name of the GPU, as nvidia-smi has it.
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

    batch_min, batch_opt, batch_max: of the optimisation profile; a plan is tuned for batch_opt.
    workspace_mb: scratch memory in 2^20 bytes, None is what the device has.
    tf32: fp32 layers may round their inputs to 10 bits of mantissa.
    dla_core: run on that DLA.
    gpu_fallback: layers that the DLA can't run go to the GPU.
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

    throughput_batches: sizes to measure images per second at.
    processes: fresh ones, one after another, that share the seconds and the calls.
    warmup_seconds, warmup_max_seconds: least and most that each warms up until its calls are steady.
    max_variation: of the processes' p50, standard deviation / mean.
    max_foreign_load: share of the CPU that other processes may use.
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


class Budget(dict[str, float]):
    """`[budget]` of a profile: the limits that a verdict judges, by quantity; see the table QUANTITIES.

    limits: None is no limit.
    """

    def __init__(self, **limits: float | None) -> None:
        super().__init__({name: limit for name, limit in limits.items() if limit is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device that artifacts are built for: one file under targets/.

    options: the backend's own table, which has its name; plain values.
    """

    name: str
    backend: str
    description: str = ""
    precision: str = "fp32"
    channel_multiple: Annotated[int, Ge(1)] = 8
    device: DeviceFacts = field(default_factory=DeviceFacts)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    budget: dict[str, float] = field(default_factory=Budget, hash=False)
