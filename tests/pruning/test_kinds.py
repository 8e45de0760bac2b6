"""Kinds: what is alike is pruned alike."""

from pruning.grouped import SHAPE, Network, groups_of

from edgeoe.models.structure import blocks_by_kind, read_structure
from edgeoe.pruning.kinds import by_kind, group_kind, module_kind
from edgeoe.pruning.savings import macs_by_module


def test_items_of_a_kind_stand_together_in_the_order_in_which_kinds_occur() -> None:
    assert by_kind([3, 1, 4, 1, 5, 9, 2], lambda number: number % 2) == [[3, 1, 1, 5, 9], [4, 2]]
    assert by_kind([], len) == []


def test_blocks_of_the_same_layers_and_input_shape_are_of_a_kind(network: Network) -> None:
    model = network("stages")
    kinds = blocks_by_kind(model, read_structure(model, SHAPE).blocks)
    assert [[block.name for block in alike] for alike in kinds] == [["early.0", "early.1"], ["late.0", "late.1"]]


def test_layers_that_differ_in_shape_alone_are_of_two_kinds(network: Network) -> None:
    model = network("stages")
    assert module_kind(model.get_submodule("early.0")) == module_kind(model.get_submodule("early.1"))
    assert module_kind(model.get_submodule("early.0")) != module_kind(model.get_submodule("late.0"))


def test_groups_of_the_same_shapes_and_macs_are_of_a_kind(network: Network) -> None:
    model = network("stages")
    macs_of = macs_by_module(model, SHAPE)
    kinds = by_kind(groups_of(model).values(), lambda group: group_kind(model, group, macs_of))
    together = [[group.name for group in alike] for alike in kinds if len(alike) > 1]
    assert together == [["early.0.one.0", "early.1.one.0"], ["late.0.one.0", "late.1.one.0"]]
    twice = {name: 2 * macs if name == "early.0.one.0" else macs for name, macs in macs_of.items()}
    kinds = by_kind(groups_of(model).values(), lambda group: group_kind(model, group, twice))
    assert ["early.0.one.0", "early.1.one.0"] not in [[group.name for group in alike] for alike in kinds]
