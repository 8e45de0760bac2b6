"""Boards that profiles may name: what they have, and what a machine calls itself that is one. Vendors' facts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "BOARDS", "Board", "architecture"]

ARCHITECTURES = ("x86_64", "aarch64", "armv7l", "riscv64")
_ALIASES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def architecture(name: str) -> str:
    """The name that Linux has for an architecture: "arm64" of macOS is "aarch64", "AMD64" of Windows is "x86_64"."""
    return _ALIASES.get(name.lower(), name.lower())


@dataclass(frozen=True, slots=True)
class Board:
    """One board.

    model: words in the name of the board in its device tree, /proc/device-tree/model.
    compute_capability: of its NVIDIA GPU, None where it has none.
    power_modes: as /etc/nvpmodel.conf calls them; empty where we don't know them.
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
