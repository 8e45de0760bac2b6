"""Settings of a profile that its device or its runtime does not support, from the vendors' documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edgeoe.errors import ConfigError, TargetError, quoted
from edgeoe.registry import PRECISIONS, nearest
from edgeoe.targets.backends import known_backends, runs_on, traits_of
from edgeoe.targets.boards import ARCHITECTURES, BOARDS, architecture
from edgeoe.targets.issue import Issue
from edgeoe.targets.profile import DeviceFacts, RuntimeSettings, Target
from edgeoe.versions import version_numbers

__all__ = ["require_buildable", "unknown_names", "unsupported_precision", "unsupported_settings"]

_UNWRITABLE = {"fp8": 8.9}  # precisions that edgeoe does not write, and the compute capability that they need


def require_buildable(target: Target) -> None:
    """Raise TargetError for the first setting of `target` that is not supported."""
    for issue in unsupported_settings(target):
        where = f"[{issue.table}] " if issue.table else ""
        raise TargetError(
            f"target {target.name}: {where}{issue.message} See: edgeoe targets check {quoted(target.name)}"
        )


def unknown_names(target: Target) -> Iterator[Issue]:
    """Issues of `target` whose backend, provider or precision edgeoe does not know."""
    if target.precision not in PRECISIONS:
        message = f"precision must be one of {', '.join(PRECISIONS)}. Got {target.precision!r}."
        yield Issue("", "precision", message)
    try:
        providers = traits_of(target.backend).providers
    except ConfigError as reason:
        yield Issue("", "backend", str(reason))
        return
    if providers and target.runtime.provider not in providers:
        unknown = f"unknown provider {target.runtime.provider!r}. {nearest(target.runtime.provider, providers)}"
        yield Issue("runtime", "provider", unknown)


def unsupported_settings(target: Target, tables: Mapping[str, Any] | None = None) -> Iterator[Issue]:
    """The issues of all settings of `target` that are not supported.

    tables: of its file, to find those that its backend does not read.
    """
    if tables:
        yield from _unused_tables(target, tables)
    yield from _device(target.device)
    yield from _identity(target)
    if issue := unsupported_precision(target.precision, target.device):
        yield issue
    yield from _runtime(target)
    yield from traits_of(target.backend).issues(target)


def unsupported_precision(precision: object, device: DeviceFacts) -> Issue | None:
    """The issue of a precision that `device` can't compute; None if it can. edgeoe need not know the precision."""
    name, capability = str(precision), device.compute_capability
    required = PRECISIONS.load(name).compute_capability if name in PRECISIONS else _UNWRITABLE.get(name, 0.0)
    if capability is None or capability >= required:
        return None
    message = f"{precision} needs compute capability {required} or higher, and this device has {capability}."
    return Issue("", "precision", f"precision: {message}")


def _unused_tables(target: Target, tables: Mapping[str, Any]) -> Iterator[Issue]:
    backends_of: dict[str, list[str]] = {}
    for backend, traits in known_backends().items():
        for table in (*traits.tables, *([backend] if traits.options else [])):
            backends_of.setdefault(table, []).append(backend)
    for table, backends in backends_of.items():
        if table in tables and target.backend not in backends:
            message = f"backend {target.backend} reads no [{table}]: that is for {' and '.join(backends)}. Remove it."
            yield Issue("", table, message)


def _runtime(target: Target) -> Iterator[Issue]:
    runtime, traits, default = target.runtime, traits_of(target.backend), RuntimeSettings()
    precision = PRECISIONS.load(target.precision)
    if runtime.provider != default.provider and not traits.providers:
        names = " and ".join(name for name, other_traits in known_backends().items() if other_traits.providers)
        message = f"provider is for backend {names}, and this is {target.backend}. Remove it."
        yield Issue("runtime", "provider", message)
    provider = runtime.provider if traits.providers else default.provider
    if runtime.unit != default.unit and runtime.unit not in traits.units.get(provider, ()):
        yield Issue("runtime", "unit", f"unit is for {', or for '.join(_settings_with_units())}. Remove it.")
    elif runtime.unit == "npu" and not precision.on_npu:
        message = f"unit: an NPU computes {_precisions_on('on_npu')}, and precision is {target.precision}."
        yield Issue("runtime", "unit", message)
    if runtime.affinity is not None and len(set(runtime.affinity)) < runtime.threads:
        message = f"affinity has {len(set(runtime.affinity))} cores for threads = {runtime.threads}."
        yield Issue("runtime", "affinity", message)
    if runs_on(target) == "cpu" and not precision.on_cpu:
        choices = _precisions_on("on_cpu", word="or")
        message = f"{target.backend} computes {target.precision} graphs in fp32 on a CPU. Choose {choices}."
        yield Issue("", "precision", f"precision: {message}")


def _precisions_on(place: str, *, word: str = "and") -> str:
    """The precisions whose records have the flag `place`, as text: "fp16 and int8"."""
    names = [name for name in PRECISIONS if getattr(PRECISIONS.load(name), place)]
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _settings_with_units() -> Iterable[str]:
    """The settings with which a backend reads `unit`, backends without a choice of provider first."""
    alone, with_provider = [], []
    for name, traits in known_backends().items():
        if traits.providers:
            with_provider += [f'{name} with provider = "{provider}"' for provider in traits.units]
        elif traits.units:
            alone.append(f"backend {name}")
    return [*alone, *with_provider]


def _device(device: DeviceFacts) -> Iterator[Issue]:
    if device.tensorrt is not None and version_numbers(device.tensorrt) is None:
        yield Issue("device", "tensorrt", f'tensorrt must be a version such as "10.3". Got {device.tensorrt!r}.')
    board = BOARDS.get(device.board or "")
    if board is None:
        if device.board is not None:
            yield Issue(
                "device", "board", f"board must be one of {', '.join(BOARDS)}; leave it out for any other device."
            )
        return
    for key in ("compute_capability", "dla_cores"):
        fact, value = getattr(board, key), getattr(device, key)
        if value is not None and fact is not None and value != fact:
            yield Issue("device", key, f"{key} of a {device.board} is {fact}. Got {value}.")
    if device.power_mode is not None and board.power_modes and device.power_mode not in board.power_modes:
        yield Issue(
            "device",
            "power_mode",
            f"power_mode of a {device.board} must be one of {', '.join(board.power_modes)}. Got {device.power_mode!r}. "
            "With an nvpmodel.conf of your own, leave board out.",
        )


def _identity(target: Target) -> Iterator[Issue]:
    """Issues of the keys that identify the device: combinations that no machine has."""
    device, board = target.device, BOARDS.get(target.device.board or "")
    if device.machine is not None and architecture(device.machine) not in ARCHITECTURES:
        message = f"machine must be one of {', '.join(ARCHITECTURES)}. Got {device.machine!r}."
        yield Issue("device", "machine", message)
    elif device.machine is not None and board and architecture(device.machine) != board.machine:
        message = f"machine of a {device.board} is {board.machine}. Got {device.machine!r}."
        yield Issue("device", "machine", message)
    if board and board.compute_capability is None:
        for key in ("gpu", "compute_capability"):
            if getattr(device, key) is not None:
                yield Issue("device", key, f"{key}: a {device.board} has no NVIDIA GPU. Remove it.")
        if runs_on(target) == "nvidia":
            yield Issue("device", "board", f"board: a {device.board} has no NVIDIA GPU, which this profile runs on.")
