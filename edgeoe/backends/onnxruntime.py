"""ONNX Runtime on the CPU. The artifact is the graph itself: what it is tied to is how the session is set up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgeoe.errors import BackendError
from edgeoe.progress import Progress, silent
from edgeoe.records import RuntimeSettings, Target
from edgeoe.run import versions, write_atomic

__all__ = ["OnnxRuntime", "run_graph", "run_model"]

_PROVIDERS = ["CPUExecutionProvider"]


def _session(path: Path, settings: RuntimeSettings) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=_PROVIDERS)
    except Exception as reason:  # onnxruntime's exceptions have no common base but Exception
        raise BackendError(f"{path}: onnxruntime can't load it: {_first_line(reason)}") from reason
    if session.get_providers() != _PROVIDERS:
        raise BackendError(f"{path}: onnxruntime chose {session.get_providers()} instead of {_PROVIDERS}.")
    return session


def _first_line(reason: Exception) -> str:
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]


class _Runner:
    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run(None, {self._input: x})[0]
        except Exception as reason:  # as above
            raise BackendError(f"onnxruntime can't run it on {x.shape}: {_first_line(reason)}") from reason
        return logits


def run_graph(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) logits of one ONNX file for (N, C, H, W) images, with default settings."""
    return _Runner(_session(path, RuntimeSettings())).infer(x)


def run_model(graph: onnx.ModelProto, x: NDArray[np.float32], tensors: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """What `tensors` of a graph hold for (N, C, H, W) images."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=_PROVIDERS)
    return dict(zip(tensors, session.run(None, {session.get_inputs()[0].name: x}), strict=True))


class OnnxRuntime:
    """Backend "onnxruntime" with the CPU provider; any other provider is an error, never a fallback."""

    suffix = ".onnx"

    def build(
        self,
        graph: Path,
        target: Target,
        artifact: Path,
        *,
        progress: Progress = silent,  # noqa: ARG002 - there is nothing to wait for
    ) -> dict[str, Any]:
        session = _session(graph, target.runtime)
        shape = [target.measure.batch, *session.get_inputs()[0].shape[1:]]
        _Runner(session).infer(np.zeros(shape, np.float32))
        write_atomic(artifact, lambda path: shutil.copyfile(graph, path))
        return {
            "providers": _PROVIDERS,
            "threads": target.runtime.threads,
            "spinning": target.runtime.spinning,
        }

    @contextmanager
    def open(self, artifact: Path, target: Target) -> Iterator[_Runner]:
        yield _Runner(_session(artifact, target.runtime))

    def versions(self) -> dict[str, str]:
        return versions("onnxruntime", "onnx")
