"""p50 as `validate` measures it beside a bare `session.run` loop, on one artifact with the same threads.

The two take turns, each with a session of its own; the ratio of their p50 is quoted as the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.measure.latency import latency_from_samples, sample_latency
from edgeoe.run import Run
from edgeoe.targets import load_target


def bare(model: Path, x: np.ndarray, *, threads: int, spinning: bool, seconds: float) -> float:
    """p50 in ms of session.run, after as long a warm-up as `validate` has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    until = perf_counter() + 0.5
    while perf_counter() < until:
        session.run(None, feed)
    times, until = [], perf_counter() + seconds
    while perf_counter() < until:
        before = perf_counter()
        session.run(None, feed)
        times.append(perf_counter() - before)
    return statistics.median(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run that was built for --target")
    parser.add_argument("--target", default="host-cpu")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    target, run = load_target(options.target), Run.open(options.run)
    model = run.file(f"targets/{target.name}/model.onnx", made_by=f"build {run.path} --target {target.name}")
    image = run.read_tensors("golden.safetensors", made_by=f"export {run.path}")["images"][0]
    ratios = []
    for _ in range(options.rounds):
        plain = bare(
            model,
            image[None],
            threads=target.runtime.threads,
            spinning=target.runtime.spinning,
            seconds=target.measure.min_seconds,
        )
        with OnnxRuntime().open(model, target) as runner:
            calls_ms = sample_latency(runner, image, target.measure)
        ours = latency_from_samples(calls_ms, batch=1)
        ratios.append(ours.p50.value / plain)
        print(f"bare p50 {plain:.4f} ms   validate p50 {ours.p50.value:.4f} ms (n = {ours.n})   ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f} (n = {len(ratios)}, {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
