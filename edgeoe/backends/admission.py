"""Which graphs are plain arithmetic; any other is a program, and runs only if this machine vouches for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeoe.backends.onnx_file import OnnxContent, read_onnx
from edgeoe.errors import BackendError, quoted
from edgeoe.files import file_sha256
from edgeoe.vouching import is_vouched

__all__ = ["concerns", "require_admitted"]

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # ONNX's own, and what ONNX Runtime itself is built with
_PROGRAMS = {  # operators that hold, load or call compiled code
    "EPContext": "a compiled program of a device",
    "PyOp": "a call of Python",
    "PythonOp": "a call of Python",
    "PythonOpGrad": "a call of Python",
    "ATen": "a call of another library",
}


def require_admitted(artifact: Path) -> None:
    """Raise BackendError if `artifact` is an ONNX file that is more than arithmetic and not vouched for.

    Files of other kinds are for their backends to check.
    """
    if artifact.suffix != ".onnx":
        return
    reasons = concerns(artifact)
    if reasons and not is_vouched("artifact", file_sha256(artifact)):
        raise BackendError(
            f"{artifact}: can't load it: {'; '.join(reasons)}, and this machine does not vouch for it. If you know "
            f"whom it is from: edgeoe trust {quoted(artifact)}"
        )


def concerns(graph: Path) -> tuple[str, ...]:
    """What in the ONNX file `graph` is more than arithmetic on what lies in its folder; empty for most.

    Raises BackendError if it is no ONNX file.
    """
    try:
        content = read_onnx(graph)
    except ValueError as reason:
        raise BackendError(f"{graph}: onnxruntime and others can't load it: no ONNX file, {reason}.") from None
    except OSError as reason:
        raise BackendError(f"{graph}: can't load it: {reason.strerror}.") from None
    return tuple(_concerns(content, graph))


def _concerns(content: OnnxContent, graph: Path) -> Iterator[str]:
    for domain, name in sorted(content.operators):
        if name in _PROGRAMS:
            yield f"its operator {name} is {_PROGRAMS[name]}"
        elif domain not in _DOMAINS and (domain, name) not in content.functions:
            yield f"its operator {name} is of the foreign domain {domain!r}"
    folder = graph.parent.resolve()
    for name in content.external:
        if "\0" in name or not (folder / name).resolve().is_relative_to(folder):
            yield f"it reads weights from {name!r}, outside of its folder"
