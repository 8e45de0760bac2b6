"""Predictions of a run's teacher, for a budget that limits the drop from it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeoe.data.samples import Samples
from edgeoe.errors import RunError, TeacherError, pass_on_out_of_memory
from edgeoe.measure.predictions import predict
from edgeoe.models.checkpoint import load_kept_teacher, read_architecture
from edgeoe.models.in_memory import tensors_sha256
from edgeoe.models.teacher import load_teacher
from edgeoe.progress import Progress, silent
from edgeoe.records.result import Predictions
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.settings import run_settings

__all__ = ["teacher_predictions"]


def teacher_predictions(run: Run, test: Samples, *, progress: Progress = silent) -> Predictions:
    """Predict the test images with the teacher, from its code in the run and its weights file.

    The run contains a teacher that was in memory.

    Raises RunError if the weights file is missing.
    """
    teacher = load_kept_teacher(run) or _from_source(run)

    @torch.no_grad()
    def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = torch.from_numpy(test.images.preprocess.normalise(pixels))
        return np.asarray(teacher(x).numpy(), np.float32)

    return predict(infer, test.images.rows, test.labels, progress=progress)


def _from_source(run: Run) -> nn.Module:
    """The teacher from its architecture in the run, and weights that lie elsewhere."""
    settings, architecture = run_settings(run), read_architecture(run)
    torch.manual_seed(settings.seed)  # random weights are the same as in compress
    try:
        teacher = load_teacher(
            architecture.source,
            settings.weights,
            classes=architecture.classes,
            channels=architecture.channels,
            key=settings.weights_key,
        )
    except (TeacherError, OSError) as reason:
        pass_on_out_of_memory(reason)
        raise RunError(
            f"{run.path}: max_drop compares with the teacher, and it can't be loaded: {reason} "
            "Put it back, or leave max_drop out of [budget]."
        ) from None
    contents = run.read(layout.COMPRESS).contents
    if contents is not None and contents.teacher != tensors_sha256(teacher.state_dict()):
        raise RunError(
            f"{run.path}: max_drop compares with the teacher, and its weights ({settings.weights or 'published'}) have "
            "changed since. Put them back, or leave max_drop out of [budget]."
        )
    return teacher
