"""Compound units: channels of a stream that can only be pruned together with dimensions of every head that reads it.

A forward that computes `x.reshape(B, N, 3, heads, C // heads)` from the width C of its input ties two groups: the
stream that `x` comes from, and the heads of the layer between. Neither can be pruned alone, but both by the same share.
A compound unit is a few channels of the stream and as many outputs of each such layer: one dimension of every head, or
where the forward does not take that, whole heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import nn

from edgeoe.pruning.groups import Group
from edgeoe.pruning.norms import unit_norms
from edgeoe.pruning.slots import CoupledChannels, Slot

__all__ = ["compounds_with", "heads_reading"]


def heads_reading(stream: Group, groups: Sequence[Group]) -> list[Group]:
    """Those of `groups`, other than streams, that layers produce which read `stream`, at once or through others."""
    reading, read = [], {*stream.consumers}
    streams = [group for group in groups if group.summed and not group.producers.keys() <= stream.consumers.keys()]
    adding = {name for group in (stream, *streams) for name in group.producers}
    waiting = [group for group in groups if adding.isdisjoint(group.producers)]
    while more := [group for group in waiting if group not in reading and not read.isdisjoint(group.producers)]:
        reading += more
        read.update(chain.from_iterable(group.consumers for group in more))
    return reading


def compounds_with(model: nn.Module, stream: Group, heads: Sequence[Group]) -> Iterator[CoupledChannels]:
    """`stream` in compound units with `heads`, in each way that may work, the finest units first.

    heads: groups that layers produce which read `stream`; some may cross others.
    """
    layer = next(name for group in heads for name in group.producers if name in stream.consumers)
    width, each = int(model.get_submodule(layer).weight.shape[1]), len(stream.consumers[layer][0])  # type: ignore[index]
    whole = [group for group in heads if not group.crossing]
    crossing = [group for group in heads if group.crossing]
    ways = [
        [_dimensions(model, group, width, interleaved=interleaved) or _as_it_is(group) for group in whole]
        + [_as_it_is(group) for group in _apart(crossing, whole)]
        for interleaved in (False, True)
    ]
    ways.append([_as_it_is(group) for group in (*crossing, *_apart(whole, crossing))])
    ways.append([_as_it_is(group) for group in (*whole, *_apart(crossing, whole))])
    roots = {slot: indices for group in crossing for slot, indices in group.scaled.items()}
    known: list[CoupledChannels] = []
    for parts, scaled in zip(ways, (roots, roots, roots, {}), strict=True):
        together = _together(_as_it_is(stream), parts, width, each)
        if together is not None and together not in known:
            known.append(together)
            yield replace(together, summed=stream.summed, scaled=scaled)


def _apart(groups: Sequence[Group], others: Sequence[Group]) -> list[Group]:
    """Those of `groups` that hold no channel of `others`."""
    return [group for group in groups if not any(group.shares_channels(other) for other in others)]


def _as_it_is(group: Group) -> CoupledChannels:
    """The units of `group` as they are, in the order in which they are pruned."""
    slots = {slot: tuple(rows[unit] for unit in group.order) for slot, rows in group.slots.items()}
    return CoupledChannels(slots, group.attributes, outputs=group.outputs, inputs=group.inputs)


def _dimensions(model: nn.Module, heads: Group, width: int, *, interleaved: bool) -> CoupledChannels | None:
    """One dimension of every head as a unit; None if that is no way to cut `heads`.

    Which dimensions of different heads make a unit is free where heads lie one after the other: in each head they go
    by their norms.

    heads: units are whole heads.
    width: of all heads together.
    interleaved: queries, keys and values of one dimension lie side by side, not each in a part of its own, and perhaps
        the heads of one dimension, too, which then are all cut alike.
    """
    count = len(heads.order)
    size = width // count
    if width % count or size < 2:
        return None
    atoms: dict[Slot, list[tuple[int, ...]]] = {}  # each dimension of the first head, then of the second, ...
    for slot, rows in heads.slots.items():
        each, rest = divmod(len(rows[0]), size)
        if not rest:  # else it holds something of each head
            atoms[slot] = [
                head[at * each : (at + 1) * each] if interleaved else head[at::size]
                for head in rows
                for at in range(size)
            ]
    outputs, inputs = (tuple(slot for slot in some if slot in atoms) for some in (heads.outputs, heads.inputs))
    if not (outputs or inputs):
        return None
    norms = unit_norms(model, {slot: atoms[slot] for slot in (*outputs, *inputs)}).view(count, size)
    norms = norms.mean(0).expand_as(norms) if interleaved else norms
    ranked = (norms.argsort(dim=1, stable=True) + size * torch.arange(count)[:, None]).T.tolist()
    slots = {slot: tuple(_joined(parts, unit) for unit in ranked) for slot, parts in atoms.items()}
    return CoupledChannels(slots, outputs=outputs, inputs=inputs)


def _together(
    stream: CoupledChannels, heads: Sequence[CoupledChannels], width: int, each: int
) -> CoupledChannels | None:
    """Units of `stream` with units of all of `heads`, so that all lose the same number of channels; None if none fit.

    What is left over of either is never pruned.

    width: of the stream, and of all heads together.
    each: channels that the layers read of a unit of `stream`.
    """
    if any(width % part.units for part in heads):
        return None
    channels = [each, *(width // part.units for part in heads)]
    least = math.lcm(*channels)
    counts = [(part, least // one) for part, one in zip((stream, *heads), channels, strict=True)]
    units = min(part.units // count for part, count in counts)
    if units < 2:
        return None
    return CoupledChannels(
        {
            slot: tuple(_joined(rows, range(unit * count, (unit + 1) * count)) for unit in range(units))
            for part, count in counts
            for slot, rows in part.slots.items()
        },
        tuple(one._replace(per_unit=one.per_unit * count) for part, count in counts for one in part.attributes),
        outputs=tuple(slot for part, _ in counts for slot in part.outputs),
        inputs=tuple(slot for part, _ in counts for slot in part.inputs),
    )


def _joined(rows: Sequence[Sequence[int]], units: Iterable[int]) -> tuple[int, ...]:
    """The indices of all of `units`, ascending."""
    return tuple(sorted(chain.from_iterable(rows[unit] for unit in units)))
