"""The demo: a teacher, a student without OE and one with, from images to verdicts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_model

from edgeoe.compute import new_fabric
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.demo import network
from edgeoe.demo.data import write_images
from edgeoe.errors import RunError
from edgeoe.methods import Stage
from edgeoe.pipeline import Judged, deploy
from edgeoe.progress import Progress, silent
from edgeoe.records import Measurement, Verdict
from edgeoe.run import Run
from edgeoe.settings import CompressSettings, OESettings, PreprocessSettings
from edgeoe.targets import load_target
from edgeoe.workbench import Workbench

__all__ = ["DemoRow", "run_demo"]

_PREPROCESS = PreprocessSettings(size=(16, 16), mean=(0.3,), std=(0.35,), interpolation="bilinear")
_TEACHER_STEPS, _STUDENT_STEPS = 250, 250


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One network of the demo: its run, and what was measured of its artifact."""

    name: str
    run: Run
    measurement: Measurement
    verdict: Verdict


def run_demo(out: Path, *, seed: int = 0, overwrite: bool = False, progress: Progress = silent) -> Iterator[DemoRow]:
    """Train a teacher on digits, compress it to half its MACs without and with OE, and deploy all three.

    out: a folder that does not exist yet, or with `overwrite` an earlier demo. Yields each network's row as
    it is known; if it is cut short, `out` is removed. Raises RunError if `out` can't be used.
    """
    if out.exists():
        if not (out / "images" / "few.txt").is_file():
            raise RunError(f"{out}: exists and is no demo. Choose another --out.")
        if not overwrite:
            raise RunError(f"{out}: already holds a demo. Choose another --out, or pass --overwrite.")
        shutil.rmtree(out)
    try:
        yield from _demo(out, seed=seed, progress=progress)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _demo(out: Path, *, seed: int, progress: Progress) -> Iterator[DemoRow]:
    folders = write_images(out / "images", seed=seed, progress=progress)
    file = out / "network.py"
    shutil.copyfile(Path(network.__file__), file)
    base = CompressSettings(
        teacher=f"{file}:digits_net",
        weights=out / "teacher.safetensors",
        samples=folders.train,
        list=folders.few,
        ood=folders.ood,
        channel_multiple=8,  # a CPU computes channels by eights
        steps=_STUDENT_STEPS,
        seed=seed,
        flip=False,
        crop_padding=1,
        preprocess=_PREPROCESS,
        # Photographs are another world than digits, and so short a fit has nothing to stop early.
        oe_settings=OESettings(separate_statistics=True, holdout=0.0),
    )
    _train_teacher(base, progress)
    variants = {
        "teacher": replace(base, method="none", keep_macs=1.0, oe=False),
        "student without OE": replace(base, oe=False),
        "student with OE": base,
    }
    for name, settings in variants.items():
        run = out / name.replace(" ", "-").lower()
        for one in deploy(settings, out=run, targets=[load_target("host-cpu")], test=folders.test, progress=progress):
            if isinstance(one, Judged):  # host-cpu is every machine
                yield DemoRow(name, Run(run), one.measurement, one.verdict)


def _train_teacher(settings: CompressSettings, progress: Progress) -> None:
    """Fit the network to all training digits, in the loop that the students are fitted in."""
    torch.manual_seed(settings.seed)
    fabric = new_fabric(settings)
    preprocess = Preprocess.resolve(None, settings.preprocess)
    samples = load_samples(find_samples(settings.samples), preprocess, progress=progress)
    teacher = network.digits_net()
    bench = Workbench(
        teacher.eval(),
        samples,
        None,
        plan=None,
        fabric=fabric,
        batch=128,
        padding=1,
        flip=False,
        progress=progress,
    )

    stage = Stage(
        name="Training a teacher",
        distance=lambda student, teacher: torch.zeros_like(student.logits[:, 0]),  # noqa: ARG005 - labels alone
        label_weight=1.0,
        lr=0.1,
        max_steps=_TEACHER_STEPS,
    )
    bench.fit(teacher, stage)
    weights = settings.weights
    assert isinstance(weights, Path)  # noqa: S101 - run_demo sets it
    save_model(teacher, str(weights))
