"""Settings of a profile that TensorRT does not support, from NVIDIA's documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeoe.registry import PRECISIONS
from edgeoe.targets.issue import Issue
from edgeoe.versions import version_numbers

if TYPE_CHECKING:
    from edgeoe.targets.profile import Target

__all__ = ["issues"]

_OLDEST, _LAST_10_WITH_DLA, _FIRST_11_WITH_DLA = (10, 3), (10, 7), (11, 4)
_SAME_CAPABILITY_SINCE = (10, 13)
_JETSON = (5.3, 6.2, 7.2, 8.7, 11.0)  # compute capabilities of Jetson modules


def issues(target: Target) -> Iterator[Issue]:
    """The settings of `target` that TensorRT does not support."""
    yield from _plan(target)
    yield from _batches(target)
    yield from _dla(target)


def _plan(target: Target) -> Iterator[Issue]:
    device, engine = target.device, target.engine
    version, capability = version_numbers(device.tensorrt), device.compute_capability
    if version and version < _OLDEST:
        yield Issue("device", "tensorrt", f"tensorrt {device.tensorrt} is too old: edgeoe needs 10.3 or newer.")
    if engine.workspace_mb and device.memory_gb and engine.workspace_mb * 2**20 > device.memory_gb * 1e9:
        message = f"workspace_mb = {engine.workspace_mb} is more than the device's memory_gb = {device.memory_gb:g}."
        yield Issue("engine", "workspace_mb", message)
    level = engine.hardware_compatibility
    if level == "none":
        return
    if capability in _JETSON or (device.board or "").startswith("jetson-"):
        yield Issue("engine", "hardware_compatibility", "hardware_compatibility must be none on a Jetson.")
    elif level == "ampere_plus" and capability is not None and capability < 8:
        message = f"ampere_plus needs compute capability 8.0 or higher, and this device has {capability}."
        yield Issue("engine", "hardware_compatibility", message)
    elif level == "same_compute_capability" and version and version < _SAME_CAPABILITY_SINCE:
        message = f"same_compute_capability needs TensorRT 10.13 or newer, and this device has {device.tensorrt}."
        yield Issue("engine", "hardware_compatibility", message)


def _batches(target: Target) -> Iterator[Issue]:
    smallest, optimum, largest = target.engine.batch_min, target.engine.batch_opt, target.engine.batch_max
    if not smallest <= optimum <= largest:
        yield Issue(
            "engine",
            "batch_opt",
            f"batch_min <= batch_opt <= batch_max must hold. Got {smallest}, {optimum}, {largest}.",
        )
    elif not smallest <= target.measure.batch <= largest:
        message = f"batch must be within batch_min and batch_max of [engine], {smallest} to {largest}."
        yield Issue("measure", "batch", f"{message} Got {target.measure.batch}.")


def _dla(target: Target) -> Iterator[Issue]:
    device, engine = target.device, target.engine
    if engine.dla_core is None:
        if engine.gpu_fallback:
            message = "gpu_fallback is for layers that a DLA can't run: set dla_core too."
            yield Issue("engine", "gpu_fallback", message)
        return
    version, setting = version_numbers(device.tensorrt), f"dla_core = {engine.dla_core}"
    if device.dla_cores is not None and engine.dla_core >= device.dla_cores:
        yield Issue("engine", "dla_core", f"{setting}: this device has {device.dla_cores or 'no'} DLA cores.")
    elif version and _LAST_10_WITH_DLA < version[:2] < _FIRST_11_WITH_DLA:
        message = f"{setting}: TensorRT {device.tensorrt} has no DLA; 10.7 was the last before 11.4."
        yield Issue("engine", "dla_core", message)
    elif version and version >= _FIRST_11_WITH_DLA and device.board not in (None, "jetson-agx-orin"):
        message = f"{setting}: TensorRT {device.tensorrt} has DLA on AGX Orin only."
        yield Issue("engine", "dla_core", message)
    if not PRECISIONS.load(target.precision).on_npu:
        message = f"{setting}: a DLA computes fp16 and int8 only, and precision is {target.precision}."
        yield Issue("engine", "dla_core", message)
    if engine.batch_min != engine.batch_max:
        message = f"{setting}: a DLA takes one batch size: make batch_min and batch_max equal."
        yield Issue("engine", "dla_core", message)
