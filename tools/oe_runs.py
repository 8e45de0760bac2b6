"""The runs of the OE benchmark: their grid and ablations, and one run as a row of the CSV."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

OFF = {
    "complementary_labels": False,
    "class_weights": False,
    "ood_weight": 0.0,
    "in_compression": False,
    "regulariser": 0.0,
    "holdout": 0.0,
}
PARTS: dict[
    str, tuple[dict[str, Any], dict[str, Any]]
] = {  # part of OE -> the settings that turn it on, beside OFF, and those that turn it off, beside the defaults
    "complementary labels": ({"complementary_labels": True, "regulariser": 0.01}, {"complementary_labels": False}),
    "class weights": ({"class_weights": True}, {"class_weights": False}),
    "joint distillation": ({"ood_weight": 1.0}, {"ood_weight": 0.0}),
    "OOD in compression": (
        {"in_compression": True, "ood_weight": 1.0, "in_fine_tuning": False},
        {"in_compression": False},
    ),
    "OOD in fine-tuning": ({"in_fine_tuning": True}, {"in_fine_tuning": False}),
    "regulariser": ({"regulariser": 0.01}, {"regulariser": 0.0}),
    "early stopping": ({"holdout": 0.1, "in_fine_tuning": False}, {"holdout": 0.0}),
}


@dataclass(frozen=True)
class Spec:
    """One run. method: a name, or NAME:OPTION=VALUE,oe.KEY=VALUE,... kind "none" has no labelled sample."""

    method: str
    kind: str
    n: int
    oe: bool
    seed: int
    keep_macs: float
    steps: int


def wanted(options: argparse.Namespace) -> Iterator[Spec]:
    """The runs that the command line asks for."""
    common = {"keep_macs": options.keep_macs[0], "steps": options.steps}
    if options.ablation:
        base = options.ablation
        for n, seed in product(options.n, options.seeds):
            place = {"kind": "lt100", "n": n, "seed": seed, **common}
            yield Spec(method=base, oe=False, **place)
            yield Spec(method=base, oe=True, **place)
            for alone, without in PARTS.values():
                yield Spec(method=with_oe(base, {**OFF, **alone}), oe=True, **place)
                yield Spec(method=with_oe(base, without), oe=True, **place)
        return
    grid = product(options.seeds, options.n, options.kinds, options.keep_macs, options.methods, options.oe)
    for seed, n, kind, keep, method, oe in grid:
        if not (kind == "none" and oe == "off"):
            yield Spec(method, kind, n, oe == "on", seed, keep, options.steps)


def with_oe(method: str, changes: dict[str, Any]) -> str:
    items = ",".join(f"oe.{key}={json.dumps(value)}" for key, value in changes.items())
    return f"{method}{',' if ':' in method else ':'}{items}"


def settings_of(spec: Spec, options: argparse.Namespace, empty: Path) -> Any:
    from edgeoe.settings import CompressSettings, OESettings, PreprocessSettings, setting_names

    name, _, rest = spec.method.partition(":")
    extra: dict[str, Any] = {}
    oe: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        table = oe if key.startswith("oe.") else extra
        table[key.removeprefix("oe.")] = json.loads(value) if value[0] in "-0123456789tf" else value
    data: Path = options.data
    split = data / f"cifar10-jpeg/splits/{spec.kind}-n{spec.n}-seed{spec.seed}.txt"
    given = {"method": name, "oe": spec.oe, "seed": spec.seed, "keep_macs": spec.keep_macs, "steps": spec.steps}
    return CompressSettings(
        teacher=f"{data}/teachers/cifar_resnet.py:{options.teacher}",
        weights=data / f"teachers/{options.teacher}-cifar10-jpeg.safetensors",
        samples=data / "cifar10-jpeg/train",
        list=empty if spec.kind == "none" else split,
        ood=data / "ood-tiny-imagenet",
        accelerator=options.accelerator,
        preprocess=PreprocessSettings(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        oe_settings=OESettings(**oe),
        options={name: value for name, value in extra.items() if name not in setting_names()},
        **{**given, **{name: value for name, value in extra.items() if name in setting_names()}},
    )


def run(spec: Spec, options: argparse.Namespace) -> dict[str, Any]:
    """Compress as `spec` says, and what came of it as a row of the CSV."""
    from resource import RUSAGE_SELF, getrusage
    from time import perf_counter

    import torch

    from edgeoe.models.checkpoint import load_student
    from edgeoe.run import layout
    from edgeoe.stages.compress import compress

    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty.txt")
        empty.touch()
        used, start = getrusage(RUSAGE_SELF), perf_counter()
        made = compress(settings_of(spec, options, empty), out=Path(folder, "run"))
        wall, now = perf_counter() - start, getrusage(RUSAGE_SELF)
        assert made is not None  # noqa: S101 - no torchrun here
        record, facts = made.read(layout.COMPRESS), made.read(layout.FACTS)
        recalls = recall_per_class(load_student(made), options.data / "cifar10-jpeg/test", facts.classes)
    return {
        **asdict(spec),
        **summary(recalls, long_tail(spec, options.data, facts.classes)),
        "recalls": json.dumps([round(100 * value, 2) for value in recalls]),
        "counts": json.dumps(facts.counts),
        "macs_kept": round(record.macs_kept, 4),
        "params_kept": round(record.params_kept, 4),
        "best_step": record.best_step,
        "wall_s": round(wall, 1),
        "cpu_s": round(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, 1),
        "images_per_second": round(record.images_per_second, 1),
        "peak_gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else "",
        "accelerator": record.accelerator,
        "threads": options.threads,
    }


def recall_per_class(student: Any, folder: Path, classes: Sequence[str]) -> list[float]:
    import torch

    from edgeoe.data.preprocess import Preprocess
    from edgeoe.data.samples import find_test, load_samples

    preprocess = Preprocess(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    test = load_samples(find_test(folder, classes), preprocess)
    labels, guesses = torch.from_numpy(test.labels), []
    with torch.no_grad():
        for rows in torch.arange(len(labels)).split(250):
            x = torch.from_numpy(preprocess.normalise(test.images.rows(rows.numpy())))
            guesses.append(student(x).argmax(1))
    right = (torch.cat(guesses) == labels).double()
    return [float(right[labels == k].mean()) for k in range(len(classes))]  # as many test images of each class


def long_tail(spec: Spec, data: Path, classes: Sequence[str]) -> list[int]:
    """Samples a class in the long-tailed split of the same size and seed, so that every row has the same rare ones."""
    lines = (data / f"cifar10-jpeg/splits/lt100-n{spec.n}-seed{spec.seed}.txt").read_text().split()
    return [sum(line.startswith(f"{name}/") for line in lines) for name in classes]


def summary(recalls: list[float], counts: list[int]) -> dict[str, float]:
    """Percent: mean recall (there are as many test images of each class), of the rarest three, ..."""
    order = sorted(range(len(counts)), key=lambda k: counts[k])
    values = {
        "top1": statistics.mean(recalls),
        "rare3": statistics.mean(recalls[k] for k in order[:3]),
        "most_frequent": recalls[order[-1]],
        "worst": min(recalls),
    }
    return {name: round(100 * value, 2) for name, value in values.items()}
