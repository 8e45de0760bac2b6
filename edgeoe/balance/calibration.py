"""Which images int8 ranges are taken from, rebalanced as training is."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["choose_images"]


def choose_images(labels: Tensor, views: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Indices of labelled samples and of pool images, so that every class has about the same part of `count` images.

    A class takes its own samples first, then the pool images that the teacher is surest are of that class: activations
    that only a rare class causes are there although it has a single sample.
    labels: (N,) of the labelled samples.
    views: (P, K) probabilities that the teacher gives each pool image.
    """
    classes = views.shape[1]
    from_samples, from_pool = [], []
    free = torch.ones(len(views), dtype=torch.bool)
    for k in range(classes):
        quota = count * (k + 1) // classes - count * k // classes
        samples = (labels == k).nonzero()[:, 0][:quota]
        from_samples.append(samples)
        surest = torch.where(free, views[:, k], -1.0).topk(min(quota - len(samples), int(free.sum()))).indices
        free[surest] = False
        from_pool.append(surest)
    return torch.cat(from_samples), torch.cat(from_pool)
