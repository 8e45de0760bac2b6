"""ONNX Runtime, with only the execution provider that the profile names.

The artifact is the graph itself; the result depends on the settings of the session.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends.telemetry import import_onnxruntime
from edgeoe.errors import BackendError, first_line, pass_on_out_of_memory
from edgeoe.files import write_atomic
from edgeoe.progress import Progress, silent
from edgeoe.targets.backends import Processor, Traits
from edgeoe.versions import versions

if TYPE_CHECKING:
    import onnxruntime as ort

    from edgeoe.targets.profile import RuntimeSettings, Target

__all__ = ["OnnxRuntime"]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_PACKAGES = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}


def _processor(target: Target) -> Processor:
    runtime = target.runtime
    if runtime.provider in ("cuda", "tensorrt"):
        return "nvidia"
    return "cpu" if runtime.unit == "cpu" else "other"


def _describe() -> str:
    ort = import_onnxruntime()
    return f"onnxruntime {ort.__version__} with {', '.join(ort.get_available_providers())}"


class OnnxRuntime:
    """Backend "onnxruntime". A provider that is missing, or can't run every node, is an error: there is no fallback."""

    traits = Traits(
        title="ONNX Runtime",
        requirement="onnxruntime",
        extra="gate",
        modules=("onnxruntime",),
        suffix=".onnx",
        portable=True,
        processor=_processor,
        int8_recipe=lambda target: "int8-trt" if target.runtime.provider == "tensorrt" else "int8-cpu",
        describe=_describe,
        tables=("runtime",),
        providers=tuple(_PROVIDERS),
        units={"openvino": ("cpu", "gpu", "npu")},
        single_thread=lambda target: target.runtime.provider == "cpu",
    )

    def check(self, target: Target) -> None:
        _check_provider(target.runtime)

    def build(
        self,
        graph: Path,
        target: Target,
        artifact: Path,
        *,
        progress: Progress = silent,  # noqa: ARG002 - there is nothing to wait for
    ) -> dict[str, Any]:
        runtime = target.runtime
        placement = _placement(graph, runtime, target.measure.batch)
        write_atomic(artifact, lambda path: shutil.copyfile(graph, path))
        return {
            "providers": [_PROVIDERS[runtime.provider]],
            "placement": placement,
            "threads": runtime.threads,
            "spinning": runtime.spinning,
        }

    @contextmanager
    def open(self, artifact: Path, target: Target) -> Iterator[_Runner]:
        yield _Runner(_session(artifact, target.runtime), artifact)

    def versions(self) -> dict[str, str]:
        return versions("onnxruntime", *_PACKAGES.values())


class _Runner:
    def __init__(self, session: ort.InferenceSession, path: Path) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        shape = session.get_inputs()[0].shape
        if len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
            raise BackendError(f"{path}: takes images of {shape}; edgeoe runs graphs of a fixed (C, H, W).")
        self.image_shape: tuple[int, int, int] = (shape[1], shape[2], shape[3])

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run(None, {self._input: x})[0]
        except Exception as reason:  # onnxruntime's exceptions have no common base but Exception
            pass_on_out_of_memory(reason)
            raise BackendError(f"onnxruntime can't run it on {x.shape}: {first_line(reason)}") from reason
        return logits


def _ort() -> Any:
    """The module `onnxruntime`. Raises BackendError where it is missing."""
    try:
        return import_onnxruntime()
    except ModuleNotFoundError:
        raise BackendError(f"onnxruntime is not installed: {OnnxRuntime.traits.install}") from None


def _check_provider(settings: RuntimeSettings) -> str:
    """ONNX Runtime's name of the profile's provider. Raises BackendError if this installation lacks it."""
    ort = _ort()
    provider = _PROVIDERS[settings.provider]
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"provider = {settings.provider!r}: this onnxruntime has {', '.join(ort.get_available_providers())}. "
            f"Install another in its place: pip uninstall onnxruntime && pip install {_PACKAGES[settings.provider]}"
        )
    return provider


def _session(path: Path, settings: RuntimeSettings, *, profile: Path | None = None) -> ort.InferenceSession:
    provider, ort = _check_provider(settings), _ort()
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    if settings.provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    providers = [(provider, _provider_options(settings))]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as reason:  # as above
        pass_on_out_of_memory(reason)
        raise BackendError(f"{path}: onnxruntime can't load it: {first_line(reason)}{_hint(settings)}") from reason
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"{path}: onnxruntime chose {', '.join(session.get_providers())} instead of {provider}.{_hint(settings)}"
        )
    return session


def _hint(settings: RuntimeSettings) -> str:
    if settings.provider == "cpu":
        return ""
    return (
        f" Either {_PROVIDERS[settings.provider]} can't load its own libraries and driver (see what onnxruntime "
        "printed), or it does not take every node."
    )


def _provider_options(settings: RuntimeSettings) -> dict[str, str]:
    """The options of a provider; none sets a precision, which is the graph's."""
    if settings.provider == "openvino":
        return {"device_type": settings.unit.upper(), "num_of_threads": str(settings.threads)}
    return {}


def _placement(graph: Path, settings: RuntimeSettings, batch: int) -> dict[str, int]:
    """Number of nodes by provider in a real run. Raises BackendError unless all ran on the profile's provider."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(graph, settings, profile=Path(folder, "run"))
        runner = _Runner(session, graph)
        runner.infer(np.zeros((batch, *runner.image_shape), np.float32))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = {
        event["name"]: event["args"]
        for event in events
        if event.get("cat") == "Node" and "provider" in event.get("args", {})
    }
    provider = _PROVIDERS[settings.provider]
    elsewhere = [f"{args['op_name']} on {args['provider']}" for args in nodes.values() if args["provider"] != provider]
    if elsewhere:
        raise BackendError(
            f"{graph}: {len(elsewhere)} of {len(nodes)} nodes did not run on {provider}: {', '.join(elsewhere[:3])}. "
            "Choose another provider, or another precision."
        )
    return dict(Counter(args["provider"] for args in nodes.values()))
