"""A method is a cut and a recovery: which units of the teacher are pruned, and what the student then imitates.

This file is the seam: what cuts and recoveries hand back, and what they may ask of a workbench. They know nothing of
out-of-distribution images. A class of either kind is built from the settings, and stands in an `edgeoe.method.Method`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from edgeoe.method import load_method
from edgeoe.registry import METHODS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from edgeoe.methods.meter import Meter
    from edgeoe.models.observation import HookPoint
    from edgeoe.models.reconstruction import Rows
    from edgeoe.progress import Progress
    from edgeoe.pruning.prune import Pruned
    from edgeoe.records.budget import BudgetSearch
    from edgeoe.run.saved_work import SavedWork
    from edgeoe.settings import CompressSettings

__all__ = [
    "Bench",
    "Compressed",
    "Cut",
    "Fit",
    "Recovery",
    "TrainingTask",
    "View",
    "compress_with",
    "load_cut",
    "load_recovery",
]


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class View:
    """What one network computes of N images.

    logits: (N, K) float32.
    activations: those at `TrainingTask.watch`.
    """

    logits: Tensor
    activations: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """What a method asks the workbench to fit, by stochastic gradient descent with Nesterov momentum.

    name: for the progress bar and for messages.
    distance: (student, teacher) -> (N,), how far the student is from its teacher on each row.
    lr: learning rate of the first step; it falls to 0 along a cosine.
    max_steps: training steps at most.
    watch: points of both networks whose activations `distance` needs.
    label_weight: of the cross-entropy on the labelled samples.
    momentum, weight_decay: of the optimiser.
    trains: whether the parameter of a name is trained; None is all.
    batch_statistics: whether batch norms are in training mode; else they are as in eval mode.
    early_stop: whether the workbench may keep the weights of an earlier step.
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
    """How a task went.

    steps: taken; 0 for a recovery that solves in closed form and trains nothing.
    best_step: whose weights were kept.
    agreement: the score of that step; None without early stopping.
    images_per_second: rows trained on in a second.
    """

    steps: int = 0
    best_step: int = 0
    agreement: float | None = None
    images_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a method hands back.

    pruned: its model is the finished student.
    fit: how the recovery went.
    search: how the cut was found, if it was made to a budget.
    """

    pruned: Pruned
    fit: Fit
    search: BudgetSearch | None = None


class Bench(Protocol):
    """What a method sees of the workbench.

    channel_multiple: layers are fast on the targets if their widths are multiples of this.
    work: what an interrupted compression has computed. Where a computation takes minutes, a part of it that is a value
        passes through `work.kept`, and a state of it is saved whenever `work.is_due`.
    """

    progress: Progress
    channel_multiple: int
    work: SavedWork

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
        """The median latency of each of `models` on the target, measured in turns."""
        ...

    def once(self, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, computed by the first process alone where several share the work."""
        ...


class Cut(Protocol):
    """Which units of a teacher are pruned: channels, blocks, or both.

    Options: the class of the options that it takes; None if it takes none.
    measures_latency: whether it asks for `Bench.latency_ms`, so that another target may mean another student.
    """

    Options: ClassVar[type | None]
    measures_latency: ClassVar[bool]

    def __init__(self, settings: CompressSettings) -> None: ...

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        """A smaller copy of `teacher`, on the CPU in eval mode. Raises PruningError if it can't be pruned so."""
        ...


class Recovery(Protocol):
    """What a pruned student imitates, and how.

    Options: the class of the options that it takes; None if it takes none.
    """

    Options: ClassVar[type | None]

    def __init__(self, settings: CompressSettings) -> None: ...

    def recover(self, teacher: nn.Module, pruned: Pruned, bench: Bench) -> Fit:
        """Bring `pruned.model`, in place, near to `teacher` again; it ends in eval mode on the CPU."""
        ...


def load_cut(method: str) -> type[Cut]:
    """The class of the cut of `method`. Raises ConfigError if it can't be loaded."""
    cut: type[Cut] = METHODS.load_part(method, load_method(method).cut)
    return cut


def load_recovery(method: str) -> type[Recovery]:
    """The class of the recovery of `method`. Raises ConfigError if it can't be loaded."""
    recovery: type[Recovery] = METHODS.load_part(method, load_method(method).recovery)
    return recovery


def compress_with(
    settings: CompressSettings, teacher: nn.Module, bench: Bench, *, meter: Meter | None = None
) -> Compressed:
    """A smaller network that computes what `teacher` does, by the method that `settings` name.

    meter: limits that the student must meet; channels and blocks are then pruned that lose least, whatever the method's
        own cut, and its recovery follows. None prunes what the method's cut does.
    Raises PruningError if `teacher` can't be pruned so.
    """
    recovery = load_recovery(settings.method)(settings)
    if meter is None:
        pruned, search = load_cut(settings.method)(settings).prune(teacher, bench), None
    else:
        from edgeoe.methods.cuts.budget import BudgetCut

        pruned, search = BudgetCut(settings).prune(teacher, bench, meter)
    if search is not None and not pruned.removed and not pruned.dropped:
        return Compressed(pruned, Fit(), search)  # the teacher itself
    return Compressed(pruned, recovery.recover(teacher, pruned, bench), search)
