"""Latency probes: functions that measure networks on the runtime of a target."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from torch import nn

from edgeoe.backends import Backend, Runner, backend_of
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import BackendError, TargetError
from edgeoe.measure.affinity import loaded_on_cores
from edgeoe.measure.turns import time_in_turns
from edgeoe.stages.timing_graph import timing_graph
from edgeoe.targets.here import require_here
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

__all__ = ["LatencyProbe", "backend_here", "opened", "probe_on", "probe_on_first", "time_interleaved"]

LatencyProbe = Callable[[Sequence[nn.Module]], list[float]]
_CALLS, _MIN_TURNS, _SECONDS = 5, 20, 6.0  # calls per network and turn; minimum of turns and seconds
_log = logging.getLogger(__name__)


def probe_on(target: Target, preprocess: Preprocess) -> LatencyProbe:
    """A probe that exports networks, builds them for `target`, and measures them interleaved.

    It returns the median latency of each network in the target's precision and batch size, in milliseconds.

    Raises TargetError if this machine is not the target's device, BackendError if its runtime is missing. The probe
    raises ExportError or BackendError if a network can't be exported or built.
    """
    backend_here(target)

    def latency_ms(models: Sequence[nn.Module]) -> list[float]:
        turns = time_interleaved(models, target, preprocess, min_turns=_MIN_TURNS, seconds=_SECONDS)
        return [statistics.median(model_ms) for model_ms in turns]

    return latency_ms


def backend_here(target: Target) -> Backend:
    """The backend of `target`. Raises TargetError or BackendError if nothing can be measured on it here."""
    require_here(target, way_out="Work on the device, or choose a target that is here: host-cpu is this machine.")
    backend = backend_of(target)
    backend.check(target)
    return backend


def probe_on_first(targets: Sequence[Target], preprocess: Preprocess) -> LatencyProbe:
    """A probe on the first of `targets` that is this machine; otherwise, with a warning, on host-cpu.

    The probe raises ExportError if a network can't be exported, BackendError if it can't run on host-cpu either.
    """

    def latency_ms(models: Sequence[nn.Module]) -> list[float]:
        for target in targets:
            try:
                return probe_on(target, preprocess)(models)
            except (BackendError, TargetError) as reason:
                _log.warning("latencies can't be measured on %s: %s", target.name, reason)
        _log.warning("latencies are measured on host-cpu instead of %s", ", ".join(target.name for target in targets))
        return probe_on(load_target("host-cpu"), preprocess)(models)

    return latency_ms


def time_interleaved(
    models: Sequence[nn.Module],
    target: Target,
    preprocess: Preprocess,
    *,
    precisions: Sequence[str] | None = None,
    min_turns: int,
    seconds: float,
    calls: int = _CALLS,
    kept_fp32: Collection[str] = (),
) -> list[list[float]]:
    """Latencies of one call of each of `models` on `target`, in its precision and batch size, one per turn, in
    milliseconds.

    In each turn every network runs once, and its latency is the median of `calls` calls.

    precisions: of each; None is the target's for all.
    min_turns, seconds: minimum of turns and of their duration.
    kept_fp32: layers that stay fp32 in int8.
    Raises as `probe_on` and its probe do.
    """
    backend = backend_here(target)
    targets = [replace(target, precision=name) for name in precisions or [target.precision] * len(models)]
    with ExitStack() as stack:
        runners = [
            stack.enter_context(opened(model, one, preprocess, backend, kept_fp32=kept_fp32))
            for model, one in zip(models, targets, strict=True)
        ]
        return time_in_turns(runners, target, shape=preprocess.shape, min_turns=min_turns, seconds=seconds, calls=calls)


@contextmanager
def opened(
    model: nn.Module, target: Target, preprocess: Preprocess, backend: Backend, *, kept_fp32: Collection[str] = ()
) -> Iterator[Runner]:
    """A context that exports `model`, builds it for `target`, and loads it.

    backend: that of the target.
    kept_fp32: layers that stay fp32 in int8.
    Raises ExportError or BackendError if the network can't be exported or built.
    """
    with TemporaryDirectory() as folder:
        graph, artifact = Path(folder, "model.onnx"), Path(folder, "artifact")
        onnx.save(timing_graph(model, target, preprocess, kept_fp32=kept_fp32), graph)
        backend.build(graph, target, artifact)
        with loaded_on_cores(backend, artifact, target) as runner:
            yield runner
