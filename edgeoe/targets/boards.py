"""Boards that profiles may name, with their vendors' facts and the names that machines report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "BOARDS", "Board", "architecture"]

ARCHITECTURES = ("x86_64", "aarch64", "armv7l", "riscv64")
_ALIASES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def architecture(name: str) -> str:
    """Linux's name of an architecture: "aarch64" for macOS's "arm64", "x86_64" for Windows' "AMD64"."""
    return _ALIASES.get(name.lower(), name.lower())


@dataclass(frozen=True, slots=True)
class Board:
    """A board.

    model: words in the name of the board in its device tree, /proc/device-tree/model.
    compute_capability: of its NVIDIA GPU; None without one.
    dla_cores: number of its DLA cores.
    power_modes: their names in /etc/nvpmodel.conf; empty if unknown.
    machine: its architecture.
    """

    model: str
    compute_capability: float | None = None
    dla_cores: int = 0
    power_modes: tuple[str, ...] = ()
    machine: str = "aarch64"


BOARDS = {
    "jetson-orin-nano": Board("Orin Nano", 8.7, 0, ("15W", "25W", "MAXN_SUPER")),
    "jetson-orin-nx": Board("Orin NX", 8.7, 2, ("10W", "15W", "25W", "MAXN")),
    "jetson-agx-orin": Board("AGX Orin", 8.7, 2, ("15W", "30W", "50W", "MAXN")),
    "jetson-thor": Board("Thor", 11.0),
    "jetson-xavier-nx": Board("Xavier NX", 7.2, 2),
    "raspberry-pi-5": Board("Raspberry Pi 5"),
}
