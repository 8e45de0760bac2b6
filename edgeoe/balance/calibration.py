"""Which images int8 ranges are taken from, rebalanced as training is."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["choose_images"]


def choose_images(labels: Tensor, views: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Indices of few samples and of pool images, so that every class has about the same part of `count` images.

    labels: (N,) of the few samples. views: (P, K) what the teacher sees in each pool image, probabilities. A class
    takes its own samples first, then the pool images that the teacher is surest are of that class: activations
    that only a rare class causes are there although it has a single sample.
    """
    classes = views.shape[1]
    mine, theirs = [], []
    free = torch.ones(len(views), dtype=torch.bool)
    for k in range(classes):
        quota = count * (k + 1) // classes - count * k // classes
        own = (labels == k).nonzero()[:, 0][:quota]
        mine.append(own)
        surest = torch.where(free, views[:, k], -1.0).topk(min(quota - len(own), int(free.sum()))).indices
        free[surest] = False
        theirs.append(surest)
    return torch.cat(mine), torch.cat(theirs)
