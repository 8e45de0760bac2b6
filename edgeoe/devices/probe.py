"""The program of a probe: facts of a device, its runtime, and whether it is what its profile says."""

from __future__ import annotations

from pathlib import Path

from edgeoe.backends import backend_of
from edgeoe.codec import record_text
from edgeoe.devices.unpacked import read_facts, run_program
from edgeoe.errors import BackendError
from edgeoe.machine.environment import environment
from edgeoe.records.device import FORMAT, DeviceProbe, ProbeFacts
from edgeoe.targets.here import differences
from edgeoe.targets.profile import Target

__all__ = ["main", "probe"]


def probe(target: Target) -> DeviceProbe:
    """Facts of this machine, and of the runtime of `target` on it."""
    facts, backend = environment(), backend_of(target)
    versions, missing = {}, ""
    try:
        backend.check(target)
        versions = backend.versions()
    except BackendError as reason:
        missing = str(reason)
    return DeviceProbe(environment=facts, versions=versions, missing=missing, differs=differences(target, facts))


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python3 run.py`: returns 0 if the facts were written, 130 if interrupted, otherwise 2."""

    def work(bundle: Path, out: Path) -> str:
        record = probe(read_facts(ProbeFacts, bundle, format=FORMAT).target)
        out.write_text(record_text(record, format=FORMAT), encoding="utf-8")
        return f"{out}: written"

    return run_program(work, about="Say what this device is.", out="probe.json", arguments=arguments)
