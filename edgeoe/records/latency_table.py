"""Records of latencies that were measured of a network and its variants on one machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

from edgeoe.bounds import Positive
from edgeoe.targets.profile import Target

__all__ = ["FORMAT", "FP32_TEACHER", "TEACHER", "LatencyTable", "PartSaving", "TableFacts", "TableReport"]

FORMAT = 1  # of the files of tables
TEACHER = "teacher"  # the variant in which nothing is pruned
FP32_TEACHER = "teacher in fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Latencies of a teacher and of networks in which one kind of part is pruned.

    network: sha256 of the teacher's graph without its weights.
    target: profile of the device; latencies are in its precision and batch size.
    environment: of the machine.
    latencies_ms: {variant: p50}, each measured in turns with the teacher, in milliseconds.
    kept_fp32: layers that are fp32 in int8.
    """

    network: str
    target: Target
    environment: dict[str, Any]
    latencies_ms: dict[str, Positive] = field(default_factory=dict)
    kept_fp32: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.network):
            raise ValueError(f"network: expected 64 hexadecimal digits. Got {self.network!r}")
        if not isinstance(self.environment.get("versions", {}), dict):
            raise ValueError("environment.versions: expected an object")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """Content of `bundle.json` in the bundle of a latency table.

    edgeoe: the version that created the bundle.
    network, kept_fp32: as in the table.
    shape: (C, H, W) of an image.
    graphs: {variant: file of its ONNX graph, compressed by gzip}.
    files: sha256 of every other file in the bundle.
    """

    edgeoe: str
    target: Target
    network: str
    shape: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)], Annotated[int, Ge(1)]]
    graphs: dict[str, str]
    files: dict[str, str]
    kept_fp32: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSaving:
    """What one group at one width, or one block that is dropped, saves.

    names: the groups or blocks of this kind.
    units: of each of the groups, as the teacher has them; None for blocks.
    remaining: units that are not pruned; None for blocks.
    saved_ms: by each of them.
    share: of the teacher's latency.
    """

    names: tuple[str, ...]
    units: int | None
    remaining: int | None
    saved_ms: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """A latency table, by parts of the teacher.

    teacher_ms: latency of the teacher in the target's precision and batch size.
    kept_fp32: layers that are fp32 in int8.
    """

    target: str
    precision: str
    batch: int
    teacher_ms: float
    parts: tuple[PartSaving, ...]
    environment: dict[str, Any]
    kept_fp32: tuple[str, ...] = ()
