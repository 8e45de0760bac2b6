"""A device in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeoe.records.device import DeviceReport

__all__ = ["device_lines"]

_CLOCK_S = 60.0  # a difference worth a line


def device_lines(report: DeviceReport) -> Iterator[str]:
    """What it is, what it has, and in what state it is."""
    facts: dict[str, Any] = report.probe.environment if report.probe else {}
    what = [facts.get("board") or facts.get("cpu"), report.distribution, facts.get("machine")]
    yield f"{report.name}: {report.host}, {', '.join(filter(None, what)) or 'unknown'} ({report.target})"
    versions = report.probe.versions if report.probe else {}
    software = {"Python": report.python, "numpy": report.numpy, **versions}
    yield f"  {', '.join(f'{name} {version}' for name, version in software.items() if version)}"
    clocks = [
        f"{facts['cores']} cores" if facts.get("cores") else "",
        f"up to {facts['cpu_max_mhz']} MHz" if facts.get("cpu_max_mhz") else "",
        f"governor {facts['governor']}" if facts.get("governor") else "",
        f"power mode {facts['power_mode']}" if facts.get("power_mode") else "",
        f"GPU {facts['gpu']}" if facts.get("gpu") else "",
    ]
    memory = "" if report.free_memory_mb is None else f"{report.free_memory_mb} MB of memory and "
    yield f"  {', '.join(filter(None, [*clocks, f'{memory}{report.free_disk_mb} MB of disk free']))}"
    if abs(report.clock_s) > _CLOCK_S:
        yield f"  its clock is {abs(report.clock_s):.0f} s {'ahead of' if report.clock_s > 0 else 'behind'} this one"
    if report.holder:
        yield f"  in use by {report.holder}"
