"""The student imitates the features that the teacher's head classifies, and keeps that head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeoe.errors import PruningError
from edgeoe.methods import Bench, Fit, TrainingTask, View
from edgeoe.methods.options import FeatureOptions
from edgeoe.models.observation import capture
from edgeoe.models.structure import Structure, read_structure
from edgeoe.pruning.prune import Pruned
from edgeoe.settings import CompressSettings

__all__ = ["FeatureMimicking", "feature_distance", "mimicking_task"]


def feature_distance(student: View, teacher: View) -> Tensor:
    """(N,) mean squared difference of the features, over channels and positions.

    Source: Wang, Liu, Ma, Yong, Chai and Wu, "Compressing Models with Few Samples: Mimicking then Replacing",
    CVPR 2022, the loss of the mimicking step.
    """
    return (student.activations[0].float() - teacher.activations[0].float()).square().flatten(1).mean(1)


def mimicking_task(structure: Structure, *, lr: float, steps: int) -> TrainingTask:
    """Fit everything but the head to the teacher's features, as they are before pooling.

    Momentum 0.9 and weight decay 1e-4 as in the paper.
    """
    head = structure.head + "."
    return TrainingTask(
        name="Mimicking features",
        distance=feature_distance,
        watch=(structure.features,),
        lr=lr,
        max_steps=steps,
        trains=lambda name: not name.startswith(head),
    )


class FeatureMimicking:
    """Mimics the features before pooling, without labels; the teacher's own head classifies them (Wang et al., CVPR
    2022).

    Raises PruningError if the student has fewer features than the teacher.
    """

    Options = FeatureOptions

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    def recover(self, teacher: nn.Module, pruned: Pruned, bench: Bench) -> Fit:
        structure = read_structure(teacher, bench.shape)
        _require_features(teacher, pruned.model, structure, bench.shape)
        lr = self.settings.options_for(FeatureOptions).lr
        return bench.fit(pruned.model, mimicking_task(structure, lr=lr, steps=self.settings.steps))


@torch.no_grad()
def _require_features(
    teacher: nn.Module, student: nn.Module, structure: Structure, shape: tuple[int, int, int]
) -> None:
    x = torch.zeros(1, *shape)
    wanted, got = (tuple(capture(model, x, structure.features)[0].shape[1:]) for model in (teacher, student))
    if wanted != got:
        raise PruningError(
            f"mimicking needs features of the teacher's shape, {wanted}, and those of the student are {got}: pair it "
            f"with a cut that spares what layer {structure.head} reads."
        )
