"""Free memory is what the system has, within the limits of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import write_files

from edgeoe.machine.memory import available_bytes

MB = 10**6
SYSTEM = {"proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:    4000 kB\nBuffers: 1 kB\n"}
V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4_096_000),
        ({f"{V2}/memory.max": "max", f"{V2}/memory.current": "5"}, 4_096_000),
        ({f"{V2}/memory.max": f"{3 * MB}", f"{V2}/memory.current": f"{MB}"}, 2 * MB),
        (
            {
                f"{V2}/memory.max": f"{3 * MB}",
                f"{V2}/memory.current": f"{2 * MB}",
                f"{V2}/memory.stat": f"active_file 7\ninactive_file {MB}\n",
            },
            2 * MB,
        ),
        ({f"{V2}/memory.max": "1", f"{V2}/memory.current": "2"}, 0),
        (
            {
                "proc/self/cgroup": "4:memory:/a",
                f"{V2}/memory/a/memory.limit_in_bytes": f"{3 * MB}",
                f"{V2}/memory/a/memory.usage_in_bytes": f"{2 * MB}",
            },
            MB,
        ),
    ],
    ids=["no group", "no limit", "limit", "cache", "over the limit", "v1"],
)
def test_the_least_of_system_and_groups_counts(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert available_bytes(root=write_files(tmp_path, {**SYSTEM, **files})) == expected


@pytest.mark.parametrize("text", ["", "MemTotal: 9 kB", "MemAvailable: many kB"])
def test_a_system_that_does_not_say_is_unknown(text: str, tmp_path: Path) -> None:
    assert available_bytes(root=write_files(tmp_path, {"proc/meminfo": text})) is None


def test_this_machine_has_some_or_does_not_say() -> None:
    here = available_bytes()
    assert here is None or here > 0
