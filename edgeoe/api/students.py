"""Functions that make students: from a teacher to graphs, and the whole line."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeoe.api.arguments import (
    OWN_WEIGHTS,
    Text,
    load_target,
    names_of,
    run_from,
    settings_from,
    shown,
    targets_from,
    texts_from,
)
from edgeoe.conversions import record_from
from edgeoe.errors import ConfigError
from edgeoe.progress import Progress
from edgeoe.settings import CompressSettings, PreprocessSettings, shows_settings, weights_from_text

if TYPE_CHECKING:
    from torch import nn

    from edgeoe.graph.precision import Int8Settings
    from edgeoe.records.graphs import ExportRecord
    from edgeoe.records.inspection import InspectRecord
    from edgeoe.run.directory import Run
    from edgeoe.stages.deployed import Bundled, Judged, Unreached
    from edgeoe.targets.profile import Target

__all__ = ["compress", "deploy", "export", "inspect"]


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
        raise ConfigError(OWN_WEIGHTS)
    return inspect_teacher(
        teacher,
        weights=None if weights is None else weights_from_text(os.fspath(weights)),
        weights_key=weights_key,
        classes=classes,
        preprocess=record_from(PreprocessSettings, preprocess or {}),
        include=texts_from(include),
        exclude=texts_from(exclude),
        target=None if target is None else load_target(target),
        seed=seed,
        progress=shown(progress),
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

    strict, module = settings_from(settings, teacher, given)
    targets = targets_from(strict.target if target is None else target)
    strict = dataclasses.replace(strict, target=names_of(strict.target if target is None else target))
    return compress_teacher(
        strict, out=Path(out), teacher=module, targets=targets, overwrite=overwrite, progress=shown(progress)
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
        run_from(run),
        exporter=exporter,
        precisions=texts_from(precisions),
        int8=record_from(Int8Settings, int8 or {}),
        variants=variants,
        progress=shown(progress),
    )


@shows_settings
def deploy(
    settings: CompressSettings | Mapping[str, Any] | None = None,
    *,
    out: Text,
    test: Text,
    teacher: str | nn.Module | None = None,
    target: Target | Text | Sequence[Target | Text] | None = None,
    device: str | Sequence[str] = (),
    exporter: Literal["auto", "dynamo", "legacy"] = "auto",
    one_student: bool = False,
    overwrite: bool = False,
    each: Callable[[Judged | Bundled | Unreached], object] = lambda _: None,
    progress: Progress | None = None,
    **given: Any,
) -> tuple[Judged | Bundled | Unreached, ...]:
    """The whole line: compress, export, build and validate, for one target or several.

    settings, teacher, exporter: as for `compress` and `export`.
    out: folder of the run; with a budget and several targets, each has its student in a folder of its name there.
    test: folder of test images, a folder per class.
    target: profiles of the devices.
    device: names in your address book, besides; they are reached by SSH. Without `target` only these.
    one_student: one student meets the budgets of all targets.
    overwrite: replace a run that is there; one of the same settings, limits and teacher is kept without.
    each: is called with the outcome on each target as soon as it is known.
    progress: None shows bars in a terminal or a notebook.
    Returns for each target what was judged, or for a machine elsewhere that is no `device` the bundle to take there.
    Raises EdgeoeError for anything that you can fix; what can't work is refused before anything is trained.
    """
    from edgeoe.pipeline import deploy as deploy_student
    from edgeoe.targets.address_book import find_device

    strict, module = settings_from(settings, teacher, given)
    devices = {name: find_device(name) for name in texts_from(device)}
    named = (() if devices else strict.target) if target is None else target
    return deploy_student(
        strict,
        out=Path(out),
        targets=[*targets_from(named), *targets_from(tuple(devices))],
        test=Path(test),
        devices=devices,
        teacher=module,
        exporter=exporter,
        one_student=one_student,
        overwrite=overwrite,
        each=each,
        progress=shown(progress),
    )
