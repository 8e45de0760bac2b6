"""Early stopping without labels: agreement with the teacher on held-out OOD images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BestWeights", "balanced_agreement"]


def balanced_agreement(student_classes: Tensor, teacher_classes: Tensor) -> float:
    """Share of images (N,) on which student and teacher choose the same class.

    Averaged within each class that the teacher chooses, then over those classes, so that the classes which
    the pool resembles most do not drown the others.
    """
    same = (student_classes == teacher_classes).double()
    shares = [same[teacher_classes == k].mean() for k in torch.unique(teacher_classes)]
    return float(sum(shares) / len(shares))


class BestWeights:
    """The weights with the highest score so far, and whether `patience` checks in a row brought no better."""

    def __init__(self, *, patience: int) -> None:
        self.patience = patience
        self.step = -1
        self.score = float("-inf")
        self._state: dict[str, Tensor] | None = None
        self._worse = 0

    def update(self, step: int, score: float, model: nn.Module) -> bool:
        """Note `score` at `step`; True when it is time to stop."""
        if score >= self.score:  # of equals the later has seen more
            self.step, self.score, self._worse = step, score, 0
            self._state = {key: value.detach().clone() for key, value in model.state_dict().items()}
            return False
        self._worse += 1
        return self._worse >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Load the best weights into `model`, if any were noted."""
        if self._state is not None:
            model.load_state_dict(self._state)
