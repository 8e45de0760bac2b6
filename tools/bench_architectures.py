"""The smallest member of every timm and torchvision family, with random weights, through the line: one CSV row each.

load -> inspect -> prune to 0.7 of the MACs -> forward -> rebuild from student/ -> export -> measure, where student and
teacher take turns in onnxruntime on one thread. `outcome` is "pass", "refused" (edgeoe said before any training that
nothing of it can be pruned) or the stage that failed. Each model runs in a process of its own, with a time limit; a
model that is in the CSV already is not run again. Which members are the smallest takes minutes to find and is kept in
families.json: {source: {family: [name, parameters]}}.

  tools/bench_architectures --quick                             # a handful of small ones: does it work at all?
  tools/bench_architectures --jobs 2                            # all
  tools/bench_architectures --baseline torch-pruning            # the same models pruned by torch-pruning alone
  tools/bench_architectures --channel-multiple 1                # not 8, as host-cpu has it; a CSV of its own
  tools/bench_architectures --only 'vision_transformer*'        # families, or names
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from architecture_families import QUICK, SOURCES, Model, is_wanted, read_families
from architecture_stages import Facts, work
from architecture_table import COLUMNS, append, figures_of, read_rows, summary
from history import add_record_option, record


def run(tool: str, model: Model, *, multiple: int, limit: float, folder: Path) -> Facts:
    """The row of one model: what its process said, up to where it came."""
    command = [sys.executable, __file__, "--channel-multiple", str(multiple), "--work", tool, *asdict(model).values()]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start, stopped = perf_counter(), ""
    with TemporaryDirectory(dir=folder) as place:
        try:
            done = subprocess.run([*command, place], capture_output=True, timeout=limit, env=alone)
            said = done.stdout
            if done.returncode:
                last = (done.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1][:200]
                stopped = f"exit code {done.returncode}: {last}"
        except subprocess.TimeoutExpired as late:
            said, stopped = late.stdout or b"", f"stopped after {limit:g} s"
    facts: Facts = {"stage": "start"}
    for line in said.decode(errors="replace").splitlines():
        if line.startswith('{"'):
            facts |= json.loads(line)
    facts |= {"outcome": facts["stage"], "seconds": round(perf_counter() - start, 1), **asdict(model)}
    if stopped:
        facts["reason"] = stopped
    return {column: facts.get(column, "") for column in COLUMNS}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-architectures"))
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES)
    parser.add_argument("--only", metavar="GLOB", default="*", help="families or names")
    parser.add_argument("--baseline", choices=["torch-pruning"], help="run this instead of edgeoe")
    parser.add_argument(
        "--channel-multiple", type=int, default=8, help="widths stay at multiples of it where the MACs can be met so"
    )
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, one thread each")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one model")
    parser.add_argument("--quick", action="store_true", help="a handful of small models")
    parser.add_argument(
        "--work", nargs=5, metavar=("TOOL", "SOURCE", "FAMILY", "NAME", "FOLDER"), help="one model alone"
    )
    add_record_option(parser)
    options = parser.parse_args()
    if options.quick:
        options.out = options.out / "quick"
    return options


def main() -> None:
    options = parse()
    if options.work:
        tool, source, family, name, folder = options.work
        work(tool, Model(source, family, name), options.channel_multiple, Path(folder))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        families = {source: {f: (name, 0) for f, name in own.items()} for source, own in QUICK.items()}
    else:
        families = read_families(options.out / "families.json")
    tool, multiple = options.baseline or "edgeoe", options.channel_multiple
    path = options.out / f"{tool}-by-{multiple}.csv"
    done = {(row["source"], row["name"]) for row in read_rows(path)}
    todo = [
        Model(source, family, name)
        for source in options.sources
        for family, (name, size) in families[source].items()
        if is_wanted(source, size) and (source, name) not in done
        if fnmatch(family, options.only) or fnmatch(name, options.only)
    ]
    print(f"{path.stem}: {len(todo)} models to run, {len(done)} there; {options.jobs} at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        coming = [
            pool.submit(run, tool, model, multiple=multiple, limit=options.limit, folder=options.out) for model in todo
        ]
        for future in as_completed(coming):
            row = future.result()
            append(path, row)
            facts = [f"{key} {row[key]}" for key in ("macs_kept", "exporter", "speedup", "seconds") if row[key]]
            print(f"{row['source']}:{row['name']}  {row['outcome']}  {'  '.join(facts)}  {row['reason']}", flush=True)
    tables = {file.stem: read_rows(file) for file in sorted(options.out.glob("*.csv"))}
    left_out = [f"{s} {f}" for s, own in families.items() for f, (_, size) in own.items() if not is_wanted(s, size)]
    text = summary(tables, left_out)
    (options.out / "summary.md").write_text(text)
    print(f"\n{text}\n{path}, summary.md beside it")
    packages = ["torch", "timm", "torchvision", "onnxruntime"]
    figures = figures_of(tables[path.stem])
    record(__file__, options, figures, packages=packages, without=["out", "jobs", "limit", "work"])


if __name__ == "__main__":
    main()
