"""p50 as `validate` measures it beside a bare `session.run` loop, on one artifact with the same threads.

The two take turns; the bare loop runs in as many fresh processes, since processes differ too. The ratio of their p50
is quoted as the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from history import add_record_option, record

from edgeoe.measure.speed import measure_speed
from edgeoe.measure.summary import speed_from_samples
from edgeoe.run.directory import Run
from edgeoe.run.layout import TargetFiles
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

LOOP = """
import os, sys, time, numpy as np, onnxruntime as ort
model, threads, spinning, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
if sys.argv[5:]:
    os.sched_setaffinity(0, map(int, sys.argv[5:]))
options = ort.SessionOptions()
options.intra_op_num_threads = threads
options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape[1:]
feed = {name: np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)}
for limit, times in ((0.5, []), (seconds, [])):
    until = time.perf_counter() + limit
    while time.perf_counter() < until:
        before = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - before)
print(*times)
"""


def bare(model: Path, target: Target) -> float:
    """p50 in ms of session.run in a plain loop, over as many processes as `validate` starts."""
    settings, spinning = target.measure, "1" if target.runtime.spinning else "0"
    taken: list[float] = []
    for _ in range(settings.processes):
        seconds = str(settings.min_seconds / settings.processes)
        arguments = [str(model), str(target.runtime.threads), spinning, seconds]
        command = [sys.executable, "-c", LOOP, *arguments, *map(str, target.runtime.affinity or ())]
        taken += map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    return statistics.median(taken) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run that was built for --target")
    parser.add_argument("--target", default="host-cpu")
    parser.add_argument("--core", type=int, help="keep both on this core, instead of where the profile says")
    parser.add_argument("--rounds", type=int, default=7)
    add_record_option(parser)
    options = parser.parse_args()
    target, run = load_target(options.target), Run.open(options.run)
    if options.core is not None:
        target = replace(target, runtime=replace(target.runtime, affinity=(options.core,)))
    model = run.file(TargetFiles(target.name).artifact("model.onnx"))
    bare_ms, validate_ms = [], []
    for _ in range(options.rounds):
        plain = bare(model, target)
        ours = speed_from_samples(measure_speed(model, target), target.measure)
        p50 = ours.latency.p50
        bare_ms.append(plain)
        validate_ms.append(p50.value)
        print(
            f"bare p50 {plain:.4f} ms   validate p50 {p50.value:.4f} ms [{p50.low:.4f}, {p50.high:.4f}] "
            f"(n = {ours.latency.n})   ratio {p50.value / plain:.3f}   {'; '.join(ours.noise)}",
            flush=True,
        )
    ratios = [ours / plain for ours, plain in zip(validate_ms, bare_ms, strict=True)]
    print(f"median ratio {statistics.median(ratios):.3f} (n = {len(ratios)}, {min(ratios):.3f} to {max(ratios):.3f})")
    figures = {"ratio": ratios, "bare_p50_ms": bare_ms, "validate_p50_ms": validate_ms}
    medians = {name: statistics.median(values) for name, values in figures.items()}
    record(__file__, options, medians, packages=["onnxruntime", "numpy"])


if __name__ == "__main__":
    main()
