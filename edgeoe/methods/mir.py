"""mir: mimicking then replacing. The student learns the teacher's features and keeps the teacher's head."""

from __future__ import annotations

from torch import Tensor, nn

from edgeoe.methods import About, Bench, Compressed, TrainingTask, View
from edgeoe.methods.cutting import cut_channels
from edgeoe.models.structure import Structure, read_structure
from edgeoe.settings import CompressSettings

__all__ = ["MiR", "feature_distance", "mimicking"]

LR = 0.05  # the paper takes 0.02, and 2,000 steps


def feature_distance(student: View, teacher: View) -> Tensor:
    """(N,) mean squared difference of the features seen, over channels and positions.

    Source: Wang, Liu, Ma, Yong, Chai and Wu, "Compressing Models with Few Samples: Mimicking then Replacing",
    CVPR 2022, the loss of the mimicking step.
    """
    return (student.seen[0].float() - teacher.seen[0].float()).square().flatten(1).mean(1)


def mimicking(structure: Structure, *, lr: float | None, steps: int) -> TrainingTask:
    """Fit everything but the head to the teacher's features, as they are before pooling.

    lr: None is LR. Momentum 0.9 and weight decay 1e-4 as in the paper.
    """
    head = structure.head + "."
    return TrainingTask(
        name="Mimicking features",
        distance=feature_distance,
        watch=(structure.features,),
        lr=lr or LR,
        max_steps=steps,
        trains=lambda name: not name.startswith(head),
    )


class MiR:
    """Channels of least L1 norm go, but none that the head reads; the features before pooling are mimicked,
    without labels, and classified by the teacher's own head (Wang et al., CVPR 2022)."""

    about = About(
        does="prunes channels of least L1 norm, then mimics the features that the teacher's own head classifies",
        needs="prunable channels",
        reference="Wang et al., CVPR 2022, arXiv 2201.02620",
    )

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def compress(self, teacher: nn.Module, workbench: Bench) -> Compressed:
        structure = read_structure(teacher, workbench.shape)
        pruned = cut_channels(teacher, workbench, self.settings, protect=structure.head)
        task = mimicking(structure, lr=self.settings.lr, steps=self.settings.steps)
        return Compressed(pruned, workbench.fit(pruned.model, task))
