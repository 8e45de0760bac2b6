"""Readers for system files under /proc and /sys, and for the output of system programs.

A value that can't be read is unknown, not an error. Imports the standard library only, because it also runs on devices.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

__all__ = [
    "ROOT",
    "ask_nvidia_smi",
    "cgroup_folders",
    "is_there",
    "load_1min",
    "parse_int",
    "read_int",
    "read_text",
    "run_program",
    "usable_cores",
]

ROOT = Path("/")

_COMMAND_SECONDS = 5.0


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on, ascending. Source: sched_getaffinity(2)."""
    return tuple(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def load_1min(*, root: Path = ROOT) -> float | None:
    """Average number of processes that ran or waited for a core in the last minute. Source: /proc/loadavg."""
    load = re.match(r"\d{1,9}\.\d+(?= )", read_text(root / "proc/loadavg"))
    if load:
        return float(load[0])
    return round(os.getloadavg()[0], 2) if root == ROOT and hasattr(os, "getloadavg") else None


def read_text(path: Path) -> str:
    """Text of a file without leading and trailing whitespace and zero bytes; empty if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
    except (OSError, ValueError):  # ValueError: the path, built from the content of another file, has a zero byte
        return ""


def read_int(path: Path) -> int | None:
    """The whole number in a file; None if it can't be read or holds anything else."""
    return parse_int(read_text(path))


def cgroup_folders(root: Path, controller: str) -> tuple[Path, ...]:
    """Folders of this process's control groups, of v2 and of v1's `controller`, innermost first.

    A limit of any of them applies. In a container, its group is mounted in place of the outermost.
    Sources: cgroups(7), /proc/self/cgroup.
    """
    mount = root / "sys/fs/cgroup"
    lines = read_text(root / "proc/self/cgroup").splitlines() or ["0::/", f"1:{controller}:/"]
    folders: list[Path] = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            mounts = [mount, mount / "unified"]  # the second if v1 is in use, too
        elif controller in controllers.split(","):
            mounts = [path for path in (mount / controllers, mount / controller) if is_there(path)][:1]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # outside the mounted hierarchy
            parts = []
        folders += [top.joinpath(*parts[:depth]) for top in mounts for depth in range(len(parts), -1, -1)]
    return tuple(folders)


def ask_nvidia_smi(*fields: str) -> tuple[str, ...]:
    """Query nvidia-smi for `fields` of one GPU: their values without units, empty for a value that is not available.

    The GPU is the first of CUDA_VISIBLE_DEVICES, otherwise the first that nvidia-smi lists.
    Returns () if there is no nvidia-smi or no GPU, if it takes more than 5 s, or if it does not know a field.
    Source: nvidia-smi --help-query-gpu.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    known = chosen.isdecimal() or chosen.startswith("GPU-")
    if not chosen or chosen == "-1":  # hidden from CUDA
        return ()
    output = run_program(
        "nvidia-smi",
        f"--query-gpu={','.join(fields)}",
        "--format=csv,noheader,nounits",
        *([f"--id={chosen}"] if known else []),  # the id of a MIG slice is not accepted
    )
    values = [value.strip() for value in output.partition("\n")[0].split(",")]
    if not output or len(values) != len(fields):
        return ()
    return tuple("" if value == "N/A" or value.startswith("[") else value for value in values)


def parse_int(text: str) -> int | None:
    """`text` as a whole number; None if it is not one."""
    try:
        return int(text)
    except ValueError:
        return None


def is_there(path: Path) -> bool:
    """Whether the file or folder exists; False if its parent folder can't be read."""
    try:
        return path.exists()
    except OSError:
        return False


def run_program(program: str, *arguments: str) -> str:
    """Output of a program; empty if it is not installed, fails or takes too long."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        process = subprocess.run(  # noqa: S603 - a system program
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if process.returncode else process.stdout.decode(errors="replace").strip()
