"""Where a network holds its channels: axes of tensors, and attributes that count them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["CoupledChannels", "SizeAttribute", "Slot"]


class Slot(NamedTuple):
    """An axis of a parameter or buffer.

    module: the module that holds the tensor.
    tensor: the tensor's name in that module.
    axis: the axis along which channels lie.
    """

    module: str
    tensor: str
    axis: int


class SizeAttribute(NamedTuple):
    """An attribute of a module that counts channels, such as `groups` or `num_heads`.

    module: the module that has the attribute.
    attribute: its name; "shape.0" is the first item of the tuple `shape`.
    per_unit: by how much it falls when one unit is pruned.
    """

    module: str
    attribute: str
    per_unit: int


@dataclass(frozen=True, slots=True)
class CoupledChannels:
    """Channels that only go together, in units that can be pruned independently of each other.

    slots: {slot: the indices of each unit along that axis}.
    attributes: attributes that are known to count the channels.
    refused: why none can be pruned; empty if they can.
    outputs: those of `slots` along which a layer outputs the channels.
    inputs: those of `slots` along which a layer takes them.
    splits: lines of the teacher's code that split the channels or take a slice of them.
    crossing: whether each unit takes a share of every unit of other groups: a dimension of every head.
    summed: whether outputs of several layers are added up in the channels: a residual stream.
    scaled: indices of slots that are scaled by the root of the share of units that remains, since what they compute is
        divided by the root of the number of units.
    """

    slots: Mapping[Slot, tuple[tuple[int, ...], ...]]
    attributes: tuple[SizeAttribute, ...] = ()
    refused: str = ""
    outputs: tuple[Slot, ...] = ()
    inputs: tuple[Slot, ...] = ()
    splits: tuple[str, ...] = ()
    crossing: bool = False
    summed: bool = False
    scaled: Mapping[Slot, tuple[int, ...]] = field(default_factory=dict)

    @property
    def units(self) -> int:
        return len(next(iter(self.slots.values())))
