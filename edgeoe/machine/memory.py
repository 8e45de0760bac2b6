"""Memory that is still free for this process. Imports the standard library only, because it also runs on devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgeoe.machine.system import ROOT, cgroup_folders, read_int, read_text

__all__ = ["available_bytes"]

_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # of cgroups v2 and v1


def available_bytes(*, root: Path = ROOT) -> int | None:
    """Memory that this process may still take, in bytes: what the system has, within the limits of control groups.

    Caches of files count as free. Returns None if the system does not say.
    Sources: /proc/meminfo, cgroups(7).
    """
    system = re.search(r"^MemAvailable: *(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE)
    if system is None:
        return None
    return max(0, min([int(system[1]) * 1024, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group with a limit leaves."""
    for folder in cgroup_folders(root, "memory"):
        cached = re.search(r"^(?:total_)?inactive_file (\d+)$", read_text(folder / "memory.stat"), re.MULTILINE)
        for limit_file, usage_file in _FILES:
            limit, usage = read_int(folder / limit_file), read_int(folder / usage_file)
            if limit is not None and usage is not None:
                yield limit - usage + (int(cached[1]) if cached else 0)
