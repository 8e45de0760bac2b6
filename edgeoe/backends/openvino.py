"""OpenVINO, for Intel processors.

The artifact is the ONNX graph: OpenVINO loads it as fast as its native format, which would be two files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends.telemetry import import_openvino
from edgeoe.errors import BackendError, pass_on_out_of_memory
from edgeoe.files import write_atomic
from edgeoe.progress import Progress, silent
from edgeoe.targets.backends import Traits
from edgeoe.targets.profile import Target
from edgeoe.versions import versions

__all__ = ["OpenVino"]


def _describe() -> str:
    openvino = import_openvino()
    return f"openvino {versions('openvino').get('openvino', '')} on {', '.join(openvino.Core().available_devices)}"


class OpenVino:
    """Backend "openvino": runs on the unit that the profile names, in the precision of the graph."""

    traits = Traits(
        title="OpenVINO",
        requirement="openvino",
        extra="openvino",
        modules=("openvino",),
        suffix=".onnx",
        portable=True,
        processor=lambda target: "cpu" if target.runtime.unit == "cpu" else "other",
        int8_recipe=lambda target: "int8-cpu",  # noqa: ARG005 - for every unit
        describe=_describe,
        tables=("runtime",),
        units={"cpu": ("cpu", "gpu", "npu")},
    )

    def check(self, target: Target) -> None:
        _core(target)

    def build(
        self,
        graph: Path,
        target: Target,
        artifact: Path,
        *,
        progress: Progress = silent,  # noqa: ARG002 - it takes no time to speak of
    ) -> dict[str, Any]:
        runner = _Runner(graph, target)
        runner.infer(np.zeros((target.measure.batch, *runner.image_shape), np.float32))
        write_atomic(artifact, lambda path: shutil.copyfile(graph, path))
        return {"unit": target.runtime.unit, "threads": target.runtime.threads, "properties": _properties(target)}

    @contextmanager
    def open(self, artifact: Path, target: Target) -> Iterator[_Runner]:
        yield _Runner(artifact, target)

    def versions(self) -> dict[str, str]:
        return versions("openvino")


def _core(target: Target) -> Any:
    """OpenVINO's core. Raises BackendError if OpenVINO is not installed, or does not find the profile's unit."""
    try:
        openvino = import_openvino()
    except ModuleNotFoundError:
        raise BackendError(f"openvino is not installed: {OpenVino.traits.install}") from None
    core, unit = openvino.Core(), target.runtime.unit
    if unit.upper() not in {name.partition(".")[0] for name in core.available_devices}:
        raise BackendError(
            f"unit = {unit!r}: OpenVINO finds {', '.join(core.available_devices)} here. Is the unit's driver installed?"
        )
    return core


class _Runner:
    """One compiled model per batch size, since OpenVINO is faster with static shapes."""

    def __init__(self, path: Path, target: Target) -> None:
        self._core, self._path, self._target = _core(target), path, target
        try:
            self._model = self._core.read_model(str(path))
            shape = self._model.input(0).get_partial_shape()
        except Exception as reason:  # OpenVINO's exceptions have no common base but Exception
            pass_on_out_of_memory(reason)
            raise BackendError(f"{path}: openvino can't load it: {_last_line(reason)}") from reason
        if shape.rank.get_length() != 4 or any(shape[axis].is_dynamic for axis in (1, 2, 3)):
            raise BackendError(f"{path}: takes images of {shape}; edgeoe runs graphs of a fixed (C, H, W).")
        channels, height, width = (shape[axis].get_length() for axis in (1, 2, 3))
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self._requests: dict[int, Any] = {}
        self._request(target.measure.batch)

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if x.shape[1:] != self.image_shape:
            raise BackendError(f"openvino can't run it on {x.shape}: it takes images of {self.image_shape}")
        request = self._requests.get(len(x)) or self._request(len(x))
        try:
            request.infer([x], share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)
        except Exception as reason:  # as above
            pass_on_out_of_memory(reason)
            raise BackendError(f"openvino can't run it on {x.shape}: {_last_line(reason)}") from reason

    def _request(self, batch: int) -> Any:
        unit = self._target.runtime.unit.upper()
        try:
            model = self._model.clone()
            model.reshape([batch, *self.image_shape])
            compiled = self._core.compile_model(model, unit, _properties(self._target))
            ran_on = {name.partition(".")[0] for name in compiled.get_property("EXECUTION_DEVICES")}
            self._requests[batch] = compiled.create_infer_request()
        except Exception as reason:  # as above
            pass_on_out_of_memory(reason)
            raise BackendError(f"{self._path}: openvino can't load it: {_last_line(reason)}") from reason
        if ran_on != {unit}:
            raise BackendError(f"{self._path}: OpenVINO chose {', '.join(sorted(ran_on))} instead of {unit}.")
        return self._requests[batch]


def _properties(target: Target) -> dict[str, str]:
    """Properties of the compiled model; the precision hint prevents bfloat16, the default of some processors."""
    properties = {"PERFORMANCE_HINT": "LATENCY"}
    properties["INFERENCE_PRECISION_HINT"] = "f16" if target.precision == "fp16" else "f32"
    if target.runtime.unit == "cpu":
        properties["INFERENCE_NUM_THREADS"] = str(target.runtime.threads)
        properties["ENABLE_CPU_PINNING"] = "NO"  # `affinity` says where the process runs
    if target.runtime.unit != "npu":
        properties["NUM_STREAMS"] = "1"
    return properties


def _last_line(reason: Exception) -> str:
    """The last line of an OpenVINO exception, which is the reason; the others are locations in its source."""
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return lines[-1] if lines else type(reason).__name__
