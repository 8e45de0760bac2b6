"""Raw results of one artifact on one device: samples and predictions, for validation, comparison and baselines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from edgeoe.bounds import Fraction, Positive
from edgeoe.targets.profile import Target

__all__ = ["FORMAT", "Predictions", "Result", "SpeedSamples"]

FORMAT = 1  # of a result's file

Index = Annotated[int, Ge(0)]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predicted and true classes of N test images.

    chosen: the predicted class of each image.
    labels: the true class of each image.
    test_sha256: of all pixels and labels, so that predictions of two artifacts are paired only if they are of the same
        images in the same order.
    """

    chosen: tuple[Index, ...]
    labels: tuple[Index, ...]
    test_sha256: str

    def __post_init__(self) -> None:
        if not self.labels or len(self.chosen) != len(self.labels):
            raise ValueError(f"chosen: {len(self.chosen)} predictions for {len(self.labels)} labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSamples:
    """Raw measurements of R processes.

    batch: images per call.
    calls_ms: R lists of latencies of single calls.
    load_ms: time to load the model, by process.
    first_ms: latency of the first call after loading, by process.
    peak_memory_mb: peak memory, in 10^6 bytes, by process.
    throughput_ips: R rates in images per second for each batch size.
    unsteady: number of processes whose latency did not settle during warm-up.
    watched: facts about other load and throttling meanwhile.
    disturbed: why the figures can't be judged; empty if they can.
    probed: R figures of each budget quantity that has a probe.
    not_probed: why the probes of other quantities gave no figures.
    """

    batch: Annotated[int, Ge(1)]
    calls_ms: tuple[tuple[Positive, ...], ...]
    load_ms: tuple[Positive, ...]
    first_ms: tuple[Positive, ...]
    peak_memory_mb: tuple[Positive, ...]
    throughput_ips: dict[int, tuple[Positive, ...]]
    unsteady: Annotated[int, Ge(0)]
    watched: dict[str, Any]
    disturbed: tuple[str, ...]
    probed: dict[str, tuple[Positive, ...]] = field(default_factory=dict)
    not_probed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        processes = len(self.calls_ms)
        if any(batch < 1 for batch in self.throughput_ips):
            raise ValueError("throughput_ips: expected batch sizes of at least 1")
        lists = {"load_ms": self.load_ms, "first_ms": self.first_ms, "peak_memory_mb": self.peak_memory_mb}
        lists |= {f"throughput_ips.{batch}": rates for batch, rates in self.throughput_ips.items()}
        lists |= {f"probed.{name}": figures for name, figures in self.probed.items()}
        if processes < 2 or not all(self.calls_ms):
            raise ValueError("calls_ms: expected calls of at least 2 processes, at least one each")
        if self.batch not in self.throughput_ips:
            raise ValueError(f"throughput_ips: no rates for the batch size {self.batch}")
        for name, values in lists.items():
            if len(values) != processes:
                raise ValueError(f"{name}: {len(values)} values for {processes} processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Raw result of one artifact on one device.

    artifact: its file name.
    classes: names of all classes.
    rare: indices of those with the fewest labelled samples.
    golden_agreement: share of the golden images that get the student's class; None if not checked.
    predictions: None without test images.
    speed: None if not measured, because the machine is not the target's device.
    environment: facts about the machine, with `versions` of the runtime.
    settings: build settings of the artifact.
    bundle_sha256: of the bundle that it ran from; empty without a bundle.
    """

    target: Target
    artifact: str
    artifact_sha256: str
    size_bytes: Annotated[int, Ge(1)]
    classes: Annotated[tuple[str, ...], MinLen(2)]
    rare: tuple[Index, ...]
    golden_agreement: Fraction | None
    predictions: Predictions | None
    speed: SpeedSamples | None
    environment: dict[str, Any]
    settings: dict[str, Any]
    bundle_sha256: str = ""

    def __post_init__(self) -> None:
        count = len(self.classes)
        if any(k >= count for k in self.rare):
            raise ValueError(f"rare: expected indices below {count}, the number of classes")
        if not re.fullmatch("[0-9a-f]{64}", self.artifact_sha256):
            raise ValueError(f"artifact_sha256: expected 64 hexadecimal digits. Got {self.artifact_sha256!r}")
        if self.artifact == ".." or not self.artifact or PurePath(self.artifact).name != self.artifact:
            raise ValueError(f"artifact: expected a file name. Got {self.artifact!r}")
        if self.predictions and max(max(self.predictions.chosen), max(self.predictions.labels)) >= count:
            raise ValueError(f"predictions: expected indices below {count}, the number of classes")
        if not isinstance(self.environment.get("versions", {}), dict):
            raise ValueError("environment.versions: expected an object")
