"""A teacher, and students in every precision: file size, accuracy, agreement, latency in one interleaved run.

    edgeoe compress --method none --keep-macs 1 ... --out runs/teacher && edgeoe export runs/teacher
    edgeoe compress ... --out runs/a && edgeoe export runs/a --precision fp32,fp16,int8
    tools/bench_precision.py runs/teacher runs/a --test TEST

int8 is the recipe that this processor needs. Networks take turns of a few calls on one thread. Milliseconds are p50 of
the calls' own CPU time, which other work on the machine does not lengthen, and of wall time.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from history import add_record_option, record

from edgeoe.backends import Backend, Runner
from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import find_test, load_samples, rarest
from edgeoe.measure.accuracy import accuracy_from_predictions
from edgeoe.measure.predictions import predict
from edgeoe.registry import BACKENDS, PRECISIONS
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.stages.precisions import graph_file
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

CALLS = 5  # of one network in a turn, after one that only warms the caches


def runners(
    graphs: dict[str, Path], backends: list[str], target: Target, folder: Path, stack: contextlib.ExitStack
) -> dict[str, tuple[Runner, int]]:
    """Each graph built and opened by each backend, and its artifact's bytes."""
    opened: dict[str, tuple[Runner, int]] = {}
    for name, graph in graphs.items():
        for backend_name in backends:
            if backend_name == "openvino" and "fp16" in name:
                continue  # a CPU has no half precision to compute in
            backend: Backend = BACKENDS.load(backend_name)()
            artifact = folder / f"{len(opened)}{backend.traits.suffix}"
            own = replace(target, backend=backend_name)
            backend.build(graph, own, artifact)
            runner = stack.enter_context(backend.open(artifact, own))
            opened[f"{name}, {backend_name}"] = runner, artifact.stat().st_size
    return opened


def p50s(opened: list[Runner], x: np.ndarray, rounds: int) -> tuple[list[float], list[float]]:
    """Median milliseconds of CPU and of wall time of each, in turns."""
    cpu: list[list[int]] = [[] for _ in opened]
    wall: list[list[int]] = [[] for _ in opened]
    for _ in range(rounds):
        for at, runner in enumerate(opened):
            runner.infer(x)
            for _ in range(CALLS):
                before, before_cpu = time.perf_counter_ns(), time.thread_time_ns()
                runner.infer(x)
                cpu[at].append(time.thread_time_ns() - before_cpu)
                wall[at].append(time.perf_counter_ns() - before)
    return [float(np.median(own)) / 1e6 for own in cpu], [float(np.median(own)) / 1e6 for own in wall]


def infer(runner: Runner, preprocess: Preprocess, pixels: np.ndarray) -> np.ndarray:
    return runner.infer(preprocess.normalise(pixels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="a run of method none, exported")
    parser.add_argument("students", type=Path, nargs="+", help="runs, exported in every precision")
    parser.add_argument("--test", type=Path, required=True, help="a folder per class")
    parser.add_argument("--backend", action="append", help="onnxruntime unless told; may be given several times")
    parser.add_argument("--rounds", type=int, default=100)
    add_record_option(parser)
    options = parser.parse_args()
    target = load_target("host-cpu")
    graphs = {"teacher fp32": options.teacher / "student.onnx"}
    for run in options.students:
        for precision in PRECISIONS:
            file = run / graph_file(replace(target, precision=precision))
            if file.is_file():
                graphs[f"{run.name} {precision}"] = file
    run = Run.open(options.students[0])
    facts = run.read(layout.FACTS)
    test = load_samples(find_test(options.test, facts.classes), facts.preprocess)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        opened = runners(graphs, options.backend or ["onnxruntime"], target, Path(folder), stack)
        x = facts.preprocess.normalise(test.images.rows([0]))
        cpu, wall = p50s([runner for runner, _ in opened.values()], x, options.rounds)
        print(f"n = {CALLS * options.rounds} calls each, batch 1, {target.runtime.threads} thread")
        header = ("MB", "top-1", "rare-3", "as fp32", "CPU ms", "x", "wall ms", "x")
        print(" " * 34 + "".join(f"{name:>8}" for name in header), f" {len(test.labels)} test images")
        fp32 = np.zeros(0, np.int64)
        figures: dict[str, float] = {}
        for at, (name, (runner, size)) in enumerate(opened.items()):
            seen = predict(partial(infer, runner, facts.preprocess), test.images.rows, test.labels)
            if "fp32" in name:
                fp32 = np.asarray(seen.chosen)
            accuracy = accuracy_from_predictions(
                seen, classes=len(facts.classes), rare=rarest(np.asarray(facts.counts))
            )
            rare = accuracy.rare_recall.value if accuracy.rare_recall else float("nan")
            row: tuple[float, ...] = (
                size / 1e6,
                100 * accuracy.top1.value,
                100 * rare,
                100 * float((np.asarray(seen.chosen) == fp32).mean()),
            )
            row += (cpu[at], cpu[0] / cpu[at], wall[at], wall[0] / wall[at])
            print(f"{name:34}" + "".join(f"{value:8.3f}" for value in row), flush=True)
            figures |= {f"{name}: top-1 %": row[1], f"{name}: CPU ms": cpu[at], f"{name}: wall ms": wall[at]}
    record(__file__, options, figures, packages=["onnxruntime", "openvino", "numpy"])


if __name__ == "__main__":
    main()
