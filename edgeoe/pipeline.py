"""The whole line on one page: teacher -> student -> ONNX -> artifact -> measurement -> verdict.

Every stage reads what it needs from the run directory and writes its results there, so that it can be
started again anywhere that the directory is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import lcm
from pathlib import Path

from torch import nn

from edgeoe.data.samples import find_samples, find_test
from edgeoe.errors import DeviceError, RunError
from edgeoe.graph.precision import Int8Settings
from edgeoe.machine.environment import environment
from edgeoe.methods import load_cut
from edgeoe.progress import Progress, silent
from edgeoe.records.measurement import Validation
from edgeoe.run import layout
from edgeoe.run.creation import require_free
from edgeoe.run.directory import Run
from edgeoe.run.layout import TargetFiles
from edgeoe.run.settings import run_settings
from edgeoe.settings import CompressSettings
from edgeoe.stages.budget import has_budget, pays_for_fp32, require_tables, same_limits
from edgeoe.stages.build import build, require_runtime
from edgeoe.stages.bundle import bundle
from edgeoe.stages.collect import collect
from edgeoe.stages.compress import compress
from edgeoe.stages.contents import changed_contents, contents_now
from edgeoe.stages.deployed import Bundled, Deployed, Judged, Unreached
from edgeoe.stages.export import ExporterChoice, export
from edgeoe.stages.inspect import inspect
from edgeoe.stages.latency_table import collect_table
from edgeoe.stages.on_devices import fetch_tables, validate_on
from edgeoe.stages.precisions import variant_for
from edgeoe.stages.table_bundle import bundle_table, measure_parts
from edgeoe.stages.validate import validate
from edgeoe.targets.address_book import Device
from edgeoe.targets.here import differences
from edgeoe.targets.limits import require_buildable
from edgeoe.targets.profile import Target

__all__ = [
    "Bundled",
    "Deployed",
    "Judged",
    "Unreached",
    "build",
    "bundle",
    "bundle_table",
    "collect",
    "collect_table",
    "compress",
    "deploy",
    "export",
    "fetch_tables",
    "inspect",
    "measure_parts",
    "validate",
]


@dataclass(frozen=True, slots=True)
class _Student:
    """One student of `deploy`: its folder, and what it is made with."""

    out: Path
    settings: CompressSettings
    targets: Sequence[Target]


def deploy(
    settings: CompressSettings,
    *,
    out: Path,
    targets: Iterable[Target],
    test: Path,
    devices: Mapping[str, Device] | None = None,
    teacher: nn.Module | None = None,
    exporter: ExporterChoice = "auto",
    one_student: bool = False,
    overwrite: bool = False,
    each: Callable[[Deployed], object] = lambda _: None,
    progress: Progress = silent,
) -> tuple[Deployed, ...]:
    """The whole line for several targets; finished students with the same settings, limits and contents are kept.

    Without a budget one student at `out` serves all targets: its widths suit all at once, unless the settings name a
    multiple. With a budget each of several targets gets its own, a run at `out`/TARGET. What can't work is refused
    before anything is trained.

    devices: where SSH reaches targets, by their names. Latency tables that a budget needs are measured there, and the
        student is built and measured on all devices at once; one that gives no result does not stop the others.
    teacher: as for `compress`.
    one_student: one student at `out` meets the budgets of all targets.
    each: is called with the outcome on each target as soon as it is known.
    Returns, for each target, what was judged, or for a target that is neither this machine nor reached the bundle to
    take there; nothing in torchrun's other processes.
    Raises DeviceError if a latency table can't be measured on a device.
    """
    targets, facts, devices = list(targets), environment(), devices or {}
    elsewhere = {target.name: differences(target, facts) for target in targets}
    for target in targets:
        require_buildable(target)
        if not elsewhere[target.name] and target.name not in devices:
            require_runtime(Run(out), target)
    follow_links = settings.follow_links
    few = find_samples(
        settings.samples,
        settings.list,
        classes=settings.classes,
        none_allowed=settings.oe,
        follow_links=follow_links,
    )
    find_test(test, few.classes, follow_links=follow_links)
    students = [*_students(settings, out, targets, one_student=one_student)]
    now = cache(lambda: contents_now(settings, few, progress=progress))
    missing = []
    for student in students:
        if not _is_made(student):
            require_free(student.out, overwrite=overwrite)
            missing.append(student)
        elif changed := changed_contents(Run(student.out), student.settings, now()):
            if not overwrite:
                raise RunError(
                    f"{student.out}: already holds a run, and the {' and the '.join(changed)} have changed since. "
                    "Choose another --out, or pass --overwrite."
                )
            missing.append(student)
    for student in missing:
        reached = [target for target in student.targets if target.name in devices]
        fetch_tables(student.settings, reached, devices, teacher=teacher, progress=progress)
    if len(missing) > 1:  # a single student is refused before it is trained
        alone = [target for student in missing for target in student.targets]
        require_tables(settings, alone, teacher=teacher, progress=progress)
    outcomes: list[Deployed] = []
    for student in students:
        run = Run(student.out) if os.environ.get("RANK", "0") == "0" else None  # torchrun may have started several
        if student in missing:
            run = compress(
                student.settings,
                out=student.out,
                teacher=teacher,
                targets=student.targets,
                overwrite=overwrite,
                progress=progress,
            )
        if run is not None:  # the first process goes on alone
            with run.locked():
                if not _is_made(student):
                    raise RunError(f"{run.path}: another command has just replaced this run. Start again.")
                outcomes += _deliver(
                    run,
                    student,
                    devices,
                    test=test,
                    follow_links=follow_links,
                    exporter=exporter,
                    each=each,
                    progress=progress,
                )
    return tuple(outcomes)


def _students(
    settings: CompressSettings, out: Path, targets: Sequence[Target], *, one_student: bool
) -> Iterator[_Student]:
    """The students to make, each with the settings that name its targets.

    Raises RunError if there are several, and `out` holds a run itself.
    """
    names = tuple(target.name for target in targets)
    if tuple(Path(name).name.removesuffix(".toml") for name in settings.target) != names:
        settings = replace(settings, target=names)
    if one_student or len(targets) < 2 or not has_budget(settings, targets):
        yield _Student(out, settings, targets)
        return
    if Run(out).has(layout.COMPRESS):
        raise RunError(
            f"{out}: holds a run, and a student for each target needs a folder of its own. "
            "Choose another --out, or pass --one-student."
        )
    for name, target in zip(settings.target, targets, strict=True):
        yield _Student(out / target.name, replace(settings, target=(name,)), (target,))


def _deliver(
    run: Run,
    student: _Student,
    devices: Mapping[str, Device],
    *,
    test: Path,
    follow_links: bool,
    exporter: ExporterChoice,
    each: Callable[[Deployed], object],
    progress: Progress,
) -> list[Deployed]:
    """Export the student of `run`, and for each target build and validate it, here or on its device, or bundle it."""
    targets, max_drop, facts = student.targets, student.settings.max_drop, environment()
    export(
        run,
        exporter=exporter,
        precisions={target.precision for target in targets},
        int8=Int8Settings(max_drop=1.0 if max_drop is None else max_drop),  # not that of an earlier deploy
        variants=sorted({variant_for(target, here=target.name not in devices) for target in targets}),
        progress=progress,
    )
    outcomes: dict[str, Deployed] = {}

    def note(target: Target, outcome: Deployed) -> None:
        outcomes[target.name] = outcome
        each(outcome)

    def judged(target: Target, result: Validation | DeviceError) -> None:
        if isinstance(result, DeviceError):
            note(target, Unreached(run=run, target=target, reason=str(result)))
        else:
            note(target, Judged(run=run, validation=result))

    for target in targets:
        if target.name in devices:
            continue
        if differs := differences(target, facts):
            archive = TargetFiles(target.name).archive
            out = run.path / archive.name
            packed = bundle(run, target, out=out, test=test, follow_links=follow_links, progress=progress)
            run.note(archive)
            note(target, Bundled(run=run, target=target, bundle=packed, differs=differs))
        else:
            build(run, target, progress=progress)
            validation = validate(run, target, test=test, follow_links=follow_links, progress=progress)
            note(target, Judged(run=run, validation=validation))
    reached = [target for target in targets if target.name in devices]
    validate_on(run, reached, devices, test=test, follow_links=follow_links, each=judged, progress=progress)
    return [outcomes[target.name] for target in targets]


def _is_made(student: _Student) -> bool:
    """Whether the student is there that compressing the same contents for its targets would make again.

    Other targets make another student only by their widths, by their limits, or where latencies are measured on them.
    """
    run, settings, targets = Run(student.out), student.settings, student.targets
    if not run.has(layout.COMPRESS):
        return False
    try:
        used, wanted = run_settings(run), settings.resolved()
    except RunError:  # of another edgeoe
        return False
    if not load_cut(settings.method).measures_latency and not has_budget(settings, targets):
        used = replace(used, target=wanted.target)
    if not pays_for_fp32(settings, targets):
        used = replace(used, max_drop=wanted.max_drop)
    if used != wanted:
        return False
    multiple = settings.channel_multiple or lcm(*(target.channel_multiple for target in targets))
    record = run.read(layout.COMPRESS)
    return record.channel_multiple == multiple and same_limits(record.budget, settings, targets)
