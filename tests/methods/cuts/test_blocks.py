"""Whole blocks go: those first that are easily made up for and save most latency."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layers import layer_of
from torch import nn

from edgeoe.errors import PruningError
from edgeoe.methods import compress_with
from edgeoe.methods.cuts.blocks import Adaptor, Blocks, add_adaptors, latency_saved
from edgeoe.models.observation import HookPoint, capture
from edgeoe.models.structure import Block, read_structure
from edgeoe.pruning.prune import count_macs, drop_blocks
from edgeoe.settings import CompressSettings

SHAPE = (3, 16, 16)
BLOCKS = ["early.0", "early.1", "late.0", "late.1"]
Network = Callable[[str], nn.Module]


@pytest.fixture
def asked(settings: CompressSettings) -> CompressSettings:
    return replace(settings, method="practise", keep_macs=0.77, options={"recovery_steps": 3, "lr": 0.03}, steps=7)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


# Adaptors


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 5, 3), nn.Linear(4, 5)], ids=["convolution", "linear"])
@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
def test_an_adaptor_starts_as_the_identity(layer: Any, before: bool, after: bool) -> None:
    adaptor = Adaptor(layer, before=before, after=after)
    assert torch.equal(adaptor(layer.weight), layer.weight)
    assert ("before" in dict(adaptor.named_parameters())) is before
    assert ("after" in dict(adaptor.named_parameters())) is after


@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
def test_a_merged_adaptor_is_1x1_convolutions_around_the_layer(before: bool, after: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 5, 3, stride=2, bias=False), images(2, 4, 9, 9)
    adaptor = Adaptor(layer, before=before, after=after)
    for parameter in adaptor.parameters():
        nn.init.normal_(parameter)
    merged = F.conv2d(x, adaptor(layer.weight), stride=2)
    explicit = x if adaptor.before is None else F.conv2d(x, adaptor.before[:, :, None, None])
    explicit = layer(explicit)
    explicit = explicit if adaptor.after is None else F.conv2d(explicit, adaptor.after[:, :, None, None])
    torch.testing.assert_close(merged, explicit, rtol=1e-4, atol=1e-4)


def test_adaptors_stand_where_the_block_was_and_change_nothing_at_first(network: Network) -> None:
    teacher = network("stages")
    block = {block.name: block for block in read_structure(teacher, SHAPE).blocks}["early.1"]
    assert set(block.producers) == {"stem.0", "early.0.two.0"}
    assert block.consumers == ("down.0",)
    student = drop_blocks(teacher, ["early.1"], shape=SHAPE).model
    before = student(images(2, *SHAPE))
    add_adaptors(student, block)
    torch.testing.assert_close(student(images(2, *SHAPE)), before)
    trained = {name for name, _ in student.named_parameters() if name.endswith((".before", ".after"))}
    assert trained == {
        *(f"{layer}.parametrizations.weight.0.after" for layer in block.producers),
        *(f"{layer}.parametrizations.weight.0.before" for layer in block.consumers),
    }


def test_a_layer_that_writes_and_reads_has_one_adaptor_of_both_sides() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, groups=3))
    add_adaptors(model, Block("gone", SHAPE, producers=("0", "1"), consumers=("0",)))
    adaptors = {name.rpartition(".")[2] for name, _ in model[0].named_parameters() if "weight.0" in name}
    assert adaptors == {"before", "after"}
    assert not hasattr(model[1], "parametrizations"), "a grouped convolution is no regression"


# Ranking


def test_blocks_of_a_kind_are_timed_together_and_share_what_they_save(network: Network, still: Any) -> None:
    teacher = network("stages")
    timed: list[list[str]] = []

    def latency(model: nn.Module) -> float:
        here = [name for name in BLOCKS if not isinstance(model.get_submodule(name), nn.Identity)]
        timed.append([name for name in BLOCKS if name not in here])
        return 1.0 + sum({"early": 3.0, "late": 0.5}[name.split(".")[0]] for name in here)

    blocks = read_structure(teacher, SHAPE).blocks
    assert [block.name for block in blocks] == BLOCKS
    saved = latency_saved(teacher, blocks, still(latency=latency))
    assert timed == [[], ["early.0", "early.1"], ["late.0", "late.1"]]
    assert saved == pytest.approx({"early.0": 3.0, "early.1": 3.0, "late.0": 0.5, "late.1": 0.5})


def nearly_nothing(teacher: nn.Module, *blocks: str) -> nn.Module:
    """`teacher` whose `blocks` add next to nothing to what they are given."""
    for name in blocks:
        norm = layer_of(teacher, f"{name}.two.1")
        nn.init.constant_(norm.weight, 1e-3)
        nn.init.zeros_(norm.bias)
        norm.running_mean.zero_()
    return teacher


@pytest.mark.parametrize("easy", BLOCKS)
def test_the_block_that_is_easily_made_up_for_goes(
    easy: str, network: Network, still: Any, asked: CompressSettings
) -> None:
    made = Blocks(asked).prune(nearly_nothing(network("stages"), easy), still(latency=lambda model: 1.0))
    assert made.dropped == (easy,)


@pytest.mark.parametrize("slow", ["early", "late"])
def test_of_blocks_as_easily_made_up_for_the_slow_ones_go(
    slow: str, network: Network, still: Any, asked: CompressSettings
) -> None:
    def latency(model: nn.Module) -> float:
        here = [name for name in BLOCKS if not isinstance(model.get_submodule(name), nn.Identity)]
        return 1.0 + sum(1e6 if name.startswith(slow) else 1e-6 for name in here)

    teacher = nearly_nothing(network("stages"), *BLOCKS)
    made = Blocks(replace(asked, keep_macs=0.55)).prune(teacher, still(latency=latency))
    assert set(made.dropped) == {f"{slow}.0", f"{slow}.1"}


def test_what_recovery_makes_up_for_counts(network: Network, still: Any, asked: CompressSettings) -> None:
    """Fitting that repairs the features only where `late.1` is gone lets that block go."""
    teacher = nearly_nothing(network("stages"), "early.0")

    def fitting(student: nn.Module, stage: Any) -> None:
        if stage.name == "Recovering late.1":
            layer_of(student, "late")[1] = copy.deepcopy(layer_of(teacher, "late.1"))

    made = Blocks(asked).prune(teacher, still(latency=lambda model: 1.0, fitting=fitting))
    assert made.dropped == ("late.1",)


# The method


def test_every_block_is_tried_before_the_features_are_mimicked(
    network: Network, still: Any, asked: CompressSettings
) -> None:
    bench = still()
    compress_with(asked, network("stages"), bench)
    *tried, last = bench.fitted
    assert [stage.name for stage in tried] == [f"Recovering {name}" for name in BLOCKS]
    for stage in tried:
        assert (stage.max_steps, stage.batch_statistics, stage.early_stop) == (3, False, False)
        assert stage.label_weight == 0.0
        assert stage.trains("stem.0.parametrizations.weight.0.after")
        assert not stage.trains("stem.0.parametrizations.weight.original")
        assert not stage.trains("stem.1.weight")
    assert (last.name, last.lr, last.max_steps) == ("Mimicking features", 0.03, 7)
    assert last.watch == (HookPoint("late"),)


def test_no_recovery_steps_fit_nothing_but_the_end(network: Network, still: Any, asked: CompressSettings) -> None:
    bench = still()
    compress_with(replace(asked, options={"recovery_steps": 0}), network("stages"), bench)
    assert [stage.name for stage in bench.fitted] == ["Mimicking features"]


def test_the_student_is_the_teacher_without_the_blocks(network: Network, still: Any, asked: CompressSettings) -> None:
    teacher = network("stages")
    made = Blocks(asked).prune(teacher, still())
    expected = drop_blocks(teacher, made.dropped, shape=SHAPE)
    assert len(made.dropped) == 1
    assert made.macs_kept == expected.macs_kept
    state = expected.model.state_dict()
    assert state.keys() == made.model.state_dict().keys(), "no adaptor is left"
    assert all(torch.equal(state[key], value) for key, value in made.model.state_dict().items())
    x = images(2, *SHAPE)
    assert torch.equal(capture(made.model, x, HookPoint("late"))[0], capture(expected.model, x, HookPoint("late"))[0])


@pytest.mark.parametrize(("keep", "gone"), [(1.0, 0), (0.9, 1), (0.85, 1), (0.77, 1), (0.5, 2), (0.4, 3), (0.12, 4)])
def test_the_macs_are_the_nearest_that_whole_blocks_allow(
    keep: float, gone: int, network: Network, still: Any, asked: CompressSettings
) -> None:
    teacher = network("stages")
    made = Blocks(replace(asked, keep_macs=keep, options={"recovery_steps": 0})).prune(teacher, still())
    assert len(made.dropped) == gone
    shares = [count_macs(drop_blocks(teacher, BLOCKS[:n], shape=SHAPE).model, SHAPE) / made.macs for n in range(5)]
    students = [share for share in shares if share < 1 or keep == 1]
    assert made.macs_kept == pytest.approx(min(students, key=lambda share: abs(share - keep)))
    assert bool(made.note) == (abs(made.macs_kept - keep) > 0.02 * keep)


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (
            {"keep_macs": 0.05},
            r"--keep-macs 0\.05 can't be met within 2 %: .* keeps 0\.0986 of the MACs\. It drops 4 of",
        ),
        ({"keep_params": 0.05}, r"of the parameters\. It drops 4 of the 4 blocks .* Methods that prune channels"),
        (
            {"keep_blocks": 0.6},
            r"keeps 0\.5 of the blocks that can be dropped\. It drops 2 of the 4 blocks that can be dr",
        ),
    ],
)
def test_a_share_that_blocks_dont_meet_gives_the_nearest_with_a_note(
    goal: dict[str, float],
    said: str,
    network: Network,
    still: Any,
    asked: CompressSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes: dict[str, Any] = {"keep_macs": None, "options": {"recovery_steps": 0}, **goal}
    settings = replace(asked, **changes)
    made = Blocks(settings).prune(network("stages"), still())
    assert re.search(said, made.note)
    assert made.note in caplog.text, "which is known before hours of training"


def test_a_network_without_blocks_is_refused(network: Network, still: Any, asked: CompressSettings) -> None:
    with pytest.raises(PruningError, match=r"this teacher has none .* Use a method that prunes channels: kd, fskd, cd"):
        Blocks(asked).prune(network("chain"), still())
