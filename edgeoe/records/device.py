"""What is known of a device that SSH reaches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgeoe.targets.profile import Target

__all__ = ["FORMAT", "DeviceProbe", "DeviceReport", "ProbeFacts"]

FORMAT = 1  # of both files of a probe


@dataclass(frozen=True, slots=True)
class ProbeFacts:
    """Content of `bundle.json` in the bundle of a probe.

    target: profile of the device.
    files: sha256 of every other file in the bundle.
    """

    target: Target
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class DeviceProbe:
    """What the program of a probe says on the device.

    environment: facts of the machine that latency depends on.
    versions: of the runtime and what it needs; empty if it is missing.
    missing: why the runtime can't be used; empty if it can.
    differs: differences of the machine from the device that the profile describes.
    """

    environment: dict[str, Any]
    versions: dict[str, str]
    missing: str
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The answer of `edgeoe devices check`.

    name: of the device.
    host: where it is.
    target: profile that describes it.
    python, numpy: their versions there; numpy is empty if it is missing.
    distribution: of the operating system.
    free_memory_mb, free_disk_mb: in 10^6 bytes.
    clock_s: how far its clock is ahead of this machine's, in seconds.
    holder: who runs a job there now; empty if nobody does.
    problems: what stands in the way of a job, each with the command that mends it.
    probe: more, if nothing stands in the way of asking.
    """

    name: str
    host: str
    target: str
    python: str
    numpy: str
    distribution: str
    free_memory_mb: int | None
    free_disk_mb: int
    clock_s: float
    holder: str
    problems: tuple[str, ...] = ()
    probe: DeviceProbe | None = field(default=None)
