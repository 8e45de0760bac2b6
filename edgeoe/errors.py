"""All exceptions that edgeoe raises.

EdgeoeError          one line: what, what it got, what is allowed, how to fix it; exit code 2
├── ConfigError      edgeoe.toml, or an option of the command line
├── DataError        labelled samples, OOD pool, test images
├── TeacherError     the teacher's source, weights or outputs
├── PruningError     nothing can be pruned, or not to the requested share
│   └── OutOfReachError  no student meets the budget
├── TrainingError    training diverged
├── TargetError      a profile under targets/
├── RunError         a run directory: a missing stage, a file changed since it was written
├── ExportError      the exporter failed, or the graph does not compute what the student does
├── BackendError     a runtime is missing, or cannot load or run an artifact
├── DeviceError      a device can't be reached, or what runs there failed
└── OutOfMemoryError this machine, or its GPU, has too little memory

Messages are written for the command line and name its options only within `on_command_line`; elsewhere `str(error)`
names arguments of the Python API.

Code that converts exceptions of other packages calls `pass_on_out_of_memory` first: running out of memory is not the
fault of the file, network or graph at hand.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgeoe.arguments import as_arguments
from edgeoe.system_errors import causes

__all__ = [
    "BackendError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "EdgeoeError",
    "ExportError",
    "OutOfMemoryError",
    "OutOfReachError",
    "PruningError",
    "RunError",
    "TargetError",
    "TeacherError",
    "TrainingError",
    "first_line",
    "is_out_of_memory",
    "on_command_line",
    "pass_on_out_of_memory",
    "quoted",
    "said",
    "speaks_of_options",
]


_command_line = False  # whether messages are for a user of the command line


@contextmanager
def on_command_line(there: bool = True) -> Iterator[None]:
    """A block in which messages name options and commands of the command line."""
    global _command_line
    before, _command_line = _command_line, there
    try:
        yield
    finally:
        _command_line = before


def speaks_of_options() -> bool:
    """Whether messages name options, so that a child process can do the same."""
    return _command_line


def said(text: str) -> str:
    """`text` with its options and commands rendered for the command line or for the Python API."""
    return text if _command_line else as_arguments(text)


class EdgeoeError(Exception):
    """Base class of all errors; `str(error)` is the line that the user reads."""

    def __str__(self) -> str:
        return said(super().__str__())


class ConfigError(EdgeoeError):
    """An option, on the command line or in edgeoe.toml, can't be used."""


class DataError(EdgeoeError):
    """Images or labels can't be used."""


class TeacherError(EdgeoeError):
    """The teacher can't be built, loaded or used."""


class PruningError(EdgeoeError):
    """The teacher can't be pruned as requested."""


class OutOfReachError(PruningError):
    """No student of the teacher meets the budget.

    table: what each kind of part saves at most: the header, then a row for each kind; empty if it was not measured.
    """

    def __init__(self, message: str, *, table: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.table = tuple(table)


class TrainingError(EdgeoeError):
    """Training diverged: the loss or the student's outputs are not finite."""


class TargetError(EdgeoeError):
    """A target profile can't be found or used."""


class RunError(EdgeoeError):
    """A run directory lacks a file that a stage needs, or holds one that must not be overwritten."""


class ExportError(EdgeoeError):
    """The student can't be exported to a graph that computes the same."""


class BackendError(EdgeoeError):
    """An inference runtime is missing or refuses the artifact."""


class DeviceError(EdgeoeError):
    """A device can't be reached by SSH, or what runs there failed."""


class OutOfMemoryError(EdgeoeError):
    """The work needs more memory than is available. `str(error)` is the allocator's message."""


_ALLOCATOR_MESSAGES = (  # parts, in lower case, of messages that come as a RuntimeError or similar
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",
    "not enough memory",
    "out of memory",  # CUDA, cuDNN, TensorRT
    "bad_alloc",  # C++: onnxruntime, OpenVINO
    "bad allocation",
    "cudaerrormemoryallocation",
    "failed to allocate memory",  # onnxruntime's arena
    "resource_exhausted",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def is_out_of_memory(reason: BaseException) -> bool:
    """Whether `reason`, or an exception in its cause chain, reports that memory ran out.

    Recognises the exceptions of other packages by name and message, without importing them.
    """
    return any(_says_out_of_memory(one) for one in causes(reason))


def _says_out_of_memory(reason: BaseException) -> bool:
    if isinstance(reason, MemoryError | OutOfMemoryError) or type(reason).__name__ == "OutOfMemoryError":
        return True
    if isinstance(reason, OSError):
        return reason.errno == errno.ENOMEM
    message = str(reason).lower()
    if isinstance(reason, ImportError):
        return "failed to map segment" in message  # a library that did not fit
    if isinstance(reason, EdgeoeError | SyntaxError):
        return False  # there, words about memory are part of a name
    return any(words in message for words in _ALLOCATOR_MESSAGES)


def pass_on_out_of_memory(reason: Exception) -> None:
    """Raise OutOfMemoryError if `reason` reports that memory ran out; call it before converting `reason`."""
    if is_out_of_memory(reason):
        raise OutOfMemoryError(first_line(reason)) from reason


def first_line(reason: BaseException) -> str:
    """The first line of an exception's message, or its class name if the message is empty."""
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]


def quoted(word: object) -> str:
    """`word`, a path or a name, quoted for a shell, for commands in messages."""
    return shlex.quote(str(word))
