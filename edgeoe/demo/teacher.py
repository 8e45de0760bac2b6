"""Training of the demo's teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.demo import network
from edgeoe.methods import TrainingTask
from edgeoe.progress import Progress, silent
from edgeoe.settings import CompressSettings
from edgeoe.training.fabric import new_fabric
from edgeoe.training.workbench import Workbench

__all__ = ["train_teacher"]

_STEPS, _BATCH, _LR = 200, 128, 0.1


def train_teacher(settings: CompressSettings, *, progress: Progress = silent) -> nn.Module:
    """Train the teacher on all digits below `settings.samples`, in the training loop of the students.

    Writes network.py and the weights to the paths in `settings`.
    """
    weights = settings.weights
    assert isinstance(weights, Path)  # noqa: S101 - demo_settings sets it
    shutil.copyfile(Path(network.__file__), weights.with_name("network.py"))
    torch.manual_seed(settings.seed)
    samples = load_samples(find_samples(settings.samples), Preprocess.resolve(None, settings.preprocess))
    teacher = network.digits_net()
    bench = Workbench(
        teacher.eval(),
        lambda: (samples, None),
        shape=samples.images.preprocess.shape,
        plan=None,
        fabric=new_fabric(settings),
        batch=_BATCH,
        padding=1,
        flip=settings.flip,
        seed=settings.seed,
        progress=progress,
    )
    task = TrainingTask(
        name="Training a teacher",
        distance=lambda student, teacher: torch.zeros_like(student.logits[:, 0]),  # noqa: ARG005 - labels alone
        label_weight=1.0,
        lr=_LR,
        max_steps=_STEPS,
    )
    bench.fit(teacher, task)
    save_model(teacher, str(weights))
    return teacher
