"""Whether training diverges: a loss that is not finite, or outputs far beyond the teacher's."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor

from edgeoe.errors import TrainingError

__all__ = ["Divergence"]

_EVERY = 10  # steps between looks at the loss: each makes the processor wait for the device
_ENORMOUS = 1e4  # times the largest of the teacher's logits; even an untrained head is far from it
_USUAL_LR = 0.05  # what methods begin with at most: a tenth of a wild rate would be wild, too


class Divergence:
    """Watches one stage of training, called `name`, over all processes, which raise together.

    total: of the losses so far.
    lr: its highest learning rate.
    max_steps: training steps at most.
    """

    def __init__(self, fabric: Fabric, *, name: str, lr: float, max_steps: int) -> None:
        self._fabric, self._name, self._lr, self._max_steps = fabric, name, lr, max_steps
        self.total = torch.zeros((), device=fabric.device)

    def note(self, loss: Tensor, steps: int) -> None:
        """Note the loss of the step that makes `steps` of them. Raises TrainingError if one was not finite."""
        self.total = self.total + loss.detach()
        if steps % _EVERY and steps != self._max_steps:
            return
        if not self._everywhere(self.total.isfinite()):
            self._raise(f"the loss is not finite after {steps} of {self._max_steps} steps")

    def judge(self, logits: Tensor, teacher_logits: Tensor) -> None:
        """Raise TrainingError if the student's (N, K) logits are not finite, or enormous beside the teacher's."""
        largest, usual = logits.abs().max(), teacher_logits.abs().max().clamp(min=1.0)
        if not self._everywhere(largest <= _ENORMOUS * usual):
            self._raise(f"the student's outputs reach {float(largest):.2g}, its teacher's {float(usual):.2g}")

    def _everywhere(self, holds: Tensor) -> bool:
        """Whether what each process found holds in all of them."""
        failures = self._fabric.all_reduce((~holds).float(), reduce_op="sum")
        return not bool(failures)

    def _raise(self, what: str) -> None:
        raise TrainingError(
            f"{self._name}: training diverged at a learning rate of {self._lr:g}: {what}. "
            f"Try a smaller one, such as --lr {min(self._lr / 10, _USUAL_LR):g}."
        )
