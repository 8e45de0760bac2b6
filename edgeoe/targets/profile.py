"""The tables of a profile: device, runtime, engine, measurement and budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
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
    """`[runtime]` of a profile: settings of the runtime on the device.

    threads: number of threads.
    spinning: whether idle threads spin.
    affinity: cores that the process is pinned to, by the system's numbers; None is all.
    provider: execution provider, for backends with a choice (traits: `providers`).
    unit: processor that computes, for backends or providers with a choice (traits: `units`).
    """

    threads: Annotated[int, Ge(1)] = 1
    spinning: bool = False
    affinity: tuple[Annotated[int, Ge(0)], ...] | None = None
    provider: str = "cpu"
    unit: Literal["cpu", "gpu", "npu"] = "cpu"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """`[device]` of a profile: facts of the device. A missing key is unknown, and is not checked.

    The keys board, machine, board_model, cpu and gpu identify the machines that are the device; latency is measured
    only there. A profile without the table describes the machine that it is used on.

    board: a board that `edgeoe targets check` knows.
    compute_capability: of its NVIDIA GPU.
    memory_gb: in 10^9 bytes.
    dla_cores: number of DLA cores.
    tensorrt: version of TensorRT.
    power_mode: its name in /etc/nvpmodel.conf.
    int8_dot: false for an x86 processor without VNNI, whose int8 sums saturate unless weights have 7 bits.
    machine: architecture.
    board_model: words in the name of the board, in its device tree.
    cpu: words in the name of the processor.
    gpu: words in the name of the GPU in nvidia-smi.
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

    batch_min, batch_opt, batch_max: of the optimisation profile; the plan is tuned for batch_opt.
    workspace_mb: scratch memory in 2^20 bytes; None is all memory of the device.
    optimization_level: TensorRT's builder optimisation level.
    tf32: fp32 layers may round their inputs to 10 bits of mantissa.
    hardware_compatibility: other GPUs that can load the plan.
    dla_core: DLA core that runs the plan; None is the GPU.
    gpu_fallback: the GPU runs layers that the DLA can't.
    timing_cache: keep the timings of layers for later builds.
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
    """`[measure]` of a profile: how latency is sampled, and the noise that is allowed.

    batch: batch size of latency.
    throughput_batches: further batch sizes of throughput.
    processes: number of fresh processes, one after another, that share the seconds and the calls.
    warmup_seconds, warmup_max_seconds: minimum and maximum warm-up of a process, which ends when latency is steady.
    min_seconds, min_iterations: minimum duration and number of timed calls, over all processes.
    max_variation: maximum coefficient of variation of the processes' p50.
    max_foreign_load: maximum share of the CPU that other processes use.
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
    """`[budget]` of a profile: the limits of a verdict, by quantity; see the table QUANTITIES.

    limits: by name of the quantity; None is no limit.
    """

    def __init__(self, **limits: float | None) -> None:
        super().__init__({name: limit for name, limit in limits.items() if limit is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A profile: the device that artifacts are built for, one file under targets/.

    name: of its file, and of its folder in a run.
    channel_multiple: multiple of channels that the device computes fast.
    options: the table named after the backend, as plain values.
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

    def __post_init__(self) -> None:
        if self.name == ".." or not self.name or PurePath(self.name).name != self.name:
            raise ValueError(f"name: expected the name of a folder in a run. Got {self.name!r}")
