"""The widths that a group can be pruned to, and the share of each module that is pruned with them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import nn

from edgeoe.pruning.allocation import width_steps
from edgeoe.pruning.groups import ChannelIndices, Group

__all__ = ["is_in", "layer_shares", "lies_within", "outside", "width_levels"]


def width_levels(group: Group, multiple: int, *, most: int) -> tuple[int, ...]:
    """How many units of `group` are pruned at each of `most` widths, ascending and about evenly spaced.

    multiple: the width of every layer stays a multiple of it.
    """
    steps = [pruned for pruned, _ in width_steps(group, multiple)]
    if len(steps) <= most:
        return tuple(steps)
    return tuple(sorted({steps[round((at + 1) * len(steps) / most) - 1] for at in range(most)}))


def layer_shares(model: nn.Module, group: Group, pruned: int) -> dict[str, float]:
    """{module: share of its own parameters} that `pruned` units of `group` hold; a tensor with channels on several axes
    shrinks by each."""
    remaining: dict[str, dict[str, float]] = {}
    for slot, rows in group.slots.items():
        size = getattr(model.get_submodule(slot.module), slot.tensor).shape[slot.axis]
        tensors = remaining.setdefault(slot.module, {})
        tensors[slot.tensor] = tensors.get(slot.tensor, 1.0) * (1 - pruned * len(rows[0]) / size)
    shares = {}
    for module, tensors in remaining.items():
        sizes = {name: one.numel() for name, one in model.get_submodule(module).named_parameters(recurse=False)}
        if tensors.keys() & sizes.keys():  # else it holds channels in buffers alone
            pruned_sizes = (size * (1 - tensors.get(name, 1.0)) for name, size in sizes.items())
            shares[module] = sum(pruned_sizes) / sum(sizes.values())
    return shares


def lies_within(group: Group, block: str) -> bool:
    """Whether all channels of `group` are in the module `block`."""
    return all(is_in(slot.module, block) for slot in group.slots)


def outside(group: Group, blocks: Collection[str]) -> Group:
    """`group` without what lies in `blocks`, which were dropped."""

    def stays(module: str) -> bool:
        return not any(is_in(module, block) for block in blocks)

    def narrowed(indices: ChannelIndices) -> ChannelIndices:
        return {name: channels for name, channels in indices.items() if stays(name)}

    return replace(
        group,
        producers=narrowed(group.producers),
        consumers=narrowed(group.consumers),
        slots={slot: rows for slot, rows in group.slots.items() if stays(slot.module)},
        attributes=tuple(attribute for attribute in group.attributes if stays(attribute.module)),
    )


def is_in(module: str, block: str) -> bool:
    """Whether `module` is the module `block` or lies in it."""
    return module == block or module.startswith(f"{block}.")
