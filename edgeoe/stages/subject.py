"""The teacher that settings name, loaded and checked, and what of it a budget may cut."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import SampleFiles, find_samples
from edgeoe.errors import ConfigError
from edgeoe.method import load_method
from edgeoe.methods.cuts.parts import Parts, parts_of
from edgeoe.models.outputs import check_outputs, check_rows
from edgeoe.models.structure import read_structure
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.progress import Progress, silent
from edgeoe.settings import CompressSettings
from edgeoe.stages.agreement import require_logits
from edgeoe.targets.profile import Target

__all__ = ["Subject", "load_subject", "parts_for"]


class Subject(NamedTuple):
    """What is compressed.

    source: where the teacher came from.
    files: the labelled samples.
    teacher: in eval mode, on the CPU.
    preprocess: of its images.
    """

    source: TeacherSource
    files: SampleFiles
    teacher: nn.Module
    preprocess: Preprocess


def load_subject(settings: CompressSettings, *, module: nn.Module | None = None) -> Subject:
    """The teacher of `settings`. Random weights follow from their seed.

    module: the teacher itself, where the settings only have its fingerprint.
    Raises EdgeoeError for anything that the user can put right.
    """
    torch.manual_seed(settings.seed)
    source = TeacherSource.parse(settings.teacher) if module is None else TeacherSource.in_memory(module)
    files = find_samples(
        settings.samples,
        settings.list,
        classes=settings.classes,
        none_allowed=settings.oe,
        follow_links=settings.follow_links,
    )
    teacher = load_teacher(
        source,
        settings.weights,
        classes=len(files.classes),
        channels=settings.preprocess.channels,
        key=settings.weights_key,
    )
    preprocess = Preprocess.resolve(source.preprocess(teacher), settings.preprocess)
    check_outputs(teacher, preprocess.shape, classes=len(files.classes))
    check_rows(teacher, preprocess.shape)
    require_logits(teacher, preprocess)
    return Subject(source, files, teacher, preprocess)


def parts_for(subject: Subject, settings: CompressSettings, target: Target, *, progress: Progress = silent) -> Parts:
    """The parts of the teacher that compressing it for `target` to a budget may cut.

    Raises ConfigError if the method prunes nothing, PruningError if the structure of the teacher can't be read.
    """
    if not load_method(settings.method).to_budget:
        raise ConfigError(f"--method {settings.method} prunes nothing: choose another --method.")
    shape = subject.preprocess.shape
    return parts_of(
        subject.teacher,
        read_structure(subject.teacher, shape),
        settings,
        shape=shape,
        channel_multiple=target.channel_multiple,
        progress=progress,
    )
