"""The state of a device that SSH reaches: what it is, what it lacks, and whether it is what its profile says."""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgeoe.codec import from_json, json_from, record_text
from edgeoe.devices import facts as device_facts
from edgeoe.devices.advice import missing_on
from edgeoe.devices.connection import Connection
from edgeoe.devices.remote import bundle_job, run_job
from edgeoe.devices.unpacked import FACTS
from edgeoe.errors import DeviceError
from edgeoe.records.device import FORMAT, DeviceProbe, DeviceReport, ProbeFacts
from edgeoe.stages.archive import program_files
from edgeoe.targets.address_book import Device
from edgeoe.targets.backends import traits_of
from edgeoe.targets.profile import Target

__all__ = ["probe_device"]

_OUT = "probe.json"


async def probe_device(name: str, device: Device, target: Target) -> DeviceReport:
    """Ask a device what it is and has. Nothing but a folder is left there.

    target: the profile that describes it.
    Raises DeviceError if it can't be reached.
    """
    traits = traits_of(target.backend)
    async with Connection(name, device) as connection:
        asked = time.time()
        reply, _ = await connection.ask(
            "evaluate", Path(device_facts.__file__).read_bytes(), arguments={"imports": ["numpy", *traits.modules]}
        )
        facts: dict[str, Any] = reply["facts"]
        clock_s = facts["time"] - (asked + time.time()) / 2
        problems = [*missing_on(name, device, facts, traits)]
        probe = None if problems else await _probe(connection, target)
    if probe is not None:
        problems += [probe.missing] if probe.missing else [*probe.differs]
    return DeviceReport(
        name=name,
        host=device.host,
        target=device.target,
        python=facts["python"],
        numpy=facts["packages"]["numpy"].get("version", ""),
        distribution=facts["distribution"],
        free_memory_mb=facts["free_memory_mb"],
        free_disk_mb=facts["free_disk_mb"],
        clock_s=clock_s,
        holder=reply["holder"],
        problems=tuple(problems),
        probe=probe,
    )


async def _probe(connection: Connection, target: Target) -> DeviceProbe:
    files = dict(
        program_files(
            "edgeoe.devices.probe",
            target,
            does="A program that says what a device is.",
            result=_OUT,
            collect="edgeoe devices check",
            budget=False,
        )
    )
    hashes = {name: sha256(data).hexdigest() for name, data in files.items()}
    files[FACTS] = record_text(ProbeFacts(target, hashes), format=FORMAT).encode()
    answer = await run_job(connection, bundle_job(files, _OUT, exclusive=False))
    try:
        data = json_from(answer)
        return from_json(DeviceProbe, {key: value for key, value in dict(data).items() if key != "format"})
    except (TypeError, ValueError) as reason:
        raise DeviceError(f"{connection.name}: its answer can't be read: {reason}") from None
