"""Every error that edgeoe raises on purpose.

EdgeoeError          one clear line: what, what it got, what is allowed, how to fix it; exit code 2
├── ConfigError      edgeoe.toml, or an option of the command line
├── DataError        few samples, OOD pool, test images
├── TeacherError     the teacher's source, weights or outputs
├── PruningError     nothing can be pruned, or not to the ratio asked for
├── TrainingError    training diverged
├── TargetError      a profile under targets/
├── RunError         a run directory: a stage missing, a file changed since it was written
├── ExportError      the exporter failed, or the graph does not compute what the student does
├── BackendError     a runtime is missing, or cannot load or run an artifact
└── OutOfMemoryError the memory of this machine, or of its GPU, does not suffice

Messages are written for the command line, and read as its options only within `on_command_line`; to everybody else
`str(error)` speaks of arguments.

Where any exception of another package is renamed, `pass_on_out_of_memory` comes first: that memory ran out is no fault
of the file, network or graph at hand.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from edgeoe.arguments import as_arguments

__all__ = [
    "BackendError",
    "ConfigError",
    "DataError",
    "EdgeoeError",
    "ExportError",
    "OutOfMemoryError",
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


_command_line = False  # whoever reads messages typed a command


@contextmanager
def on_command_line(there: bool = True) -> Iterator[None]:
    """A block in which messages speak of options and commands: whoever reads them typed one."""
    global _command_line
    before, _command_line = _command_line, there
    try:
        yield
    finally:
        _command_line = before


def speaks_of_options() -> bool:
    """Whether this is within `on_command_line`: for another process, which is to say the same."""
    return _command_line


def said(text: str) -> str:
    """`text`, which speaks of options and commands, as whoever reads it would type them."""
    return text if _command_line else as_arguments(text)


class EdgeoeError(Exception):
    """Root of the tree; `str(error)` is the line that the user reads."""

    def __str__(self) -> str:
        return said(super().__str__())


class ConfigError(EdgeoeError):
    """An option, on the command line or in edgeoe.toml, can't be used."""


class DataError(EdgeoeError):
    """Images or labels can't be used."""


class TeacherError(EdgeoeError):
    """The teacher can't be built, loaded or used."""


class PruningError(EdgeoeError):
    """The teacher can't be pruned as asked."""


class TrainingError(EdgeoeError):
    """Training diverged: its loss or the outputs of the student are no use."""


class TargetError(EdgeoeError):
    """A target profile can't be found or used."""


class RunError(EdgeoeError):
    """A run directory lacks what a stage needs, or holds what it must not overwrite."""


class ExportError(EdgeoeError):
    """The student could not be exported to a graph that computes the same."""


class BackendError(EdgeoeError):
    """An inference runtime is missing or refuses the artifact."""


class OutOfMemoryError(EdgeoeError):
    """The work needs more memory than there is. `str(error)` is what the allocator said."""


_ALLOCATORS_SAY = (  # where nothing but a RuntimeError or the like is raised, in lower case
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",
    "not enough memory",
    "out of memory",  # CUDA, cuDNN, TensorRT
    "bad_alloc",  # C++: onnxruntime, OpenVINO
    "bad allocation",
    "failed to allocate memory",  # onnxruntime's arena
    "resource_exhausted",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def is_out_of_memory(reason: BaseException) -> bool:
    """Whether `reason`, or what it was raised from, says that memory ran out: of any package, none is imported."""
    return any(_says_out_of_memory(one) for one in _causes(reason))


def _says_out_of_memory(reason: BaseException) -> bool:
    if isinstance(reason, MemoryError | OutOfMemoryError) or type(reason).__name__ == "OutOfMemoryError":
        return True
    if isinstance(reason, OSError):
        return reason.errno == errno.ENOMEM
    said = str(reason).lower()
    if isinstance(reason, ImportError):
        return "failed to map segment" in said  # a library that did not fit in
    if isinstance(reason, EdgeoeError | SyntaxError):
        return False  # words about memory are somebody's name for a thing
    return any(words in said for words in _ALLOCATORS_SAY)


def _causes(reason: BaseException) -> Iterator[BaseException]:
    """`reason` and what it was raised from, each once."""
    seen: set[int] = set()
    one: BaseException | None = reason
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def pass_on_out_of_memory(reason: Exception) -> None:
    """Raise a OutOfMemoryError if `reason` says that memory ran out: for whoever catches what others may raise."""
    if is_out_of_memory(reason):
        raise OutOfMemoryError(first_line(reason)) from reason


def first_line(reason: BaseException) -> str:
    """What somebody else's exception says, for a line of ours; its kind where it says nothing."""
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]


def quoted(word: object) -> str:
    """`word`, a path or a name, as a shell takes it: for the commands that messages tell to run."""
    return shlex.quote(str(word))
