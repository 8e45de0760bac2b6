"""edgeoe devices add, list, check and remove; and --device of other commands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeoe.cli.completion import complete_device, complete_target
from edgeoe.cli.options import JsonOption, everywhere, next_step, typed
from edgeoe.errors import ConfigError, DeviceError
from edgeoe.report.text_file import write_json
from edgeoe.settings import CompressSettings
from edgeoe.targets.address_book import (
    Device,
    address_book_file,
    find_device,
    read_address_book,
    require_device_name,
    write_address_book,
)

if TYPE_CHECKING:
    from edgeoe.records.device import DeviceReport

__all__ = ["DevicesOption", "app", "with_devices"]

app = typer.Typer(help="Devices of your own, which are reached by SSH.", no_args_is_help=True)

DevicesOption = Annotated[
    list[str],
    typer.Option(
        "--device",
        help="Device of `edgeoe devices`, where it is built and measured over SSH; repeatable.",
        metavar="NAME",
        show_default=False,
        autocompletion=complete_device,
    ),
]
_Name = Annotated[
    str, typer.Argument(help="Its name here.", metavar="NAME", show_default=False, autocompletion=complete_device)
]


def with_devices(
    context: typer.Context, settings: CompressSettings, names: Iterable[str]
) -> tuple[CompressSettings, dict[str, Device]]:
    """`settings` with the devices `names` as targets, and where each is.

    They take the place of the targets of the file and of the default, and stand beside those on the command line.
    Raises ConfigError for a name that is no device.
    """
    devices = {name: find_device(name) for name in names}
    if not devices:
        return settings, {}
    others = settings.target if "target" in typed(context) else ()
    return replace(settings, target=(*others, *devices)), devices


@app.callback()
@partial(everywhere, config=False)
def _group() -> None:
    pass


@app.command("add")
@partial(everywhere, config=False)
def add_command(
    name: Annotated[str, typer.Argument(help="What you call it.", show_default=False)],
    host: Annotated[
        str | None,
        typer.Option(help="[user@]host[:port], or a Host of ~/.ssh/config.", show_default=False),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Profile that describes it.", show_default=False, autocompletion=complete_target),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="Command that starts its Python; default: python3.", show_default=False)
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Folder there for edgeoe's files; default: ~/.cache/edgeoe-device.", show_default=False),
    ] = None,
    keep_mb: Annotated[
        int | None, typer.Option(help="How much stays there between runs; default: 2000.", show_default=False)
    ] = None,
    json: JsonOption = None,
) -> int:
    """Name a device, or change one, and say what it is and what it lacks. What is not given stays as it was.

    Keys, known hosts and jump hosts are those of ssh.

    Example: [bold]edgeoe devices add kitchen --host pi@kitchen.local --target raspberry-pi-5[/]
    """
    from edgeoe.report.terminal import say
    from edgeoe.targets.load import find_targets, load_target

    require_device_name(name)
    if name in find_targets():
        raise ConfigError(f"{name!r} is a profile: give the device another name.")
    book = read_address_book()
    given = {"host": host, "target": target, "python": python, "folder": folder, "keep_mb": keep_mb}
    changes = {key: value for key, value in given.items() if value is not None}
    if name not in book and not {"host", "target"} <= changes.keys():
        raise ConfigError(f"{name} is new: pass --host and --target.")
    if target is not None:
        profile = load_target(target)
        if target.endswith(".toml"):
            changes["target"] = str(Path(target).resolve())
        elif target in book:
            raise ConfigError(f"--target {target}: is a device itself. Name a profile: {profile.name} is described by "
                              f"{book[target].target}.")  # fmt: skip
    device = replace(book[name], **changes) if name in book else Device(**changes)  # type: ignore[arg-type]
    write_address_book({**book, name: device})
    say(f"{name}: written to {address_book_file()}")
    report = _check(name, device)
    write_json(json, report)
    show_report(report)
    next_step(f"edgeoe deploy ... --device {name}" if not report.problems else f"edgeoe devices check {name}")
    return 2 if report.problems else 0


@app.command("list")
@partial(everywhere, config=False)
def list_command(json: JsonOption = None) -> int:
    """List your devices.

    Example: [bold]edgeoe devices list[/]
    """
    from edgeoe.report.terminal import out, table

    book = read_address_book()
    write_json(json, book)
    rows = [(name, one.host, one.target, one.python) for name, one in book.items()]
    out.print(table(f"devices in {address_book_file()}", ("name", "host", "profile", "Python"), rows))
    next_step("edgeoe devices check" if book else "edgeoe devices add NAME --host USER@HOST --target PROFILE")
    return 0


@app.command("check")
@partial(everywhere, config=False)
def check_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Devices; default: all.", show_default=False, autocompletion=complete_device),
    ] = None,
    json: JsonOption = None,
) -> int:
    """Reach devices, and say what each is, and what it lacks. Exit code 2 if one lacks anything, or can't be reached.

    Example: [bold]edgeoe devices check kitchen[/]
    """
    from edgeoe.report.terminal import say

    devices = {name: find_device(name) for name in names or read_address_book()}
    reports = asyncio.run(_reports(devices))
    errors = {name: {"error": str(one)} for name, one in reports.items() if isinstance(one, DeviceError)}
    write_json(json, {**reports, **errors})
    for report in reports.values():
        if isinstance(report, DeviceError):
            say((str(report), "red"))
        else:
            show_report(report)
    bad = [name for name, report in reports.items() if isinstance(report, DeviceError) or report.problems]
    return 2 if bad else 0


@app.command("remove")
@partial(everywhere, config=False)
def remove_command(
    name: _Name,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Leave edgeoe's folder on the device, or the device is gone.")
    ] = False,
) -> int:
    """Forget a device, once edgeoe's folder there is removed.

    Example: [bold]edgeoe devices remove kitchen[/]
    """
    from edgeoe.devices.connection import Connection
    from edgeoe.report.terminal import say

    device = find_device(name)

    async def clear() -> None:
        async with Connection(name, device) as connection:
            await connection.ask("remove")

    if not keep_files:
        try:
            asyncio.run(clear())
        except DeviceError as reason:
            raise DeviceError(f"{reason} To forget it all the same: --keep-files") from None
        say(f"{name}: {device.folder} there is removed")
    write_address_book({other: one for other, one in read_address_book().items() if other != name})
    say(f"{name}: forgotten")
    return 0


def _check(name: str, device: Device) -> DeviceReport:
    from edgeoe.stages.device_probe import probe_device
    from edgeoe.targets.load import load_target

    return asyncio.run(probe_device(name, device, load_target(device.target)))


async def _reports(devices: Mapping[str, Device]) -> dict[str, DeviceReport | DeviceError]:
    from edgeoe.stages.device_probe import probe_device
    from edgeoe.targets.load import load_target

    async def one(name: str, device: Device) -> DeviceReport | DeviceError:
        try:
            return await probe_device(name, device, load_target(device.target))
        except DeviceError as reason:
            return reason

    reports = await asyncio.gather(*(one(name, device) for name, device in devices.items()))
    return dict(zip(devices, reports, strict=True))


def show_report(report: DeviceReport) -> None:
    """Print what a device is and has, then what it lacks."""
    from edgeoe.report.device import device_lines
    from edgeoe.report.terminal import say

    for line in device_lines(report):
        say(line)
    for problem in report.problems:
        say(("  problem", "red"), f": {problem}")
