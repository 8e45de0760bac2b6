"""What a device lacks before a bundle can run there, each with the command that brings it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeoe.targets.address_book import Device
from edgeoe.targets.backends import Traits

__all__ = ["missing_on"]

_PYTHON = (3, 10)
_MIN_DISK_MB = 200
_CLOCK_S = 24 * 3600.0
_VENV = "~/edgeoe-env"


def missing_on(name: str, device: Device, facts: Mapping[str, Any], traits: Traits) -> Iterator[str]:
    """What stands in the way of a job, in the order in which it is mended.

    facts: the reply of the agent's probe, which was asked for numpy and the modules of `traits`.
    traits: of the backend that the job runs on.
    """
    python = facts["python"]
    if tuple(map(int, python.split(".")[:2])) < _PYTHON:
        yield f"Python {python} is too old: 3.10 or newer is needed. {_newer_python(name, facts)}"
        return
    packages = facts["packages"]
    lacking = [package for package in ("numpy", *traits.modules) if "error" in packages.get(package, {})]
    if lacking:
        yield f"{' and '.join(lacking)} can't be imported: {_install(name, device, facts, lacking, traits)}"
    if facts["free_disk_mb"] < _MIN_DISK_MB:
        yield f"{facts['free_disk_mb']} MB of its disk are free: free some there, or name another --folder."


def _newer_python(name: str, facts: Mapping[str, Any]) -> str:
    if facts["jetson"]:
        return "JetPack 6 has 3.10, with the TensorRT that belongs to it."
    found = "PATH of a newer one"
    return f"Install one, and name it: edgeoe devices add {name} --python {found!r}"


def _install(name: str, device: Device, facts: Mapping[str, Any], lacking: list[str], traits: Traits) -> str:
    """The command that installs packages, as the system there wants it."""
    if facts["jetson"] and "tensorrt" in lacking:
        also = " python3-numpy" if "numpy" in lacking else ""
        return f"sudo apt install python3-libnvinfer{also}, which JetPack brings"
    requirements = " ".join("numpy" if package == "numpy" else repr(traits.requirement) for package in lacking)
    if facts["externally_managed"] and not facts["virtual_environment"]:
        return (
            f"{device.python} -m venv {_VENV} && {_VENV}/bin/pip install {requirements}, then here: "
            f"edgeoe devices add {name} --python '{_VENV}/bin/python'"
        )
    return f"{device.python} -m pip install {requirements}"
