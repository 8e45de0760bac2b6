"""A student as data: the changes that turn the teacher's architecture into the student's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any

from annotated_types import Ge

__all__ = ["CodeFiles", "LayerChange", "StudentPlan"]

_WITHOUT_FILES = ("timm", "torchvision", "module")  # kinds of teachers


@dataclass(frozen=True, slots=True)
class CodeFiles:
    """Source files that a teacher is built from, as paths relative to one folder.

    file: the file with the factory.
    folders: import path for its neighbours.
    files: all files.
    """

    file: str
    folders: tuple[str, ...]
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in (self.file, *self.folders, *self.files):
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                raise ValueError(f"files: expected paths within the run. Got {name!r}")
        if self.file not in self.files:
            raise ValueError(f"files: {self.file!r} is none of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """Difference between a module of the student and the teacher's.

    identity: whether the module was dropped and passes its input through; then nothing else is set.
    attributes: new values of plain attributes (`out_channels`, ...).
    tensors: new shapes of parameters and buffers.
    """

    identity: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[Annotated[int, Ge(0)], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentPlan:
    """Difference between a student's architecture and its teacher's.

    teacher: source of the teacher, as given to `--teacher`, or FILE:FACTORY within `code`; module:NAME for a network
        that was in memory, whose student is a program.
    code: the user's files that it is built from; None for an architecture of a library.
    outputs: number of classes.
    channels: number of input channels.
    removed: pruned channels, by group.
    dropped: dropped blocks.
    left_alone: groups that were not pruned, with the reasons.
    layers: changes by module name.
    """

    teacher: str
    code: CodeFiles | None
    outputs: Annotated[int, Ge(1)]
    channels: Annotated[int, Ge(1)]
    removed: dict[str, tuple[int, ...]]
    dropped: tuple[str, ...]
    left_alone: dict[str, str]
    layers: dict[str, LayerChange]

    def __post_init__(self) -> None:
        place = self.teacher.rpartition(":")[0]  # a file outside of `code` would run without anybody's word
        if place != self.code.file if self.code else place not in _WITHOUT_FILES:
            raise ValueError(f"teacher: expected one whose files are in `code`. Got {self.teacher!r}")
