"""What one artifact did on one device: raw samples and predictions, as they travel from a device or into a baseline."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from edgeoe.bounds import Fraction, Positive
from edgeoe.targets.profile import Target

__all__ = ["Predictions", "Result", "SpeedSamples"]

Index = Annotated[int, Ge(0)]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Classes of N test images.

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
    """What each of R processes measured, raw.

    batch: images of a call.
    calls_ms: R lists of the milliseconds of single calls of `batch` images.
    load_ms: milliseconds from nothing to a loaded model, by process.
    first_ms: milliseconds of the first call thereafter, by process.
    peak_memory_mb: most memory of the process, in 10^6 bytes.
    throughput_ips: images per second, R for each batch size.
    unsteady: processes whose warm-up never settled.
    watched: what else ran on the machine meanwhile.
    disturbed: why figures of that time can't be judged.
    probed: R figures of each quantity of the budget that its probe measured.
    not_probed: why the figures of others are unknown.
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
        lists = {"load_ms": self.load_ms, "first_ms": self.first_ms, "peak_memory_mb": self.peak_memory_mb}
        lists |= {f"throughput_ips.{batch}": rates for batch, rates in self.throughput_ips.items()}
        lists |= {f"probed.{name}": figures for name, figures in self.probed.items()}
        if processes < 2 or not all(self.calls_ms):
            raise ValueError("calls_ms: calls of at least 2 processes are expected, and of each")
        if self.batch not in self.throughput_ips:
            raise ValueError(f"throughput_ips: none at the batch of {self.batch}")
        for name, values in lists.items():
            if len(values) != processes:
                raise ValueError(f"{name}: {len(values)} values of {processes} processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one artifact did on one device.

    artifact: its file name.
    classes: names of all classes.
    rare: indices of those with the fewest few samples.
    golden_agreement: share of the golden images on which it decides as the student does; None where nobody looked.
    predictions: None where there were no test images.
    speed: None where it was not measured, as the machine is not the target's device.
    environment: facts on the machine, with `versions` of the runtime.
    settings: what the artifact was built with.
    bundle_sha256: of the bundle that it ran from; empty if from none.
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
        known = len(self.classes)
        if any(k >= known for k in self.rare):
            raise ValueError(f"rare: not all are of the {known} classes")
        if not re.fullmatch("[0-9a-f]{64}", self.artifact_sha256):
            raise ValueError(f"artifact_sha256: {self.artifact_sha256!r} is none")
        if not self.artifact or PurePath(self.artifact).name != self.artifact:
            raise ValueError(f"artifact: {self.artifact!r} is no file's name")
        if self.predictions and max(max(self.predictions.chosen), max(self.predictions.labels)) >= known:
            raise ValueError(f"predictions: not one of {known} classes for each image")
