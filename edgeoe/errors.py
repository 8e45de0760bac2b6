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
└── BackendError     a runtime is missing, or cannot load or run an artifact
"""

__all__ = [
    "BackendError",
    "ConfigError",
    "DataError",
    "EdgeoeError",
    "ExportError",
    "PruningError",
    "RunError",
    "TargetError",
    "TeacherError",
    "TrainingError",
    "first_line",
]


class EdgeoeError(Exception):
    """Root of the tree; `str(error)` is the line that the user reads."""


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


def first_line(reason: BaseException) -> str:
    """What somebody else's exception says, for a line of ours; its kind where it says nothing."""
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]
