"""The layers that int8 must leave in fp32, known before there is a student, so that its budget pays for them.

They are chosen in the teacher as `export --max-drop` does in a student, whose layers have the same names.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeoe.data.listing import list_images
from edgeoe.data.pool import Pool, load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples, load_samples
from edgeoe.graph.precision import Int8Settings, Source, logits_of, precision_of
from edgeoe.progress import Progress, silent
from edgeoe.settings import CompressSettings
from edgeoe.stages.precisions import variant_for
from edgeoe.stages.subject import Subject
from edgeoe.stages.timing_graph import fp32_graph
from edgeoe.targets.profile import Target
from edgeoe.training.fabric import new_fabric
from edgeoe.training.workbench import Workbench

__all__ = ["CalibrationImages", "calibration_images", "fp32_layers", "fp32_layers_for", "images_for"]

CalibrationImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # (n, C, H, W) to calibrate with, and to judge by
_MOST_IMAGES, _MOST_BYTES = 256, 2**25


def fp32_layers(
    teacher: nn.Module,
    preprocess: Preprocess,
    images: CalibrationImages,
    variants: Collection[str],
    *,
    max_drop: float,
    progress: Progress = silent,
) -> dict[str, tuple[str, ...]]:
    """{variant: layers of the teacher that stay fp32 in it, the most sensitive first} for each of the int8 `variants`.

    max_drop: share of the judging images that may change class.
    Raises ExportError if the teacher can't be exported.
    """
    graph = fp32_graph(teacher, preprocess)
    calibration, judging = map(preprocess.normalise, images)
    settings = Int8Settings(max_drop=max_drop)
    writer = precision_of("int8").writer
    assert writer is not None  # noqa: S101 - only fp32 has none
    write = writer(Source(graph, calibration, judging, logits_of(graph, judging), settings, progress))
    return {variant: write(variant).kept_fp32 for variant in variants}


def calibration_images(bench: Workbench, preprocess: Preprocess) -> CalibrationImages:
    """The images of `bench` that int8 graphs are calibrated with, and others to judge them by, 32 MB each at most."""
    return bench.calibration_images(min(_MOST_IMAGES, _MOST_BYTES // prod(preprocess.shape)))


def images_for(subject: Subject, settings: CompressSettings, *, progress: Progress = silent) -> CalibrationImages:
    """The images that compressing `subject` by `settings` calibrates with, and judges by."""
    preprocess = subject.preprocess
    listing = list_images(settings.ood, follow_links=settings.follow_links) if settings.oe and settings.ood else None

    def load_images() -> tuple[Samples, Pool | None]:
        samples = load_samples(subject.files, preprocess, progress=progress)
        return samples, load_pool(listing, preprocess, progress=progress) if listing else None

    bench = Workbench(
        subject.teacher,
        load_images,
        shape=preprocess.shape,
        plan=settings.oe_settings if listing else None,
        fabric=new_fabric(replace(settings, processes=1, nodes=1)),
        batch=settings.batch,
        seed=settings.seed,
        progress=progress,
    )
    return calibration_images(bench, preprocess)


def fp32_layers_for(
    subject: Subject, settings: CompressSettings, target: Target, *, progress: Progress = silent
) -> tuple[str, ...]:
    """The layers that compressing `subject` for `target` to a budget, by `settings`, keeps in fp32."""
    if settings.max_drop is None or target.precision != "int8":
        return ()
    images, variant = images_for(subject, settings, progress=progress), variant_for(target)
    layers = fp32_layers(
        subject.teacher, subject.preprocess, images, [variant], max_drop=settings.max_drop, progress=progress
    )
    return layers[variant]
