"""The workbench: where methods get batches and the one training loop. Rebalancing (OE) lives in here.

A method never sees whether out-of-distribution images exist. It says how far a row's student is from its
teacher (`TrainingTask.distance`); the workbench draws the rows, adds OOD rows if it has a plan for them, weights every
row, and decides when to stop. Without a plan it is the plain method: same loop, same steps, no OOD rows.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeoe.balance.calibration import choose_images
from edgeoe.balance.divergence import Divergence
from edgeoe.balance.losses import RowWeights, joint_loss, teacher_guidance
from edgeoe.balance.prior import class_weights, complementary_prior
from edgeoe.balance.sampler import Draw, Sampler
from edgeoe.balance.stopping import BestWeights, balanced_agreement
from edgeoe.data.pool import Pool
from edgeoe.data.samples import Samples
from edgeoe.errors import ConfigError
from edgeoe.methods import Fit, TrainingTask, View
from edgeoe.models.observation import Recorder
from edgeoe.models.reconstruction import Rows
from edgeoe.progress import Progress, silent
from edgeoe.settings import OESettings
from edgeoe.training.batchnorm import train_batchnorms
from edgeoe.training.fabric import synchronised_batchnorm, with_native_sync
from edgeoe.training.memory_format import UnitStride, to_faster_format

__all__ = ["Batch", "Workbench"]

_MAX_HOLDOUT, _MIN_HOLDOUT = 500, 20  # images; fewer than the latter say nothing
_PIXELS = 250 * 32 * 32  # evaluated at a time
_CALIBRATION_POOL = 8  # OOD images that the teacher sees for each that is chosen, half to calibrate, half to judge
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """x: (N, C, H, W) normalised. y: (N,). The first `samples` rows are few samples, the rest OOD."""

    x: Tensor
    y: Tensor
    samples: int


class Workbench:
    """Batches and the training loop for one teacher, its few samples and, with a plan, an OOD pool.

    teacher: in eval mode, frozen; copied to the fabric's device. pool: may be None where plan is None.
    plan: how OOD rows rebalance; None is the plain method. batch: few-sample rows of a batch over all
    processes. padding: of the random crop, in pixels. clock: latencies in ms of networks on the target.
    channel_multiple: layers are fast on the target if their widths are multiples of this.
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
        clock: Callable[[Sequence[nn.Module]], list[float]] | None = None,
        channel_multiple: int = 1,
        progress: Progress = silent,
    ) -> None:
        self.fabric = fabric
        self.samples = samples
        self.pool = pool if plan is not None else None
        self.plan = plan
        self.channel_multiple = channel_multiple
        self.progress = progress if fabric.is_global_zero else silent
        self._teacher = to_faster_format(copy.deepcopy(teacher).to(fabric.device), self.shape)
        if not len(samples.labels) and not (plan and plan.in_compression and plan.in_fine_tuning and plan.ood_weight):
            raise ConfigError(
                "without labelled samples OOD images must take part in everything: leave [oe] in_compression, "
                "in_fine_tuning and ood_weight as they are."
            )
        self._clock = clock
        counts = torch.from_numpy(samples.counts_k)
        even = torch.full((len(counts),), 1 / len(counts))
        prior = complementary_prior(counts, alpha=plan.alpha if plan else None) if len(samples.labels) else even
        weighs = plan is not None and plan.class_weights
        self._class_weights = class_weights(prior if weighs else even).to(fabric.device)
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
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the network's input."""
        return self.samples.images.preprocess.shape

    @property
    def device(self) -> torch.device:
        """Where `rows` are and `fit` computes."""
        return self.fabric.device

    def latency_ms(self, models: Sequence[nn.Module]) -> list[float]:
        """The median latency of each of `models` for one image on the target, measured in turns."""
        if self._clock is None:
            raise ConfigError("this method ranks by measured latency, and the workbench was given no clock.")
        return self._clock(models)

    @torch.no_grad()
    def rows(self) -> Rows:
        """Images to measure, rank and solve with, as they are, and what each weighs.

        The weights of the few samples have mean 1. With class weights every class weighs the same in all (omega,
        made to offset the samples' imbalance, would leave next to nothing of the most frequent class). OOD images
        that batches may draw follow, `plan.compression_images` of them at most, together lambda times as heavy as
        the samples and each by how much the teacher sees rare classes in it.
        """
        labels = torch.from_numpy(self.samples.labels)
        weights = torch.ones(len(labels))
        if self.plan is not None and self.plan.class_weights:
            weights = 1 / torch.bincount(labels).float()[labels]
        rows = self._weighted(self.samples.images.rows(np.arange(len(labels))), weights / weights.mean())
        if self.pool is None or self.plan is None or not self.plan.in_compression or not self.plan.ood_weight:
            return rows
        chosen = self._sampler.pool_indices[: self.plan.compression_images]
        ood = self._weighted(self.pool.images.rows(chosen.numpy()), torch.ones(len(chosen)))
        guidance = torch.cat([teacher_guidance(self._teach(x), self._class_weights) for x, _ in ood])
        share = self.plan.ood_weight * max(1, len(labels)) / float(guidance.sum())
        guided = torch.split(guidance * share, self._evaluated)
        return [*rows, *((x, weight) for (x, _), weight in zip(ood, guided, strict=True))]

    @torch.no_grad()
    def calibration_images(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images (n, C, H, W) that int8 ranges are taken from, `count` at most, and as many others to judge them by.

        With OOD images every class has its part of both, by what the teacher sees. Without, the few samples are all
        there is, for both.
        """
        labels = torch.from_numpy(self.samples.labels)
        if self.pool is None:
            own = self.samples.images.rows(np.arange(min(count, len(labels))))
            return own, own
        drawn = self._sampler.pool_indices[: _CALIBRATION_POOL * count]
        parts = self._weighted(self.pool.images.rows(drawn.numpy()), torch.ones(len(drawn)))
        views = torch.cat([self._teach(x).softmax(1) for x, _ in parts]).cpu()
        half = len(drawn) // 2
        mine, theirs = choose_images(labels, views[half:], count=count)
        _, others = choose_images(labels[:0], views[:half], count=count)
        rows = [self.samples.images.rows(mine.numpy()), self.pool.images.rows(drawn[half:][theirs].numpy())]
        return np.concatenate([part for part in rows if len(part)]), self.pool.images.rows(drawn[others].numpy())

    @property
    def _evaluated(self) -> int:
        """Images to evaluate at a time."""
        return max(8, _PIXELS // (self.shape[1] * self.shape[2]))

    def _weighted(self, pixels: NDArray[np.uint8], weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        if not len(pixels):
            return []
        parts = torch.split(torch.from_numpy(pixels), self._evaluated), torch.split(weights, self._evaluated)
        return [(self._normalise(x.to(self.device)), w.to(self.device)) for x, w in zip(*parts, strict=True)]

    def fit(self, student: nn.Module, task: TrainingTask) -> Fit:
        """Train `student`, in place, as `task` says; it ends in eval mode on the CPU.

        All of it computes as in eval mode, without dropout, dropped paths and auxiliary outputs, but for batch norms
        where the task asks for batch statistics. Raises TrainingError if training diverges; `student` stays as it was.
        """
        module, optimizer = self._prepare(student, task)
        inner = cast(nn.Module, module.module)
        weights = self._row_weights(task)
        best = BestWeights(patience=self.plan.patience if self.plan else 1)
        steps, check_every = 0, self.plan.check_every if self.plan else task.max_steps
        watched = self._watched() if task.early_stop else None
        started = perf_counter()
        divergence = Divergence(self.fabric, name=task.name, lr=task.lr, max_steps=task.max_steps)
        with (
            UnitStride() if self.fabric.device.type == "cpu" else nullcontext(),
            synchronised_batchnorm(self.fabric),
            Recorder(inner, task.watch) as own,
            Recorder(self._teacher, task.watch) as taught,
            self.progress(task.name, task.max_steps) as advance,
        ):
            for batch in self._batches(task.max_steps):
                _set_lr(optimizer, task, steps)
                loss = self._loss(task, module, batch, weights, own, taught)
                self.fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                steps += 1
                advance()
                divergence.note(loss, steps)
                if watched is not None and (steps % check_every == 0 or steps == task.max_steps):
                    stop = best.update(steps, *self._agreement(module, *watched), module)
                    if self.fabric.broadcast(stop):
                        break
        seconds = perf_counter() - started
        best.restore(module)
        self._refuse_diverged(divergence, module, batch.x)
        student.load_state_dict(module.state_dict())
        student.to("cpu").eval()
        return Fit(
            steps=steps,
            best_step=best.step if watched is not None else steps,
            agreement=best.score if watched is not None else None,
            images_per_second=steps * (self._sampler.batch + self._sampler.ood_batch) / seconds,
        )

    def _loss(
        self, task: TrainingTask, module: nn.Module, batch: Batch, weights: RowWeights, own: Recorder, taught: Recorder
    ) -> Tensor:
        separate = self.plan is not None and self.plan.separate_statistics and 0 < batch.samples < len(batch.x)
        parts = torch.split(batch.x, [batch.samples, len(batch.x) - batch.samples]) if separate else (batch.x,)
        distances, students, teachers = [], [], []
        for x in parts:
            teacher = View(self._teach(x), taught.values())
            student = View(module(x).float(), own.values())
            distances.append(task.distance(student, teacher))
            students.append(student.logits)
            teachers.append(teacher.logits)
        return joint_loss(
            torch.cat(distances),
            torch.cat(students),
            torch.cat(teachers),
            labels=batch.y,
            samples=batch.samples,
            weights=weights,
        )

    def _teach(self, x: Tensor) -> Tensor:
        """(N, K) teacher logits of (N, C, H, W), float32, without gradient."""
        with torch.no_grad(), self.fabric.autocast():
            logits: Tensor = self._teacher(x)
        return logits.float()

    def _prepare(self, student: nn.Module, task: TrainingTask) -> tuple[nn.Module, torch.optim.Optimizer]:
        trained = with_native_sync(self.fabric, copy.deepcopy(student)).eval().to(self.fabric.device)
        if task.batch_statistics:
            train_batchnorms(trained)
        for name, parameter in trained.named_parameters():
            parameter.requires_grad_(task.trains is None or task.trains(name))
        module = self.fabric.setup_module(to_faster_format(trained, self.shape, trains=True))
        optimizer = torch.optim.SGD(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=task.lr,
            momentum=task.momentum,
            weight_decay=task.weight_decay,
            nesterov=True,
        )
        return module, cast(torch.optim.Optimizer, self.fabric.setup_optimizers(optimizer))

    def _row_weights(self, task: TrainingTask) -> RowWeights:
        plan = self.plan or OESettings()
        return RowWeights(
            labels=task.label_weight,
            ood=plan.ood_weight,
            regulariser=plan.regulariser,
            class_weights=self._class_weights,
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
        if self.pool is not None and len(draw.pool):
            pixels = np.concatenate([pixels, self.pool.images.rows(draw.pool.numpy())])
        return draw, pixels

    def _batch(self, draw: Draw, pixels: Tensor) -> Batch:
        device = self.fabric.device
        pixels = draw.augment(pixels.to(device, non_blocking=True), padding=self._sampler.padding)
        labels = torch.cat([self._sampler.labels[draw.samples], draw.ood_labels])
        return Batch(self._normalise(pixels), labels.to(device), len(draw.samples))

    def _normalise(self, pixels: Tensor) -> Tensor:
        preprocess = self.samples.images.preprocess
        mean = torch.tensor(preprocess.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(preprocess.std, device=pixels.device).view(-1, 1, 1)
        return (pixels.contiguous().float() / 255 - mean) / std

    def _watched(self) -> tuple[Tensor, Tensor] | None:
        """Held-out OOD images (n, C, H, W) uint8 and the teacher's classes (n,) for them."""
        if self.pool is None or not len(self._holdout):
            return None
        pixels = torch.from_numpy(self.pool.images.rows(self._holdout.numpy())).to(self.fabric.device)
        return pixels, torch.cat(
            [self._teach(self._normalise(part)).argmax(1) for part in torch.split(pixels, self._evaluated)]
        )

    @torch.no_grad()
    def _refuse_diverged(self, divergence: Divergence, module: nn.Module, x: Tensor) -> None:
        """Raise TrainingError if the logits of the trained `module` for images x (N, C, H, W) are of no use."""
        with _evaluating(module):
            divergence.judge(module(x).float(), self._teach(x))

    @torch.no_grad()
    def _agreement(self, module: nn.Module, pixels: Tensor, teacher_classes: Tensor) -> tuple[float, float]:
        with _evaluating(module):
            parts = torch.split(pixels, self._evaluated)
            classes = torch.cat([module(self._normalise(part)).argmax(1) for part in parts])
        return balanced_agreement(classes, teacher_classes)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode within; then every part is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    yield
    for part, training in modes:
        part.training = training


def _set_lr(optimizer: torch.optim.Optimizer, task: TrainingTask, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = task.lr * 0.5 * (1 + math.cos(math.pi * step / task.max_steps))
