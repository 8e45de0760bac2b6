"""compress: teacher + labelled samples + OOD pool -> student."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from edgeoe.data.listing import list_images
from edgeoe.data.pool import Pool, load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples, load_samples
from edgeoe.errors import (
    ConfigError,
    EdgeoeError,
    OutOfMemoryError,
    PruningError,
    TrainingError,
    first_line,
    is_out_of_memory,
    on_command_line,
    speaks_of_options,
)
from edgeoe.interruption import say_when_interrupted, shielded
from edgeoe.method import load_method
from edgeoe.methods import Compressed, compress_with
from edgeoe.models.checkpoint import save_code, save_student
from edgeoe.models.teacher import TeacherSource
from edgeoe.progress import Progress, silent
from edgeoe.pruning.prune import count_params
from edgeoe.records.compression import CompressRecord, GoldenImages, SpeedUp, TeacherAgreement
from edgeoe.run import layout
from edgeoe.run.chain import student_sha256
from edgeoe.run.creation import new_run
from edgeoe.run.directory import Run
from edgeoe.run.facts import RunFacts
from edgeoe.run.saved_work import SavedWork, saved_work_folder
from edgeoe.run.settings import write_settings
from edgeoe.settings import CompressSettings
from edgeoe.stages.agreement import check_agreement
from edgeoe.stages.budget import BudgetMeter, has_budget
from edgeoe.stages.contents import contents_of, inputs_of
from edgeoe.stages.fp32_layers import calibration_images
from edgeoe.stages.golden import golden_images, spread_of_pool
from edgeoe.stages.latency_probe import probe_on_first
from edgeoe.stages.overlap import report_samples_in_pool, write_content
from edgeoe.stages.resumable_meter import ResumableMeter
from edgeoe.stages.speedup import compare_speed
from edgeoe.stages.subject import load_subject
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target
from edgeoe.training.children import children_end_here, hear_interrupts
from edgeoe.training.fabric import new_fabric
from edgeoe.training.trial import check_trainable
from edgeoe.training.workbench import Workbench
from edgeoe.versions import versions

__all__ = ["compress"]

_log = logging.getLogger(__name__)


def compress(
    settings: CompressSettings,
    *,
    out: Path,
    teacher: nn.Module | None = None,
    targets: Iterable[Target] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Run | None:
    """Make a student of the teacher and write the run `out`, which appears only when it is whole.

    teacher: the network itself, where `settings` only have its fingerprint; it stays as it is.
    targets: what the student is for; None loads the profiles that `settings` name.
    Returns the run; None in every process but the first where torchrun started several.
    Raises EdgeoeError for anything that the user can put right.
    """
    devices = tuple(map(load_target, settings.target) if targets is None else targets)
    fabric = new_fabric(settings)
    if teacher is not None and settings.processes > 1:
        raise ConfigError(
            f"--processes {settings.processes}: a teacher in memory is compressed by one process, or by those that "
            "torchrun starts. Name a factory instead: --teacher FILE.py:FACTORY."
        )
    first = os.environ.get("RANK", "0") == "0"
    saved = saved_work_folder(out)
    with new_run(out, overwrite=overwrite) if first else nullcontext() as run, children_end_here():
        with _advice_when_interrupted(saved):
            reason = fabric.launch(
                partial(
                    _compress,
                    settings=settings,
                    module=teacher,
                    targets=devices,
                    run=run,
                    saved=saved,
                    progress=progress,
                    speaks_of_options=speaks_of_options(),
                )
            )
        if isinstance(reason, EdgeoeError):
            raise reason
    if not first:
        return None
    SavedWork(saved).remove()
    return Run(out)


@contextmanager
def _advice_when_interrupted(saved: Path) -> Iterator[None]:
    """A block after whose interruption the user reads that the same command goes on, if it does."""
    try:
        yield
    except KeyboardInterrupt:
        if SavedWork(saved).is_on_disk:
            say_when_interrupted("The same command goes on where it stopped.")
        raise


def _compress(
    fabric: Fabric,
    settings: CompressSettings,
    module: nn.Module | None,
    targets: Sequence[Target],
    run: Run | None,
    saved: Path,
    progress: Progress,
    *,
    speaks_of_options: bool,
) -> EdgeoeError | None:
    """`compress` in each process. An error of the user's is returned, to cross from process to process whole."""
    hear_interrupts()
    try:
        with on_command_line(speaks_of_options):  # as in the process that started this one
            progress = progress if fabric.is_global_zero else silent
            _compress_into(fabric, settings, module, targets, run, saved, progress)
    except EdgeoeError as reason:
        return reason
    except Exception as reason:
        if is_out_of_memory(reason):
            return OutOfMemoryError(first_line(reason))
        raise
    return None


def _compress_into(
    fabric: Fabric,
    settings: CompressSettings,
    module: nn.Module | None,
    targets: Sequence[Target],
    run: Run | None,
    saved: Path,
    progress: Progress,
) -> None:
    began = perf_counter()
    source, files, teacher, preprocess = load_subject(settings, module=module)
    if load_method(settings.method).trains:
        check_trainable(teacher, preprocess.shape)
    # What can be known at once: pictures are read when a method asks for them.
    listing = list_images(settings.ood, follow_links=settings.follow_links) if settings.oe and settings.ood else None
    for skipped in files.skipped if fabric.is_global_zero else ():
        _log.warning("%s", skipped)
    source = _save_code(fabric, run, source, teacher, shape=preprocess.shape, classes=len(files.classes))
    agreement: TeacherAgreement | None = None
    contents = cache(lambda: contents_of(settings, teacher, source, files, listing, progress=progress))
    work = _open_work(fabric, saved, lambda: inputs_of(settings, contents(), targets, fabric), began)

    def load_images() -> tuple[Samples, Pool | None]:
        nonlocal agreement
        if fabric.is_global_zero:
            contents()
        samples = load_samples(files, preprocess, progress=progress)
        if settings.weights != "random":
            agreement = check_agreement(
                teacher,
                samples,
                device=fabric.device,
                seed=settings.seed,
                quiet=not fabric.is_global_zero,
                progress=progress,
            )
        pool = load_pool(listing, preprocess, progress=progress) if listing else None
        if pool is not None and fabric.is_global_zero:
            report_samples_in_pool(samples, pool)
        return samples, pool

    bench = Workbench(
        teacher,
        load_images,
        shape=preprocess.shape,
        plan=settings.oe_settings if listing else None,
        fabric=fabric,
        batch=settings.batch,
        padding=preprocess.size[0] // 8 if settings.crop_padding is None else settings.crop_padding,
        flip=settings.flip,
        seed=settings.seed,
        latency_ms=probe_on_first(targets, preprocess),
        channel_multiple=math.lcm(*(target.channel_multiple for target in targets)),
        work=work,
        progress=progress,
    )
    meter = None
    if has_budget(settings, targets):
        measuring = BudgetMeter(
            teacher,
            settings,
            targets,
            preprocess,
            images=lambda: calibration_images(bench, preprocess),
            work=work,
            progress=progress,
        )
        meter = ResumableMeter(measuring, work)
    with _saving(work):
        compressed = compress_with(settings, teacher, bench, meter=meter)
    if run is not None and fabric.is_global_zero:
        samples, pool = bench.batches.samples, bench.batches.pool
        facts = RunFacts(
            classes=files.classes,
            counts=tuple(files.counts_k.tolist()),
            preprocess=preprocess,
            random_weights=settings.weights == "random",
        )
        run.save(layout.FACTS, facts)
        if pool is None:
            pool = spread_of_pool(settings.ood, preprocess, follow_links=settings.follow_links, progress=progress)
        pixels, golden = golden_images(compressed.pruned.model, samples, pool, preprocess)
        _save_images(run, bench, pixels, preprocess)
        x = torch.from_numpy(preprocess.normalise(pixels[:2]))
        save_student(run, compressed.pruned, source, outputs=len(files.classes), x=x)
        write_content(run, samples, bench.batches.pool, folder=settings.samples)
        multiple = settings.channel_multiple or bench.channel_multiple
        speed = compare_speed(
            teacher,
            compressed.pruned,
            targets=targets,
            channel_multiple=multiple,
            preprocess=preprocess,
            kept_fp32=meter.kept_fp32 if meter else None,
            progress=progress,
        )
        record = _record(settings, compressed, fabric, agreement, multiple, speed, golden, seconds=work.seconds)
        _describe(run, settings)
        made = student_sha256(run)
        run.save(layout.COMPRESS, replace(record, contents=contents(), student_sha256=made))
        work.finish(made)


def _open_work(fabric: Fabric, saved: Path, inputs: Callable[[], Mapping[str, str]], began: float) -> SavedWork:
    """The work in the folder `saved`, known in all processes and written by the first."""
    work = SavedWork()
    if fabric.is_global_zero:
        work = SavedWork.open(saved, inputs, began=began)
        if not work.is_empty:
            _log.warning("an interrupted compression with the same settings and contents goes on.")
    if fabric.world_size > 1:
        work.values, work.states = fabric.broadcast((work.values, work.states))
    return work


@contextmanager
def _saving(work: SavedWork) -> Iterator[None]:
    """A block whose work survives an interruption, but no failure that would come again."""
    try:
        yield
    except (PruningError, TrainingError):
        work.remove()
        raise
    except BaseException:
        with shielded():
            work.flush()
        raise


def _save_code(
    fabric: Fabric, run: Run | None, source: TeacherSource, teacher: nn.Module, **facts: Any
) -> TeacherSource:
    """`save_code` in the first process, which has the run; its error is raised in all of them."""
    failed = None
    if run is not None and fabric.is_global_zero:
        try:
            source = save_code(run, source, teacher, **facts)
        except EdgeoeError as reason:
            failed = reason
    if failed := fabric.broadcast(failed):
        raise failed
    return source


def _save_images(run: Run, bench: Workbench, golden: NDArray[np.uint8], preprocess: Preprocess) -> None:
    """Save the images that later stages compare and calibrate graphs on."""
    run.save_tensors(layout.PROBE, golden=golden)
    calibration, others = calibration_images(bench, preprocess)
    run.save_tensors(layout.CALIBRATION, pixels=calibration, others=others)


def _describe(run: Run, settings: CompressSettings) -> None:
    run.describe(seed=settings.seed, versions=versions("torch", "lightning-fabric", "timm"))
    write_settings(run, settings)


def _record(
    settings: CompressSettings,
    compressed: Compressed,
    fabric: Fabric,
    agreement: TeacherAgreement | None,
    channel_multiple: int,
    speed: tuple[SpeedUp, ...],
    golden: GoldenImages,
    *,
    seconds: float,
) -> CompressRecord:
    pruned, fit = compressed.pruned, compressed.fit
    return CompressRecord(
        method=settings.method,
        oe=settings.oe,
        macs_kept=pruned.macs_kept,
        params_kept=pruned.params_kept,
        macs=round(pruned.macs * pruned.macs_kept),
        params=count_params(pruned.model),
        steps=fit.steps,
        best_step=fit.best_step,
        seconds=seconds,
        images_per_second=fit.images_per_second,
        seed=settings.seed,
        accelerator=str(fabric.device),
        precision=settings.precision,
        teacher_agreement=agreement,
        channel_multiple=channel_multiple,
        speed=speed,
        notes=tuple(filter(None, [pruned.note])),
        budget=compressed.search,
        max_drop=settings.max_drop,
        golden=golden,
    )
