"""Which rows a batch has and how they are augmented: a pure function of seed and step, the same in every process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Draw", "Sampler"]


@dataclass(frozen=True, slots=True)
class Draw:
    """The rows of one batch: labelled samples first, then OOD rows.

    samples: (B,) indices of labelled samples.
    pool: (B_o,) indices of pool images.
    ood_labels: (B_o,) labels drawn for this batch from the complementary prior.
    offsets: (B + B_o, 2) top and left of the random crop.
    flips: (B + B_o,) bool.
    """

    samples: Tensor
    pool: Tensor
    ood_labels: Tensor
    offsets: Tensor
    flips: Tensor

    def share(self, rank: int, world_size: int) -> Draw:
        """The rows of process `rank`; every process has the same number of either kind."""
        rows, pool = slice(rank, None, world_size), len(self.samples)
        return Draw(
            self.samples[rows],
            self.pool[rows],
            self.ood_labels[rows],
            torch.cat([self.offsets[:pool][rows], self.offsets[pool:][rows]]),
            torch.cat([self.flips[:pool][rows], self.flips[pool:][rows]]),
        )

    def augment(self, pixels: Tensor, *, padding: int) -> Tensor:
        """(N, C, H, W) uint8, mirrored and cropped out of `padding` black pixels on each side, channels last."""
        n, _, height, width = pixels.shape
        flips = self.flips.to(pixels.device).view(-1, 1, 1, 1)
        padded = F.pad(torch.where(flips, pixels.flip(3), pixels), (padding,) * 4)
        offsets = self.offsets.to(pixels.device)
        rows = offsets[:, 0, None] + torch.arange(height, device=pixels.device)
        columns = offsets[:, 1, None] + torch.arange(width, device=pixels.device)
        image = torch.arange(n, device=pixels.device)[:, None, None]
        cropped = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Draws batches.

    labels: (N,) of the labelled samples.
    batch: labelled samples per batch.
    pool_indices: (P,) pool images that may be drawn.
    ood_batch: OOD images per batch.
    prior: (K,) that OOD labels come from.
    balanced: draw the samples class by class.
    padding: pixels on each side that a crop may be off by.
    flip: mirror half of the rows.
    """

    labels: Tensor
    batch: int
    pool_indices: Tensor
    ood_batch: int
    prior: Tensor
    balanced: bool = False
    padding: int = 0
    flip: bool = True
    seed: int = 0

    def draw(self, step: int) -> Draw:
        """The batch of `step`."""
        g = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**32)  # torch reads 32 bits of it
        rows = self.batch + self.ood_batch
        return Draw(
            samples=self._samples(g),
            pool=self._pool(g),
            ood_labels=self._ood_labels(g),
            offsets=torch.randint(2 * self.padding + 1, (rows, 2), generator=g),
            flips=torch.rand(rows, generator=g) < (0.5 if self.flip else 0.0),
        )

    def _samples(self, g: torch.Generator) -> Tensor:
        if not self.batch:
            return torch.empty(0, dtype=torch.long)
        if self.balanced:
            counts = torch.bincount(self.labels).double()
            weights = 1.0 / counts[self.labels]
            return torch.multinomial(weights, self.batch, replacement=True, generator=g)
        n = len(self.labels)  # as they are: whole passes over the samples, and a part of one
        passes = [torch.randperm(n, generator=g) for _ in range(-(-self.batch // n))]
        return torch.cat(passes)[: self.batch]

    def _pool(self, g: torch.Generator) -> Tensor:
        if not self.ood_batch:
            return torch.empty(0, dtype=torch.long)
        return self.pool_indices[torch.randint(len(self.pool_indices), (self.ood_batch,), generator=g)]

    def _ood_labels(self, g: torch.Generator) -> Tensor:
        if not self.ood_batch:
            return torch.empty(0, dtype=torch.long)
        return torch.multinomial(self.prior.double(), self.ood_batch, replacement=True, generator=g)
