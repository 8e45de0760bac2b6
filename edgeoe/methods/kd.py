"""kd: L1 channel pruning, then distillation of the teacher's logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.methods import About, Bench, Compressed, TrainingTask, View
from edgeoe.methods.cutting import cut_channels
from edgeoe.settings import CompressSettings

__all__ = ["KD", "distillation"]

LR = 0.02  # at 0.05 logits of few samples tear a student apart


def distillation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """(N,) T^2 KL(teacher || student) of (N, K) logits at `temperature` T.

    Source: Hinton, Vinyals and Dean, 2015.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


class KD:
    """Channels with the least L1 norm go (Li et al., ICLR 2017); T^2 KL of the logits and cross-entropy bring
    the accuracy back (Hinton et al., 2015)."""

    about = About(
        does="prunes channels of least L1 norm, then distils logits and fits the labels",
        needs="prunable channels, labels",
        reference="Li et al., ICLR 2017; Hinton et al., 2015, arXiv 1503.02531",
    )

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def compress(self, teacher: nn.Module, workbench: Bench) -> Compressed:
        pruned = cut_channels(teacher, workbench, self.settings)

        def distance(student: View, taught: View) -> Tensor:
            return distillation(student.logits, taught.logits, temperature=self.settings.temperature)

        task = TrainingTask(
            name="Distilling",
            distance=distance,
            lr=self.settings.lr or LR,
            max_steps=self.settings.steps,
            label_weight=1.0,
        )
        return Compressed(pruned, workbench.fit(pruned.model, task))
