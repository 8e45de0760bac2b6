"""How often the gate cries wolf, and what it misses, on this machine as it is.

Networks are chains of equal convolutions, so that one with 105 instead of 100 has 5 % more arithmetic of the same
kind. A pair is compared by `edgeoe compare`, and by what people do today, on one fresh process each, a second of
calls: 5 % on the mean, 5 % on the median (pytest-benchmark's median:5%), and a Mann-Whitney test of the calls at
0.05. Pairs of all kinds take turns, without and with a load: another process that computes in bursts of 0.1 to 1 s.

    tools/bench_gate.py --check                    the ratios that the networks really have, by CPU time
    tools/bench_gate.py --out gate.jsonl --count 0=200 --count 5=40 --count 10=40
    tools/bench_gate.py --out gate.jsonl           go on where it was left, and show the table
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from history import add_record_option, record
from onnx import TensorProto, helper, numpy_helper

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.measure.process import Process
from edgeoe.measure.statistics import proportion
from edgeoe.stages.compare import GateSettings, compare
from edgeoe.stages.sides import Side
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

LAYERS, CHANNELS, SIDE = 100, 16, 12
BURSTS = """
import os, random, time
draw, parent = random.Random(0), os.getppid()
while os.getppid() == parent:
    until = time.perf_counter() + draw.uniform(0.1, 1.0)
    while time.perf_counter() < until:
        sum(range(1000))
    time.sleep(draw.uniform(0.1, 1.0))
"""


def write_chain(path: Path, layers: int) -> Path:
    """A network of `layers` equal 3x3 convolutions, each with a ReLU, and a mean at the end.

    They share one weight: with weights of their own, a longer chain also finds the caches fuller, and 5 % more layers
    take 6 % longer.
    """
    drawn = np.random.default_rng(0).normal(0, 1 / np.sqrt(9 * CHANNELS), (CHANNELS, CHANNELS, 3, 3))
    weight = numpy_helper.from_array(drawn.astype(np.float32), "weight")
    nodes, tensor = [], "images"
    for number in range(layers):
        nodes.append(helper.make_node("Conv", [tensor, "weight"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        tensor = f"r{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["logits"]))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", CHANNELS, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CHANNELS])
    graph = helper.make_graph(nodes, "chain", [images], [logits], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@contextlib.contextmanager
def load(on: bool) -> Iterator[None]:
    """A process that computes in bursts."""
    if not on:
        yield
        return
    child = subprocess.Popen([sys.executable, "-c", BURSTS])
    try:
        yield
    finally:
        child.kill()
        child.wait()


def by_compare(base: Path, new: Path, target: Target) -> dict[str, Any]:
    sides = (Side(name="base", artifact=base, result=None), Side(name="new", artifact=new, result=None))
    (made,) = compare([(target, *sides)], GateSettings())
    p50, p99 = made.latency
    return {
        "p50": p50.change,
        "p99": p99.change,
        "outcome": made.outcome,
        "ratio": p50.ratio.value,
        "low": p50.ratio.low,
        "high": p50.ratio.high,
        "p_value": p50.p_value,
        "rounds": p50.n,
        "seconds": made.seconds,
    }


def by_habit(base: Path, new: Path, target: Target) -> dict[str, Any]:
    """One run each, one after the other."""
    from scipy.stats import mannwhitneyu

    taken = []
    for path in (base, new):
        with Process(path, target) as process:
            process.ask("warm_up", least_seconds=0.2, most_seconds=2.0)
            taken.append(np.asarray(process.ask("time", seconds=1.0, calls=10)["calls_ns"], float))
    before, after = taken
    slower = np.median(after) > np.median(before)
    return {
        "mean 5 %": bool(after.mean() > 1.05 * before.mean()),
        "median 5 %": bool(np.median(after) > 1.05 * np.median(before)),
        "Mann-Whitney 0.05": bool(mannwhitneyu(before, after).pvalue < 0.05 and slower),
    }


def check(folder: Path, target: Target, percents: list[int], rounds: int) -> dict[str, float]:
    """Ratios of the networks' CPU time, in turns in one process: what they really differ by."""
    paths = {percent: write_chain(folder / f"{percent}.onnx", LAYERS + LAYERS * percent // 100) for percent in percents}
    with contextlib.ExitStack() as stack:
        opened = {percent: stack.enter_context(OnnxRuntime().open(path, target)) for percent, path in paths.items()}
        x = np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE, SIDE), dtype=np.float32)
        taken: dict[int, list[int]] = {percent: [] for percent in percents}
        for _ in range(rounds):
            for percent, runner in opened.items():
                runner.infer(x)
                for _ in range(10):
                    before = time.thread_time_ns()
                    runner.infer(x)
                    taken[percent].append(time.thread_time_ns() - before)
        medians = {percent: statistics.median(times_ns) for percent, times_ns in taken.items()}
        for percent, median_ns in medians.items():
            print(f"+{percent} %: {median_ns / 1e6:.4f} ms CPU, x{median_ns / medians[0]:.4f}")
        ratios = {f"cpu_ratio_at_{percent}_percent": medians[percent] / medians[0] for percent in percents if percent}
        return {"cpu_ms": medians[0] / 1e6, **ratios}


def take(out: Path, wanted: dict[int, int], folder: Path, target: Target) -> None:
    """Compare pairs until there are as many of each kind, half of them under load."""
    kinds = [
        (percent, loaded) for percent, count in wanted.items() for loaded in (False, True) for _ in range(count // 2)
    ]
    done = Counter((row["percent"], row["load"]) for row in read(out))
    left = []
    for kind in kinds:
        done[kind] -= 1
        if done[kind] < 0:
            left.append(kind)
    left = [left[at] for at in np.random.default_rng(len(left)).permutation(len(left))]
    base = write_chain(folder / "base.onnx", LAYERS)
    for number, (percent, loaded) in enumerate(left, start=1):
        new = write_chain(folder / "new.onnx", LAYERS + LAYERS * percent // 100)
        with load(loaded):
            row = {"percent": percent, "load": loaded, **by_compare(base, new, target), **by_habit(base, new, target)}
        row["others"] = round(os.getloadavg()[0], 2)
        with out.open("a", encoding="utf-8") as stream:
            print(json.dumps(row), file=stream)
        print(
            f"{number}/{len(left)} +{percent} %{' load' if loaded else ''}: {row['p50']} {row['ratio']:.3f}", flush=True
        )


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.is_file() else []


def show(rows: list[dict[str, Any]]) -> None:
    """Share that each rule calls regressed, [95 %]; for edgeoe also inconclusive, rounds and seconds."""
    rules = ("mean 5 %", "median 5 %", "Mann-Whitney 0.05")
    header = ["slow-down", "load", "n", "edgeoe p50", "edgeoe p99", "gate failed", "inconclusive", "median ratio"]
    header += ["interval holds it", "rounds", "seconds", *rules]
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    keys = {(row["percent"], loaded) for row in rows for loaded in (row["load"], None)}
    for percent, loaded in sorted(keys, key=lambda key: (key[0], str(key[1]))):
        own = [row for row in rows if row["percent"] == percent and loaded in (None, row["load"])]
        calls = [
            share([row["p50"] == "regressed" for row in own]),
            share([row["p99"] == "regressed" for row in own]),
            share([row["outcome"] == "failed" for row in own]),
            share([row["outcome"] == "inconclusive" for row in own]),
            f"{statistics.median(row['ratio'] for row in own):.4f}",
            share([row["low"] <= 1 + percent / 100 <= row["high"] for row in own]),
            f"{statistics.median(row['rounds'] for row in own):g}",
            f"{statistics.median(row['seconds'] for row in own):.1f}",
            *(share([row[rule] for row in own]) for rule in rules),
        ]
        name = {None: "both", True: "yes", False: "no"}[loaded]
        print(f"| +{percent} % | {name} | {len(own)} | " + " | ".join(calls) + " |")


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """For each slow-down, with and without load alike: the shares called regressed and inconclusive, and seconds."""
    figures: dict[str, float] = {}
    for percent in sorted({row["percent"] for row in rows}):
        own = [row for row in rows if row["percent"] == percent]
        regressed, inconclusive = (
            (row["p50"] == "regressed" for row in own),
            (row["outcome"] == "inconclusive" for row in own),
        )
        figures |= {
            f"p50_regressed_at_{percent}_percent": statistics.mean(regressed),
            f"inconclusive_at_{percent}_percent": statistics.mean(inconclusive),
            f"seconds_at_{percent}_percent": statistics.median(row["seconds"] for row in own),
        }
    return figures


def share(hits: list[bool]) -> str:
    found = proportion(sum(hits), len(hits))
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gate.jsonl"), help="a line for each pair; appended to")
    parser.add_argument(
        "--count", action="append", default=[], help="PERCENT=PAIRS, half of them under load", metavar="P=N"
    )
    parser.add_argument("--check", action="store_true", help="measure how much the networks really differ")
    parser.add_argument("--rounds", type=int, default=300, help="of --check")
    parser.add_argument("--threads", type=int, default=1, help="of the networks that are compared")
    add_record_option(parser)
    options = parser.parse_args()
    target = load_target("host-cpu")
    target = replace(target, runtime=replace(target.runtime, threads=options.threads))
    with tempfile.TemporaryDirectory() as folder:
        if options.check:
            figures = check(Path(folder), target, [0, 2, 3, 5, 10, 20], options.rounds)
        else:
            wanted = {int(percent): int(pairs) for percent, pairs in (part.split("=") for part in options.count)}
            take(options.out, wanted, Path(folder), target)
            show(read(options.out))
            figures = figures_of(read(options.out))
    record(__file__, options, figures, packages=["onnxruntime", "numpy"], without=["out", "count"])


if __name__ == "__main__":
    main()
