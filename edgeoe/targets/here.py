"""Whether this machine is the device that a profile describes. Needs only the standard library: bundles contain it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgeoe.errors import TargetError, quoted
from edgeoe.machine.environment import environment
from edgeoe.targets.backends import runs_on
from edgeoe.targets.boards import BOARDS, architecture
from edgeoe.targets.profile import Target

__all__ = ["bundle_command", "differences", "has_words", "is_of_every_machine", "not_measured", "require_here"]


def differences(target: Target, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Differences of a machine from the device of `target`; empty if it is that device.

    A profile without architecture, board, processor and GPU matches every machine, but a target that runs on an NVIDIA
    GPU needs one.

    facts: of the machine, from `environment`.
    """
    machine = tuple(_machine_difference(target, facts))
    return machine or tuple(_part_differences(target, facts))  # of another architecture, everything differs


def is_of_every_machine(target: Target) -> bool:
    """Whether the profile matches every machine: it names no board, architecture, processor or GPU."""
    device = target.device
    return not any((device.board, device.machine, device.board_model, device.cpu, device.gpu))


def not_measured(differs: Sequence[str]) -> str:
    """The reason of a missing latency: "not measured here: this is x86_64, raspberry-pi-5 is aarch64"."""
    return f"not measured here: {'; '.join(differs)}"


def bundle_command(run: object, target: str) -> str:
    """The command that bundles `run` for the device of `target`, a profile's name or its file."""
    archive = f"{Path(target).name.removesuffix('.toml')}.tar.gz"
    return f"edgeoe bundle {quoted(run)} --target {quoted(target)} -o {quoted(archive)} --test DIR"


def require_here(target: Target, *, way_out: str) -> None:
    """Raise TargetError unless this machine is the device of `target`.

    way_out: what to do instead, for the end of the message.
    """
    differs = differences(target, environment())
    if differs:
        raise TargetError(f"target {target.name}: {not_measured(differs)}. {way_out}")


def has_words(name: str, words: str) -> bool:
    """Whether `name` contains `words` as whole words; * and ? are wildcards, case is ignored.

    "T4" is in "Tesla T4" and not in "NVIDIA T400"; "RTX 40??" is in "NVIDIA GeForce RTX 4070 Ti".
    """
    return fnmatchcase(f" {name.lower()} ", f"* {words.lower()} *")


def _machine_difference(target: Target, facts: Mapping[str, Any]) -> Iterator[str]:
    board = BOARDS.get(target.device.board or "")
    machine = target.device.machine or (board.machine if board else None)
    here, cpu = _fact(facts, "machine"), _fact(facts, "cpu")
    if machine is not None and architecture(machine) != architecture(here):
        processor = f" ({cpu})" if cpu not in ("", here) else ""
        yield f"this is {here or 'of an unknown architecture'}{processor}, {target.name} is {architecture(machine)}"


def _part_differences(target: Target, facts: Mapping[str, Any]) -> Iterator[str]:
    device, board = target.device, BOARDS.get(target.device.board or "")
    hidden = "no device tree tells which board this is (a container may hide it)"
    requirements = [
        (board.model if board else None, "board", "this board is", hidden),
        (device.board_model, "board", "this board is", hidden),
        (device.cpu, "cpu", "this processor is", "this processor has no name"),
        (device.gpu, "gpu", "this GPU is", "nvidia-smi finds no GPU here"),
    ]
    for words, key, this_is, unknown in requirements:
        here = _fact(facts, key)
        if words and not has_words(here, words):
            yield f"{f'{this_is} {here}' if here else unknown}, {target.name} is for {words}"
    if runs_on(target) == "nvidia" and not device.gpu and not _has_nvidia(facts):
        yield f"this machine has no NVIDIA GPU, {target.name} runs on one"


def _has_nvidia(facts: Mapping[str, Any]) -> bool:
    """Whether any fact indicates an NVIDIA GPU: on a Jetson, nvidia-smi may be missing."""
    jetson = any(word in _fact(facts, "board").lower() for word in ("nvidia", "jetson"))
    return jetson or any(_fact(facts, key) for key in ("gpu", "driver", "power_mode", "jetson_clocks"))


def _fact(facts: Mapping[str, Any], key: str) -> str:
    return str(facts.get(key) or "")
