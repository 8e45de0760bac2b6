"""The cut of a method, tuned by hand to a speed-up that is measured on a target, before any training."""

from __future__ import annotations

import json
import statistics
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time_ns
from typing import ClassVar

import numpy as np
import onnx
from torch import nn

from edgeoe.backends import Runner, backend_of
from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import PruningError
from edgeoe.methods import Bench
from edgeoe.methods.cuts.blocks import Blocks
from edgeoe.methods.cuts.channels import find_groups
from edgeoe.models.structure import read_structure
from edgeoe.pruning.prune import Pruned, drop_blocks, prune_channels
from edgeoe.settings import CompressSettings
from edgeoe.stages.timing_graph import timing_graph
from edgeoe.targets.profile import Target

SHARES = [0.97**step for step in range(1, 120)]  # of the MACs, down to 2.7 %
STRIDE = 9  # students
TURNS, LONG, CALLS = (
    100,
    1000,
    3,
)  # calls per turn, after one that only warms the caches


class NoStudentError(PruningError):
    """No student of the method is fast enough, or the teacher itself is."""


@dataclass(frozen=True)
class Pace:
    """Speed-up over the fp32 teacher, and milliseconds per call."""

    speedup: float
    ms: float


@dataclass(frozen=True)
class Stopwatch:
    """Measures artifacts for `target` in turns with the artifact of the teacher for it.

    fp32: how many times faster that artifact is than the fp32 one, which is too much larger to be compared with
        students in a few turns: other processes evict more of it from the caches.
    """

    teacher: Runner
    target: Target
    preprocess: Preprocess
    fp32: float

    def pace(self, runner: Runner, *, turns: int = TURNS) -> Pace:
        """The pace of an artifact, by its shortest calls."""
        teacher, student = (min(calls_ms) for calls_ms in interleaved([self.teacher, runner], self.preprocess, turns))
        return Pace(self.fp32 * teacher / student, student)

    def pace_of(self, model: nn.Module) -> Pace:
        """The pace of a network before it is trained and exported."""
        with opened(model, self.target, self.preprocess) as runner:
            return self.pace(runner)


def interleaved(runners: Sequence[Runner], preprocess: Preprocess, turns: int) -> list[list[float]]:
    """Milliseconds of a call of each of `runners` in each turn, as CPU time: others interrupt long calls more often."""
    x = np.zeros((1, *preprocess.shape), np.float32)
    rounds = [[_call_ms(runner, x) for runner in runners] for _ in range(turns)]
    return [list(calls_ms) for calls_ms in zip(*rounds, strict=True)]


def _call_ms(runner: Runner, x: np.ndarray) -> float:
    calls_ns = []
    runner.infer(x)
    for _ in range(CALLS):
        before = thread_time_ns()
        runner.infer(x)
        calls_ns.append(thread_time_ns() - before)
    return statistics.median(calls_ns) / 1e6


@contextmanager
def opened(model: nn.Module, target: Target, preprocess: Preprocess) -> Iterator[Runner]:
    """An artifact of `model` for `target`, to be timed only."""
    backend = backend_of(target)
    with tempfile.TemporaryDirectory() as folder:
        graph, artifact = Path(folder, "graph.onnx"), Path(folder, "artifact")
        onnx.save(timing_graph(model, target, preprocess), graph)
        backend.build(graph, target, artifact)
        with backend.open(artifact, target) as runner:
            yield runner


@contextmanager
def stopwatch(teacher: nn.Module, target: Target, preprocess: Preprocess, folder: Path) -> Iterator[Stopwatch]:
    """A stopwatch for students of `teacher`; what it measures of the teacher is kept in `folder`, for all methods."""
    file = folder / "teacher.json"
    with opened(teacher, target, preprocess) as runner:
        if not file.exists():
            with opened(teacher, replace(target, precision="fp32"), preprocess) as fp32:
                calls_ms = interleaved([fp32, runner], preprocess, LONG)
            ratio = statistics.median(fp32_ms / own_ms for fp32_ms, own_ms in zip(*calls_ms, strict=True))
            file.write_text(json.dumps({"fp32": ratio}))
        yield Stopwatch(runner, target, preprocess, json.loads(file.read_text())["fp32"])


@dataclass
class Ladder:
    """Students of one method, the largest first, and the paces that are known.

    multiple: of their channel counts.
    """

    multiple: int
    students: Sequence[Callable[[], Pruned]]
    paces: dict[int, Pace] = field(default_factory=dict)

    def first(self, speedup: float, pace_of: Callable[[nn.Module], Pace]) -> Callable[[], Pruned] | None:
        """The largest student with that speed-up; None if none has it.

        The smallest is not always the fastest, so that strides are tried from the largest on, and the first stride that
        ends at such a student is bisected.
        """

        def speedup_at(index: int) -> float:
            if index not in self.paces:
                self.paces[index] = pace_of(self.students[index]().model)
            return self.paces[index].speedup

        start, last = 0, len(self.students) - 1
        for end in (*range(0, last, STRIDE), last):
            if speedup_at(end) >= speedup:
                return self.students[start + bisect_left(range(start, end), speedup, key=speedup_at)]
            start = end + 1
        return None


@dataclass(frozen=True)
class Ranking:
    """What a method ranks once for all speed-ups: its ladders, in the order in which they are searched."""

    ladders: Sequence[Ladder]
    seconds: float


@dataclass(frozen=True)
class Rankings:
    """The rankings of methods; the order of blocks, which takes minutes, is kept in `folder`."""

    folder: Path
    known: dict[str, Ranking] = field(default_factory=dict)

    def of(self, settings: CompressSettings, teacher: nn.Module, bench: Bench) -> Ranking:
        """The ranking of the method of `settings`, by its cut."""
        key = f"{settings.method} {settings.options} seed {settings.seed}"
        if key not in self.known:
            rank = self._blocks if settings.method == "practise" else self._channels
            self.known[key] = rank(settings, teacher, bench)
        return self.known[key]

    def _blocks(self, settings: CompressSettings, teacher: nn.Module, bench: Bench) -> Ranking:
        file = self.folder / f"blocks-seed{settings.seed}.json"
        if not file.exists():
            started = perf_counter()
            order = Blocks(replace(settings, keep_blocks=1e-6)).prune(teacher, bench).dropped
            file.write_text(json.dumps({"order": order, "seconds": perf_counter() - started}))
        ranked = json.loads(file.read_text())
        order = ranked["order"]
        students = [
            partial(drop_blocks, teacher, order[:count], shape=bench.shape) for count in range(1, len(order) + 1)
        ]
        return Ranking([Ladder(bench.channel_multiple, students)], ranked["seconds"])

    def _channels(self, settings: CompressSettings, teacher: nn.Module, bench: Bench) -> Ranking:
        """Channel counts are multiples of what the target computes fast; where that is not enough, of less."""
        started = perf_counter()
        groups = find_groups(teacher, bench, settings, protect=read_structure(teacher, bench.shape).head)
        ladders: list[Ladder] = []
        multiple = bench.channel_multiple
        while multiple:
            cut = partial(
                prune_channels,
                teacher,
                shape=bench.shape,
                channel_multiple=multiple,
                below_multiple=not ladders,  # as without --channel-multiple
                groups=groups,
            )
            ladders.append(Ladder(multiple, [partial(cut, keep=share) for share in SHARES]))
            multiple //= 2
        return Ranking(ladders, perf_counter() - started)


@dataclass
class TunedCut:
    """Prunes the largest student of a method that has the speed-up. Raises NoStudentError if there is none to prune.

    multiple: of the student's channel counts.
    seconds: to rank, and to search.
    """

    settings: CompressSettings
    speedup: float
    stopwatch: Stopwatch
    rankings: Rankings
    multiple: int = 0
    seconds: float = 0.0

    Options: ClassVar[type | None] = None
    measures_latency: ClassVar[bool] = True

    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        if self.stopwatch.fp32 >= self.speedup:
            raise NoStudentError(f"the teacher itself is {self.stopwatch.fp32:.2f} times faster: see method none")
        ranking, started = self.rankings.of(self.settings, teacher, bench), perf_counter()
        for ladder in ranking.ladders:
            student = ladder.first(self.speedup, self.stopwatch.pace_of)
            if student is not None:
                self.multiple = ladder.multiple
                self.seconds = ranking.seconds + perf_counter() - started
                return student()
        paces = [pace for ladder in ranking.ladders for pace in ladder.paces.values()]
        fastest = max(paces, key=lambda pace: pace.speedup)
        raise NoStudentError(f"not reachable: fastest is {fastest.ms:.3f} ms, {fastest.speedup:.2f} times")
