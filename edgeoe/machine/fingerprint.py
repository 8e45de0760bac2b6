"""What must be alike of two machines, for latencies of the one to say anything of the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["FINGERPRINT", "differing"]

FINGERPRINT: tuple[str, ...] = (
    "machine",
    "board",
    "cpu",
    "cpu_flags",
    "cores",
    "cpu_limit",
    "governor",
    "energy_preference",
    "cpu_max_mhz",
    "turbo",
    "power_mode",
    "jetson_clocks",
    "gpu",
    "driver",
    "gpu_max_mhz",
    "gpu_power_limit_w",
)
"""Facts that must be equal for two latencies to be comparable, beside the versions of the runtime.

Not `system`: distributions patch their kernels every few weeks, which changes the inference of a network by far less
than what a gate tolerates, and would void every baseline; that of another system shows in `machine` (x86_64 of Linux is
AMD64 on Windows). Not `memory_mb`, `memory_limit_mb`: a model that fits runs as fast in more. Not `load_1min`: noise.py
watches what others do.
"""

# Of `versions`: what makes or starts an artifact, but computes nothing of a call.
_NOT_IN_A_CALL = frozenset({"edgeoe", "onnx", "python"})


def differing(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(field, base's, new's) of what forbids to compare latencies of two environments; None is unknown.

    The fields are those of `FINGERPRINT`, then, where both environments have `versions`, all packages and libraries in
    them that take part in a call: not Python, edgeoe or onnx. What one side knows and the other does not is different.
    """
    found = _unequal(FINGERPRINT, base, new)
    was, now = base.get("versions"), new.get("versions")
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        told = {field for field, _, _ in found}
        found += _unequal(sorted({*was, *now} - _NOT_IN_A_CALL - told), was, now)
    return found


def _unequal(fields: Sequence[str], base: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(field, base.get(field), new.get(field)) for field in fields if base.get(field) != new.get(field)]
