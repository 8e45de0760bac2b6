"""The student imitates the teacher's logits and fits the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.methods import Bench, Fit, TrainingTask, View
from edgeoe.methods.options import DistillationOptions, LogitOptions
from edgeoe.pruning.prune import Pruned
from edgeoe.settings import CompressSettings

__all__ = ["Distillation", "FineTuning", "distillation"]

FINE_TUNING_LR, FINE_TUNING_STEPS = 1e-5, 100  # the former as in the paper; it moves little but batch statistics


def distillation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """(N,) T^2 KL(teacher || student) of (N, K) logits at `temperature` T.

    Source: Hinton, Vinyals and Dean, 2015.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def distillation_task(name: str, *, temperature: float, lr: float, steps: int) -> TrainingTask:
    """T^2 KL of the logits and cross-entropy on the labels."""

    def distance(student: View, teacher: View) -> Tensor:
        return distillation(student.logits, teacher.logits, temperature=temperature)

    return TrainingTask(name=name, distance=distance, lr=lr, max_steps=steps, label_weight=1.0)


class Distillation:
    """Distils the logits (Hinton et al., 2015)."""

    Options = DistillationOptions

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def recover(self, teacher: nn.Module, pruned: Pruned, bench: Bench) -> Fit:  # noqa: ARG002 - as every recovery
        options = self.settings.options_for(DistillationOptions)
        task = distillation_task(
            "Distilling", temperature=options.temperature, lr=options.lr, steps=self.settings.steps
        )
        return bench.fit(pruned.model, task)


class FineTuning:
    """Distils the logits shortly, at a learning rate so small that little but batch statistics changes.

    For students whose weights the cut has solved for.
    """

    Options = LogitOptions

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def recover(self, teacher: nn.Module, pruned: Pruned, bench: Bench) -> Fit:  # noqa: ARG002 - as every recovery
        steps = min(FINE_TUNING_STEPS, self.settings.steps)
        temperature = self.settings.options_for(LogitOptions).temperature
        task = distillation_task("Fine-tuning", temperature=temperature, lr=FINE_TUNING_LR, steps=steps)
        return bench.fit(pruned.model, task)
