"""Methods at the same measured latency: of each, the largest student that is so many times faster than the teacher.

The teacher runs in fp32, its students in the precision asked for, in turns on one thread of this machine, batch 1.
Methods that know no latency are tuned to it: before any training, their cut is searched for the largest student that
is fast enough. Each student is trained, exported, built, and tested on the pack's test images: one CSV row each, or
why there is none. A run that is in the CSV already is not repeated.

  tools/bench_budget.py --speedups 2 3 4.6 6 8
  tools/bench_budget.py --precision fp32 --speedups 1.5 2 2.5 --methods practise mir
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from budget_tuning import Rankings, Stopwatch, TunedCut, stopwatch
from history import add_record_option, record
from oe_runs import Spec, long_tail, recall_per_class, settings_of, summary
from oe_tables import append, read_rows

from edgeoe.backends import backend_of
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import ExportError, PruningError
from edgeoe.machine.environment import environment
from edgeoe.models.checkpoint import load_student
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.layout import TargetFiles
from edgeoe.settings import CompressSettings
from edgeoe.stages.build import build
from edgeoe.stages.compress import compress
from edgeoe.stages.export import export
from edgeoe.stages.precisions import variant_for
from edgeoe.targets.load import load_target

METHODS = {  # name -> the method as bench_oe takes it
    "practise": "practise",
    "mir-sensitivity": "mir:widths=sensitivity",
    "mir": "mir",
    "budget": "mir",
    "none": "none",
}
NOT_TUNED = {"budget", "none"}  # compress --speedup, and the teacher as it is
CLASSES = 10
TURNS = 300  # in which a finished artifact is timed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run, and what was measured of it; without a student, `note` says why.

    speedup: of the artifact over the fp32 teacher.
    top1, rare3: in percent, of the student in fp32 and of its artifact.
    steps: training steps at most.
    """

    method: str
    precision: str
    speedup_asked: float
    seed: int
    steps: int
    speedup: float | None = None
    ms: float | None = None
    macs_kept: float | None = None
    blocks_dropped: int | None = None
    channel_multiple: int | None = None
    top1: float | None = None
    rare3: float | None = None
    artifact_top1: float | None = None
    artifact_rare3: float | None = None
    best_step: int | None = None
    seconds_cut: float | None = None
    seconds_train: float | None = None
    note: str = ""


KEY = [field.name for field in fields(Row)][:5]


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEY)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOE_DATA"), help="the pack; or EDGEOE_DATA")
    parser.add_argument("--teacher", default="resnet56", choices=["resnet20", "resnet56"])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--speedups", nargs="+", type=float, default=[2, 3, 4.6, 6, 8])
    parser.add_argument("--precision", default="int8", choices=["fp32", "int8"], help="of the students' artifacts")
    parser.add_argument("--n", type=int, default=10, help="few samples a class on average; long-tailed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-budget"))
    add_record_option(parser)
    options = parser.parse_args()
    if options.data is None or not (options.data / "cifar10-jpeg").is_dir():
        sys.exit("bench_budget: set EDGEOE_DATA to the folder that holds cifar10-jpeg/, ood-tiny-imagenet/, teachers/.")
    options.accelerator = "cpu"
    return options


class Bench:
    """Makes rows, one after the other; a method ranks once for all speed-ups."""

    def __init__(self, options: argparse.Namespace, stopwatch: Stopwatch, folder: Path) -> None:
        self.options = options
        self.stopwatch = stopwatch
        self.folder = folder
        self.rankings = Rankings(folder)

    def run(self, row: Row) -> Row:
        """`row` with what was measured."""
        settings = settings_for(row, self.options)
        folder = self.folder / f"{row.method}-{row.speedup_asked:g}-seed{row.seed}"
        cut = TunedCut(settings, row.speedup_asked, self.stopwatch, self.rankings)
        tuned = row.method not in NOT_TUNED
        try:
            with patch("edgeoe.methods.load_cut", lambda _: lambda _: cut) if tuned else nullcontext():
                run = compress(settings, out=folder, targets=[self.stopwatch.target], overwrite=True)
        except PruningError as reason:
            return replace(row, note=str(reason))
        assert run is not None  # noqa: S101 - no torchrun here
        made = run.read(layout.COMPRESS)
        images = 2 * settings.batch * made.steps  # half of each batch is OOD images
        seconds_train = images / made.images_per_second if images else 0.0
        row = replace(
            row,
            macs_kept=round(made.macs_kept, 4),
            blocks_dropped=len(run.read(layout.PLAN).dropped),
            channel_multiple=cut.multiple if tuned else made.channel_multiple,
            best_step=made.best_step,
            seconds_cut=round(cut.seconds if tuned else made.seconds - seconds_train, 1),
            seconds_train=round(seconds_train, 1),
            **accuracy(load_student(run), row, self.options),
        )
        return self._with_artifact(row, run)

    def _with_artifact(self, row: Row, run: Run) -> Row:
        """`row` with pace and accuracy of the artifact, or with the reason why none can be exported."""
        target = self.stopwatch.target
        try:
            export(run, precisions=[target.precision], variants=[variant_for(target)])
        except ExportError as reason:
            return replace(row, note=str(reason))
        artifact = run.file(TargetFiles(target.name).artifact(build(run, target).file))
        with backend_of(target).open(artifact, target) as runner:
            pace = self.stopwatch.pace(runner, turns=TURNS)
            figures = accuracy(lambda x: torch.from_numpy(runner.infer(x.numpy())), row, self.options)
        return replace(
            row,
            speedup=round(pace.speedup, 3),
            ms=round(pace.ms, 4),
            artifact_top1=figures["top1"],
            artifact_rare3=figures["rare3"],
        )


def spec_of(row: Row, options: argparse.Namespace) -> Spec:
    return Spec(METHODS[row.method], "lt100", options.n, True, row.seed, 0.5, row.steps)


def settings_for(row: Row, options: argparse.Namespace) -> CompressSettings:
    settings: CompressSettings = settings_of(spec_of(row, options), options, Path())
    speedup = row.speedup_asked if row.method == "budget" else None
    return replace(settings, keep_macs=None, speedup=speedup, precision="fp32", processes=1)


def accuracy(network: Any, row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """Top-1 and mean recall of the three rarest classes, in percent.

    network: images (N, C, H, W) -> logits (N, K).
    """
    test = options.data / "cifar10-jpeg/test"
    classes = sorted(folder.name for folder in test.iterdir())
    recalls = recall_per_class(network, test, classes)
    figures = summary(recalls, long_tail(spec_of(row, options), options.data, classes))
    return {name: figures[name] for name in ("top1", "rare3")}


def main() -> None:
    options = parse()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = options.out / f"{options.teacher}-n{options.n}.csv"
    wanted = [
        Row(method=method, precision=options.precision, speedup_asked=speedup, seed=seed, steps=options.steps)
        for seed, speedup, method in product(options.seeds, options.speedups, options.methods)
    ]
    done = {key_of(row) for row in read_rows(table)}
    todo = [row for row in wanted if key_of(asdict(row)) not in done]
    print(f"{len(todo)} runs to make, {len(wanted) - len(todo)} there; on {environment()['cpu']}", flush=True)
    target = replace(load_target("host-cpu"), precision=options.precision)
    settings = settings_for(wanted[0], options)
    teacher = load_teacher(TeacherSource.parse(settings.teacher), settings.weights, classes=CLASSES)
    preprocess = Preprocess.resolve(None, settings.preprocess)
    folder = options.out / f"{options.teacher}-{options.precision}-n{options.n}"
    folder.mkdir(parents=True, exist_ok=True)
    with stopwatch(teacher, target, preprocess, folder) as watch:
        bench = Bench(options, watch, folder)
        for row in todo:
            finished = asdict(bench.run(row))
            append(table, finished)
            print("  ".join(f"{name} {value}" for name, value in finished.items() if value is not None), flush=True)
    record(__file__, options, figures(table, wanted), packages=["torch", "onnxruntime"], without=["out", "data"])


def figures(table: Path, wanted: list[Row]) -> dict[str, float]:
    """The figures of the history, of all rows of `table` that are wanted."""
    keys = {key_of(asdict(row)) for row in wanted}
    return {
        f"{', '.join(key_of(row))}: {name}": float(row[name])
        for row in read_rows(table)
        for name in ("speedup", "artifact_top1", "artifact_rare3")
        if key_of(row) in keys and row[name]
    }


if __name__ == "__main__":
    main()
