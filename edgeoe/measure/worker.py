"""The process that measure/process.py starts: loads one artifact and times its calls.

It speaks JSON, one line per message. The first request, {"artifact", "target"}, is answered with
{"load_ms", "first_ms"}; then each command {"do": name, ...} is answered with what the method of that name returns. An
error is answered with {"error": text}, and ends the process. It imports only numpy and the target's runtime beside
edgeoe.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends import Runner, backend_of
from edgeoe.codec import from_json
from edgeoe.errors import EdgeoeError, on_command_line
from edgeoe.measure.affinity import keep_on
from edgeoe.measure.latency import time_calls, warm_up
from edgeoe.targets.profile import Target

__all__ = ["main"]


class _Commands:
    """The commands that the parent may send."""

    def __init__(self, runner: Runner, batch: int) -> None:
        self._runner = runner
        self._x = _images(batch, runner.image_shape)

    def _call(self) -> None:
        self._runner.infer(self._x)

    def first(self) -> float:
        """Latency of one call, in milliseconds."""
        return time_calls(self._call, seconds=0, calls=1)[0] / 1e6

    def warm_up(self, least_seconds: float, most_seconds: float) -> dict[str, Any]:
        seconds, steady = warm_up(self._call, least_seconds=least_seconds, most_seconds=most_seconds)
        return {"seconds": seconds, "steady": steady}

    def time(self, seconds: float, calls: int) -> dict[str, Any]:
        return {"calls_ns": time_calls(self._call, seconds=seconds, calls=calls)}

    def burst(self, calls: int) -> dict[str, Any]:
        """Time `calls` calls after one that is not timed, since another process has evicted the caches."""
        return {"calls_ns": time_calls(self._call, seconds=0, calls=calls + 1)[1:]}

    def throughput(self, batch: int, seconds: float) -> dict[str, Any]:
        x = _images(batch, self._runner.image_shape)
        self._runner.infer(x)
        calls_ns = time_calls(lambda: self._runner.infer(x), seconds=seconds, calls=3)
        return {"images_per_second": batch * len(calls_ns) / (sum(calls_ns) / 1e9)}

    def peak_memory(self) -> dict[str, Any]:
        return {"peak_memory_mb": _peak_memory_mb()}


def _images(batch: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Normalised images of noise: latency does not depend on their content, but zeros might be faster."""
    return np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)


def _peak_memory_mb() -> float:
    """Peak memory of this process in 10^6 bytes, without that of its parent, which rusage includes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except (OSError, IndexError, ValueError):  # not Linux
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def serve(commands: IO[str], answers: IO[str]) -> None:
    """Answer each line of `commands` until they end."""

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        request = json.loads(commands.readline())
        target = from_json(Target, request["target"])
        if target.runtime.affinity is not None:
            keep_on(target.runtime.affinity)
        backend = backend_of(target)
        start = perf_counter_ns()
        with backend.open(Path(request["artifact"]), target) as runner:
            end = perf_counter_ns()
            worker = _Commands(runner, target.measure.batch)
            answer(load_ms=(end - start) / 1e6, first_ms=worker.first())
            for line in commands:
                command = json.loads(line)
                answer(**getattr(worker, command.pop("do"))(**command))
    except EdgeoeError as reason:
        answer(error=str(reason))


def main() -> None:
    """Serve the parent on standard output; what libraries print there goes to standard error instead."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, on_command_line():  # the parent rewords
        os.dup2(2, 1)
        serve(sys.stdin, answers)
