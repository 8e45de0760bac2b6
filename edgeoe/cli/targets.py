"""edgeoe targets list, show and check"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from edgeoe.cli.completion import complete_target
from edgeoe.cli.options import JsonOption, everywhere, next_step
from edgeoe.errors import TargetError
from edgeoe.report.text_file import write_json
from edgeoe.text import visible_lines

__all__ = ["app"]

app = typer.Typer(help="Profiles of the devices that artifacts are built for.", no_args_is_help=True)


def _profile(help: str) -> Any:  # noqa: A002 - as Typer calls it
    return typer.Argument(help=help, show_default=False, autocompletion=complete_target)


_Name = Annotated[str, _profile("Name of a profile, or a .toml file.")]


@app.callback()
@partial(everywhere, config=False)
def _group() -> None:
    pass


@app.command("list")
@partial(everywhere, config=False)
def list_command(json: JsonOption = None) -> int:
    """List the profiles: those in ./targets, then those that edgeoe ships.

    Example: [bold]edgeoe targets list[/]
    """
    from edgeoe.report.terminal import out, table
    from edgeoe.targets.load import find_targets, load_target

    rows, records = [], []
    for name, path in find_targets().items():
        target = load_target(str(path))
        rows.append((name, target.backend, target.precision, target.description, str(path)))
        records.append({"name": name, "backend": target.backend, "precision": target.precision, "path": str(path)})
    write_json(json, records)
    view = table("targets", ("name", "backend", "precision", "description", "file"), rows)
    for column in view.columns:
        column.justify = "left"
    out.print(view)
    next_step("edgeoe targets show NAME")
    return 0


@app.command("show")
@partial(everywhere, config=False)
def show_command(name: _Name) -> int:
    """Print a profile's file, to copy and edit.

    Example: [bold]edgeoe targets show host-cpu > targets/my-device.toml[/]
    """
    from edgeoe.report.terminal import out
    from edgeoe.targets.load import find_target, load_target

    load_target(name)
    out.out(visible_lines(find_target(name).read_text(encoding="utf-8")), end="")
    return 0


@app.command("check")
@partial(everywhere, config=False)
def check_command(
    names: Annotated[
        list[str] | None,
        _profile("Profiles; default: all."),
    ] = None,
    json: JsonOption = None,
) -> int:
    """Check profiles: their keys, and that the device supports their settings. Errors have a file and a line.

    Example: [bold]edgeoe targets check targets/my-device.toml[/]
    """
    from edgeoe.report.terminal import err, say
    from edgeoe.targets.load import check_target, find_targets

    records: dict[str, str] = {}
    for name in names or [str(path) for path in find_targets().values()]:
        try:
            problems = check_target(name)
        except TargetError as reason:  # no such profile, or no TOML
            problems = [str(reason)]
        records[name] = "\n".join(problems) or "ok"
        for problem in problems:
            say(("error:", "red"), f" {problem}", to=err)
        if not problems:
            say(("ok", "green"), f" {name}")
    write_json(json, records)
    if any(result != "ok" for result in records.values()):
        return 2
    next_step("edgeoe build RUN --target NAME")
    return 0
