"""A clock for methods that rank by measured latency: networks in, milliseconds on the target's runtime out."""

from __future__ import annotations

import logging
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, perf_counter_ns, thread_time_ns

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from edgeoe.backends import Backend, Runner, backend_of
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import BackendError, ExportError, TargetError
from edgeoe.graph.export import onnx_from_student
from edgeoe.targets.backends import runs_on, traits_of
from edgeoe.targets.here import require_here
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

__all__ = ["Clock", "clock_on_first", "new_clock", "time_in_turns"]

Clock = Callable[[Sequence[nn.Module]], list[float]]
_CALLS, _MIN_TURNS, _SECONDS = 5, 20, 6.0  # calls of one network in a turn; turns; time for all networks
_log = logging.getLogger(__name__)


def new_clock(target: Target, preprocess: Preprocess) -> Clock:
    """A function that measures networks on `target`: each is exported and built, and they take turns.

    It returns the median milliseconds of one image for each. Raises TargetError if this machine is not the target's
    device, BackendError if its runtime is not here; then ExportError or BackendError where a network can't be exported
    or built.
    """
    _backend_here(target)

    def latency_ms(models: Sequence[nn.Module]) -> list[float]:
        turns = time_in_turns(models, target, preprocess, min_turns=_MIN_TURNS, seconds=_SECONDS)
        return [statistics.median(of_one) for of_one in turns]

    return latency_ms


def _backend_here(target: Target) -> Backend:
    """The backend of `target`. Raises TargetError or BackendError if nothing can be measured on it here."""
    require_here(target, way_out="Work on the device, or choose a target that is here: host-cpu is this machine.")
    backend = backend_of(target)
    backend.check(target)
    return backend


def clock_on_first(targets: Sequence[Target], preprocess: Preprocess) -> Clock:
    """A clock on the first of `targets` that is here; host-cpu stands in, and a warning says so, if none is.

    Raises ExportError where a network can't be exported, BackendError if it can't be run on host-cpu either.
    """

    def latency_ms(models: Sequence[nn.Module]) -> list[float]:
        for target in targets:
            try:
                return new_clock(target, preprocess)(models)
            except (BackendError, TargetError) as reason:
                _log.warning("latencies can't be measured on %s: %s", target.name, reason)
        _log.warning("host-cpu stands in for %s", ", ".join(target.name for target in targets))
        return new_clock(load_target("host-cpu"), preprocess)(models)

    return latency_ms


def time_in_turns(
    models: Sequence[nn.Module],
    target: Target,
    preprocess: Preprocess,
    *,
    min_turns: int,
    seconds: float,
    calls: int = _CALLS,
) -> list[list[float]]:
    """Milliseconds of one image for each of `models` on `target`, in each of several turns.

    A turn is the median of `calls` calls; there are at least `min_turns`, and more until `seconds` have passed.
    Raises what `new_clock` and its clock raise.
    """
    backend = _backend_here(target)
    x = np.zeros((1, *preprocess.shape), np.float32)
    with TemporaryDirectory() as folder, ExitStack() as opened:
        runners = []
        for number, model in enumerate(models):
            graph, artifact = Path(folder, f"{number}.onnx"), Path(folder, f"{number}.artifact")
            runners.append(opened.enter_context(_runner(model, preprocess, backend, target, graph, artifact)))
        turns: list[list[float]] = [[] for _ in runners]
        now_ns = _now_ns(target)
        count, start = 0, perf_counter()
        while count < min_turns or perf_counter() - start < seconds:
            for own, runner in zip(turns, runners, strict=True):
                runner.infer(x)  # the first of a turn finds the caches full of another network
                own.append(statistics.median(_call_ns(runner, x, now_ns) for _ in range(calls)) / 1e6)
            count += 1
    return turns


def _call_ns(runner: Runner, x: NDArray[np.float32], now_ns: Callable[[], int]) -> int:
    before = now_ns()
    runner.infer(x)
    return now_ns() - before


def _now_ns(target: Target) -> Callable[[], int]:
    """What calls are timed with: the processor time of this thread where it does all the work, else the time.

    On a busy machine a long call is more often interrupted than a short one, which the time on the wall would count.
    """
    alone = runs_on(target) == "cpu" and traits_of(target.backend).single_thread(target)
    return thread_time_ns if alone and target.runtime.threads == 1 and sys.platform == "linux" else perf_counter_ns


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
