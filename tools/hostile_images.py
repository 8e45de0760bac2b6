"""Images that are small as files and large as pixels, and the memory that `edgeoe samples` needs for each."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

__all__ = ["IMAGES", "MOST_MIB", "memory_table", "peak_of"]

MOST_MIB = 1536  # of any process: 1 GiB of decoded pixels, and the program
COPIES = 6


def png(path: Path, width: int, height: int, *, colour: int = 0, bits: int = 8) -> None:
    """A PNG of zeros. colour: PNG's type: 0 greyscale, 2 RGB, 6 RGBA."""
    channels = {0: 1, 2: 3, 6: 4}[colour]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + width * channels * bits // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def _saved(kind: str, mode: str, width: int, height: int, **options: object) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        Image.MAX_IMAGE_PIXELS = None
        Image.new(mode, (width, height)).save(path, kind, **options)

    return write


IMAGES: dict[str, Callable[[Path], object]] = {
    "13,300 x 13,300 PNG": lambda path: png(path, 13_300, 13_300),
    "1 x 20,000 PNG": lambda path: png(path, 1, 20_000),
    "1 x 256 PNG": lambda path: png(path, 1, 256),
    "9,400 x 9,400 PNG, grey": lambda path: png(path, 9_400, 9_400),
    "9,400 x 9,400 PNG, RGBA": lambda path: png(path, 9_400, 9_400, colour=6),
    "9,400 x 9,400 PNG, 16 bits": lambda path: png(path, 9_400, 9_400, bits=16),
    "9,400 x 9,400 JPEG, progressive": _saved("JPEG", "RGB", 9_400, 9_400, progressive=True),
    "13,300 x 13,300 JPEG": _saved("JPEG", "RGB", 13_300, 13_300),
    "9,400 x 9,400 WebP": _saved("WEBP", "RGB", 9_400, 9_400),
    "9,400 x 9,400 GIF": _saved("GIF", "P", 9_400, 9_400),
    "9,400 x 9,400 TIFF": _saved("TIFF", "RGB", 9_400, 9_400, compression="tiff_deflate"),
    "40,000 x 40,000 GIF, as its header says": lambda path: path.write_bytes(
        b"GIF89a"
        + struct.pack("<HHBBB", 40_000, 40_000, 0, 0, 0)
        + struct.pack("<cHHHHB", b",", 0, 0, 40_000, 40_000, 0)
    ),
}


def peak_of(folder: Path) -> tuple[int, int]:
    """Exit code and peak memory in MiB of `edgeoe samples` on `folder`."""
    command = [sys.executable, "-m", "edgeoe", "samples", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss // 1024


def memory_table(folder: Path) -> int:
    """Print the peak memory for several copies of each image. Returns 1 if any needs too much."""
    peaks = []
    for name, write in IMAGES.items():
        place = folder / "".join(each if each.isalnum() else "-" for each in name)
        first = place / "a" / f"0.{name.split()[3].strip(',').lower()}"
        if not first.exists():
            first.parent.mkdir(parents=True, exist_ok=True)
            (place / "b").mkdir(exist_ok=True)
            write(first)
        for number in range(1, COPIES):
            copy = place / "ab"[number % 2] / f"{number}{first.suffix}"
            copy.unlink(missing_ok=True)
            copy.hardlink_to(first)
        code, peak = peak_of(place)
        peaks.append(peak)
        size = first.stat().st_size
        sys.stdout.write(f"{name:<42}{COPIES} x {size / 1000:>10,.1f} kB{peak:>8,} MiB   exit {code}\n")
        sys.stdout.flush()
    return 1 if max(peaks) > MOST_MIB else 0
