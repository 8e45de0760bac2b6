"""The whole line on one page: teacher -> student -> ONNX -> artifact -> measurement -> verdict.

Every stage reads what it needs from the run directory and writes its results there, so that it can be
started again anywhere that the directory is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import lcm
from pathlib import Path

from edgeoe.feasibility import require_buildable
from edgeoe.progress import Progress, silent
from edgeoe.records import Measurement, Target, Verdict
from edgeoe.run import Run
from edgeoe.settings import CompressSettings
from edgeoe.stages.build import build
from edgeoe.stages.bundle import bundle
from edgeoe.stages.collect import collect
from edgeoe.stages.compress import compress
from edgeoe.stages.export import ExporterChoice, export
from edgeoe.stages.inspect import inspect
from edgeoe.stages.lower import recipe_for
from edgeoe.stages.validate import validate

__all__ = ["build", "bundle", "collect", "compress", "deploy", "export", "inspect", "validate"]


def deploy(
    settings: CompressSettings,
    *,
    out: Path,
    targets: Iterable[Target],
    test: Path,
    exporter: ExporterChoice = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
) -> Iterator[tuple[Target, Measurement, Verdict]]:
    """The whole line for several targets; a finished student at `out` with the same settings is kept.

    Its widths suit all targets at once, unless the settings name a multiple. Yields each target's measurement and
    verdict as it is known.
    """
    targets = list(targets)
    for target in targets:
        require_buildable(target)  # before an hour of compressing
    names = tuple(target.name for target in targets)
    if tuple(Path(name).name.removesuffix(".toml") for name in settings.target) != names:
        settings = replace(settings, target=names)
    run = Run(out) if os.environ.get("RANK", "0") == "0" else None  # torchrun may have started several
    if not _holds_student(Run(out), settings, targets):
        run = compress(settings, out=out, targets=targets, overwrite=overwrite, progress=progress)
    if run is None:  # the first process goes on alone
        return
    export(
        run,
        exporter=exporter,
        precisions={target.precision for target in targets},
        recipes=sorted({recipe_for(target) for target in targets if target.precision == "int8"}),
        progress=progress,
    )
    for target in targets:
        build(run, target, progress=progress)
        yield target, *validate(run, target, test=test, progress=progress)


def _holds_student(run: Run, settings: CompressSettings, targets: Sequence[Target]) -> bool:
    """Whether `run` has the student that compressing for `targets` would make again.

    Other targets make another student only by their widths, or where a method measures latencies on them.
    """
    measured = settings.method == "practise"
    if not run.was_made_with(settings.to_toml(), whatever=() if measured else ("target",)):
        return False
    multiple = settings.channel_multiple or lcm(*(target.channel_multiple for target in targets))
    return run.read_record("compress.json", made_by="compress").get("channel_multiple") == multiple
