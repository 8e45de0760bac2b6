"""A clock for methods that rank by measured latency: networks in, milliseconds on the target's runtime out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, perf_counter_ns

import numpy as np
import onnx
from torch import nn

from edgeoe.backends import Backend, Runner
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import BackendError, ExportError
from edgeoe.graph.export import onnx_from_student
from edgeoe.measure.here import require_here
from edgeoe.records import Target
from edgeoe.registry import BACKENDS, resolve

__all__ = ["new_clock"]

_CALLS, _MIN_ROUNDS, _SECONDS = 5, 20, 6.0  # calls of one network in a turn; turns; time for all networks


def new_clock(target: Target, preprocess: Preprocess) -> Callable[[Sequence[nn.Module]], list[float]]:
    """A function that measures networks on `target`: each is exported and built, and they take turns.

    It returns the median milliseconds of one image for each. Raises TargetError if this machine is not the target's
    device, BackendError if its runtime is not here; then ExportError or BackendError where a network can't be exported
    or built.
    """
    require_here(target, way_out="Work on the device, or choose a target that is here: host-cpu is this machine.")
    backend: Backend = resolve(BACKENDS, target.backend, kind="backend")()
    backend.check(target)

    def latency_ms(models: Sequence[nn.Module]) -> list[float]:
        x = np.zeros((1, *preprocess.shape), np.float32)
        with TemporaryDirectory() as folder, ExitStack() as opened:
            runners = []
            for number, model in enumerate(models):
                graph, artifact = Path(folder, f"{number}.onnx"), Path(folder, f"{number}.artifact")
                runners.append(opened.enter_context(_runner(model, preprocess, backend, target, graph, artifact)))
            samples: list[list[int]] = [[] for _ in runners]
            rounds, start = 0, perf_counter()
            while rounds < _MIN_ROUNDS or perf_counter() - start < _SECONDS:
                for own, runner in zip(samples, runners, strict=True):
                    for call in range(_CALLS + 1):
                        before = perf_counter_ns()
                        runner.infer(x)
                        if call:  # the first of a turn finds the caches full of another network
                            own.append(perf_counter_ns() - before)
                rounds += 1
        return [statistics.median(own) / 1e6 for own in samples]

    return latency_ms


@contextmanager
def _runner(
    model: nn.Module, preprocess: Preprocess, backend: Backend, target: Target, graph: Path, artifact: Path
) -> Iterator[Runner]:
    try:  # seconds instead of tens of seconds, and this graph is only timed
        onnx.save(onnx_from_student(model, preprocess=preprocess, metadata={}, exporter="legacy"), graph)
        backend.build(graph, target, artifact)
    except (ExportError, BackendError):
        onnx.save(onnx_from_student(model, preprocess=preprocess, metadata={}), graph)
        backend.build(graph, target, artifact)
    with backend.open(artifact, target) as runner:
        yield runner
