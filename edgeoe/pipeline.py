"""The whole line on one page: teacher -> student -> ONNX -> artifact -> measurement -> verdict.

Every stage reads what it needs from the run directory and writes its results there, so that it can be
started again anywhere that the directory is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import lcm
from pathlib import Path

from torch import nn

from edgeoe.data.samples import find_samples, find_test
from edgeoe.errors import RunError
from edgeoe.machine.environment import environment
from edgeoe.methods import load_cut
from edgeoe.progress import Progress, silent
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.layout import TargetFiles
from edgeoe.run.settings import run_settings
from edgeoe.settings import CompressSettings
from edgeoe.stages.build import build, require_runtime
from edgeoe.stages.bundle import bundle
from edgeoe.stages.collect import collect
from edgeoe.stages.compress import compress
from edgeoe.stages.deployed import Bundled, Judged
from edgeoe.stages.export import ExporterChoice, export
from edgeoe.stages.inspect import inspect
from edgeoe.stages.latency_table import collect_table
from edgeoe.stages.precisions import variant_for
from edgeoe.stages.table_bundle import bundle_table, measure_parts
from edgeoe.stages.validate import validate
from edgeoe.targets.here import differences
from edgeoe.targets.limits import require_buildable
from edgeoe.targets.profile import Target

__all__ = [
    "Bundled",
    "Judged",
    "build",
    "bundle",
    "bundle_table",
    "collect",
    "collect_table",
    "compress",
    "deploy",
    "export",
    "inspect",
    "measure_parts",
    "validate",
]


def deploy(
    settings: CompressSettings,
    *,
    out: Path,
    targets: Iterable[Target],
    test: Path,
    teacher: nn.Module | None = None,
    exporter: ExporterChoice = "auto",
    overwrite: bool = False,
    each: Callable[[Judged | Bundled], object] = lambda _: None,
    progress: Progress = silent,
) -> tuple[Judged | Bundled, ...]:
    """The whole line for several targets; a finished student at `out` with the same settings is kept.

    Its widths suit all targets at once, unless the settings name a multiple. What can't work is refused before anything
    is trained.

    teacher: as for `compress`.
    each: is called with the outcome on each target as soon as it is known.
    Returns, for each target, what was judged here, or for a target that is not this machine the bundle to take there;
    nothing in torchrun's other processes.
    """
    targets, facts = list(targets), environment()
    elsewhere = {target.name: differences(target, facts) for target in targets}
    for target in targets:
        require_buildable(target)
        if not elsewhere[target.name]:
            require_runtime(Run(out), target)
    few = find_samples(settings.samples, settings.list, classes=settings.classes, none_allowed=settings.oe)
    find_test(test, few.classes)
    names = tuple(target.name for target in targets)
    if tuple(Path(name).name.removesuffix(".toml") for name in settings.target) != names:
        settings = replace(settings, target=names)
    run = Run(out) if os.environ.get("RANK", "0") == "0" else None  # torchrun may have started several
    if not _holds_student(Run(out), settings, targets):
        run = compress(settings, out=out, teacher=teacher, targets=targets, overwrite=overwrite, progress=progress)
    if run is None:  # the first process goes on alone
        return ()
    export(
        run,
        exporter=exporter,
        precisions={target.precision for target in targets},
        variants=sorted({variant_for(target) for target in targets}),
        progress=progress,
    )
    outcomes: list[Judged | Bundled] = []
    for target in targets:
        if elsewhere[target.name]:
            archive = TargetFiles(target.name).archive
            packed = bundle(run, target, out=run.path / archive.name, test=test, progress=progress)
            run.note(archive)
            outcomes.append(Bundled(target=target, bundle=packed, differs=elsewhere[target.name]))
        else:
            build(run, target, progress=progress)
            outcomes.append(Judged(validation=validate(run, target, test=test, progress=progress)))
        each(outcomes[-1])
    return tuple(outcomes)


def _holds_student(run: Run, settings: CompressSettings, targets: Sequence[Target]) -> bool:
    """Whether `run` has the student that compressing for `targets` would make again.

    Other targets make another student only by their widths, or where the method's cut measures latencies on them.
    """
    if not run.has(layout.COMPRESS):
        return False
    try:
        used, wanted = run_settings(run), settings.resolved()
    except RunError:  # of another edgeoe
        return False
    if not load_cut(settings.method).measures_latency:
        used = replace(used, target=wanted.target)
    if used != wanted:
        return False
    multiple = settings.channel_multiple or lcm(*(target.channel_multiple for target in targets))
    return run.read(layout.COMPRESS).channel_multiple == multiple
