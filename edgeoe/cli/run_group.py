"""edgeoe run strip"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from edgeoe.cli.options import JsonOption, RunArgument, everywhere, next_step
from edgeoe.errors import quoted
from edgeoe.report.text_file import write_json

__all__ = ["app"]

app = typer.Typer(help="What is done with a run as a whole.", no_args_is_help=True)


@app.callback()
@partial(everywhere, config=False)
def _group() -> None:
    pass


@app.command("strip")
@partial(everywhere, config=False)
def strip_command(
    run: RunArgument,
    class_names: Annotated[
        bool, typer.Option("--class-names", help="Number the classes, too; removes artifacts and results.")
    ] = False,
    json: JsonOption = None,
) -> int:
    """Remove pixels, source, file names and paths from a run, in place, before it goes to somebody else.

    Work on a copy: what is removed can't be restored. Weights stay.

    Example: [bold]cp -r runs/a runs/public && edgeoe run strip runs/public[/]
    """
    from edgeoe.report.terminal import say
    from edgeoe.run.directory import Run
    from edgeoe.stages.strip import strip

    record = strip(Run.open(run), class_names=class_names)
    write_json(json, record)
    say(f"{run}: {len(record.removed)} files removed, {len(record.rewritten)} rewritten")
    say(f"  works: {', '.join(record.works)}")
    for command, reason in record.missing.items():
        say(f"  does not work: {command}: {reason}")
    for name in record.unknown:
        say((f"  not written by edgeoe, and still there: {name}", "yellow"))
    next_step(f"edgeoe report {quoted(run)}")
    return 0
