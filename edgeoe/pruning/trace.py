"""Which channels of a network are coupled, found by symbolic execution of its forward pass.

One forward pass runs on channel labels beside numbers: every element of every activation carries the label of the
channel that it came from. Operators that move data (view, permute, cat, split, roll, pad, ...) move the labels, by
running on them too. Arithmetic on two elements unites their labels in a union-find (residual sums, gates, attention
heads). A convolution or linear layer consumes the labels along its inputs and produces new ones along its outputs.
Channels whose labels end up in one set can only be pruned together. No list of architectures is needed: a head of
attention, a group of a grouped convolution or a slice of a position embedding follows from the arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from edgeoe.pruning.caches import without_caches
from edgeoe.pruning.layer_rules import LAYER_RULES
from edgeoe.pruning.recurrent_rules import tie_hidden_units
from edgeoe.pruning.rules import Call, propagate
from edgeoe.pruning.slots import CoupledChannels, SizeAttribute, Slot
from edgeoe.pruning.state import LAYERS, TraceState, no_labels
from edgeoe.pruning.union_find import narrowed

__all__ = ["trace_channels", "unfused_attention"]

_CREATIONS = frozenset({"zeros", "ones", "empty", "full", "new_zeros", "new_empty", "new_ones", "new_full",
                        "zeros_like", "ones_like", "empty_like", "full_like", "empty_strided"})  # fmt: skip
_ONE_UNIT = "they all depend on each other"
_Rows = Mapping[Slot, tuple[tuple[int, ...], ...]]
_Indices = Mapping[Slot, list[int]]  # where one label lies


def trace_channels(model: nn.Module, x: Tensor) -> list[CoupledChannels]:
    """The channels of `model` that its forward pass couples, in the order of the layers that produce them.

    Where activations are multiplied as matrices, the whole matrices of a batch (heads) and the channels within them
    (the dimensions of each head) are both units: their groups cross, and both can be pruned.

    model: in eval mode.
    x: an image (1, C, H, W).
    """
    state = TraceState(model)
    _run(state, x)
    groups = list(_coupled(state))
    if state.has_products:
        within = TraceState(model, within_heads=True)
        _run(within, x)
        groups = _with_crossing(groups, list(_coupled(within)))
    order = {name: position for position, name in enumerate(dict.fromkeys(state.producers))}
    last = len(order)
    return sorted(groups, key=lambda group: min(order.get(slot.module, last) for slot in group.slots))


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Within it attention runs as matrix products and a softmax, not as one fused kernel."""
    with sdpa_kernel(SDPBackend.MATH):
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


# Symbolic execution


class _SymbolicExecution(TorchDispatchMode):
    """Applies the rule of each operator that runs within it."""

    def __init__(self, state: TraceState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = state

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | (kwargs or {})
        name = func._schema.name.split("::")[-1]
        in_place = name.endswith("_") and not name.endswith("__")
        self._apply(Call(name.rstrip("_") if in_place else name, func, args, given, result), in_place=in_place)
        return result

    def _apply(self, call: Call, *, in_place: bool) -> None:
        if in_place and call.name in ("zero", "fill"):
            return  # whatever it holds, it lies along the same channels
        if in_place and call.name == "copy":
            self.state.write(call.args[0], self.state.labels(call.given["src"]))
            return
        if call.name in _CREATIONS:
            if isinstance(call.result, Tensor) and call.result.is_floating_point():
                self.state.set_labels(call.result, no_labels(call.result.shape))
            return
        labels = LAYER_RULES.get(call.name.strip("_"), propagate)(self.state, call)
        if labels is None:
            return
        if in_place:
            self.state.write(call.args[0], labels)
        else:
            self.state.set_labels(call.result, labels)


class _RootsOfSizes(TorchFunctionMode):
    """Notes where attention divides by the root of the size of its heads, which falls when dimensions go."""

    def __init__(self, state: TraceState) -> None:
        super().__init__()
        self.state = state

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None:
            self.state.note_root(args[0] if args else kwargs["query"])
        return func(*args, **kwargs)


def _run(state: TraceState, x: Tensor) -> None:
    """Run the forward pass of x, and refuse the channels of its outputs."""
    handles = []
    for name, module in state.model.named_modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: state.running.append(name)))
            handles.append(module.register_forward_hook(lambda *_: state.running.pop() and None))
    try:
        with torch.no_grad(), unfused_attention(), _RootsOfSizes(state), _SymbolicExecution(state):
            without_caches(state.model)  # anew within, so that labels reach what is computed from parameters
            output = state.model(x)
    finally:
        for handle in handles:
            handle.remove()
    outputs = state.recorded(output)
    if outputs is not None:
        state.sets.refuse(outputs, "they are the network's outputs")


# From labels to coupled channels


def _coupled(state: TraceState) -> Iterator[CoupledChannels]:
    slots: dict[Slot, Tensor] = {}
    for slot, labels in state.slots:
        known = slots.get(slot, labels)  # of a layer that runs twice, or in parts
        state.sets.union(known, labels)
        slots[slot] = torch.where(known != 0, known, labels)
    tie_hidden_units(state, slots)
    _settle_spread(state)
    _unite_constrained(state)
    for owner, labels in state.parameters.items():
        for slot, along in _slot_of_parameter(state, owner, labels).items():
            state.sets.union(slots.setdefault(slot, along), along)
    roots = {slot: state.sets.find(labels).long().tolist() for slot, labels in slots.items()}
    places: dict[int, dict[Slot, list[int]]] = {}
    for slot, row in roots.items():
        for index, label in enumerate(row):
            if label:
                places.setdefault(label, {}).setdefault(slot, []).append(index)
    yield from _grouped(state, places, roots)


def _settle_spread(state: TraceState) -> None:
    """Refuse what is broadcast over other channels; where those turned out to be the same, it belongs to them."""
    for labels, other, axes in state.spread:
        if state.sets.varies(other, axes):
            state.sets.refuse(labels, "they are spread over other channels")
        else:
            state.sets.union(*torch.broadcast_tensors(labels, narrowed(other, range(other.dim()))))


def _unite_constrained(state: TraceState) -> None:
    for constraint in state.constraints:
        table = constraint.table
        if state.sets.varies(table, [0]) and (constraint.equal_parts or state.sets.varies(table, [1])):
            state.sets.union(table[:1].expand_as(table), table)


def _slot_of_parameter(state: TraceState, owner: tuple[str, str], labels: Tensor) -> dict[Slot, Tensor]:
    """The axis along which the channels of a parameter lie that is used outside of layers, and its labels there.

    Elements that meet no channel, as those of further positions, may be anywhere.
    """
    roots = state.sets.find(labels).masked_fill(state.sets.alone(labels), 0)
    if not roots.any():
        return {}
    for axis in range(roots.dim()):
        rows = roots.movedim(axis, 0).flatten(1) if roots.dim() > 1 else roots[:, None]
        along = rows.amax(1)
        if bool(((rows == along[:, None]) | (rows == 0)).all()) and len(torch.unique(along)) > 1:
            return {Slot(*owner, axis): along}
    state.sets.refuse(roots, f"{'.'.join(filter(None, owner))} holds them in a way that can't be cut")
    return {}


def _grouped(
    state: TraceState, places: Mapping[int, _Indices], roots: Mapping[Slot, list[int]]
) -> Iterator[CoupledChannels]:
    """Units that lie in the same slots, with as many indices in each, together.

    places: {label: where it lies}.
    roots: {slot: labels along it}.
    """
    splits = {line: {*state.sets.find(torch.cat(parts)).tolist()} for line, parts in state.splits.items()}
    alike: dict[Any, list[_Indices]] = {}
    reasons, summed = state.sets.reasons(), state.summed()
    for label, where in places.items():
        if not state.outputs.isdisjoint(where):
            lines = tuple(line for line, labels in splits.items() if label in labels)
            slots_of_unit = frozenset((slot, len(indices)) for slot, indices in where.items())
            alike.setdefault((slots_of_unit, label in summed, reasons.get(label, ""), lines), []).append(where)
    for (_, is_sum, reason, lines), units in alike.items():
        slots = {slot: tuple(tuple(unit[slot]) for unit in units) for slot in units[0]}
        whole = any(len(roots[slot]) == len(rows[0]) for slot, rows in slots.items())
        yield CoupledChannels(
            slots,
            _attributes(state, slots),
            reason or (_ONE_UNIT if whole or len(units) == 1 else ""),
            outputs=tuple(slot for slot in slots if slot in state.outputs),
            inputs=tuple(slot for slot in slots if slot in state.inputs),
            splits=lines,
            summed=is_sum,
            scaled=_scaled(state, slots),
        )


def _scaled(state: TraceState, slots: Mapping[Slot, Sequence[Sequence[int]]]) -> Mapping[Slot, tuple[int, ...]]:
    """What holds the queries of attention that divides by the root of the number of these units."""
    held = {(slot, index) for slot, rows in slots.items() for row in rows for index in row}
    return next(
        (dict(one) for one in state.roots if {(s, i) for s, indices in one.items() for i in indices} <= held), {}
    )


def _with_crossing(groups: Sequence[CoupledChannels], within: Sequence[CoupledChannels]) -> list[CoupledChannels]:
    """`groups`, and those of `within` that cross them; without those that can't be pruned while the crossing ones can.

    groups: of whole matrices of activations.
    within: of the channels within them.
    """
    units = {(slot, row) for group in groups for slot, rows in group.slots.items() for row in rows}
    crossing = [
        replace(group, crossing=True)
        for group in within
        if not group.refused and not any((slot, group.slots[slot][0]) in units for slot in group.outputs)
    ]
    prunable = {(slot, i) for group in crossing for slot in group.outputs for row in group.slots[slot] for i in row}
    remaining = [
        group
        for group in groups
        if group.refused != _ONE_UNIT
        or not {(slot, i) for slot in group.outputs for row in group.slots[slot] for i in row} <= prunable
    ]
    return [*remaining, *crossing]


def _attributes(state: TraceState, slots: Mapping[Slot, Sequence[Sequence[int]]]) -> tuple[SizeAttribute, ...]:
    outputs = Counter({slot.module: len(rows[0]) for slot, rows in slots.items() if slot[1:] == ("weight", 0)})
    return tuple(
        SizeAttribute(module, attribute, outputs[module] // size)
        for (module, attribute), size in state.group_sizes.items()
        if outputs[module]
    )
