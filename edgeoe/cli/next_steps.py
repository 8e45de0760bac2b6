"""Advice after a verdict, and the commands that take a bundle to its device and its result back."""

from __future__ import annotations

from pathlib import Path

from edgeoe.errors import quoted
from edgeoe.measure.quantity import limited_quantities
from edgeoe.records.measurement import Validation
from edgeoe.run.layout import unpacked_folder, unpacked_table_folder
from edgeoe.targets.here import bundle_command

__all__ = ["after_verdict", "lines_for_device", "lines_for_table"]


def after_verdict(run: Path, target: str, validation: Validation, *, again: str, bundled: bool = False) -> str:
    """The next step after a verdict that is not passed.

    target: its profile, as the user names it.
    again: the command that repeats the measurement.
    bundled: whether that command runs a bundle on the device.
    """
    m, verdict = validation.measurement, validation.verdict
    if any(check.outcome == "failed" and check.name == "golden_agreement" for check in verdict.checks):
        return f"edgeoe export {quoted(run)} --sensitivity   (the artifact disagrees with its student)"
    if verdict.outcome == "failed":
        return f"edgeoe targets show {quoted(target)}   (its budget), or compress again with other settings"
    if m.not_measured:
        return f"{again}, on the device itself" if bundled else bundle_command(run, target)
    unclear = limited_quantities({check.name for check in verdict.checks if check.outcome == "inconclusive"})
    if any(quantity.noisy for quantity in unclear.values()) and m.speed and m.speed.noise:
        return f"{again}   (when the machine is quiet: {m.speed.noise[0]})"
    by_processes = [quantity for quantity in unclear.values() if quantity.more == "processes"]
    for quantity in by_processes:
        if quantity.estimate(m) is None:
            return f"{again}   ({quantity.unknown(m)})"
    if by_processes:
        return f"{again}   (with more processes in [measure] of {target}: the limit lies within an interval)"
    if m.accuracy is None or any(
        quantity.needs_teacher and quantity.estimate(m) is None for quantity in unclear.values()
    ):
        return bundle_command(run, target)
    return f"{again}   (with more test images: the limit lies within an interval, or classes have none)"


def lines_for_device(archive: Path, run: Path, target: str) -> list[str]:
    """The commands to run: here, on the device, and here again. DEVICE is its name for ssh."""
    lines = _there_and_back(archive, unpacked_folder(target), "result.json")
    return [*lines, f"edgeoe collect {quoted(run)} result.json"]


def lines_for_table(archive: Path, target: str) -> list[str]:
    """The same for the bundle of a latency table."""
    return [*_there_and_back(archive, unpacked_table_folder(target), "table.json"), "edgeoe collect table.json"]


def _there_and_back(archive: Path, folder: str, result: str) -> list[str]:
    return [
        f"scp {quoted(archive)} DEVICE:",
        f"ssh DEVICE tar -xf {quoted(archive.name)}",
        f"ssh DEVICE python3 {folder}/run.py --out {result}",
        f"scp DEVICE:{result} .",
    ]
