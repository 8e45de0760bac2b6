"""Base methods: how a student is cut from its teacher and what it then imitates.

This file is the seam: what a method may ask of a workbench, and what it hands back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from edgeoe.models.observation import HookPoint
from edgeoe.models.reconstruction import Rows
from edgeoe.progress import Progress
from edgeoe.pruning.prune import Pruned

__all__ = ["About", "Bench", "Compressed", "Fit", "Method", "TrainingTask", "View"]


@dataclass(frozen=True, slots=True)
class About:
    """What `edgeoe methods` says of a method."""

    does: str
    needs: str
    reference: str


@dataclass(frozen=True, slots=True)
class View:
    """What one network makes of N images. logits: (N, K) float32. seen: the activations at `TrainingTask.watch`."""

    logits: Tensor
    seen: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """What a method asks the workbench to fit, by stochastic gradient descent with Nesterov momentum.

    distance: (student, teacher) -> (N,), how far each row's student is from its teacher. watch: points of both
    networks that it needs to see. label_weight: a, of cross-entropy on the few samples. lr: at the first step,
    falling to 0 along a cosine. trains: which parameters learn, by name; None is all. batch_statistics: batch
    norm in training mode, else as it was. early_stop: whether the workbench may keep the weights of an earlier
    step.
    """

    name: str
    distance: Callable[[View, View], Tensor]
    lr: float
    max_steps: int
    watch: tuple[HookPoint, ...] = ()
    label_weight: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    trains: Callable[[str], bool] | None = None
    batch_statistics: bool = True
    early_stop: bool = True


@dataclass(frozen=True, slots=True)
class Fit:
    """How a task went: steps taken, the step whose weights were kept and its score, and rows a second.

    steps is 0 for a method that solves in closed form and fits nothing.
    """

    steps: int = 0
    best_step: int = 0
    agreement: float | None = None
    images_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a method hands back: the cut, whose model is the finished student, and how its fitting went."""

    pruned: Pruned
    fit: Fit


class Bench(Protocol):
    """What a method sees of the workbench.

    channel_multiple: layers are fast on the targets if their widths are multiples of this.
    """

    progress: Progress
    channel_multiple: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the network's input."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `rows` are and `fit` computes."""
        ...

    def rows(self) -> Rows:
        """Images to measure, rank and solve with, and what each weighs."""
        ...

    def fit(self, student: nn.Module, task: TrainingTask) -> Fit:
        """Train `student`, in place, as `task` says; it ends in eval mode on the CPU."""
        ...

    def latency_ms(self, models: Sequence[nn.Module]) -> list[float]:
        """The median latency of each of `models` for one image on the target, measured in turns."""
        ...


class Method(Protocol):
    """A way to compress; it asks the workbench for rows and fitting and knows nothing of OOD images."""

    about: ClassVar[About]

    def compress(self, teacher: nn.Module, workbench: Bench) -> Compressed:
        """A smaller network that computes what `teacher` does. Raises PruningError if it can't be cut so."""
        ...
