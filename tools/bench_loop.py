"""The workbench's loop beside a bare PyTorch loop that does the same arithmetic: images a second, and the ratio.

Both run the same teacher forward, student forward, backward and optimiser step, in the same precision and
memory format, on batches of 64 + 64 images of 32x32. The bare loop has its batches ready in memory, draws
nothing, weighs nothing and watches nothing. They take turns; the ratio is quoted as the median over rounds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from history import add_record_option, record
from PIL import Image
from torch import Tensor, nn

from edgeoe.data.pool import load_pool
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.methods import TrainingTask, View
from edgeoe.methods.recoveries.distillation import distillation
from edgeoe.models.teacher import TeacherSource
from edgeoe.pruning.prune import prune_channels
from edgeoe.settings import CompressSettings, OESettings
from edgeoe.training.fabric import new_fabric
from edgeoe.training.workbench import Workbench

SAMPLES, OOD = 64, 64


def write_pictures(folder: Path) -> None:
    """100 samples in 10 classes and 1,000 OOD images, all noise: content does not change the arithmetic."""
    rng = np.random.default_rng(0)
    names = [f"few/{k}/{i}.png" for k in range(10) for i in range(10)] + [f"ood/{i}.png" for i in range(1000)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(folder / name)


def bare(teacher: nn.Module, student: nn.Module, fabric_precision: str, steps: int, device: torch.device) -> float:
    """Images a second of the loop that anybody would write."""
    teacher = copy.deepcopy(teacher).to(device).to(memory_format=torch.channels_last)
    student = copy.deepcopy(student).train().requires_grad_(True).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4, nesterov=True)
    x = torch.randn(SAMPLES + OOD, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(10, (SAMPLES + OOD,), device=device)
    dtype = torch.bfloat16 if fabric_precision == "bf16" else torch.float32
    start = perf_counter()
    for _ in range(steps):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                expected = teacher(x).float()
            logits = student(x).float()
        loss = (distillation(logits, expected, temperature=4.0) + F.cross_entropy(logits, y, reduction="none")).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * (SAMPLES + OOD) / (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="timm:resnet10t", help="as edgeoe compress takes it; random weights")
    parser.add_argument("--steps", type=int, default=60, help="of each loop in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--holdout", type=float, default=0.1, help="share of the pool for early stopping")
    parser.add_argument("--accelerator", default="auto")
    add_record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    teacher = TeacherSource.parse(options.teacher).build(10).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        settings = CompressSettings(
            teacher=options.teacher,
            samples=Path(folder, "few"),
            ood=Path(folder, "ood"),
            accelerator=options.accelerator,
            oe_settings=OESettings(holdout=options.holdout, patience=1000),
        )
        fabric = new_fabric(settings)
        preprocess = Preprocess(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
        samples = load_samples(find_samples(settings.samples), preprocess)
        pool = load_pool(Path(folder, "ood"), preprocess)
        student = prune_channels(teacher, shape=preprocess.shape, keep=0.5).model
        bench = Workbench(
            teacher,
            lambda: (samples, pool),
            shape=preprocess.shape,
            plan=settings.oe_settings,
            fabric=fabric,
            batch=SAMPLES,
        )

        def distance(student: View, teacher: View) -> Tensor:
            return distillation(student.logits, teacher.logits, temperature=4.0)

        task = TrainingTask(name="bench", distance=distance, lr=0.02, max_steps=options.steps, label_weight=1.0)
        precision = "bf16" if "bf16" in str(fabric._precision.precision) else "fp32"
        rates: dict[str, list[float]] = {"bare": [], "workbench": []}
        for round_ in range(options.rounds + 1):
            plain = bare(teacher, student, precision, options.steps, fabric.device)
            ours = bench.fit(copy.deepcopy(student), task).images_per_second
            if round_:  # the first warms up
                rates["bare"].append(plain)
                rates["workbench"].append(ours)
                print(f"bare {plain:8.0f}   workbench {ours:8.0f} images/s   ratio {ours / plain:.3f}", flush=True)
    ratios = [ours / plain for ours, plain in zip(rates["workbench"], rates["bare"], strict=True)]
    print(
        f"{options.teacher}, {fabric.device}, {precision}, {options.steps} steps a round: "
        f"median ratio {statistics.median(ratios):.3f} (n = {len(ratios)}, {min(ratios):.3f} to {max(ratios):.3f})"
    )
    medians = {f"{loop}_images_per_s": statistics.median(values) for loop, values in rates.items()}
    figures = {"ratio": statistics.median(ratios), **medians}
    record(__file__, options, figures, packages=["torch", "timm", "lightning-fabric"])


if __name__ == "__main__":
    main()
