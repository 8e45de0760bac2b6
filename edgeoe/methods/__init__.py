"""Base methods: how a student is cut from its teacher and what it then imitates.

This file is the seam: what a method may ask of a workbench, and what it hands back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from edgeoe.models.pruning import Pruned
from edgeoe.progress import Progress

__all__ = ["Bench", "Compressed", "Fit", "Imitation", "Method", "Stage"]


@dataclass(frozen=True, slots=True)
class Imitation:
    """How far each of N rows' student is from its teacher, as a method measures it.

    loss: (N,). student_logits, teacher_logits: (N, K), float32.
    """

    loss: Tensor
    student_logits: Tensor
    teacher_logits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a method asks the workbench to fit.

    imitate: (student, x (N, C, H, W)) -> Imitation of N rows. label_weight: a, of cross-entropy on the few
    samples. lr: at the first step, falling to 0 along a cosine. Stochastic gradient descent with momentum.
    """

    name: str
    imitate: Callable[[nn.Module, Tensor], Imitation]
    lr: float
    max_steps: int
    label_weight: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4


@dataclass(frozen=True, slots=True)
class Fit:
    """How a stage went: steps taken, the step whose weights were kept and its score, and rows a second."""

    steps: int
    best_step: int
    agreement: float | None
    images_per_second: float


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a method hands back: the cut, whose model is the finished student, and how its fitting went."""

    pruned: Pruned
    fit: Fit


class Bench(Protocol):
    """What a method sees of the workbench."""

    progress: Progress

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the network's input."""
        ...

    def teach(self, x: Tensor) -> Tensor:
        """(N, K) teacher logits of (N, C, H, W), float32, without gradient."""
        ...

    def fit(self, student: nn.Module, stage: Stage) -> Fit:
        """Train `student`, in place, as `stage` says; it ends in eval mode on the CPU."""
        ...


class Method(Protocol):
    """A way to compress; it asks the workbench for batches and fitting and knows nothing of OOD images."""

    def compress(self, teacher: nn.Module, workbench: Bench) -> Compressed:
        """A smaller network that computes what `teacher` does. Raises PruningError if it can't be cut so."""
        ...
