"""kd: L1 channel pruning, then distillation of the teacher's logits."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.methods import Bench, Compressed, Imitation, Stage
from edgeoe.models.pruning import prune_channels
from edgeoe.settings import CompressSettings

__all__ = ["KD", "distillation", "imitate_logits"]


def distillation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """(N,) T^2 KL(teacher || student) of (N, K) logits at `temperature` T.

    Source: Hinton, Vinyals and Dean, 2015.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def imitate_logits(workbench: Bench, *, temperature: float) -> Callable[[nn.Module, Tensor], Imitation]:
    """How far a student's logits are from the teacher's, as a Stage takes it."""

    def imitate(student: nn.Module, x: Tensor) -> Imitation:
        student_logits, teacher_logits = student(x).float(), workbench.teach(x)
        loss = distillation(student_logits, teacher_logits, temperature=temperature)
        return Imitation(loss, student_logits, teacher_logits)

    return imitate


class KD:
    """Channels with the least L1 norm go (Li et al., ICLR 2017); T^2 KL of the logits and cross-entropy bring
    the accuracy back (Hinton et al., 2015)."""

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def compress(self, teacher: nn.Module, workbench: Bench) -> Compressed:
        pruned = prune_channels(
            teacher,
            shape=workbench.shape,
            keep_macs=self.settings.keep_macs,
            channel_multiple=self.settings.channel_multiple,
            progress=workbench.progress,
        )
        stage = Stage(
            name="Distilling",
            imitate=imitate_logits(workbench, temperature=self.settings.temperature),
            lr=self.settings.lr,
            max_steps=self.settings.steps,
        )
        return Compressed(pruned, workbench.fit(pruned.model, stage))
