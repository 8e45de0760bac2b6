"""A student as plain data: what turns the teacher's architecture into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

__all__ = ["CodeFiles", "LayerChange", "StudentPlan"]


@dataclass(frozen=True, slots=True)
class CodeFiles:
    """Files that a teacher is built from, as names relative to one folder.

    file: the teacher's own.
    folders: where its neighbours are looked for.
    files: all of them.
    """

    file: str
    folders: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """How a module of the student differs from the teacher's.

    identity: the module was dropped and hands on its input; then nothing else is set.
    attributes: new values of plain attributes (`out_channels`, ...).
    tensors: new shapes of parameters and buffers.
    """

    identity: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[Annotated[int, Ge(0)], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentPlan:
    """Difference between a teacher's architecture and its student's.

    teacher: its source, as `--teacher` names it, or FILE:FACTORY within `code`; module:NAME of a network that was in
        memory, whose student is a program.
    code: the user's files that it is built from; None for a published architecture.
    outputs: number of classes.
    channels: of an image.
    removed: channels that were pruned, by group.
    dropped: blocks that were dropped.
    left_alone: groups that were not pruned, and why.
    layers: by module name.
    """

    teacher: str
    code: CodeFiles | None
    outputs: Annotated[int, Ge(1)]
    channels: Annotated[int, Ge(1)]
    removed: dict[str, tuple[int, ...]]
    dropped: tuple[str, ...]
    left_alone: dict[str, str]
    layers: dict[str, LayerChange]
