"""Disks and limits that a command can't work with; mounts are private to the command, and need no root."""

from __future__ import annotations

import resource
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

from faults.commands import Command
from faults.workspace import Process, Workspace

__all__ = ["ENVIRONMENTS"]

Environment = Callable[[Workspace, Command, Path, Random], tuple[Process, Command]]


def _limited(
    work: Workspace, command: Command, folder: Path, rng: Random, *, limit: int, bounds: tuple[int, int]
) -> tuple[Process, Command]:
    value = rng.randint(*bounds)
    process = work.start(command, folder, preexec_fn=partial(resource.setrlimit, limit, (value, value)))
    process.wait()
    return process, command


def _mounted(
    work: Workspace, command: Command, folder: Path, rng: Random, *, options: str, last: str = ""
) -> tuple[Process, Command]:
    """The command in a copy of its folder on a small disk; what it leaves there is copied back.

    options: of the disk; {size} and {inodes} are a little more than the folder takes.
    last: what is done before the command starts.
    """
    files = [*folder.rglob("*")]
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in files if path.is_file()) + rng.randint(1, 40) * 4096
    options = options.format(size=size, inodes=len(files) + 1 + rng.randint(1, 8))
    place, aside = shlex.quote(str(folder)), shlex.quote(f"{folder}.aside")
    script = f"""
        cp -a {place} {aside} && mount -t tmpfs -o {options} tmpfs {place} && cp -a {aside}/. {place} || exit 99
        cd {place}
        {last}
        "$@"
        code=$?
        rm -rf {aside}
        cp -a {place} {aside}
        exit $code
    """
    process = work.start(command, folder, before=["unshare", "-rm", "sh", "-c", script, "sh"])
    process.wait()
    aside_folder = folder.with_name(f"{folder.name}.aside")
    _replace(folder, aside_folder)
    return process, command


def _replace(folder: Path, by: Path) -> None:
    shutil.rmtree(folder)
    by.rename(folder)


def _long_name(work: Workspace, command: Command, folder: Path, rng: Random) -> tuple[Process, Command]:
    """The name of one of its own files or folders, or of its run, has 300 characters."""
    places = [number for number, word in enumerate(command.arguments) if word == "runs/a" or word.endswith(".json")]
    words: Sequence[str] = command.arguments
    if places:
        place = rng.choice(places)
        long = f"{'x' * 300}{Path(words[place]).suffix}"
        words = [*words[:place], long, *words[place + 1 :]]
    command = replace(command, arguments=tuple(words))
    return work.run(command, folder), command


def _full_output(work: Workspace, command: Command, folder: Path, _: Random) -> tuple[Process, Command]:
    with Path("/dev/full").open("w") as full:
        process = work.start(command, folder, stdout=full)
        process.wait()
    return process, command


_NO_TEMPORARY = """for place in /tmp /var/tmp /dev/shm; do
            case "$PWD" in $place/*) continue;; esac  # which would hide the campaign itself
            mount -t tmpfs -o ro tmpfs $place
        done"""
ENVIRONMENTS: dict[str, Environment] = {
    "large files are refused": partial(_limited, limit=resource.RLIMIT_FSIZE, bounds=(0, 60_000)),
    "few open files": partial(_limited, limit=resource.RLIMIT_NOFILE, bounds=(6, 60)),
    "full disk": partial(_mounted, options="size={size}"),
    "no inodes": partial(_mounted, options="nr_inodes={inodes}"),
    "read-only disk": partial(_mounted, options="size=64m", last='mount -o remount,ro "$PWD"'),
    "no temporary folder": partial(
        _mounted, options="size=64m", last=f'{_NO_TEMPORARY}\n        mount -o remount,ro "$PWD"'
    ),
    "long name": _long_name,
    "full output": _full_output,
}
