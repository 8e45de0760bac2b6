"""Methods with and without OE on the data pack: one CSV row a run, Markdown tables, plots.

A run that is in the CSV already is not made again, so the benchmark can be stopped and started at will, and
rows of other invocations stay. Accuracy is that of the student on the pack's test images, which no run sees.

  tools/bench_oe --quick                                        # minutes: does it work at all?
  tools/bench_oe --n 10 50 --seeds 0                            # the grid
  tools/bench_oe --ablation mir                                 # each part of OE alone, and each left out
  tools/bench_oe --methods mir:widths=sensitivity --keep-macs 0.5 0.33 0.2 --kinds lt100 --n 10 --oe on
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from history import add_record_option, record
from oe_plots import plot
from oe_runs import run, wanted
from oe_tables import COLUMNS, append, markdown, means, read_rows, spec_of


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
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--jobs", type=int, default=cores, help="runs at a time")
    parser.add_argument("--threads", type=int, help="of each run; default: cores / jobs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-oe"))
    parser.add_argument("--quick", action="store_true", help="resnet20, 10 steps, seed 0: does everything run?")
    add_record_option(parser)
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
    if failed:
        sys.exit(1)
    chosen = set(wanted(options))
    accuracies = means(row for row in rows if spec_of(row) in chosen)
    packages = ["torch", "timm", "lightning-fabric"]
    record(__file__, options, accuracies, packages=packages, without=["out", "data", "jobs", "threads"])


if __name__ == "__main__":
    main()
