"""A workbench that trains nothing, so that what a method does by itself can be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from edgeoe.methods import Fit, TrainingTask
from edgeoe.models.reconstruction import Rows
from edgeoe.progress import silent
from edgeoe.pruning.prune import count_macs
from edgeoe.run.saved_work import SavedWork

Shape = tuple[int, int, int]
Result = TypeVar("Result")


@dataclass
class Still:
    """Rows to solve with, a clock that counts MACs, and the stages that it was asked to fit.

    fitting: what to do with a student instead of training it. channel_multiple: of widths that its target likes.
    """

    x: Tensor
    weights: Tensor
    latency: Callable[[nn.Module], float] | None = None
    fitting: Callable[[nn.Module, TrainingTask], Any] = lambda student, task: None
    fitted: list[TrainingTask] = field(default_factory=list)
    channel_multiple: int = 1
    progress = staticmethod(silent)
    work: SavedWork = field(default_factory=SavedWork)

    @property
    def shape(self) -> Shape:
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def rows(self) -> Rows:
        half = len(self.x) // 2
        return [(self.x[:half], self.weights[:half]), (self.x[half:], self.weights[half:])]

    def once(self, compute: Callable[[], Result]) -> Result:
        return compute()

    def fit(self, student: nn.Module, task: TrainingTask) -> Fit:
        self.fitted.append(task)
        self.fitting(student, task)
        student.eval()
        return Fit(steps=task.max_steps, best_step=task.max_steps)

    def latency_ms(self, models: Sequence[nn.Module]) -> list[float]:
        latency = self.latency or (lambda model: count_macs(model, self.shape) / 1e6)
        return [latency(model) for model in models]


@pytest.fixture
def still() -> Callable[..., Still]:
    """`still(...)`: a bench with 24 random images (3, 16, 16) of different weights."""

    def make(**changes: Any) -> Still:
        g = torch.Generator().manual_seed(5)
        x = torch.randn(24, 3, 16, 16, generator=g)
        return Still(**{"x": x, "weights": 0.5 + torch.rand(24, generator=g), **changes})

    return make
