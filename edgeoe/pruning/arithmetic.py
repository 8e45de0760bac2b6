"""MACs and parameters of a pruned network by arithmetic: nothing is pruned or run for each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from edgeoe.errors import pass_on_out_of_memory
from edgeoe.pruning.groups import Group, random_units
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.slots import Slot
from edgeoe.pruning.state import LAYERS
from edgeoe.pruning.trace import unfused_attention

__all__ = ["Arithmetic", "Operation", "operations"]

_Owner = tuple[str, str]  # module, name of its tensor
_Removed = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What one operator of a forward pass multiplies.

    module: the innermost module that was running.
    weight: the parameter that it multiplies by, each entry equally often; None for a product of activations.
    lengths: numbers whose product is its MACs.
    """

    module: str
    weight: _Owner | None
    lengths: tuple[int, ...]

    @property
    def macs(self) -> int:
        return math.prod(self.lengths)


@torch.no_grad()
def operations(model: nn.Module, shape: tuple[int, int, int]) -> list[Operation]:
    """Every operator that multiplies and accumulates in a forward pass of one image (C, H, W), in order."""
    owners = {
        parameter.data_ptr(): ((module_name, name), parameter.numel())
        for module_name, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    }
    noted: list[Operation] = []

    def noting(formula: Callable[..., int]) -> Callable[..., int]:
        def note(*args: Any, **kwargs: Any) -> int:
            flops = formula(*args, **kwargs)
            running = max(counter.mod_tracker.parents, key=len).partition(".")[2]
            noted.append(_operation(model, running, owners, [a for a in args if isinstance(a, Tensor)], flops // 2))
            return flops

        setattr(note, "_get_raw", True)  # noqa: B010 - it takes tensors instead of their shapes
        return note

    counter = FlopCounterMode(
        display=False, custom_mapping={operator: noting(formula) for operator, formula in flop_registry.items()}
    )
    with unfused_attention(), counter:
        model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    return noted


def _operation(
    model: nn.Module, running: str, owners: Mapping[int, tuple[_Owner, int]], factors: Sequence[Tensor], macs: int
) -> Operation:
    for factor in factors:
        owner, size = owners.get(factor.data_ptr(), (None, 0))
        if owner is not None and factor.dim() > 1 and factor.numel() == size and macs % size == 0:
            return Operation(running, owner, (macs,))
    layer = model.get_submodule(running)
    if isinstance(layer, LAYERS) and len(factors) > 1 and layer.weight.shape == factors[1].shape:  # standardised
        return Operation(running, (running, "weight"), (macs,))
    if len(factors) > 1 and factors[-2].dim() in (2, 3) and factors[-1].dim() == factors[-2].dim():
        lengths = (*factors[-2].shape, factors[-1].shape[-1])  # (n, k, m) or (batch, n, k, m)
        if math.prod(lengths) == macs:
            return Operation(running, None, lengths)
    return Operation(running, None, (macs,))


@dataclass(frozen=True, slots=True)
class _Cells:
    """Indices along an axis that some groups hold together: several cross, as heads and the dimensions of heads do.

    each: indices in which one unit of each of them crosses.
    """

    groups: tuple[str, ...]
    each: int

    def lost(self, groups: Mapping[str, Group], removed: _Removed) -> int:
        """How many indices go with the `removed` units."""
        units = [len(groups[name].order) for name in self.groups]
        remaining = [count - len(removed.get(name, ())) for name, count in zip(self.groups, units, strict=True)]
        return self.each * (math.prod(units) - math.prod(remaining))


class Arithmetic:
    """MACs and parameters of `model` without some units of its groups.

    The MACs of a layer follow from the size of its weight. Which groups shorten the factors of a product of activations
    is read off from three networks without random units. Where that is ambiguous, or a tensor is shared or holds units
    of unequal size, nothing is known.

    model: in eval mode.
    shape: (C, H, W) of an image.
    groups: all groups of `model`; those refused keep all their units.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int], groups: Sequence[Group]) -> None:
        self._groups = {group.name: group for group in groups if not group.refused}
        self._operations = operations(model, shape)
        self.macs = sum(operation.macs for operation in self._operations)
        self.params = sum(parameter.numel() for parameter in model.parameters())
        self._shapes = {
            (module_name, name): tensor.shape
            for module_name, module in model.named_modules()
            for name, tensor in module.named_parameters(recurse=False)
        }
        self._axes: dict[tuple[_Owner, int], list[_Cells]] = {}  # (tensor, axis) -> what of it groups hold
        self._factors: dict[tuple[int, int], tuple[str, int]] = {}  # (product, its length) -> (group, share of a unit)
        self._uses: Counter[_Owner] = Counter()  # how often each entry of a weight multiplies
        for operation in self._operations:
            if operation.weight:
                self._uses[operation.weight] += operation.macs // math.prod(self._shapes[operation.weight])
        self._products = [operation for operation in self._operations if operation.weight is None]
        self.params_known = self._read_axes(model)
        self.macs_known = self.params_known and (not self._products or self._read_products(model, shape))

    def params_without(self, removed: _Removed) -> int:
        """Parameters of the network without the `removed` units."""
        return self.params + sum(new - old for _, old, new in self._changed(removed))

    def macs_without(self, removed: _Removed) -> int:
        """MACs for one image of the network without the `removed` units."""
        macs = self.macs + sum(self._uses[owner] * (new - old) for owner, old, new in self._changed(removed))
        for number, product in enumerate(self._products):
            macs += math.prod(self._lengths(number, product, removed)) - product.macs
        return macs

    def _lengths(self, number: int, product: Operation, removed: _Removed) -> Iterator[int]:
        for at, length in enumerate(product.lengths):
            group, each = self._factors.get((number, at), ("", 0))
            yield length - each * len(removed.get(group, ()))

    def _changed(self, removed: _Removed) -> Iterator[tuple[_Owner, int, int]]:
        """(parameter, size before, size after) of each parameter that changes."""
        shapes: dict[_Owner, list[int]] = {}
        for (owner, axis), cells in self._axes.items():
            if any(removed.get(name) for one in cells for name in one.groups):
                shape = shapes.setdefault(owner, list(self._shapes[owner]))
                shape[axis] -= sum(one.lost(self._groups, removed) for one in cells)
        for owner, shape in shapes.items():
            yield owner, math.prod(self._shapes[owner]), math.prod(shape)

    def _read_axes(self, model: nn.Module) -> bool:
        """Note which axes each group shortens, and by how much. Returns whether that is a number for every unit."""
        parameters = [parameter for module in model.modules() for parameter in module.parameters(recurse=False)]
        if len({id(parameter) for parameter in parameters}) < len(parameters):
            return False
        holders: dict[Slot, dict[int, list[tuple[str, int]]]] = {}  # slot -> index -> (group, unit)
        for group in self._groups.values():
            for slot, rows in group.slots.items():
                at = holders.setdefault(slot, {})
                for unit, row in enumerate(rows):
                    for index in row:
                        at.setdefault(index, []).append((group.name, unit))
        for slot, at in holders.items():
            cells = self._cells(at.values())
            if cells is None:
                return False
            if slot[:2] in self._shapes:  # else it is a buffer
                self._axes[slot[:2], slot.axis] = cells
        return True

    def _cells(self, holders: Iterable[Sequence[tuple[str, int]]]) -> list[_Cells] | None:
        """Indices by the groups that hold them; None if units, or crossings of units, have unequal numbers of them.

        holders: (group, unit) of all that hold an index, for each.
        """
        counts: dict[tuple[str, ...], Counter[tuple[int, ...]]] = {}
        for held in holders:
            counts.setdefault(tuple(name for name, _ in held), Counter())[tuple(unit for _, unit in held)] += 1
        cells = []
        for names, sizes in counts.items():
            crossings = math.prod(len(self._groups[name].order) for name in names)
            if len(set(names)) < len(names) or len(sizes) < crossings or len(set(sizes.values())) > 1:
                return None
            cells.append(_Cells(names, next(iter(sizes.values()))))
        return cells

    def _read_products(self, model: nn.Module, shape: tuple[int, int, int]) -> bool:
        """Note which group shortens each length of a product. Returns whether each is shortened by one alone."""
        generator = torch.Generator().manual_seed(0)
        probes: list[tuple[_Removed, list[Operation]]] = []
        for some in (1, 2, 3):  # all groups; each other one; each third one
            removed = random_units(list(self._groups.values())[::some], generator)
            try:
                probes.append((removed, operations(without_channels(model, self._groups.values(), removed), shape)))
            except Exception as reason:
                pass_on_out_of_memory(reason)
                return False
        if any([o.weight for o in run] != [o.weight for o in self._operations] for _, run in probes):
            return False
        products = [(removed, [o for o in run if o.weight is None]) for removed, run in probes]
        for number, product in enumerate(self._products):
            if any(len(run[number].lengths) != len(product.lengths) for _, run in products):
                return False
            for at, length in enumerate(product.lengths):
                lost = [(removed, length - run[number].lengths[at]) for removed, run in products]
                if any(by for _, by in lost):
                    shortened = self._shortened_by(product.module, lost)
                    if shortened is None:
                        return False
                    self._factors[number, at] = shortened
        return all(self.macs_without(removed) == sum(o.macs for o in run) for removed, run in probes)

    def _shortened_by(self, module: str, lost: Sequence[tuple[_Removed, int]]) -> tuple[str, int] | None:
        """The one group, as near `module` as any, of which each unit takes the same part of a length, and that part.

        lost: (removed units, by how much the length fell) of several networks.
        """
        parts = module.split(".") if module else []
        for depth in range(len(parts), -1, -1):
            above = "".join(f"{part}." for part in parts[:depth])
            fitting = []
            for name in self._below(above):
                each, odd = divmod(lost[0][1], len(lost[0][0][name]))
                if each > 0 and not odd and all(by == each * len(removed.get(name, ())) for removed, by in lost):
                    fitting.append((name, each))
            if fitting:
                return fitting[0] if len(fitting) == 1 else None
        return None

    def _below(self, above: str) -> Iterator[str]:
        """Groups that hold channels in a module: "blocks.0." or, for the whole network, ""."""
        for name, group in self._groups.items():
            if any(f"{slot.module}.".startswith(above) for slot in group.slots):
                yield name
