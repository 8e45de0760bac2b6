"""What a profile asks for that its device, its TensorRT or edgeoe can't do. The facts are the vendors' documents'."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeoe.errors import TargetError, quoted
from edgeoe.targets.boards import ARCHITECTURES, BOARDS, architecture
from edgeoe.targets.profile import DeviceFacts, Target

__all__ = ["Complaint", "impossible_precision", "impossible_wishes", "require_buildable"]

_OLDEST, _LAST_10_WITH_DLA, _FIRST_11_WITH_DLA = (10, 3), (10, 7), (11, 4)
_SAME_CAPABILITY_SINCE = (10, 13)
_NEEDS = {"fp16": 5.3, "int8": 6.1, "fp8": 8.9}  # the compute capability that a precision needs
_READS = {"runtime": ("onnxruntime", "openvino"), "engine": ("tensorrt",)}  # the backends that read a table
_JETSON = (5.3, 6.2, 7.2, 8.7, 11.0)  # compute capabilities of Jetson modules


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with `key` of `[table]`; table "" is the top of the profile."""

    table: str
    key: str
    message: str


def require_buildable(target: Target) -> None:
    """Raise TargetError for the first thing that `target` asks for and can't have."""
    for complaint in impossible_wishes(target):
        where = f"[{complaint.table}] " if complaint.table else ""
        raise TargetError(
            f"target {target.name}: {where}{complaint.message} See: edgeoe targets check {quoted(target.name)}"
        )


def impossible_wishes(target: Target, tables: Mapping[str, Any] | None = None) -> Iterator[Complaint]:
    """Everything that `target` asks for and can't have. tables: those of its file, to see which keys it sets."""
    if tables:
        yield from _unread_tables(target, tables)
    yield from _device(target.device)
    yield from _identity(target)
    if found := impossible_precision(target.precision, target.device):
        yield found
    yield from _runtime(target)
    if target.backend == "tensorrt":
        yield from _tensorrt(target)
        yield from _batches(target)
        yield from _dla(target)


def impossible_precision(precision: object, device: DeviceFacts) -> Complaint | None:
    """The complaint about a precision, exported yet or not, that `device` can't compute in."""
    needed, has = _NEEDS.get(str(precision), 0.0), device.compute_capability
    if has is None or has >= needed:
        return None
    message = f"{precision} needs compute capability {needed} or higher, and this device has {has}."
    return Complaint("", "precision", f"precision: {message}")


def _unread_tables(target: Target, tables: Mapping[str, Any]) -> Iterator[Complaint]:
    for table, backends in _READS.items():
        if table in tables and target.backend not in backends:
            message = f"backend {target.backend} reads no [{table}]: that is for {' and '.join(backends)}. Remove it."
            yield Complaint("", table, message)


def _runtime(target: Target) -> Iterator[Complaint]:
    runtime = target.runtime
    if target.backend != "onnxruntime" and runtime.provider != "cpu":
        message = f"provider is for backend onnxruntime, and this is {target.backend}. Remove it."
        yield Complaint("runtime", "provider", message)
    has_units = target.backend == "openvino" or runtime.provider == "openvino"
    if runtime.unit != "cpu" and not has_units:
        message = 'unit is for backend openvino, or for onnxruntime with provider = "openvino". Remove it.'
        yield Complaint("runtime", "unit", message)
    elif runtime.unit == "npu" and target.precision == "fp32":
        yield Complaint("runtime", "unit", "unit: an NPU computes fp16 and int8, and precision is fp32.")
    if runtime.affinity is not None and len(set(runtime.affinity)) < runtime.threads:
        message = f"affinity has {len(set(runtime.affinity))} cores for threads = {runtime.threads}."
        yield Complaint("runtime", "affinity", message)
    if target.on_cpu and target.precision == "fp16":
        message = f"{target.backend} computes fp16 graphs in fp32 on a CPU. Choose fp32 or int8."
        yield Complaint("", "precision", f"precision: {message}")


def _device(device: DeviceFacts) -> Iterator[Complaint]:
    if device.tensorrt is not None and _version(device.tensorrt) is None:
        yield Complaint("device", "tensorrt", f'tensorrt must be a version such as "10.3". Got {device.tensorrt!r}.')
    board = BOARDS.get(device.board or "")
    if board is None:
        if device.board is not None:
            yield Complaint(
                "device", "board", f"board must be one of {', '.join(BOARDS)}; leave it out for any other device."
            )
        return
    for key in ("compute_capability", "dla_cores"):
        own, stated = getattr(board, key), getattr(device, key)
        if stated is not None and own is not None and stated != own:
            yield Complaint("device", key, f"{key} of a {device.board} is {own}. Got {stated}.")
    if device.power_mode is not None and board.power_modes and device.power_mode not in board.power_modes:
        yield Complaint(
            "device",
            "power_mode",
            f"power_mode of a {device.board} must be one of {', '.join(board.power_modes)}. Got {device.power_mode!r}. "
            "With an nvpmodel.conf of your own, leave board out.",
        )


def _identity(target: Target) -> Iterator[Complaint]:
    """What a profile says of which machines are its device, and can't be true of any."""
    device, board = target.device, BOARDS.get(target.device.board or "")
    if device.machine is not None and architecture(device.machine) not in ARCHITECTURES:
        message = f"machine must be one of {', '.join(ARCHITECTURES)}. Got {device.machine!r}."
        yield Complaint("device", "machine", message)
    elif device.machine is not None and board and architecture(device.machine) != board.machine:
        message = f"machine of a {device.board} is {board.machine}. Got {device.machine!r}."
        yield Complaint("device", "machine", message)
    if board and board.compute_capability is None:
        for key in ("gpu", "compute_capability"):
            if getattr(device, key) is not None:
                yield Complaint("device", key, f"{key}: a {device.board} has no NVIDIA GPU. Remove it.")
        if target.on_nvidia:
            yield Complaint(
                "device", "board", f"board: a {device.board} has no NVIDIA GPU, which this profile runs on."
            )


def _tensorrt(target: Target) -> Iterator[Complaint]:
    device, engine = target.device, target.engine
    version, capability = _version(device.tensorrt), device.compute_capability
    if version and version < _OLDEST:
        yield Complaint("device", "tensorrt", f"tensorrt {device.tensorrt} is too old: edgeoe needs 10.3 or newer.")
    if engine.workspace_mb and device.memory_gb and engine.workspace_mb * 2**20 > device.memory_gb * 1e9:
        message = f"workspace_mb = {engine.workspace_mb} is more than the device's memory_gb = {device.memory_gb:g}."
        yield Complaint("engine", "workspace_mb", message)
    level = engine.hardware_compatibility
    if level == "none":
        return
    if capability in _JETSON or (device.board or "").startswith("jetson-"):
        yield Complaint("engine", "hardware_compatibility", "hardware_compatibility must be none on a Jetson.")
    elif level == "ampere_plus" and capability is not None and capability < 8:
        message = f"ampere_plus needs compute capability 8.0 or higher, and this device has {capability}."
        yield Complaint("engine", "hardware_compatibility", message)
    elif level == "same_compute_capability" and version and version < _SAME_CAPABILITY_SINCE:
        message = f"same_compute_capability needs TensorRT 10.13 or newer, and this device has {device.tensorrt}."
        yield Complaint("engine", "hardware_compatibility", message)


def _batches(target: Target) -> Iterator[Complaint]:
    smallest, tuned, largest = target.engine.batch_min, target.engine.batch_opt, target.engine.batch_max
    if not smallest <= tuned <= largest:
        yield Complaint(
            "engine",
            "batch_opt",
            f"batch_min <= batch_opt <= batch_max must hold. Got {smallest}, {tuned}, {largest}.",
        )
    elif not smallest <= target.measure.batch <= largest:
        message = f"batch must be within batch_min and batch_max of [engine], {smallest} to {largest}."
        yield Complaint("measure", "batch", f"{message} Got {target.measure.batch}.")


def _dla(target: Target) -> Iterator[Complaint]:
    device, engine = target.device, target.engine
    if engine.dla_core is None:
        if engine.gpu_fallback:
            message = "gpu_fallback is for layers that a DLA can't run: set dla_core too."
            yield Complaint("engine", "gpu_fallback", message)
        return
    version, wish = _version(device.tensorrt), f"dla_core = {engine.dla_core}"
    if device.dla_cores is not None and engine.dla_core >= device.dla_cores:
        yield Complaint("engine", "dla_core", f"{wish}: this device has {device.dla_cores or 'no'} DLA cores.")
    elif version and _LAST_10_WITH_DLA < version[:2] < _FIRST_11_WITH_DLA:
        message = f"{wish}: TensorRT {device.tensorrt} has no DLA; 10.7 was the last before 11.4."
        yield Complaint("engine", "dla_core", message)
    elif version and version >= _FIRST_11_WITH_DLA and device.board not in (None, "jetson-agx-orin"):
        message = f"{wish}: TensorRT {device.tensorrt} has DLA on AGX Orin only."
        yield Complaint("engine", "dla_core", message)
    if target.precision == "fp32":
        yield Complaint("engine", "dla_core", f"{wish}: a DLA computes fp16 and int8 only, and precision is fp32.")
    if engine.batch_min != engine.batch_max:
        message = f"{wish}: a DLA takes one batch size: make batch_min and batch_max equal."
        yield Complaint("engine", "dla_core", message)


def _version(text: str | None) -> tuple[int, ...] | None:
    """The numbers of a version; None where it is not known, or is none."""
    return tuple(map(int, text.split("."))) if text and re.fullmatch(r"\d+\.\d+(\.\d+)*", text) else None
