"""The images of a workbench: which a batch has, how they are augmented and normalised, and what each weighs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from edgeoe.balance.prior import class_weights, complementary_prior
from edgeoe.balance.sampler import Draw, Sampler
from edgeoe.data.pool import Pool
from edgeoe.data.samples import Samples
from edgeoe.errors import ConfigError
from edgeoe.models.reconstruction import Rows
from edgeoe.settings import OESettings

__all__ = ["Batch", "Batches"]

_MAX_HOLDOUT, _MIN_HOLDOUT = 500, 20  # images; fewer than the latter say nothing
_PIXELS = 250 * 32 * 32  # evaluated at a time
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of one step.

    x: (N, C, H, W) normalised.
    y: (N,) labels.
    samples: how many rows are labelled samples; they come first, the others are OOD.
    """

    x: Tensor
    y: Tensor
    samples: int


class Batches:
    """Images of the labelled samples and, with a plan, of an OOD pool, on the device of `fabric`.

    pool: None without a plan.
    plan: how OOD images rebalance; None is the plain method.
    batch: labelled samples per batch, over all processes.
    padding: of the random crop, in pixels.
    flip: whether half of the images are mirrored.
    Raises ConfigError without labelled samples if the plan leaves OOD images out of anything.
    """

    def __init__(
        self,
        samples: Samples,
        pool: Pool | None,
        *,
        plan: OESettings | None,
        fabric: Fabric,
        batch: int,
        padding: int,
        flip: bool,
        seed: int,
    ) -> None:
        if not len(samples.labels) and not (plan and plan.in_compression and plan.in_fine_tuning and plan.ood_weight):
            raise ConfigError(
                "without labelled samples OOD images must take part in everything: leave [oe] in_compression, "
                "in_fine_tuning and ood_weight as they are."
            )
        self.samples, self.pool, self.plan = samples, pool, plan
        self._fabric = fabric
        counts = torch.from_numpy(samples.counts_k)
        even = torch.full((len(counts),), 1 / len(counts))
        prior = complementary_prior(counts, alpha=plan.alpha if plan else None) if len(samples.labels) else even
        weighs = plan is not None and plan.class_weights
        self.class_weights = class_weights(prior if weighs else even).to(fabric.device)
        self._holdout, drawn = self._split_pool(seed)
        in_fit = plan is not None and plan.in_fine_tuning
        self._sampler = Sampler(
            labels=torch.from_numpy(samples.labels),
            batch=batch if len(samples.labels) else 0,
            pool_indices=drawn,
            ood_batch=(plan.ood_batch or batch) if plan is not None and in_fit else 0,
            prior=prior if plan is None or plan.complementary_labels else even,
            balanced=plan.balanced_samples if plan else False,
            padding=padding,
            flip=flip,
            seed=seed,
        )

    @property
    def rows_per_step(self) -> int:
        """Images of a batch, over all processes."""
        return self._sampler.batch + self._sampler.ood_batch

    @property
    def evaluated(self) -> int:
        """Images to evaluate at a time."""
        _, height, width = self.samples.images.preprocess.shape
        return max(8, _PIXELS // (height * width))

    def draw(self, steps: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of every step from `start` on; the images of the next one are read while this one is computed.

        The reading thread stays clear of torch's own thread pool, which would fight the computation for cores.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            coming = reader.submit(self._read, start)
            for step in range(start, steps):
                draw, pixels = coming.result()
                if step + 1 < steps:
                    coming = reader.submit(self._read, step + 1)
                yield self._batch(draw, torch.from_numpy(pixels))

    def sample_rows(self) -> Rows:
        """The labelled samples as they are, weights of mean 1; with class weights each class weighs the same in all.

        Omega, made to offset the samples' imbalance, would leave next to nothing of the most frequent class.
        """
        labels = torch.from_numpy(self.samples.labels)
        weights = torch.ones(len(labels))
        if self.plan is not None and self.plan.class_weights:
            weights = 1 / torch.bincount(labels).float()[labels]
        return self._weighted(self.samples.images.rows(np.arange(len(labels))), weights / weights.mean())

    def pool_rows(self, count: int) -> tuple[Tensor, Rows]:
        """Indices of `count` OOD images at most that batches may draw, and those images, each of weight 1."""
        assert self.pool is not None  # noqa: S101 - its callers have looked
        indices = self._sampler.pool_indices[:count]
        return indices, self._weighted(self.pool.images.rows(indices.numpy()), torch.ones(len(indices)))

    def held_out(self) -> Tensor | None:
        """Held-out OOD images (n, C, H, W) uint8, for early stopping; None if there are none."""
        if self.pool is None or not len(self._holdout):
            return None
        return torch.from_numpy(self.pool.images.rows(self._holdout.numpy())).to(self._fabric.device)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) uint8 as the network takes them."""
        preprocess = self.samples.images.preprocess
        mean = torch.tensor(preprocess.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(preprocess.std, device=pixels.device).view(-1, 1, 1)
        return (pixels.contiguous().float() / 255 - mean) / std

    def _weighted(self, pixels: NDArray[np.uint8], weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        if not len(pixels):
            return []
        parts = torch.split(torch.from_numpy(pixels), self.evaluated), torch.split(weights, self.evaluated)
        device = self._fabric.device
        return [(self.normalise(x.to(device)), w.to(device)) for x, w in zip(*parts, strict=True)]

    def _split_pool(self, seed: int) -> tuple[Tensor, Tensor]:
        """Indices of pool images held out for early stopping, and of those that batches draw from."""
        if self.pool is None or self.plan is None:
            return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
        held = min(_MAX_HOLDOUT, int(len(self.pool) * self.plan.holdout))
        if held < _MIN_HOLDOUT:
            if self.plan.holdout:
                _log.warning(
                    "the OOD pool of %d images is too small to hold any out: no early stopping",
                    len(self.pool),
                )
            held = 0
        order = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(seed))
        return order[:held], order[held:]

    def _read(self, step: int) -> tuple[Draw, NDArray[np.uint8]]:
        draw = self._sampler.draw(step).share(self._fabric.global_rank, self._fabric.world_size)
        pixels = self.samples.images.rows(draw.samples.numpy())
        if self.pool is not None and len(draw.pool):
            pixels = np.concatenate([pixels, self.pool.images.rows(draw.pool.numpy())])
        return draw, pixels

    def _batch(self, draw: Draw, pixels: Tensor) -> Batch:
        device = self._fabric.device
        pixels = draw.augment(pixels.to(device, non_blocking=True), padding=self._sampler.padding)
        labels = torch.cat([self._sampler.labels[draw.samples], draw.ood_labels])
        return Batch(self.normalise(pixels), labels.to(device), len(draw.samples))
