"""Inspection of labelled images before they are used."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgeoe.data.decoding import decoded_image, in_order
from edgeoe.data.formats import UNREADABLE, eight_bits, in_mode, upright
from edgeoe.data.listing import Skipped
from edgeoe.data.samples import SampleFiles
from edgeoe.progress import Progress, silent
from edgeoe.records.compression import TeacherAgreement

__all__ = ["SamplesReport", "inspect_samples"]

_BAND = 256  # rows that are hashed together


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesReport:
    """Result of inspecting labelled images.

    counts: readable images per class.
    imbalance_ratio: largest count over smallest, among classes that have images; 0 if none has.
    empty: classes without readable images.
    unreadable: files that can't be decoded.
    duplicates: groups of files with the same decoded pixels.
    skipped: entries that are not used.
    teacher_agreement: None without a teacher.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    imbalance_ratio: float
    empty: tuple[str, ...]
    unreadable: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    skipped: tuple[Skipped, ...] = ()
    teacher_agreement: TeacherAgreement | None = None


def inspect_samples(files: SampleFiles, *, progress: Progress = silent) -> SamplesReport:
    """Decode every image of `files` once, and count readable, unreadable and duplicate ones."""
    counts = dict.fromkeys(range(len(files.classes)), 0)
    by_digest: dict[str, list[str]] = {}
    unreadable = []
    with ThreadPoolExecutor() as threads, progress("Reading images", len(files.paths)) as advance:
        digests = in_order(threads, _pixel_digest, files.paths)
        for path, label, digest in zip(files.paths, files.labels, digests, strict=True):
            advance()
            if digest is None:
                unreadable.append(str(path))
                continue
            counts[label] += 1
            by_digest.setdefault(digest, []).append(str(path))
    present = [count for count in counts.values() if count]
    return SamplesReport(
        classes=files.classes,
        counts=tuple(counts.values()),
        imbalance_ratio=max(present) / min(present) if present else 0.0,
        empty=tuple(name for k, name in enumerate(files.classes) if not counts[k]),
        unreadable=tuple(unreadable),
        duplicates=tuple(tuple(group) for group in by_digest.values() if len(group) > 1),
        skipped=files.skipped,
    )


def _pixel_digest(path: Path) -> str | None:
    """A digest of the image's RGB pixels; None if it can't be read."""
    try:
        with decoded_image(path) as image:
            return _digest_of(image)
    except UNREADABLE:
        return None


def _digest_of(image: Image.Image) -> str:
    pixels = in_mode(eight_bits(upright(image)), "RGB")
    digest = hashlib.sha256(f"{pixels.size}".encode())
    for top in range(0, pixels.height, _BAND):
        digest.update(pixels.crop((0, top, pixels.width, min(top + _BAND, pixels.height))).tobytes())
    return digest.hexdigest()
