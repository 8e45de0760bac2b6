"""The workbench: what methods ask for images, and the one training loop. Rebalancing (OE) lives in here.

A method never sees whether out-of-distribution images exist. It says how far a row's student is from its
teacher (`TrainingTask.distance`); the workbench draws the rows, adds OOD rows if it has a plan for them, weights every
row, and decides when to stop. Without a plan it is the plain method: same loop, same steps, no OOD rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from time import perf_counter
from typing import TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeoe.balance.calibration import choose_images
from edgeoe.balance.divergence import Divergence
from edgeoe.balance.losses import RowWeights, joint_loss, teacher_guidance
from edgeoe.balance.stopping import BestWeights, balanced_agreement
from edgeoe.data.pool import Pool
from edgeoe.data.samples import Samples
from edgeoe.errors import ConfigError, EdgeoeError, is_out_of_memory
from edgeoe.methods import Fit, TrainingTask, View
from edgeoe.models.modes import eval_afresh, may_cache
from edgeoe.models.observation import Recorder
from edgeoe.models.reconstruction import Rows
from edgeoe.progress import Progress, silent
from edgeoe.run.saved_work import SavedWork
from edgeoe.settings import OESettings
from edgeoe.training.batches import Batch, Batches
from edgeoe.training.batchnorm import train_batchnorms
from edgeoe.training.divided import DividedForward
from edgeoe.training.fabric import synchronised_batchnorm, with_native_sync
from edgeoe.training.memory_format import UnitStride, to_faster_format
from edgeoe.training.snapshot import Snapshots, task_key

__all__ = ["LoadImages", "Workbench"]

Result = TypeVar("Result")
LoadImages = Callable[[], tuple[Samples, Pool | None]]
_CALIBRATION_POOL = 8  # OOD images that the teacher sees for each that is chosen, half to calibrate, half to judge


class Workbench:
    """Images and the training loop for one teacher, its labelled samples and, with a plan, an OOD pool.

    Images are loaded when a method first asks for some: methods look at the teacher before, so that one that can't be
    pruned is refused before a pile of pictures is read.
    teacher: in eval mode, frozen; copied to the fabric's device.
    load: reads the labelled samples, and the pool, which may be None where plan is None.
    shape: (C, H, W) of the network's input.
    plan: how OOD rows rebalance; None is the plain method.
    batch: labelled samples per batch, over all processes.
    padding: of the random crop, in pixels.
    flip: whether half of the training images are mirrored.
    latency_ms: the median latency of each of several networks for one image on the target; None is an error where a
        method asks for it.
    channel_multiple: layers are fast on the targets if their widths are multiples of this.
    work: what an interrupted compression has computed, and where this one saves its own; None saves nothing.
    """

    def __init__(
        self,
        teacher: nn.Module,
        load: LoadImages,
        *,
        shape: tuple[int, int, int],
        plan: OESettings | None,
        fabric: Fabric,
        batch: int = 64,
        padding: int = 4,
        flip: bool = True,
        seed: int = 0,
        latency_ms: Callable[[Sequence[nn.Module]], list[float]] | None = None,
        channel_multiple: int = 1,
        work: SavedWork | None = None,
        progress: Progress = silent,
    ) -> None:
        self.fabric = fabric
        self.shape = shape
        self.plan = plan
        self.channel_multiple = channel_multiple
        self.work = work or SavedWork()
        self.progress = progress if fabric.is_global_zero else silent
        self._original = teacher
        self._load = load
        self._new_batches = partial(
            Batches, plan=plan, fabric=fabric, batch=batch, padding=padding, flip=flip, seed=seed
        )
        self._latency_ms = latency_ms
        self._measured = 0  # calls of latency_ms

    @cached_property
    def batches(self) -> Batches:
        """The images, loaded when they are first asked for."""
        samples, pool = self._load()
        return self._new_batches(samples, pool if self.plan is not None else None)

    @cached_property
    def _teacher(self) -> nn.Module:
        return to_faster_format(copy.deepcopy(self._original).to(self.fabric.device), self.shape)

    @property
    def device(self) -> torch.device:
        """Where `rows` are and `fit` computes."""
        return self.fabric.device

    def latency_ms(self, models: Sequence[nn.Module]) -> list[float]:
        """The median latency of each of `models` for one image on the target, measured in turns."""
        if self._latency_ms is None:
            raise ConfigError("this method ranks by measured latency, and the workbench has no target to measure on.")
        measure = self._latency_ms
        key = f"latencies {self._measured}, of {len(models)} networks"
        self._measured += 1
        return self.once(lambda: self.work.kept(key, lambda: measure(models)))

    def once(self, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, computed by the first process alone; an error of the user's is raised in all."""
        value: Result | None = None
        failed: EdgeoeError | None = None
        if self.fabric.is_global_zero:
            try:
                value = compute()
            except EdgeoeError as reason:
                failed = reason
        value, failed = self.fabric.broadcast((value, failed))
        if failed is not None:
            raise failed
        return cast(Result, value)

    @torch.no_grad()
    def rows(self) -> Rows:
        """Images to measure, rank and solve with, as they are, and what each weighs.

        The labelled samples come first. OOD images that batches may draw follow, `plan.compression_images` at most,
        together lambda times as heavy as the samples and each by how much the teacher sees rare classes in it.
        """
        batches, plan = self.batches, self.plan
        rows = batches.sample_rows()
        if batches.pool is None or plan is None or not plan.in_compression or not plan.ood_weight:
            return rows
        _, ood = batches.pool_rows(plan.compression_images)
        guidance = torch.cat([teacher_guidance(self._teacher_logits(x), batches.class_weights) for x, _ in ood])
        share = plan.ood_weight * max(1, len(batches.samples.labels)) / float(guidance.sum())
        guided = torch.split(guidance * share, batches.evaluated)
        return [*rows, *((x, weight) for (x, _), weight in zip(ood, guided, strict=True))]

    @torch.no_grad()
    def calibration_images(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images (n, C, H, W) that int8 ranges are taken from, `count` at most, and as many others to judge them by.

        With OOD images every class has its part of both, by what the teacher sees. Without, the labelled samples serve
        for both.
        """
        samples, pool = self.batches.samples, self.batches.pool
        labels = torch.from_numpy(samples.labels)
        if pool is None:
            images = samples.images.rows(np.arange(min(count, len(labels))))
            return images, images
        drawn, parts = self.batches.pool_rows(_CALIBRATION_POOL * count)
        views = torch.cat([self._teacher_logits(x).softmax(1) for x, _ in parts]).cpu()
        half = len(drawn) // 2
        chosen_samples, chosen = choose_images(labels, views[half:], count=count)
        _, others = choose_images(labels[:0], views[:half], count=count)
        rows = [samples.images.rows(chosen_samples.numpy()), pool.images.rows(drawn[half:][chosen].numpy())]
        return np.concatenate([part for part in rows if len(part)]), pool.images.rows(drawn[others].numpy())

    def fit(self, student: nn.Module, task: TrainingTask) -> Fit:
        """Train `student`, in place, as `task` says; it ends in eval mode on the CPU.

        A training that was interrupted goes on where its state was saved last, and ends with the same weights.
        All of it computes as in eval mode, without dropout, dropped paths and auxiliary outputs, but for batch norms
        where the task asks for batch statistics. Raises TrainingError if training diverges; `student` stays as it was.
        """
        batches, teacher = self.batches, self._teacher
        module, optimizer = self._prepare(student, task)
        inner = cast(nn.Module, module.module)
        weights = self._row_weights(task)
        best = BestWeights(patience=self.plan.patience if self.plan else 1)
        check_every = self.plan.check_every if self.plan else task.max_steps
        held_out = self._held_out() if task.early_stop else None
        started = perf_counter()
        divergence = Divergence(self.fabric, name=task.name, lr=task.lr, max_steps=task.max_steps)
        key = task_key(student, task)
        snapshots = Snapshots(self.work, key, module, optimizer, best, divergence, self.fabric)
        steps = start = snapshots.restore(task)
        with (
            UnitStride() if self.fabric.device.type == "cpu" else nullcontext(),
            synchronised_batchnorm(self.fabric),
            Recorder(inner, task.watch) as student_recorder,
            Recorder(teacher, task.watch) as teacher_recorder,
            self.progress(task.name, task.max_steps) as advance,
        ):
            forward, caches = DividedForward(module, inner, student_recorder), may_cache(inner)
            for _ in range(start):
                advance()
            for batch in batches.draw(task.max_steps, start=start):
                _set_lr(optimizer, task, steps)
                if caches:
                    _set_modes(inner, task)
                compute = partial(self._loss, task, forward, batch, weights, teacher_recorder)
                loss = self._backward(compute, forward, len(batch.x))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                steps += 1
                advance()
                divergence.note(loss, steps)
                if held_out is not None and (steps % check_every == 0 or steps == task.max_steps):
                    stop = best.update(steps, *self._agreement(module, *held_out), module)
                    if self.fabric.broadcast(stop):
                        break
                if steps < task.max_steps:
                    snapshots.save_if_due(steps)
        seconds = perf_counter() - started
        best.restore(module)
        self._refuse_diverged(divergence, module, batch.x)
        student.load_state_dict(module.state_dict())
        eval_afresh(student.to("cpu"))
        return Fit(
            steps=steps,
            best_step=best.step if held_out is not None else steps,
            agreement=best.score if held_out is not None else None,
            images_per_second=(steps - start) * batches.rows_per_step / seconds,
        )

    def _backward(self, compute: Callable[[], Tensor], forward: DividedForward, rows: int) -> Tensor:
        """The loss of a batch, whose gradient is then in the parameters; in smaller parts where memory runs out.

        Not with several processes, which would wait for one another. Raises what ran out of memory if parts don't help.

        compute: the loss, through `forward`.
        rows: images of the batch.
        """
        while True:
            try:
                loss = compute()
                self.fabric.backward(loss)
            except Exception as reason:
                if not is_out_of_memory(reason) or self.fabric.world_size > 1 or not forward.halve(rows):
                    raise
            else:
                return loss
            if self.fabric.device.type == "cuda":  # once nothing holds what was computed
                torch.cuda.empty_cache()

    def _loss(
        self,
        task: TrainingTask,
        forward: DividedForward,
        batch: Batch,
        weights: RowWeights,
        teacher_recorder: Recorder,
    ) -> Tensor:
        separate = self.plan is not None and self.plan.separate_statistics and 0 < batch.samples < len(batch.x)
        parts = torch.split(batch.x, [batch.samples, len(batch.x) - batch.samples]) if separate else (batch.x,)
        distances, students, teachers = [], [], []
        for x in parts:
            teacher = View(self._teacher_logits(x), teacher_recorder.values())
            student = forward.view(x)
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

    def _teacher_logits(self, x: Tensor) -> Tensor:
        """(N, K) teacher logits of (N, C, H, W), float32, without gradient."""
        with torch.no_grad(), self.fabric.autocast():
            logits: Tensor = self._teacher(x)
        return logits.float()

    def _prepare(self, student: nn.Module, task: TrainingTask) -> tuple[nn.Module, torch.optim.Optimizer]:
        trained = with_native_sync(self.fabric, copy.deepcopy(student)).eval().to(self.fabric.device)
        _set_modes(trained, task)
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
            class_weights=self.batches.class_weights,
        )

    def _held_out(self) -> tuple[Tensor, Tensor] | None:
        """Held-out OOD images (n, C, H, W) uint8 and the teacher's classes (n,) for them."""
        pixels = self.batches.held_out()
        if pixels is None:
            return None
        parts = torch.split(pixels, self.batches.evaluated)
        return pixels, torch.cat([self._teacher_logits(self.batches.normalise(part)).argmax(1) for part in parts])

    @torch.no_grad()
    def _refuse_diverged(self, divergence: Divergence, module: nn.Module, x: Tensor) -> None:
        """Raise TrainingError if the logits of the trained `module` for images x (N, C, H, W) are of no use."""
        with _evaluating(module):
            divergence.judge(module(x).float(), self._teacher_logits(x))

    @torch.no_grad()
    def _agreement(self, module: nn.Module, pixels: Tensor, teacher_classes: Tensor) -> tuple[float, float]:
        with _evaluating(module):
            parts = torch.split(pixels, self.batches.evaluated)
            classes = torch.cat([module(self.batches.normalise(part)).argmax(1) for part in parts])
        return balanced_agreement(classes, teacher_classes)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode within; then every part is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    eval_afresh(module)
    yield
    for part, training in modes:
        part.training = training


def _set_modes(model: nn.Module, task: TrainingTask) -> None:
    """Put `model`, in place, into the modes that `task` trains in."""
    train_batchnorms(model) if task.batch_statistics else eval_afresh(model)


def _set_lr(optimizer: torch.optim.Optimizer, task: TrainingTask, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = task.lr * 0.5 * (1 + math.cos(math.pi * step / task.max_steps))
