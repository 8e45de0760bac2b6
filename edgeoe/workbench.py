"""The workbench: where methods get batches and the one training loop. Rebalancing (OE) lives in here.

A method never sees whether out-of-distribution images exist. It says how far a row's student is from its
teacher (`Stage.imitate`); the workbench draws the rows, adds OOD rows if it has a plan for them, weights every
row, and decides when to stop. Without a plan it is the plain method: same loop, same steps, no OOD rows.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeoe.balance.losses import RowWeights, joint_loss
from edgeoe.balance.prior import class_weights, complementary_prior
from edgeoe.balance.sampler import Draw, Sampler
from edgeoe.balance.stopping import BestWeights, balanced_agreement
from edgeoe.compute import synchronised_batchnorm, with_native_sync
from edgeoe.data.pool import Pool
from edgeoe.data.samples import Samples
from edgeoe.methods import Fit, Imitation, Stage
from edgeoe.progress import Progress, silent
from edgeoe.settings import OESettings

__all__ = ["Batch", "Workbench"]

_MAX_HOLDOUT, _MIN_HOLDOUT = 500, 20  # images; fewer than the latter say nothing
_EVALUATED = 250  # images at a time
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """x: (N, C, H, W) normalised, channels last. y: (N,). The first `samples` rows are few samples, the rest OOD."""

    x: Tensor
    y: Tensor
    samples: int


class Workbench:
    """Batches and the training loop for one teacher, its few samples and, with a plan, an OOD pool.

    teacher: in eval mode, frozen; copied to the fabric's device. pool: may be None where plan is None.
    plan: how OOD rows rebalance; None is the plain method. batch: few-sample rows of a batch over all
    processes. padding: of the random crop, in pixels.
    """

    def __init__(
        self,
        teacher: nn.Module,
        samples: Samples,
        pool: Pool | None,
        *,
        plan: OESettings | None,
        fabric: Fabric,
        batch: int = 64,
        padding: int = 4,
        flip: bool = True,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        self.fabric = fabric
        self.samples = samples
        self.pool = pool if plan is not None else None
        self.plan = plan
        self.progress = progress if fabric.is_global_zero else silent
        self._teacher = copy.deepcopy(teacher).to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        counts = torch.from_numpy(samples.counts_k)
        prior = complementary_prior(counts, alpha=plan.alpha if plan else None)
        self._class_weights = class_weights(prior).to(fabric.device)
        self._holdout, drawn = self._split_pool(seed)
        self._sampler = Sampler(
            labels=torch.from_numpy(samples.labels),
            batch=batch,
            pool_indices=drawn,
            ood_batch=(plan.ood_batch or batch) if plan is not None else 0,
            prior=prior,
            balanced=plan.balanced_samples if plan else False,
            padding=padding,
            flip=flip,
            seed=seed,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the network's input."""
        return self.samples.images.preprocess.shape

    def teach(self, x: Tensor) -> Tensor:
        """(N, K) teacher logits of (N, C, H, W), float32, without gradient."""
        with torch.no_grad(), self.fabric.autocast():
            logits: Tensor = self._teacher(x)
        return logits.float()

    def fit(self, student: nn.Module, stage: Stage) -> Fit:
        """Train `student`, in place, as `stage` says; it ends in eval mode on the CPU."""
        module, optimizer = self._prepare(student, stage)
        weights = self._row_weights(stage)
        best = BestWeights(patience=self.plan.patience if self.plan else 1)
        steps, check_every = 0, self.plan.check_every if self.plan else stage.max_steps
        watched = self._watched()
        started = perf_counter()
        with synchronised_batchnorm(self.fabric), self.progress(stage.name, stage.max_steps) as advance:
            for batch in self._batches(stage.max_steps):
                _set_lr(optimizer, stage, steps)
                imitation = self._imitation(stage, module, batch)
                loss = joint_loss(
                    imitation.loss,
                    imitation.student_logits,
                    imitation.teacher_logits,
                    labels=batch.y,
                    samples=batch.samples,
                    weights=weights,
                )
                self.fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                steps += 1
                advance()
                if watched is not None and (steps % check_every == 0 or steps == stage.max_steps):
                    stop = best.update(steps, self._agreement(module, *watched), module)
                    if self.fabric.broadcast(stop):
                        break
        seconds = perf_counter() - started
        best.restore(module)
        student.load_state_dict(module.state_dict())
        student.to("cpu").eval()
        return Fit(
            steps=steps,
            best_step=best.step if watched is not None else steps,
            agreement=best.score if watched is not None else None,
            images_per_second=steps * (self._sampler.batch + self._sampler.ood_batch) / seconds,
        )

    def _imitation(self, stage: Stage, module: nn.Module, batch: Batch) -> Imitation:
        if self.plan is None or not self.plan.separate_statistics:
            return stage.imitate(module, batch.x)
        own, ood = (stage.imitate(module, x) for x in (batch.x[: batch.samples], batch.x[batch.samples :]))
        return Imitation(
            torch.cat([own.loss, ood.loss]),
            torch.cat([own.student_logits, ood.student_logits]),
            torch.cat([own.teacher_logits, ood.teacher_logits]),
        )

    def _prepare(self, student: nn.Module, stage: Stage) -> tuple[nn.Module, torch.optim.Optimizer]:
        trained = with_native_sync(self.fabric, copy.deepcopy(student)).train().requires_grad_(True)
        module = self.fabric.setup_module(trained.to(memory_format=torch.channels_last))  # type: ignore[call-overload, unused-ignore]
        optimizer = torch.optim.SGD(
            module.parameters(),
            lr=stage.lr,
            momentum=stage.momentum,
            weight_decay=stage.weight_decay,
            nesterov=True,
        )
        return module, cast(torch.optim.Optimizer, self.fabric.setup_optimizers(optimizer))

    def _row_weights(self, stage: Stage) -> RowWeights:
        plan = self.plan or OESettings()
        return RowWeights(
            labels=stage.label_weight,
            ood=plan.ood_weight,
            regulariser=plan.regulariser,
            class_weights=self._class_weights,
            teacher_guided=plan.teacher_guided,
        )

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

    def _batches(self, steps: int) -> Iterator[Batch]:
        """The batches of every step; the images of the next one are read while this one is computed.

        The reading thread stays clear of torch's own thread pool, which would fight the computation for cores.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            coming = reader.submit(self._read, 0)
            for step in range(steps):
                draw, pixels = coming.result()
                if step + 1 < steps:
                    coming = reader.submit(self._read, step + 1)
                yield self._batch(draw, torch.from_numpy(pixels))

    def _read(self, step: int) -> tuple[Draw, NDArray[np.uint8]]:
        draw = self._sampler.draw(step).share(self.fabric.global_rank, self.fabric.world_size)
        pixels = self.samples.images.rows(draw.samples.numpy())
        if self.pool is not None:
            pixels = np.concatenate([pixels, self.pool.images.rows(draw.pool.numpy())])
        return draw, pixels

    def _batch(self, draw: Draw, pixels: Tensor) -> Batch:
        device = self.fabric.device
        pixels = _augment(pixels.to(device, non_blocking=True), draw, padding=self._sampler.padding)
        labels = torch.cat([self._sampler.labels[draw.samples], draw.ood_labels])
        return Batch(self._normalise(pixels), labels.to(device), len(draw.samples))

    def _normalise(self, pixels: Tensor) -> Tensor:
        preprocess = self.samples.images.preprocess
        mean = torch.tensor(preprocess.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(preprocess.std, device=pixels.device).view(-1, 1, 1)
        return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def _watched(self) -> tuple[Tensor, Tensor] | None:
        """Held-out OOD images (n, C, H, W) uint8 and the teacher's classes (n,) for them."""
        if self.pool is None or not len(self._holdout):
            return None
        pixels = torch.from_numpy(self.pool.images.rows(self._holdout.numpy())).to(self.fabric.device)
        return pixels, torch.cat(
            [self.teach(self._normalise(part)).argmax(1) for part in torch.split(pixels, _EVALUATED)]
        )

    @torch.no_grad()
    def _agreement(self, module: nn.Module, pixels: Tensor, teacher_classes: Tensor) -> float:
        module.eval()
        classes = torch.cat([module(self._normalise(part)).argmax(1) for part in torch.split(pixels, _EVALUATED)])
        module.train()
        return balanced_agreement(classes, teacher_classes)


def _set_lr(optimizer: torch.optim.Optimizer, stage: Stage, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = stage.lr * 0.5 * (1 + math.cos(math.pi * step / stage.max_steps))


def _augment(pixels: Tensor, draw: Draw, *, padding: int) -> Tensor:
    """(N, C, H, W) uint8, mirrored and cropped out of `padding` black pixels on each side, channels last."""
    n, _, height, width = pixels.shape
    flips = draw.flips.to(pixels.device).view(-1, 1, 1, 1)
    padded = F.pad(torch.where(flips, pixels.flip(3), pixels), (padding,) * 4)
    offsets = draw.offsets.to(pixels.device)
    rows = offsets[:, 0, None] + torch.arange(height, device=pixels.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=pixels.device)
    image = torch.arange(n, device=pixels.device)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
