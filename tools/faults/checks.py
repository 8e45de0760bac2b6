"""What must hold after a disturbance, whatever it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from faults.commands import Command
from faults.workspace import Process

from edgeoe.errors import EdgeoeError
from edgeoe.run import layout
from edgeoe.run.directory import Run

__all__ = ["leftovers", "lost", "wrong_end"]

_LEFT = re.compile(r"\..*\.(partial|old|previous|resume)|\.lock")


def wrong_end(process: Process, command: Command, *, allowed: tuple[int, ...]) -> Iterator[str]:
    """What is wrong in how a command ended.

    allowed: exit codes besides those of a command that is not disturbed.
    """
    if "Traceback" in process.stderr or "Exception ignored" in process.stderr:
        yield f"traceback: {process.stderr.strip().splitlines()[-1]}"
    if process.code not in (*command.codes, *allowed):
        yield f"exit: {process.code}: {process.stderr.strip()[-300:]}"
    if process.code == 2 and len(re.findall(r"^error: ", process.stderr, re.MULTILINE)) != 1:
        yield f"exit: no single line about the error: {process.stderr.strip()[-300:]}"


def lost(folder: Path) -> Iterator[str]:
    """What in the folder of a trial is neither whole nor absent."""
    path = folder / "runs/a"
    if path.exists() and any(path.iterdir()):
        try:
            run = Run.open(path)
            run.read(layout.COMPRESS)
            run.read(layout.PLAN)
            run.file(layout.WEIGHTS)
        except (EdgeoeError, OSError) as reason:
            yield f"lost: {reason}"
    for file in (*folder.glob("*.json"), *folder.glob("store/*/*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            yield f"lost: {file.relative_to(folder)} is half-written"


def leftovers(folder: Path) -> Iterator[str]:
    """Temporary files and folders that nobody will remove."""
    for path in folder.rglob("*"):
        if _LEFT.fullmatch(path.name):
            yield f"leftover: {path.relative_to(folder)}"
