"""The functions of `import edgeoe`: what they are given may be loose, what they call is strict.

A path may be text, a tuple a list, settings a dict, a run its folder, a target the name of its profile. Work shows its
progress in a terminal or a notebook. Heavy packages are imported when a function is called.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeoe.conversions import record_from
from edgeoe.errors import ConfigError
from edgeoe.method import method_options
from edgeoe.progress import Progress, silent
from edgeoe.registry import nearest
from edgeoe.settings import CompressSettings, PreprocessSettings, shows_settings, weights_from_text

if TYPE_CHECKING:
    from torch import nn

    from edgeoe.graph.precision import Int8Settings
    from edgeoe.records.bundle import BundleRecord
    from edgeoe.records.comparison import Comparison
    from edgeoe.records.graphs import ExportRecord
    from edgeoe.records.inspection import InspectRecord
    from edgeoe.records.measurement import Artifact, Validation
    from edgeoe.run.directory import Run
    from edgeoe.stages.compare import GateSettings, Side
    from edgeoe.stages.deployed import Bundled, Judged
    from edgeoe.targets.profile import Target

__all__ = [
    "build",
    "bundle",
    "collect",
    "compare",
    "compress",
    "deploy",
    "export",
    "inspect",
    "load_target",
    "validate",
]

Text = str | os.PathLike[str]  # a path, or a name


def inspect(
    teacher: str | nn.Module,
    *,
    weights: Text | None = None,
    weights_key: str | None = None,
    classes: int | None = None,
    preprocess: PreprocessSettings | Mapping[str, Any] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    target: Target | Text | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> InspectRecord:
    """What of a teacher can be pruned and what that saves, without any images.

    teacher: "FILE.py:FACTORY", "timm:NAME", "torchvision:NAME", or the network itself.
    weights: their file, or "random"; a network has its own.
    weights_key: which weights of a file with several.
    classes: outputs of a published architecture; None takes 1000, or those of published weights.
    preprocess: of the teacher's images; timm and torchvision know their own.
    include, exclude: globs over layers whose channels may be pruned, or are not.
    target: where latencies are measured, on this machine; None measures none.
    seed: random seed, of fresh weights.
    progress: None shows bars in a terminal or a notebook.
    Raises EdgeoeError for anything that you can fix.
    """
    from edgeoe.pipeline import inspect as inspect_teacher

    if not isinstance(teacher, str) and (weights is not None or weights_key is not None):
        raise ConfigError(_OWN_WEIGHTS)
    return inspect_teacher(
        teacher,
        weights=None if weights is None else weights_from_text(os.fspath(weights)),
        weights_key=weights_key,
        classes=classes,
        preprocess=record_from(PreprocessSettings, preprocess or {}),
        include=_texts(include),
        exclude=_texts(exclude),
        target=None if target is None else load_target(target),
        seed=seed,
        progress=_shown(progress),
    )


@shows_settings
def compress(
    settings: CompressSettings | Mapping[str, Any] | None = None,
    *,
    out: Text,
    teacher: str | nn.Module | None = None,
    target: Target | Text | Sequence[Target | Text] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **given: Any,
) -> Run | None:
    """Make a smaller student of a teacher, from few labelled images and pictures of any kind.

    settings: as a whole, or as a dict; every field of CompressSettings and every option of the method may also be
        given by its name, and then counts.
    out: folder of the run, which appears only when it is whole.
    teacher: "FILE.py:FACTORY", "timm:NAME", "torchvision:NAME", or the network itself, weights and all: images
        (N, C, H, W) in, logits (N, K) out. It stays as it is, and goes along with the run as torch.export captures it.
    target: profiles of the devices that the student is for.
    overwrite: replace a run that is there.
    progress: None shows bars in a terminal or a notebook.
    Returns the run; None in every process but the first where torchrun started several.
    Raises EdgeoeError for anything that you can fix.
    """
    from edgeoe.pipeline import compress as compress_teacher

    made, module = _settings(settings, teacher, given)
    targets = _targets(made.target if target is None else target)
    made = dataclasses.replace(made, target=_names(made.target if target is None else target))
    return compress_teacher(
        made, out=Path(out), teacher=module, targets=targets, overwrite=overwrite, progress=_shown(progress)
    )


def export(
    run: Run | Text,
    *,
    precisions: str | Collection[str] = (),
    exporter: Literal["auto", "dynamo", "legacy"] = "auto",
    int8: Int8Settings | Mapping[str, Any] | None = None,
    variants: Collection[str] | None = None,
    progress: Progress | None = None,
) -> ExportRecord:
    """Write the student of a run as ONNX graphs, each checked on real images.

    precisions: further ones beside fp32: "fp16", "int8".
    exporter: torch's own; "auto" takes the legacy one where the dynamo exporter fails.
    int8: how int8 graphs are written.
    variants: the graphs that are needed; None tries all of each precision, and one that passes is enough.
    progress: None shows bars in a terminal or a notebook.
    Raises ExportError, with every reason, if a needed graph does not compute what the student does.
    """
    from edgeoe.graph.precision import Int8Settings
    from edgeoe.pipeline import export as export_student

    return export_student(
        _run(run),
        exporter=exporter,
        precisions=_texts(precisions),
        int8=record_from(Int8Settings, int8 or {}),
        variants=variants,
        progress=_shown(progress),
    )


def build(run: Run | Text, target: Target | Text, *, progress: Progress | None = None) -> Artifact:
    """Build the artifact of a run for one target, and prove that it loads and runs.

    target: a profile, its name, or its file.
    progress: None shows bars in a terminal or a notebook.
    Raises TargetError if the profile asks for what can't be, RunError if its graph was not exported, BackendError where
    only the device itself can build.
    """
    from edgeoe.pipeline import build as build_artifact

    return build_artifact(_run(run), load_target(target), progress=_shown(progress))


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
        _run(run), load_target(target), test=Path(test), follow_links=follow_links, progress=_shown(progress)
    )


def bundle(
    run: Run | Text,
    target: Target | Text,
    *,
    out: Text,
    test: Text | None = None,
    follow_links: bool = False,
    progress: Progress | None = None,
) -> BundleRecord:
    """Pack a run for a device that has no edgeoe: one archive that builds, checks and measures there.

    target: a profile, its name, or its file.
    out: the archive, which ends with .tar.zst, .tar.gz or .tar.
    test: folder of test images, for accuracy on the device.
    follow_links: follow links that lead out of `test`.
    progress: None shows bars in a terminal or a notebook.
    Raises ConfigError for another ending, TargetError for a profile that asks for what can't be.
    """
    from edgeoe.pipeline import bundle as bundle_run

    images = None if test is None else Path(test)
    return bundle_run(
        _run(run),
        load_target(target),
        out=Path(out),
        test=images,
        follow_links=follow_links,
        progress=_shown(progress),
    )


def collect(run: Run | Text, path: Text, *, target: Target | Text | None = None) -> Validation:
    """Read the result that a bundle wrote on its device into the run, and judge it.

    path: of the result.json.
    target: a profile whose budget judges instead of the one that was bundled.
    Raises RunError if the result did not come from this run's latest bundle for its target.
    """
    from edgeoe.pipeline import collect as collect_result

    return collect_result(_run(run), Path(path), target=None if target is None else load_target(target))


@shows_settings
def deploy(
    settings: CompressSettings | Mapping[str, Any] | None = None,
    *,
    out: Text,
    test: Text,
    teacher: str | nn.Module | None = None,
    target: Target | Text | Sequence[Target | Text] | None = None,
    exporter: Literal["auto", "dynamo", "legacy"] = "auto",
    one_student: bool = False,
    overwrite: bool = False,
    each: Callable[[Judged | Bundled], object] = lambda _: None,
    progress: Progress | None = None,
    **given: Any,
) -> tuple[Judged | Bundled, ...]:
    """The whole line: compress, export, build and validate, for one target or several.

    settings, teacher, exporter: as for `compress` and `export`.
    out: folder of the run; with a budget and several targets, each has its student in a folder of its name there.
    test: folder of test images, a folder per class.
    target: profiles of the devices.
    one_student: one student meets the budgets of all targets.
    overwrite: replace a run that is there; one of the same settings, limits and teacher is kept without.
    each: is called with the outcome on each target as soon as it is known.
    progress: None shows bars in a terminal or a notebook.
    Returns for each target what was judged here, or for a device elsewhere the bundle to take there.
    Raises EdgeoeError for anything that you can fix; what can't work is refused before anything is trained.
    """
    from edgeoe.pipeline import deploy as deploy_student

    made, module = _settings(settings, teacher, given)
    return deploy_student(
        made,
        out=Path(out),
        targets=_targets(made.target if target is None else target),
        test=Path(test),
        teacher=module,
        exporter=exporter,
        one_student=one_student,
        overwrite=overwrite,
        each=each,
        progress=_shown(progress),
    )


def compare(
    base: Run | Side | Text,
    new: Run | Side | Text,
    *,
    target: Target | Text | Sequence[Target | Text] = "host-cpu",
    settings: GateSettings | Mapping[str, Any] | None = None,
    stored: bool = False,
    store: Text = "baselines",
    progress: Progress | None = None,
) -> list[Comparison]:
    """Whether the new artifact is slower than the base, or less often right, and how sure that is.

    base, new: a run, a result (.json), an artifact's file, or the name of a baseline.
    target: on which devices; a comparison each.
    settings: what is too much.
    stored: compare what was measured earlier instead of measuring here.
    store: folder of baselines.
    progress: None shows bars in a terminal or a notebook.
    Raises ConfigError or RunError where one of the two is missing, or nothing can be compared. Needs no torch.
    """
    from edgeoe.run.directory import Run
    from edgeoe.stages.baseline import Store
    from edgeoe.stages.compare import GateSettings, Side, find_side
    from edgeoe.stages.compare import compare as compare_sides

    def side(given: Run | Side | Text, of: Target) -> Side:
        if isinstance(given, Side):
            return given
        return find_side(os.fspath(given.path if isinstance(given, Run) else given), of, baselines)

    baselines = Store(Path(store))
    sides = [(one, side(base, one), side(new, one)) for one in _targets(target)]
    return compare_sides(sides, record_from(GateSettings, settings or {}), stored=stored, progress=_shown(progress))


def load_target(target: Target | Text) -> Target:
    """The profile of a device, every key and type checked.

    target: its name, as `edgeoe targets list` shows it, the path of a .toml file, or the profile itself.
    Raises TargetError, with file and line.
    """
    from edgeoe.targets.load import load_target as load_profile

    return load_profile(os.fspath(target)) if isinstance(target, (str, os.PathLike)) else target


_OWN_WEIGHTS = "--weights: a network in memory has its own weights. Leave --weights and --weights-key out."


def _settings(
    settings: CompressSettings | Mapping[str, Any] | None, teacher: str | nn.Module | None, given: Mapping[str, Any]
) -> tuple[CompressSettings, nn.Module | None]:
    """What is given in whichever way as settings, and the teacher where it is a network."""
    given = {**(settings if isinstance(settings, Mapping) else {}), **given}
    teacher = given.pop("teacher", None) if teacher is None else teacher
    fields, options = {field.name for field in dataclasses.fields(CompressSettings)}, method_options()
    for name in given:
        if name not in fields and name not in options:
            raise ConfigError(f"{name}: no such argument. {nearest(name, [*fields, *options])}")
    of_method = {name: given.pop(name) for name in [*given] if name not in fields}
    if of_method:
        earlier = given.get("options", settings.options if isinstance(settings, CompressSettings) else {})
        given["options"] = {**_by_name(earlier), **of_method}
    module = None if teacher is None or isinstance(teacher, str) else teacher
    named: dict[str, Any] = {} if teacher is None else {"teacher": teacher}
    if module is not None:
        from edgeoe.models.in_memory import fingerprint

        named["teacher"] = fingerprint(module)
    if isinstance(settings, CompressSettings):
        made = dataclasses.replace(settings, **named, **given)
    else:
        given = {**given, **named}
        for name in ("teacher", "samples"):
            if name not in given:
                raise ConfigError(f"{name} is missing.")
        made = CompressSettings(**given)
    if module is not None and (made.weights is not None or made.weights_key is not None):
        raise ConfigError(_OWN_WEIGHTS)
    return made, module


def _by_name(options: Mapping[str, Any] | tuple[Any, ...]) -> Mapping[str, Any]:
    """Options of a method, given by name or as records, by name."""
    if isinstance(options, Mapping):
        return options
    return {name: value for record in options for name, value in dataclasses.asdict(record).items()}


def _run(run: Run | Text) -> Run:
    from edgeoe.run.directory import Run

    return Run.open(os.fspath(run)) if isinstance(run, (str, os.PathLike)) else run


def _targets(target: Target | Text | Sequence[Target | Text]) -> tuple[Target, ...]:
    several = target if isinstance(target, Sequence) and not isinstance(target, str) else (target,)
    return tuple(load_target(one) for one in several)


def _names(target: Target | Text | Sequence[Target | Text]) -> tuple[str, ...]:
    """What settings call those targets: a profile's file by its path, so that it is found again."""
    several = target if isinstance(target, Sequence) and not isinstance(target, str) else (target,)
    return tuple(os.fspath(one) if isinstance(one, (str, os.PathLike)) else one.name for one in several)


def _texts(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _shown(progress: Progress | None) -> Progress:
    """`progress`, or what fits where this runs: bars in a terminal or a notebook, nothing elsewhere."""
    from edgeoe.report.terminal import bar, shows_bars

    return progress or (bar if shows_bars() else silent)
