"""Methods with and without OE on the data pack: one CSV row a run, Markdown tables, plots.

A run that is in the CSV already is not made again, so the benchmark can be stopped and started at will, and
rows of other invocations stay. Accuracy is that of the student on the pack's test images, which no run sees.

  tools/bench_oe --quick                                        # minutes: does it work at all?
  tools/bench_oe --n 10 50 --seeds 0                            # the grid
  tools/bench_oe --ablation mir                                 # each part of OE alone, and each left out
  tools/bench_oe --methods mir:widths=measured --keep-macs 0.5 0.33 0.2 --kinds lt100 --n 10 --oe on
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

COLUMNS = ("top1", "rare3", "most_frequent", "worst")
OFF = {
    "complementary_labels": False,
    "class_weights": False,
    "ood_weight": 0.0,
    "in_compression": False,
    "regulariser": 0.0,
    "holdout": 0.0,
}
PARTS = {  # part of OE -> the settings that turn it on, beside OFF, and those that turn it off, beside the defaults
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

    @property
    def key(self) -> str:
        return json.dumps(asdict(self))


def settings_of(spec: Spec, options: argparse.Namespace, empty: Path) -> Any:
    from edgeoe.settings import CompressSettings, OESettings, PreprocessSettings

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
        device=options.device,
        preprocess=PreprocessSettings(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        oe_settings=OESettings(**oe),
        **{**given, **extra},
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
        "device": record.device,
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


def long_tail(spec: Spec, data: Path, classes: list[str]) -> list[int]:
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


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def spec_of(row: dict[str, str]) -> Spec:
    return Spec(
        row["method"],
        row["kind"],
        int(row["n"]),
        row["oe"] == "True",
        int(row["seed"]),
        float(row["keep_macs"]),
        int(row["steps"]),
    )


def append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def spread(values: Iterable[float]) -> str:
    values = list(values)
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def ablation_label(method: str, base: str) -> str | None:
    for part, (alone, without) in PARTS.items():
        if method == with_oe(base, {**OFF, **alone}):
            return f"{part} alone"
        if method == with_oe(base, without):
            return f"all but {part}"
    return None


def markdown(rows: list[dict[str, str]]) -> str:
    """A table of mean and standard deviation over seeds, and the tables of ablations."""
    groups: dict[tuple[Any, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in ("keep_macs", "steps", "method", "n", "kind", "oe"))].append(row)
    bases = sorted({row["method"].split(",oe.")[0].split(":oe.")[0] for row in rows})
    plain = {key: own for key, own in groups.items() if "oe." not in key[2]}
    lines = [
        "| keep | steps | method | N | samples | OE | top-1 % | rare-3 % | most frequent % | worst % | CPU s | n |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, own in sorted(
        plain.items(), key=lambda item: (*map(float, item[0][:2]), item[0][2], int(item[0][3]), *item[0][4:])
    ):
        keep, steps, method, n, kind, oe = key
        figures = " | ".join(spread(float(row[column]) for row in own) for column in COLUMNS)
        seconds = statistics.median(float(row["cpu_s"]) for row in own)
        state = "on" if oe == "True" else "off"
        lines.append(
            f"| {keep} | {steps} | {method} | {n} | {kind} | {state} | {figures} | {seconds:.0f} | {len(own)} |"
        )
    for base in bases:
        table = []
        for key, own in groups.items():
            label = ablation_label(key[2], base)
            if label:
                figures = " | ".join(spread(float(row[column]) for row in own) for column in COLUMNS)
                table.append(f"| {label} | {key[3]} | {figures} | {len(own)} |")
        if table:
            lines += ["", f"Ablation of OE with {base}, lt100:", ""]
            lines += [
                "| OE | N | top-1 % | rare-3 % | most frequent % | worst % | n |",
                "|---|---|---|---|---|---|---|",
            ]
            lines += sorted(table)
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, str]], folder: Path, keep: float, steps: int) -> None:
    """accuracy.png: top-1 against N. recall.png: recall of each class against its number of samples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [
        r
        for r in rows
        if "oe." not in r["method"] and r["kind"] != "none"
        if float(r["keep_macs"]) == keep and int(r["steps"]) == steps
    ]
    methods = sorted({row["method"] for row in rows})
    if not methods:
        return
    styles = {("balanced", "False"): ("C7", ":"), ("lt100", "False"): ("C3", "--"), ("lt100", "True"): ("C0", "-")}
    styles["balanced", "True"] = ("C2", "-.")
    figure, axes = plt.subplots(1, len(methods), figsize=(3.2 * len(methods), 3.4), sharey=True, squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        for (kind, oe), (colour, line) in styles.items():
            points = defaultdict(list)
            for row in rows:
                if (row["method"], row["kind"], row["oe"]) == (method, kind, oe):
                    points[int(row["n"])].append(float(row["top1"]))
            if points:
                x = sorted(points)
                y = [statistics.mean(points[n]) for n in x]
                axis.plot(
                    x, y, line, color=colour, marker="o", ms=4, label=f"{kind}, {'OE' if oe == 'True' else 'no OE'}"
                )
        axis.set(title=method.replace(",", "\n"), xlabel="samples a class, on average", xscale="log")
        axis.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("top-1, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "accuracy.png", dpi=120)
    figure, axes = plt.subplots(1, len(methods), figsize=(3.2 * len(methods), 3.4), sharey=True, squeeze=False)
    smallest = min(int(row["n"]) for row in rows)
    for axis, method in zip(axes[0], methods, strict=True):
        for oe, colour in (("False", "C3"), ("True", "C0")):
            points = defaultdict(list)
            for row in rows:
                if (row["method"], row["kind"], row["oe"], int(row["n"])) == (method, "lt100", oe, smallest):
                    for count, recall in zip(json.loads(row["counts"]), json.loads(row["recalls"]), strict=True):
                        points[count].append(recall)
            if points:
                x = sorted(points)
                axis.plot(
                    x,
                    [statistics.mean(points[c]) for c in x],
                    "o-",
                    ms=4,
                    color=colour,
                    label="OE" if oe == "True" else "no OE",
                )
        axis.set(title=method.replace(",", "\n"), xlabel=f"samples of the class (lt100, N={smallest})", xscale="log")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("recall, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "recall.png", dpi=120)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEOE_DATA"), help="the pack; or EDGEOE_DATA")
    parser.add_argument("--teacher", default="resnet56", choices=["resnet20", "resnet56"])
    parser.add_argument(
        "--methods", nargs="+", default=["kd", "fskd", "cd", "mir", "practise"], help="NAME[:OPTION=VALUE,...]"
    )
    parser.add_argument("--kinds", nargs="+", default=["balanced", "lt100"], choices=["balanced", "lt100", "none"])
    parser.add_argument("--n", nargs="+", type=int, default=[10, 20, 50, 100], help="few samples a class on average")
    parser.add_argument("--oe", nargs="+", default=["off", "on"], choices=["off", "on"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--keep-macs", nargs="+", type=float, default=[0.5])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--ablation", metavar="METHOD", help="instead of the grid: OE's parts one by one, on lt100")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=cores, help="runs at a time")
    parser.add_argument("--threads", type=int, help="of each run; default: cores / jobs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-oe"))
    parser.add_argument("--quick", action="store_true", help="resnet20, 10 steps, seed 0: does everything run?")
    options = parser.parse_args()
    if options.data is None or not (options.data / "cifar10-jpeg").is_dir():
        sys.exit("bench_oe: set EDGEOE_DATA to the folder that holds cifar10-jpeg/, ood-tiny-imagenet/ and teachers/.")
    if options.quick:
        options.teacher, options.steps, options.seeds, options.n = "resnet20", 10, [0], [10]
        options.out = options.out / "quick"
    options.threads = options.threads or max(1, cores // options.jobs)
    return options


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / f"{options.teacher}.csv"
    done = {spec_of(row) for row in read_rows(table)}
    todo = [spec for spec in dict.fromkeys(wanted(options)) if spec not in done]
    print(
        f"{len(todo)} runs to make, {len(done)} there; {options.jobs} at a time, {options.threads} thread(s) each",
        flush=True,
    )
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    failed = 0
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        coming = {pool.submit(run, spec, options): spec for spec in todo}
        for future in as_completed(coming):
            spec = coming[future]
            try:
                row = future.result()
            except Exception as reason:
                failed += 1
                print(f"FAILED {spec}: {type(reason).__name__}: {reason}", flush=True)
                continue
            append(table, row)
            figures = "  ".join(f"{name} {row[name]:5.1f}" for name in COLUMNS)
            oe = "OE" if spec.oe else "--"
            print(
                f"{spec.method:10} {spec.kind} n{spec.n} s{spec.seed} keep {spec.keep_macs} {oe}: {figures}  "
                f"wall {row['wall_s']:.0f} s  cpu {row['cpu_s']:.0f} s",
                flush=True,
            )
    rows = read_rows(table)
    (options.out / f"{options.teacher}.md").write_text(markdown(rows))
    plot(rows, options.out, options.keep_macs[0], options.steps)
    print(f"\n{markdown(rows)}\n{table}, {options.teacher}.md, accuracy.png and recall.png beside it")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
