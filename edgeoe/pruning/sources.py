"""Lines of a teacher's code that a message names: where an operator is called, and where a forward pass fails."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import FrameType, TracebackType

import torch

__all__ = ["calling_line", "failing_line"]

_NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))  # torch's frames, and these
_PACKAGES = Path(sysconfig.get_paths()["purelib"])


def calling_line() -> str:
    """The innermost line of code outside of torch and edgeoe that is running, "model.py:31"; "" if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_theirs(frame):
            return _named(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def failing_line(reason: BaseException) -> str:
    """The innermost line of code outside of torch and edgeoe that `reason` passed; "" if there is none."""
    line, trace = "", reason.__traceback__
    while isinstance(trace, TracebackType):
        if _is_theirs(trace.tb_frame):
            line = _named(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    return line


def _is_theirs(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith(("<", *_NOT_THEIRS))


def _named(frame: FrameType, line: int) -> str:
    """A file of a package with its path in that, another one by its name."""
    path = Path(frame.f_code.co_filename)
    name = path.relative_to(_PACKAGES).as_posix() if path.is_relative_to(_PACKAGES) else path.name
    return f"{name}:{line}"
