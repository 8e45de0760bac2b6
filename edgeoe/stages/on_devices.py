"""Work on devices that are reached by SSH: bundles run there, many at once, and their results are judged here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from edgeoe.devices.connection import Connection
from edgeoe.devices.remote import Job, bundle_job, run_job
from edgeoe.errors import DeviceError, RunError
from edgeoe.progress import Progress, silent
from edgeoe.records.measurement import Validation
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings
from edgeoe.stages.budget import lacks_table
from edgeoe.stages.bundle import bundle_files
from edgeoe.stages.collect import collect
from edgeoe.stages.latency_table import collect_table
from edgeoe.stages.table_bundle import table_files
from edgeoe.targets.address_book import Device
from edgeoe.targets.profile import Target

__all__ = ["fetch_tables", "validate_on"]

_RESULT, _TABLE = "result.json", "table.json"


def validate_on(
    run: Run,
    targets: Sequence[Target],
    devices: Mapping[str, Device],
    *,
    test: Path,
    follow_links: bool = False,
    each: Callable[[Target, Validation | DeviceError], object] = lambda *_: None,
    progress: Progress = silent,
) -> None:
    """Build, check and measure the student of `run` on several devices at once, and judge each result here.

    devices: where each of `targets` is, by its name.
    each: is called with what came of a target as soon as it is known: a device that can't be reached, or whose program
        fails, does not stop the others.
    """
    jobs = {}
    for target in targets:
        files, _ = bundle_files(run, target, test=test, follow_links=follow_links, progress=progress)
        jobs[target.name] = bundle_job(files, _RESULT)

    async def one(target: Target) -> None:
        outcome: Validation | DeviceError
        try:
            result = await _run_on(target.name, devices[target.name], jobs[target.name], progress)
            with _written(result, _RESULT) as path:
                outcome = collect(run, path)
        except (DeviceError, RunError) as reason:
            outcome = reason if isinstance(reason, DeviceError) else DeviceError(f"{target.name}: {reason}")
        each(target, outcome)

    _run_all([one(target) for target in targets])


def fetch_tables(
    settings: CompressSettings,
    targets: Sequence[Target],
    devices: Mapping[str, Device],
    *,
    teacher: nn.Module | None = None,
    progress: Progress = silent,
) -> None:
    """Measure on their devices the latency tables that a budget on `targets` needs, where they are not in the cache.

    devices: where each of `targets` is, by its name.
    teacher: the network itself, where `settings` only have its fingerprint.
    Raises DeviceError if a device can't be reached, or its program fails.
    """
    missing = [target for target in targets if lacks_table(settings, target, teacher=teacher, progress=progress)]
    jobs = {
        target.name: bundle_job(table_files(settings, target, teacher=teacher, progress=progress), _TABLE)
        for target in missing
    }

    async def one(target: Target) -> None:
        table = await _run_on(target.name, devices[target.name], jobs[target.name], progress)
        with _written(table, _TABLE) as path:
            collect_table(path)

    _run_all([one(target) for target in missing])


async def _run_on(name: str, device: Device, job: Job, progress: Progress) -> bytes:
    async with Connection(name, device) as connection:
        return await run_job(connection, job, progress=progress)


@contextmanager
def _written(data: bytes, name: str) -> Iterator[Path]:
    """A temporary file that holds what came from a device."""
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def _run_all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines at once, in a thread of their own where this one has an event loop, as in a notebook."""

    async def together() -> None:
        await asyncio.gather(*work)

    if not _in_event_loop():
        asyncio.run(together())
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, together()).result()


def _in_event_loop() -> bool:
    with suppress(RuntimeError):
        return bool(asyncio.get_running_loop())
    return False
