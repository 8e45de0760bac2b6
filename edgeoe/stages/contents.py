"""What decides a student, as hashes: by these it is recognised, and an interrupted compression goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path, PurePath

from lightning_fabric import Fabric
from torch import nn

from edgeoe import __version__
from edgeoe.codec import to_json
from edgeoe.data.listing import Listing, list_images
from edgeoe.data.samples import SampleFiles
from edgeoe.files import file_sha256
from edgeoe.models.in_memory import tensors_sha256
from edgeoe.models.teacher import TeacherSource
from edgeoe.progress import Progress, silent
from edgeoe.records.contents import Contents
from edgeoe.records.student import CodeFiles
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings
from edgeoe.targets.profile import Target
from edgeoe.versions import versions

__all__ = ["changed_contents", "contents_now", "contents_of", "inputs_of"]

_NAMES = {  # of contents, for messages
    "teacher": "teacher's weights",
    "weights": "teacher's weights",
    "code": "code of the teacher",
    "samples": "labelled samples",
    "pool": "OOD images",
}


def contents_of(
    settings: CompressSettings,
    teacher: nn.Module,
    source: TeacherSource,
    files: SampleFiles,
    listing: Listing | None,
    *,
    progress: Progress = silent,
) -> Contents:
    """Hashes of what a student of `teacher` is made of.

    source: of the teacher, as a copy where it has files.
    """
    code = source.code
    return Contents(
        teacher=tensors_sha256(teacher.state_dict()),
        weights=_weights_sha256(settings),
        code=_code_sha256(code.root, code.only) if code and code.root and code.only else "",
        samples=_samples_sha256(files),
        pool=_pool_sha256(listing, progress),
    )


def contents_now(settings: CompressSettings, files: SampleFiles, *, progress: Progress = silent) -> Contents:
    """Hashes of the files that a student would be made of now; the teacher and its code are left out."""
    listing = list_images(settings.ood, follow_links=settings.follow_links) if settings.oe and settings.ood else None
    return Contents(
        teacher="",
        weights=_weights_sha256(settings),
        code="",
        samples=_samples_sha256(files),
        pool=_pool_sha256(listing, progress),
    )


def changed_contents(run: Run, settings: CompressSettings, now: Contents) -> list[str]:
    """What has changed of that which the student of `run` is made of; the settings are the same.

    now: as `contents_now` returns it.
    """
    before = run.read(layout.COMPRESS).contents
    if before is None:
        return ["contents, of which it has no hashes,"]
    changed = [_NAMES[name] for name in ("weights", "samples", "pool") if getattr(before, name) != getattr(now, name)]
    code = run.read(layout.PLAN).code
    if code is not None:
        file = Path(settings.teacher.rpartition(":")[0])
        above = len(PurePath(code.file).parts) - 1
        roots = [place.parents[above] for place in (file.absolute(), file.resolve())]
        if before.code not in [_code_sha256(root, code) for root in roots]:
            changed.append(_NAMES["code"])
    return changed


def _weights_sha256(settings: CompressSettings) -> str:
    """Hash of the file of weights; empty without one."""
    return _sha256(settings.weights) if isinstance(settings.weights, Path) else ""


def _code_sha256(root: Path, code: CodeFiles) -> str:
    """Hash of the names and contents of the files of `code`, which lie at `root`."""
    digest = sha256()
    for name in sorted(code.files):
        digest.update(f"{name}\n{_sha256(root / name)}\n".encode())
    return digest.hexdigest()


def _samples_sha256(files: SampleFiles) -> str:
    """Hash of the classes, and of the labels and files of the samples."""
    digest = sha256(json.dumps(files.classes).encode())
    for label, one in zip(files.labels, _file_hashes(files.paths, silent), strict=True):
        digest.update(f"{label} {one}\n".encode())
    return digest.hexdigest()


def _pool_sha256(listing: Listing | None, progress: Progress) -> str:
    """Hash of the files of the OOD pool; empty without one."""
    if listing is None:
        return ""
    return sha256("\n".join(_file_hashes(listing.images, progress)).encode()).hexdigest()


def _file_hashes(paths: Sequence[Path], progress: Progress) -> Iterable[str]:
    threads = ThreadPoolExecutor(thread_name_prefix="hash")
    try:
        with progress("Hashing images", len(paths)) as advance:
            for one in threads.map(_sha256, paths):
                advance()
                yield one
    finally:
        threads.shutdown(cancel_futures=True)


def _sha256(path: Path) -> str:
    """The hash of a file; empty if it can't be read: reading its pixels says so."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def inputs_of(
    settings: CompressSettings, contents: Contents, targets: Sequence[Target], fabric: Fabric
) -> dict[str, str]:
    """All that decides a student, by name: each setting, the contents, the profiles, and what computes it."""
    tables: Mapping[str, Mapping[str, object]] = settings.to_toml()
    inputs = {
        f"{'' if table == 'compress' else f'[{table}] '}{name}": json.dumps(value)
        for table, values in tables.items()
        for name, value in values.items()
    }
    for field in dataclasses.fields(contents):
        name = _NAMES[field.name]
        inputs[name] = f"{inputs.get(name, '')} {getattr(contents, field.name)}".strip()
    for target in targets:
        profile = json.dumps(to_json(target), sort_keys=True)
        inputs[f"profile of {target.name}"] = sha256(profile.encode()).hexdigest()
    packages = {"edgeoe": __version__, **versions("torch", "lightning-fabric", "timm", "torchvision", "numpy")}
    return inputs | {
        "versions of packages": json.dumps(packages),
        "processes": f"{fabric.world_size} on {fabric.device.type}",
    }
