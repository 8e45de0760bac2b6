"""The widths of a group, the shares of layers that go with them, and groups beside dropped blocks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layers import layer_of
from pruning.grouped import SHAPE, Network, groups_of, images
from torch import nn

from edgeoe.models.structure import read_structure
from edgeoe.pruning.allocation import width_steps
from edgeoe.pruning.choices import layer_shares, lies_within, outside, width_levels
from edgeoe.pruning.groups import Group
from edgeoe.pruning.removal import without_blocks, without_channels
from edgeoe.pruning.slots import Slot

NETWORKS = ("chain", "residual", "scaled", "stages", "several")


def group(width: int, rows: int) -> Group:
    """A group of `width` units, each of so many outputs of a layer."""
    spread = tuple(tuple(range(at * rows, (at + 1) * rows)) for at in range(width))
    return Group("a", tuple(range(width)), producers={"a": spread})


@given(st.integers(1, 200), st.sampled_from([1, 2, 3]), st.sampled_from([1, 4, 8]), st.integers(1, 10))
def test_levels_are_steps_of_the_group_with_the_last(width: int, rows: int, multiple: int, most: int) -> None:
    one = group(width, rows)
    steps = [pruned for pruned, _ in width_steps(one, multiple)]
    levels = width_levels(one, multiple, most=most)
    assert len(levels) == min(most, len(steps))
    assert list(levels) == sorted({*levels})
    assert {*levels} <= {*steps}
    assert all((width - pruned) * rows % multiple == 0 for pruned in levels)
    assert levels[-1:] == tuple(steps[-1:])
    assert all(0 < pruned < width for pruned in levels)


@given(st.integers(20, 400), st.integers(2, 8))
def test_levels_are_about_evenly_spaced(width: int, most: int) -> None:
    levels = (0, *width_levels(group(width, 1), 1, most=most))
    gaps = [after - before for before, after in itertools.pairwise(levels)]
    assert max(gaps) - min(gaps) <= 2


def test_a_group_that_is_narrow_already_has_no_level() -> None:
    assert width_levels(group(8, 1), 8, most=8) == ()


@pytest.mark.parametrize("name", NETWORKS)
def test_shares_are_what_the_parameters_shrink_by(name: str, network: Network) -> None:
    model = network(name)
    groups = groups_of(model)
    several = [one for one in groups.values() if not one.refused]
    assert several
    for one in several:
        for pruned in {1, len(one.order) // 2, len(one.order) - 1} - {0}:
            student = without_channels(model, groups.values(), {one.name: one.order[:pruned]})
            shrinkage = {
                layer: 1 - count / whole
                for layer, module in model.named_modules()
                if (whole := own_parameters(module)) != (count := own_parameters(layer_of(student, layer)))
            }
            assert layer_shares(model, one, pruned) == pytest.approx(shrinkage)


def own_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


class Scaled(nn.Module):
    """A layer scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gamma = nn.Conv2d(8, 8, 1), nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.gamma * self.conv(x)


def test_parameters_count_whatever_their_name_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Scaled(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    stream = groups_of(model)["0"]
    conv = 1 - (16 + 4) / (64 + 8)
    head = 1 - (12 + 3) / (24 + 3)
    assert layer_shares(model, stream, 4) == pytest.approx({"0": 0.5, "1": 0.5, "1.conv": conv, "4": head})
    assert not lies_within(stream, "1")
    assert lies_within(replace(stream, slots={Slot("1", "gamma", 0): ((0,),)}), "1"), "parameters of the block itself"


def test_a_weight_with_the_channels_on_both_axes_shrinks_by_both() -> None:
    """A stream that runs through a convolution of eight channels: half the stream keeps a quarter of its weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Shortcut(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    stream = groups_of(model)["0"]
    assert layer_shares(model, stream, 4) == pytest.approx(
        {"0": 0.5, "1.conv": 1 - (16 + 4) / (64 + 8), "4": 1 - (12 + 3) / (24 + 3)}
    )


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x).relu()


def test_nothing_pruned_is_no_share(network: Network) -> None:
    model = network("stages")
    for one in groups_of(model).values():
        assert set(layer_shares(model, one, 0).values()) <= {0.0}


def test_inner_groups_lie_within_their_block_and_streams_do_not(network: Network) -> None:
    groups = groups_of(network("stages"))
    assert lies_within(groups["early.0.one.0"], "early.0")
    assert not lies_within(groups["early.0.one.0"], "early.1")
    assert not lies_within(groups["stem.0"], "early.0")
    assert lies_within(groups["early.0.one.0"], "early"), "of whatever depth"


def test_a_name_that_only_begins_alike_is_another_block() -> None:
    one = replace(group(4, 1), slots={Slot("early.10.conv", "weight", 0): ((0,),)})
    assert not lies_within(one, "early.1")
    assert outside(one, ["early.1"]).slots == one.slots


@pytest.mark.parametrize("dropped", [["early.0"], ["early.1", "late.0"], ["early.0", "early.1", "late.0", "late.1"]])
def test_groups_can_be_pruned_of_what_remains_once_blocks_are_dropped(dropped: list[str], network: Network) -> None:
    """Both ways come to the same student: channels of the teacher first, or of the teacher without blocks."""
    model = network("stages")
    groups = list(groups_of(model).values())
    removed = {one.name: one.order[:2] for one in groups if not any(lies_within(one, block) for block in dropped)}
    assert "stem.0" in removed
    without = without_blocks(model, dropped)
    remaining = [outside(one, dropped) for one in groups]
    student = without_channels(without, remaining, removed)
    other = without_blocks(without_channels(model, groups, removed), dropped)
    assert torch.equal(student(images()), other(images()))
    for one in remaining:
        names = {*one.producers, *one.consumers, *(slot.module for slot in one.slots)}
        assert not any(name == block or name.startswith(f"{block}.") for name in names for block in dropped)


def test_without_dropped_blocks_a_group_stays_as_it_is(network: Network) -> None:
    one = groups_of(network("stages"))["stem.0"]
    assert outside(one, []) == one
    assert outside(one, ["late.0"]).slots == one.slots


def test_dropped_blocks_pass_on_their_input_and_the_teacher_stays(network: Network) -> None:
    model, x = network("stages"), images()
    names = [block.name for block in read_structure(model, SHAPE).blocks]
    before = model(x)
    student = without_blocks(model, names)
    stem = torch.relu(model.get_submodule("stem")(x))
    down = torch.relu(model.get_submodule("down")(stem))
    assert torch.equal(student(x), model.get_submodule("head")(down.mean((2, 3))))
    assert torch.equal(model(x), before)
    assert all(isinstance(student.get_submodule(name), nn.Identity) for name in names)
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in student.state_dict().values()}


@pytest.mark.parametrize("training", [True, False])
def test_what_stands_for_a_dropped_block_is_in_the_networks_mode(training: bool, network: Network) -> None:
    student = without_blocks(network("stages").train(training), ["early.0"])
    assert all(module.training == training for module in student.modules())


def test_a_block_of_the_first_level_can_be_dropped() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Shortcut())
    assert isinstance(without_blocks(model, ["1"]).get_submodule("1"), nn.Identity)
