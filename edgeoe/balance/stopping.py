"""Early stopping without labels: agreement with the teacher on held-out OOD images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BestWeights", "balanced_agreement"]

_ALIKE = 2.0  # standard errors within which scores can't be told apart


def balanced_agreement(student_classes: Tensor, teacher_classes: Tensor) -> tuple[float, float]:
    """Share of images (N,) on which student and teacher choose the same class, and its standard error.

    Averaged within each class that the teacher chooses, then over those classes, so that the classes which
    the pool resembles most do not drown the others.
    """
    same = (student_classes == teacher_classes).double()
    groups = [same[teacher_classes == k] for k in torch.unique(teacher_classes)]
    shares = torch.stack([group.mean() for group in groups])
    variances = shares * (1 - shares) / torch.tensor([len(group) for group in groups], device=shares.device)
    return float(shares.mean()), float(variances.sum().sqrt()) / len(groups)


class BestWeights:
    """The latest weights whose score is within two standard errors of the highest, and whether `patience` checks
    in a row brought none.

    Of scores that can't be told apart the later one has learned more: keeping the highest alone would pick an
    earlier step by noise.
    """

    def __init__(self, *, patience: int) -> None:
        self.patience = patience
        self.step = -1
        self.score = float("-inf")
        self._highest = float("-inf")
        self._state: dict[str, Tensor] | None = None
        self._worse = 0

    def update(self, step: int, score: float, error: float, model: nn.Module) -> bool:
        """Note `score` and its standard `error` at `step`; True when it is time to stop."""
        self._highest = max(self._highest, score)
        if score >= self._highest - _ALIKE * error:
            self.step, self.score, self._worse = step, score, 0
            self._state = {key: value.detach().clone() for key, value in model.state_dict().items()}
            return False
        self._worse += 1
        return self._worse >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Load the kept weights into `model`, if any were noted."""
        if self._state is not None:
            model.load_state_dict(self._state)

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain facts and the kept weights, for `resume`."""
        facts = {"step": self.step, "score": self.score, "highest": self._highest, "worse": self._worse}
        return facts | {"noted": self._state is not None}, self._state or {}

    def resume(self, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Go on from what `saved` returned."""
        self.step, self.score = facts["step"], facts["score"]
        self._highest, self._worse = facts["highest"], facts["worse"]
        self._state = dict(weights) if facts["noted"] else None
