"""The joint distillation loss and the class-dependent regulariser, as weights on per-row losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

__all__ = ["RowWeights", "joint_loss", "teacher_guidance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWeights:
    """The scalars of the joint loss.

    labels: a, of the cross-entropy on the labelled samples.
    ood: lambda, of the distillation term on OOD rows.
    regulariser: eta.
    class_weights: (K,) omega; OOD rows weigh by the teacher's view of rare classes, ones turn that off.
    """

    labels: float
    ood: float
    regulariser: float
    class_weights: Tensor


def teacher_guidance(teacher_logits: Tensor, class_weights: Tensor) -> Tensor:
    """(N,) w(x) = sum_j softmax(t)_j omega_j: how much the teacher sees rare classes in each row."""
    return teacher_logits.softmax(1) @ class_weights


def joint_loss(
    distillation: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor,
    samples: int,
    weights: RowWeights,
) -> Tensor:
    """The scalar that a step descends: L_JD + L_reg, after Wu et al.

        mean over samples of  D + a CE(s, y)
      + mean over OOD rows of lambda w(x) D + eta omega_y CE(s, y)

    distillation: (N,) D, how far the student is from its teacher on each row; the first `samples` rows are labelled
        samples, the others OOD.
    student_logits, teacher_logits: (N, K).
    labels: (N,), true for samples and drawn from the complementary prior for OOD rows.
    """
    cross_entropy = F.cross_entropy(student_logits, labels, reduction="none")
    labelled = distillation[:samples] + weights.labels * cross_entropy[:samples]
    total = labelled.mean() if samples else labelled.sum()
    if samples == len(labels):
        return total
    ood = weights.ood * distillation[samples:] * teacher_guidance(teacher_logits[samples:], weights.class_weights)
    regulariser = weights.class_weights[labels[samples:]] * cross_entropy[samples:]
    return total + (ood + weights.regulariser * regulariser).mean()
