"""What the integer programme brings over a greedy choice, and the ranking of channels over L1, before any training.

For each speed-up of resnet56 of the data pack in the precision asked for: of the cut that the integer programme
chooses and of a greedy one (the step of least loss for each millisecond saved, again and again), with channels in the
order of the optimal brain surgeon and by L1 norm, the loss as added up, and the change of features and logits of the
repaired student. All by the latency table, so that every cut saves as much; nothing is measured but the table.

  EDGEOE_DATA=/path/to/pack tools/bench_allocation.py --speedups 3 4.6 6
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn
from unittest.mock import patch

from history import add_record_option, record
from torch import nn

from edgeoe.methods import Bench
from edgeoe.methods.cuts import budget
from edgeoe.methods.cuts.losses import Reference, measure_losses, thinned
from edgeoe.methods.cuts.parts import Parts, Taken
from edgeoe.methods.cuts.stock import Stock
from edgeoe.methods.meter import Meter
from edgeoe.models.repair import repair
from edgeoe.models.structure import Structure, read_structure
from edgeoe.pruning.programme import Programme
from edgeoe.settings import CompressSettings, PreprocessSettings, weights_from_text
from edgeoe.stages.compress import compress
from edgeoe.targets.load import load_target

CIFAR = PreprocessSettings(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
REPAIRED = 500  # images that a student is repaired with


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOE_DATA"), help="the pack; or EDGEOE_DATA")
    parser.add_argument(
        "--speedups", nargs="+", type=float, default=[1.2, 1.8, 2.4], help="over the artifact's teacher"
    )
    parser.add_argument("--precision", default="int8", choices=["fp32", "int8"])
    add_record_option(parser)
    options = parser.parse_args()
    if options.data is None or not (options.data / "cifar10-jpeg").is_dir():
        sys.exit("bench_allocation: set EDGEOE_DATA to the folder that holds cifar10-jpeg/ and teachers/.")
    return options


class FinishedError(Exception):
    """All cuts are compared; nothing is to be trained."""


@dataclass
class Comparison:
    """Takes the place of the search for a cut: compares choices and rankings instead."""

    speedups: list[float]
    figures: dict[str, float]

    def plan(self, parts: Parts, structure: Structure, bench: Bench, meter: Meter) -> NoReturn:
        stock = Stock.measure(parts.teacher, parts, meter)
        teacher = copy.deepcopy(parts.teacher).to(bench.device)
        rows = bench.rows()
        losses = measure_losses(teacher, parts, rows, progress=bench.progress)
        programme = Programme(parts.choices(losses.options), (stock.resources[stock.drawn[0]],))
        repairing = thinned(rows, REPAIRED)
        reference = Reference(teacher, structure, repairing)
        for speedup in self.speedups:
            need = stock.totals[0] * (1 - 1 / speedup)
            for choice, taken in (("programme", programme.least_loss([need])), ("greedy", greedy(programme, need))):
                if taken is None:
                    print(f"{speedup:g} times, {choice}: out of reach", flush=True)
                    continue
                self.show(f"{speedup:g} times, {choice}: loss by the table", programme.loss(taken))
                for ranking, orders in (("surgeon", losses.orders), ("l1", None)):
                    change = repaired_change(parts, taken, orders, teacher, structure, reference, bench)
                    self.show(f"{speedup:g} times, {choice}, {ranking}: change after repair", change)
        raise FinishedError

    def show(self, name: str, figure: float) -> None:
        self.figures[name] = round(figure, 4)
        print(f"{name} {figure:.4f}", flush=True)


def repaired_change(
    parts: Parts,
    taken: Taken,
    orders: Mapping[str, tuple[int, ...]] | None,
    teacher: nn.Module,
    structure: Structure,
    reference: Reference,
    bench: Bench,
) -> float:
    pruned = parts.student(taken, orders=orders)
    structures = structure, read_structure(pruned.model, bench.shape)
    repair(pruned, teacher, structures, thinned(bench.rows(), REPAIRED), progress=bench.progress)
    return reference.change(pruned.model)


def greedy(programme: Programme, need: float) -> Taken | None:
    """The cut that ends a walk of steps, each of which loses least for what it saves; None if the walk ends before."""
    taken: dict[str, int] = {}
    while (saved := programme.saved(taken)[0]) < need:
        steps = []
        for choice in programme.choices:
            for option in range(taken.get(choice.name, 0) + 1, len(choice.options)):
                if taken.get(choice.within):
                    continue
                after = without_parts({**taken, choice.name: option}, programme)
                gain = programme.saved(after)[0] - saved
                if gain > 0:
                    steps.append(((programme.loss(after) - programme.loss(taken)) / gain, after))
        if not steps:
            return None
        taken = min(steps, key=lambda step: step[0])[1]
    return taken


def without_parts(taken: dict[str, int], programme: Programme) -> dict[str, int]:
    """`taken` without groups that lie in a block that it drops."""
    within = {choice.name: choice.within for choice in programme.choices}
    return {name: option for name, option in taken.items() if not taken.get(within[name])}


def main() -> None:
    options = parse()
    data: Path = options.data
    settings = CompressSettings(
        teacher=str(data / "teachers/cifar_resnet.py:resnet56"),
        weights=weights_from_text(str(data / "teachers/resnet56-cifar10-jpeg.safetensors")),
        samples=data / "cifar10-jpeg/train",
        list=data / "cifar10-jpeg/splits/lt100-n10-seed0.txt",
        ood=data / "ood-tiny-imagenet",
        speedup=100.0,
        preprocess=CIFAR,
        accelerator="cpu",
    )
    comparison = Comparison(options.speedups, {})
    target = replace(load_target("host-cpu"), precision=options.precision)
    with (
        TemporaryDirectory() as folder,
        patch.object(budget.BudgetCut, "_plan", lambda _, *seen: comparison.plan(*seen)),
    ):
        try:
            compress(settings, out=Path(folder, "run"), targets=[target])
        except FinishedError:
            record(__file__, options, comparison.figures, packages=["torch", "onnxruntime"], without=["data"])


if __name__ == "__main__":
    main()
