"""What is said of a student beside its teacher, with made-up latencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import BackendError, OutOfMemoryError
from edgeoe.pruning.prune import Pruned, drop_blocks, prune_channels
from edgeoe.records.compression import SpeedUp
from edgeoe.report.wording import speed_text
from edgeoe.stages import speedup
from edgeoe.stages.speedup import compare_speed
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import DeviceFacts, Target

PREPROCESS = Preprocess(size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
Network = Callable[[str], nn.Module]


@pytest.fixture
def teacher(network: Network) -> nn.Module:
    return network("stages")


@pytest.fixture
def pruned(teacher: nn.Module) -> Pruned:
    return prune_channels(teacher, shape=PREPROCESS.shape, keep=0.5)


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`takes(ratios)`: the student will take so much of the teacher's 2 ms in each turn."""

    def take(ratios: Sequence[float]) -> None:
        monkeypatch.setattr(
            speedup, "time_interleaved", lambda *_, **__: [[2.0] * len(ratios), [2 * r for r in ratios]]
        )

    return take


def spread(middle: float, by: float) -> list[float]:
    """21 ratios around the middle."""
    return [middle * (1 + by * (turn - 10) / 10) for turn in range(21)]


@pytest.mark.parametrize(
    ("ratios", "outcome"),
    [
        (spread(0.62, 0.05), "faster"),
        (spread(0.97, 0.01), "faster"),
        (spread(0.99, 0.001), "about as fast"),
        (spread(1.0, 0.05), "about as fast"),
        (spread(0.95, 0.5), "about as fast"),
        (spread(1.01, 0.001), "about as fast"),
        (spread(1.2, 0.05), "slower"),
    ],
)
def test_a_student_is_faster_or_slower_only_if_the_whole_interval_is(
    ratios: Sequence[float], outcome: str, teacher: nn.Module, pruned: Pruned, takes: Callable[..., None]
) -> None:
    takes(ratios)
    (found,) = compare_speed(
        teacher, pruned, targets=[load_target("host-cpu")], channel_multiple=8, preprocess=PREPROCESS
    )
    assert found.outcome == outcome
    assert found.ratio is not None
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert found.ratio.value == pytest.approx(sorted(ratios)[10])
    assert (found.target, found.precision, found.n) == ("host-cpu", "fp32", 21)
    assert found.teacher_ms == pytest.approx(2.0)
    assert bool(found.advice) == (outcome != "faster")


def test_what_may_help_is_what_was_not_done(teacher: nn.Module, pruned: Pruned, takes: Callable[..., None]) -> None:
    takes(spread(1.5, 0.01))
    target = replace(load_target("host-cpu"), name="mine")

    def advice(pruned: Pruned, multiple: int, target: Target = target) -> str:
        return compare_speed(teacher, pruned, targets=[target], channel_multiple=multiple, preprocess=PREPROCESS)[
            0
        ].advice

    dropped = drop_blocks(teacher, ["early.0"], shape=PREPROCESS.shape)
    odd, even, whole = advice(pruned, 4), advice(pruned, 16), advice(dropped, 1)
    assert "--channel-multiple 8, as mine computes widths at multiples of 8 fast" in odd
    assert "--channel-multiple" not in even + whole
    assert "--method practise, as 4 blocks of this teacher can be dropped whole" in even
    assert "practise" not in whole
    assert whole == 'to keep less; precision = "int8" in the profile of mine'
    assert advice(dropped, 1, replace(target, precision="int8")) == "to keep less"
    assert advice(dropped, 1, replace(target, device=DeviceFacts(int8_dot=False))) == "to keep less"


def test_a_teacher_without_blocks_has_none_to_drop(network: Network, takes: Callable[..., None]) -> None:
    takes(spread(1.5, 0.01))
    chain = network("chain")
    made = prune_channels(chain, shape=PREPROCESS.shape, keep=0.5)
    (found,) = compare_speed(chain, made, targets=[load_target("host-cpu")], channel_multiple=8, preprocess=PREPROCESS)
    assert "practise" not in found.advice


def test_where_the_runtime_is_not_here_the_reason_is_told_and_others_are_timed(
    teacher: nn.Module, pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_target("host-cpu")
    board = replace(here, name="board", backend="tensorrt")

    def timed(models: object, target: Target, *_: object, **__: object) -> list[list[float]]:
        if target.backend == "tensorrt":
            raise BackendError("tensorrt is not installed.")
        return [[2.0] * 12, [1.0] * 12]

    monkeypatch.setattr(speedup, "time_interleaved", timed)
    one, other = compare_speed(teacher, pruned, targets=[board, here], channel_multiple=8, preprocess=PREPROCESS)
    assert one == SpeedUp(target="board", reason="tensorrt is not installed.")
    assert other.outcome == "faster"
    assert speed_text(one) == "not timed against its teacher on board: tensorrt is not installed"


def test_a_student_is_not_lost_where_memory_does_not_suffice_to_time_it(
    teacher: nn.Module, pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*_: object, **__: object) -> list[list[float]]:
        raise OutOfMemoryError("std::bad_alloc")

    monkeypatch.setattr(speedup, "time_interleaved", timed)
    targets = [load_target("host-cpu")]
    (one,) = compare_speed(teacher, pruned, targets=targets, channel_multiple=8, preprocess=PREPROCESS)
    assert one == SpeedUp(target="host-cpu", reason="std::bad_alloc")


def test_a_teacher_that_is_its_own_student_is_not_timed(teacher: nn.Module, takes: Callable[..., None]) -> None:
    takes([])
    same = drop_blocks(teacher, [], shape=PREPROCESS.shape)
    assert (
        compare_speed(teacher, same, targets=[load_target("host-cpu")], channel_multiple=8, preprocess=PREPROCESS) == ()
    )


def test_the_figures_in_words(teacher: nn.Module, pruned: Pruned, takes: Callable[..., None]) -> None:
    takes(spread(1.5, 0.01))
    (found,) = compare_speed(
        teacher, pruned, targets=[load_target("host-cpu")], channel_multiple=1, preprocess=PREPROCESS
    )
    text = speed_text(found)
    assert text.startswith("slower than its teacher with the runtime of host-cpu on this machine: 1.50 [1.49, 1.51] of")
    assert "3 instead of 2 ms (fp32, 21 turns). What may help: --channel-multiple 8, as host-cpu computes" in text


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_precision_is_that_of_the_target(
    precision: str, teacher: nn.Module, pruned: Pruned, takes: Callable[..., None]
) -> None:
    takes(spread(0.5, 0.01))
    targets = [replace(load_target("host-cpu"), precision=precision)]
    (found,) = compare_speed(teacher, pruned, targets=targets, channel_multiple=8, preprocess=PREPROCESS)
    assert found.precision == precision
    assert f"({precision}, 21 turns)" in speed_text(found)


def test_real_networks_are_timed(teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speedup, "_SECONDS", 0.0)
    pruned = drop_blocks(teacher, ["early.0", "early.1", "late.0", "late.1"], shape=PREPROCESS.shape)
    (found,) = compare_speed(
        teacher, pruned, targets=[load_target("host-cpu")], channel_multiple=8, preprocess=PREPROCESS
    )
    assert found.n == speedup._MIN_TURNS
    assert found.ratio is not None
    assert found.ratio.value > 0
