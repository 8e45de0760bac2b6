"""What a system tells of itself: its files under /proc and /sys, and programs that are asked.

Whatever can't be read is unknown, and no error. It needs the standard library alone: it runs on the devices too.
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
    """The numbers of the cores that this process may run on, ascending. Source: sched_getaffinity(2)."""
    return tuple(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def load_1min(*, root: Path = ROOT) -> float | None:
    """Processes that ran or waited for a core, on average of the last minute. Source: /proc/loadavg."""
    told = re.match(r"\d{1,9}\.\d+(?= )", read_text(root / "proc/loadavg"))
    if told:
        return float(told[0])
    return round(os.getloadavg()[0], 2) if root == ROOT and hasattr(os, "getloadavg") else None


def read_text(path: Path) -> str:
    """What the file holds, without the ends' blanks and zero bytes; empty if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
    except (OSError, ValueError):  # a ValueError for a path with a zero byte, made of what another file holds
        return ""


def read_int(path: Path) -> int | None:
    """The number that the file holds alone; None if it can't be read or holds something else."""
    return parse_int(read_text(path))


def cgroup_folders(root: Path, controller: str) -> tuple[Path, ...]:
    """Folders of the control groups that this process is in, v2's and v1's of `controller`, innermost first.

    A limit holds if any of them has it. In a container, its own group is mounted where the outermost would be.
    Sources: cgroups(7), /proc/self/cgroup.
    """
    mount = root / "sys/fs/cgroup"
    lines = read_text(root / "proc/self/cgroup").splitlines() or ["0::/", f"1:{controller}:/"]
    found = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            mounts = [mount, mount / "unified"]  # the second where v1 is in use beside it
        elif controller in controllers.split(","):
            mounts = [one for one in (mount / controllers, mount / controller) if is_there(one)][:1]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # outside of what is mounted here
            parts = []
        found += [one.joinpath(*parts[:depth]) for one in mounts for depth in range(len(parts), -1, -1)]
    return tuple(found)


def ask_nvidia_smi(*fields: str) -> tuple[str, ...]:
    """What nvidia-smi answers to each of `fields` for one GPU, without units; an answer that it lacks is empty.

    The GPU is the first of CUDA_VISIBLE_DEVICES, else the first that it lists. Empty where there is no nvidia-smi or
    no GPU, where it takes more than 5 s, or does not know a field. Source: nvidia-smi --help-query-gpu.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    known = chosen.isdecimal() or chosen.startswith("GPU-")
    if not chosen or chosen == "-1":  # hidden from CUDA
        return ()
    told = run_program(
        "nvidia-smi",
        f"--query-gpu={','.join(fields)}",
        "--format=csv,noheader,nounits",
        *([f"--id={chosen}"] if known else []),  # not that of a MIG slice
    )
    answers = [part.strip() for part in told.partition("\n")[0].split(",")]
    if not told or len(answers) != len(fields):
        return ()
    return tuple("" if answer == "N/A" or answer.startswith("[") else answer for answer in answers)


def parse_int(text: str) -> int | None:
    """The number that `text` is; None if it is none."""
    try:
        return int(text)
    except ValueError:
        return None


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; not if its folder can't be looked into."""
    try:
        return path.exists()
    except OSError:
        return False


def run_program(program: str, *arguments: str) -> str:
    """What the program prints; empty if it is not there, fails or takes too long."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, asked for facts
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace").strip()
