"""Networks of many architectures through the whole line, with random weights: one CSV row each.

The smallest member of every timm and torchvision family, and networks from files of factories. Each goes through
inspect, compress (a few training steps, 0.7 of the MACs, OE), and in a fresh process export (fp32 and int8), build and
validate; then student and teacher take turns in onnxruntime on one thread. `outcome` is "pass", "refused" (an error
message of edgeoe, exit code 2) or "failed" (anything else: a traceback, a crash, too much time); `stage` says where.
Where the message of mir names `--method kd`, that is tried. A network that is in the CSV already, with this commit, is
not run again. Which members are the smallest takes minutes to find and is kept in families.json: {source: {family:
[name, parameters]}}.

  tools/bench_architectures --quick                             # a handful of small ones: does it work at all?
  tools/bench_architectures --jobs 2                            # all of timm and torchvision
  tools/bench_architectures --outside --sources                 # tools/outside_networks.py alone
  tools/bench_architectures --networks my_networks.py           # a file with a table FACTORIES, too
  tools/bench_architectures --baseline torch-pruning            # the same networks pruned by torch-pruning alone
  tools/bench_architectures --channel-multiple 1                # not 8, as host-cpu has it; a CSV of its own
  tools/bench_architectures --only 'vision_transformer*'        # families, or names
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from architecture_families import QUICK, SOURCES, Model, is_wanted, read_families
from architecture_networks import networks_in, task_of
from architecture_table import COLUMNS, append, figures_of, read_rows, summary
from history import add_record_option, commit, record

FACTS, OUTSIDE = "facts.jsonl", Path(__file__).with_name("outside_networks.py")
PROCESSES = {"edgeoe": 2, "torch-pruning": 1}


def run(tool: str, model: Model, *, multiple: int, limit: float, folder: Path, commit: str = "") -> dict[str, Any]:
    """The row of one network: what its processes noted, up to where they came.

    multiple: of widths; 0 is the target's.
    limit: seconds for all of it.
    folder: where it works, and leaves nothing.
    """
    start, stopped = perf_counter(), ""
    facts: dict[str, Any] = {"stage": "start"}
    with TemporaryDirectory(dir=folder) as name:
        place = Path(name).resolve()
        task_of(model, place, multiple=multiple).save()
        for phase in range(PROCESSES[tool]):
            stopped = _stopped(tool, phase, place, start=start, limit=limit)
            for line in (place / FACTS).read_text().splitlines() if (place / FACTS).exists() else ():
                _merge(facts, json.loads(line))
            (place / FACTS).unlink(missing_ok=True)
            if stopped or "outcome" in facts:
                break
        else:
            facts["outcome"] = facts["stage"]
    if stopped:
        facts |= {"outcome": "failed", "reason": stopped}
    facts["reason"] = _one_line(facts.get("reason", ""), place)
    facts |= {"seconds": round(perf_counter() - start, 1), "commit": commit, **asdict(model)}
    return {column: facts.get(column, "") for column in COLUMNS}


def _merge(facts: dict[str, Any], new: dict[str, Any]) -> None:
    """Add `new` to `facts`: remarks are joined, processor time is added up, the peak is the highest."""
    peak = max(facts.get("peak_mb", 0), new.get("peak_mb", 0))
    cpu_seconds = facts.get("cpu_seconds", 0.0) + new.get("cpu_seconds", 0.0)
    earlier, remark = facts.get("reason", ""), new.get("reason", "")
    facts |= new
    facts |= {"peak_mb": peak, "cpu_seconds": round(cpu_seconds, 1)}
    facts["reason"] = remark if "outcome" in new else " ".join(filter(None, [earlier, remark]))


def _stopped(tool: str, phase: int, folder: Path, *, start: float, limit: float) -> str:
    """Run one process of a network. Returns why it did not come to its end; empty if it did.

    start: of the network, which has `limit` seconds.
    """
    remaining = max(0.1, start + limit - perf_counter())
    command = [sys.executable, __file__, "--work", tool, str(phase), str(folder)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    alone |= {"TMPDIR": str(folder)}
    try:
        done = subprocess.run(command, capture_output=True, timeout=remaining, env=alone, cwd=folder)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:g} s"
    if not done.returncode:
        return ""
    last = (done.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
    return f"exit code {done.returncode}: {last}"


def _one_line(text: str, folder: Path) -> str:
    return " ".join(text.replace(f"{folder}{os.sep}", "").split())[:500]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-architectures"))
    parser.add_argument(
        "--sources",
        nargs="*",
        default=list(SOURCES),
        choices=SOURCES,
        help="published networks; none if nothing follows",
    )
    parser.add_argument("--networks", nargs="+", type=Path, default=[], metavar="FILE", help="files of factories")
    parser.add_argument(
        "--outside", action="store_true", help="tools/outside_networks.py, too; its packages are installed apart"
    )
    parser.add_argument("--only", metavar="GLOB", default="*", help="families, or names")
    parser.add_argument("--baseline", choices=["torch-pruning"], help="run this instead of edgeoe")
    parser.add_argument(
        "--channel-multiple", type=int, default=0, help="widths stay at multiples of it; default: as host-cpu has it"
    )
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time, one thread each")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one network")
    parser.add_argument("--quick", action="store_true", help="a handful of small networks")
    parser.add_argument("--keep", action="store_true", help="keep rows of other commits, too")
    parser.add_argument("--work", nargs=3, metavar=("TOOL", "PHASE", "FOLDER"), help="one process of one network")
    add_record_option(parser)
    options = parser.parse_args()
    options.networks += [OUTSIDE] if options.outside else []
    if options.quick:
        options.out = options.out / "quick"
    return options


def models_of(options: argparse.Namespace) -> tuple[list[Model], list[str]]:
    """The networks that `options` ask for, and the families that are left out for their size."""
    published = set(options.sources) & set(SOURCES)
    families: dict[str, dict[str, tuple[str, int]]]
    if options.quick:
        families = {source: {f: (name, 0) for f, name in own.items()} for source, own in QUICK.items()}
    else:
        families = read_families(options.out / "families.json") if published else {}
    members = [(s, f, name, size) for s in families if s in published for f, (name, size) in families[s].items()]
    models = [Model(source, family, name) for source, family, name, size in members if is_wanted(source, size)]
    left_out = [f"{source} {family}" for source, family, _, size in members if not is_wanted(source, size)]
    models += [model for path in options.networks for model in networks_in(path)]
    wanted = [one for one in models if fnmatch(one.family, options.only) or fnmatch(one.name, options.only)]
    return wanted, left_out


def rows_of(options: argparse.Namespace, path: Path, todo: list[Model], now: str) -> Iterator[dict[str, Any]]:
    """Run `todo`, and yield each row when it is there."""
    tool, multiple = options.baseline or "edgeoe", options.channel_multiple
    with ThreadPoolExecutor(options.jobs) as pool:
        coming = [
            pool.submit(
                run, tool, model, multiple=multiple, limit=options.limit, folder=options.out.resolve(), commit=now
            )
            for model in todo
        ]
        for future in as_completed(coming):
            row = future.result()
            append(path, row)
            yield row


def main() -> None:
    options = parse()
    if options.work:
        from architecture_stages import work

        tool, phase, folder = options.work
        work(tool, int(phase), Path(folder))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    models, left_out = models_of(options)
    by = f"-by-{options.channel_multiple}" if options.channel_multiple else ""
    path = options.out / f"{options.baseline or 'edgeoe'}{by}.csv"
    now = commit(Path(__file__).parent)
    kept = {(row["source"], row["name"]) for row in read_rows(path) if options.keep or row["commit"] == now}
    kept = kept if options.keep or not now.endswith("-dirty") else set()
    todo = [model for model in models if (model.source, model.name) not in kept]
    print(f"{path.stem}: {len(todo)} networks to run, {len(models) - len(todo)} there; {options.jobs} at a time")
    for row in rows_of(options, path, todo, now):
        where = "" if row["outcome"] == "pass" else f" in {row['stage']}"
        facts = [f"{key} {row[key]}" for key in ("macs_kept", "exporter", "speedup", "seconds") if row[key]]
        line = f"{row['source']}:{row['name']}  {row['outcome']}{where}  {'  '.join(facts)}  {row['reason']}"
        print(line, flush=True)
    tables = {file.stem: read_rows(file) for file in sorted(options.out.glob("*.csv"))}
    text = summary(tables, left_out)
    (options.out / "summary.md").write_text(text)
    print(f"\n{text}\n{path}, summary.md beside it")
    packages = ["torch", "timm", "torchvision", "onnxruntime"]
    figures = figures_of(tables.get(path.stem, []))
    record(__file__, options, figures, packages=packages, without=["out", "jobs", "limit", "work", "keep"])


if __name__ == "__main__":
    main()
