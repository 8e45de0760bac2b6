"""Functions that build and measure on devices: here, or by a bundle elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgeoe.api.arguments import Text, load_target, run_from, settings_from, shown, targets_from
from edgeoe.conversions import record_from
from edgeoe.errors import ConfigError
from edgeoe.progress import Progress
from edgeoe.settings import CompressSettings, shows_settings

if TYPE_CHECKING:
    from torch import nn

    from edgeoe.records.bundle import BundleRecord
    from edgeoe.records.comparison import Comparison
    from edgeoe.records.latency_table import LatencyTable, TableReport
    from edgeoe.records.measurement import Artifact, Validation
    from edgeoe.run.directory import Run
    from edgeoe.stages.compare import GateSettings
    from edgeoe.stages.sides import Side
    from edgeoe.targets.profile import Target

__all__ = ["build", "bundle", "collect", "collect_table", "compare", "latency_table", "validate"]


def build(run: Run | Text, target: Target | Text, *, progress: Progress | None = None) -> Artifact:
    """Build the artifact of a run for one target, and prove that it loads and runs.

    target: a profile, its name, or its file.
    progress: None shows bars in a terminal or a notebook.
    Raises TargetError if the profile asks for what can't be, RunError if its graph was not exported, BackendError where
    only the device itself can build.
    """
    from edgeoe.pipeline import build as build_artifact

    return build_artifact(run_from(run), load_target(target), progress=shown(progress))


def validate(
    run: Run | Text,
    target: Target | Text,
    *,
    test: Text,
    follow_links: bool = False,
    progress: Progress | None = None,
) -> Validation:
    """Measure the built artifact's accuracy and its speed here, and judge both by the target's budget.

    target: a profile, its name, or its file.
    test: folder of test images, a folder per class.
    follow_links: follow links that lead out of `test`.
    progress: None shows bars in a terminal or a notebook.
    Raises RunError if nothing was built, DataError for other images, BackendError where the artifact can't run here.
    """
    from edgeoe.pipeline import validate as validate_artifact

    return validate_artifact(
        run_from(run), load_target(target), test=Path(test), follow_links=follow_links, progress=shown(progress)
    )


def bundle(
    run: Run | Text,
    target: Target | Text,
    *,
    out: Text,
    test: Text | None = None,
    follow_links: bool = False,
    sign: Text | None = None,
    progress: Progress | None = None,
) -> BundleRecord:
    """Pack a run for a device that has no edgeoe: one archive that builds, checks and measures there.

    target: a profile, its name, or its file.
    out: the archive, which ends with .tar.zst, .tar.gz or .tar.
    test: folder of test images, for accuracy on the device.
    follow_links: follow links that lead out of `test`.
    sign: a private key (PEM, elliptic curve), which signs the archive: a file .sig beside it.
    progress: None shows bars in a terminal or a notebook.
    Raises ConfigError for another ending, TargetError for a profile that asks for what can't be.
    """
    from edgeoe.pipeline import bundle as bundle_run

    images = None if test is None else Path(test)
    return bundle_run(
        run_from(run),
        load_target(target),
        out=Path(out),
        test=images,
        follow_links=follow_links,
        sign=None if sign is None else Path(sign),
        progress=shown(progress),
    )


def collect(
    run: Run | Text, path: Text, *, target: Target | Text | None = None, verify: Text | None = None
) -> Validation:
    """Read the result that a bundle wrote on its device into the run, and judge it.

    path: of the result.json.
    target: a profile whose budget judges instead of the one that was bundled.
    verify: a public key (PEM), for which the signature beside the result must hold.
    Raises RunError if the result did not come from this run's latest bundle for its target, or is not signed.
    """
    from edgeoe.pipeline import collect as collect_result

    profile, key = None if target is None else load_target(target), None if verify is None else Path(verify)
    return collect_result(run_from(run), Path(path), target=profile, verify=key)


@overload
def latency_table(
    settings: CompressSettings | Mapping[str, Any] | None = None,
    *,
    teacher: str | nn.Module | None = None,
    target: Target | Text | None = None,
    out: None = None,
    progress: Progress | None = None,
    **given: Any,
) -> TableReport: ...


@overload
def latency_table(
    settings: CompressSettings | Mapping[str, Any] | None = None,
    *,
    teacher: str | nn.Module | None = None,
    target: Target | Text | None = None,
    out: Text,
    progress: Progress | None = None,
    **given: Any,
) -> BundleRecord: ...


@shows_settings
def latency_table(
    settings: CompressSettings | Mapping[str, Any] | None = None,
    *,
    teacher: str | nn.Module | None = None,
    target: Target | Text | None = None,
    out: Text | None = None,
    progress: Progress | None = None,
    **given: Any,
) -> TableReport | BundleRecord:
    """What each part of a teacher costs on a device, for `compress` with a budget.

    What is measured here is kept: `compress` with the same settings does not measure it again.

    settings, teacher: as for `compress`.
    target: profile of the device; None takes the one of the settings.
    out: a bundle to write instead, which measures on the device; it ends with .tar.zst, .tar.gz or .tar. Its table.json
        goes to `collect_table`.
    progress: None shows bars in a terminal or a notebook.
    Returns what each part saves, or with `out` the record of the bundle.
    Raises EdgeoeError for anything that you can fix: without `out` TargetError if the device is another machine of
    which no table was collected.
    """
    from edgeoe.pipeline import bundle_table, measure_parts

    strict, module = settings_from(settings, teacher, given)
    devices = targets_from(strict.target if target is None else target)
    if len(devices) != 1:
        raise ConfigError(f"--target: a latency table is of one device. Got {len(devices)}.")
    (device,) = devices
    if out is None:
        return measure_parts(strict, device, teacher=module, progress=shown(progress))
    return bundle_table(strict, device, out=Path(out), teacher=module, progress=shown(progress))


def collect_table(path: Text) -> LatencyTable:
    """Keep the latency table that a bundle wrote on its device, for `compress` with the same settings.

    path: of the table.json.
    Raises RunError if it is damaged, incomplete, or was not measured on the device of its target.
    """
    from edgeoe.pipeline import collect_table as collect_latencies

    return collect_latencies(Path(path))


def compare(
    base: Run | Side | Text,
    new: Run | Side | Text,
    *,
    target: Target | Text | Sequence[Target | Text] = "host-cpu",
    settings: GateSettings | Mapping[str, Any] | None = None,
    stored: bool = False,
    test: Text | None = None,
    follow_links: bool = False,
    verify: Text | None = None,
    store: Text = "baselines",
    progress: Progress | None = None,
) -> list[Comparison]:
    """Whether the new artifact is slower than the base, or less often right, and how sure that is.

    base, new: a run, a result (.json), an artifact's file, or the name of a baseline; "baseline:NAME", "run:PATH".
    target: on which devices; a comparison each.
    settings: what is too much.
    stored: compare latencies that were measured earlier instead of measuring here.
    test: folder of test images that both artifacts predict here; else predictions are as their results report them.
    follow_links: follow links that lead out of `test`.
    verify: a public key (PEM); results that figures are taken from must be signed.
    store: folder of baselines.
    progress: None shows bars in a terminal or a notebook.
    Raises ConfigError or RunError where one of the two is missing, or nothing can be compared. Needs no torch.
    """
    from edgeoe.run.directory import Run
    from edgeoe.stages.baseline import Store
    from edgeoe.stages.compare import GateSettings
    from edgeoe.stages.compare import compare as compare_sides
    from edgeoe.stages.sides import Side, find_side, unchanged_sides

    def side(given: Side | str, of: Target) -> Side:
        return given if isinstance(given, Side) else find_side(given, of, baselines)

    paths = [f"run:{one.path}" if isinstance(one, Run) else one for one in (base, new)]
    named = [one if isinstance(one, Side) else os.fspath(one) for one in paths]
    baselines = Store(Path(store))
    with unchanged_sides(*(one for one in named if isinstance(one, str))):
        sides = [(one, side(named[0], one), side(named[1], one)) for one in targets_from(target)]
        return compare_sides(
            sides,
            record_from(GateSettings, settings or {}),
            stored=stored,
            test=None if test is None else Path(test),
            follow_links=follow_links,
            verify=None if verify is None else Path(verify),
            progress=shown(progress),
        )
