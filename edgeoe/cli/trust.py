"""edgeoe trust"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.completion import complete_run
from edgeoe.cli.options import JsonOption
from edgeoe.errors import RunError, quoted
from edgeoe.report.text_file import write_json

if TYPE_CHECKING:
    from edgeoe.records.trust import Trusted

__all__ = ["command"]


def command(
    path: Annotated[
        Path,
        typer.Argument(help="A run, or an artifact's file.", show_default=False, autocompletion=complete_run),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Vouch without asking: for scripts.")] = False,
    json: JsonOption = None,
) -> int:
    """Show what in a run or an artifact from elsewhere runs as a program, and vouch for it on this machine.

    Source in a run, plans, and graphs with foreign operators run with your rights. Those that edgeoe wrote on this
    machine need no trust.

    Example: [bold]edgeoe trust runs/from-elsewhere[/]
    """
    from edgeoe.stages.trust import examine, trust

    record = examine(path)
    _show(record)
    if record.files and not record.vouched:
        if not yes and not _confirmed():
            raise RunError(f"{path}: not vouched for, so that nothing of it runs.")
        record = trust(record)
        _say_vouched(record)
    write_json(json, record)
    return 0


def _show(record: Trusted) -> None:
    from edgeoe.report.terminal import say

    if not record.files:
        say(f"{record.path}: holds nothing that runs as a program")
        return
    say((f"{record.path}: {record.what} runs with your rights:", "bold"))
    for file in record.files:
        say(f"  sha256 {file.sha256}  {file.size_bytes:>9} bytes  {file.path}")
    readable = [file.path for file in record.files if file.path.endswith((".py", ".json", ".txt", ".toml"))]
    if readable:
        say(f"  read it: less {' '.join(map(quoted, readable))}")
    if record.vouched:
        _say_vouched(record)


def _say_vouched(record: Trusted) -> None:
    from edgeoe.report.terminal import say
    from edgeoe.vouching import trusted_folder

    say(f"vouched for on this machine ({trusted_folder() / f'{record.kind}-{record.sha256}'})")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise RunError("trust asks a person, and this is no terminal: pass --yes to vouch for what is listed above.")
    return typer.confirm("Vouch for it?")
