"""Machine facts that must match for latencies of two machines to be comparable."""

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
"""Facts that must be equal for two latencies to be comparable, in addition to the versions of the runtime.

Without `system`: distributions patch their kernels every few weeks, which changes latency by far less than a gate's
tolerance and would void every baseline; another operating system shows in `machine` (x86_64 on Linux is AMD64 on
Windows). Without `memory_mb`, `memory_limit_mb`: a model that fits is no faster with more. Without `load_1min`:
noise.py watches other processes.
"""

# Packages in `versions` that build or start an artifact, but take no part in inference.
_NOT_IN_A_CALL = frozenset({"edgeoe", "onnx", "python"})


def differing(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Differences between two environments that make their latencies incomparable.

    Compares the fields of `FINGERPRINT` and, if both environments have `versions`, all packages and libraries that take
    part in inference: not Python, edgeoe or onnx. A field that only one side has is a difference.
    Returns (field, value in base, value in new) for each; None is unknown.
    """
    differences = _unequal(FINGERPRINT, base, new)
    base_versions, new_versions = base.get("versions"), new.get("versions")
    if isinstance(base_versions, Mapping) and isinstance(new_versions, Mapping):
        listed = {field for field, _, _ in differences}
        packages = sorted({*base_versions, *new_versions} - _NOT_IN_A_CALL - listed)
        differences += _unequal(packages, base_versions, new_versions)
    return differences


def _unequal(fields: Sequence[str], base: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(field, base.get(field), new.get(field)) for field in fields if base.get(field) != new.get(field)]
