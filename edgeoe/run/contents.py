"""What each file of a run says of its owner, and what `edgeoe run strip` does with it. SECURITY.md shows this table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from edgeoe.run import layout
from edgeoe.run.layout import TargetFiles

__all__ = ["CONTENTS", "Content", "Fate", "Kind", "content_of", "is_leftover"]

Kind = Literal["pixels", "hashes of pixels", "file names", "class names", "paths", "source", "weights"]
Fate = Literal["kept", "rewritten", "removed"]


@dataclass(frozen=True, slots=True)
class Content:
    """Files of a run, and what they hold of the user's.

    pattern: matches their names relative to the run.
    holds: kinds of private content.
    fate: what `edgeoe run strip` does with them.
    """

    pattern: str
    holds: tuple[Kind, ...]
    fate: Fate


def _of_targets(pattern: str, holds: tuple[Kind, ...], fate: Fate) -> Content:
    return Content(f"{TargetFiles('*').folder}/{pattern}", holds, fate)


CONTENTS = (  # the first pattern that matches counts
    Content(layout.MANIFEST, ("file names",), "rewritten"),
    Content(layout.CONFIG.name, ("file names", "class names"), "rewritten"),
    Content(layout.PATHS.name, ("file names", "paths"), "removed"),
    Content(layout.FACTS.name, ("class names",), "kept"),
    Content(layout.COMPRESS.name, ("hashes of pixels", "class names"), "rewritten"),
    Content(layout.CONTENT.name, ("hashes of pixels", "file names", "class names"), "removed"),
    Content(layout.PROBE.name, ("pixels",), "removed"),
    Content(layout.CALIBRATION.name, ("pixels",), "removed"),
    Content(f"{layout.CODE}/*", ("source", "file names"), "removed"),
    Content(layout.PLAN.name, ("file names",), "rewritten"),
    Content(layout.WEIGHTS.name, ("weights",), "kept"),
    Content(layout.STUDENT_PROGRAM.name, (), "kept"),
    Content(layout.TEACHER_PROGRAM.name, (), "kept"),
    Content(layout.TEACHER_WEIGHTS.name, ("weights",), "kept"),
    Content(layout.EXPORT.name, (), "rewritten"),
    Content("student*.onnx", ("weights", "class names"), "kept"),
    Content(layout.GOLDEN.name, ("pixels",), "rewritten"),
    Content(layout.STRIPPED.name, (), "kept"),
    Content(layout.REPORT.name, ("file names", "class names"), "removed"),
    _of_targets("*.tar.gz", ("pixels", "weights", "class names"), "removed"),
    _of_targets("model.onnx", ("weights", "class names"), "kept"),
    _of_targets("model.plan", ("weights",), "kept"),
    _of_targets("model.*.json", (), "kept"),
    _of_targets("engine.json", (), "kept"),
    _of_targets("result.json", ("hashes of pixels", "class names"), "kept"),
    _of_targets("validation.json", ("class names",), "kept"),
    _of_targets("bundle.json", ("hashes of pixels", "class names"), "kept"),
    _of_targets("teacher.json", ("hashes of pixels",), "kept"),
)


def content_of(name: str) -> Content | None:
    """The row for the file `name` of a run; None for a file that edgeoe does not write."""
    return next(_matching(name), None)


def is_leftover(name: str) -> bool:
    """Whether the file `name` is what an interrupted write left, of whatever content."""
    return fnmatchcase(name.rpartition("/")[2], ".*.partial")


def _matching(name: str) -> Iterator[Content]:
    return (content for content in CONTENTS if fnmatchcase(name, content.pattern))
