"""State of a symbolic execution: which channel labels each tensor carries, and which tensors hold channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from edgeoe.pruning.slots import Slot
from edgeoe.pruning.sources import calling_line
from edgeoe.pruning.union_find import UnionFind

__all__ = ["LAYERS", "SplitConstraint", "TraceState", "no_labels"]

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True, slots=True)
class SplitConstraint:
    """An axis that the forward splits: what remains of it after pruning must split the same way.

    table: (A, B, ...) labels. Each of the B must lose all of its A or none, unless whole A are pruned.
    equal_parts: the A are parts of equal length, so whole A can't be pruned.
    """

    table: Tensor
    equal_parts: bool


def no_labels(shape: Sequence[int]) -> Tensor:
    """Labels of a tensor that carries no channel."""
    return torch.zeros(tuple(shape), dtype=torch.float64)


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and other tensors of a module by name, but what it computes when its mode changes."""
    yield from module.named_parameters(recurse=False)
    constant = type(module).train is nn.Module.train
    for name, tensor in module.named_buffers(recurse=False):
        if constant or name not in module._non_persistent_buffers_set:
            yield name, tensor
    if constant:
        yield from ((name, value) for name, value in vars(module).items() if isinstance(value, Tensor))


class TraceState:
    """What one symbolic forward pass of `model` has learned so far.

    sets: the union-find over labels. Labels of one set are coupled.
    slots: (slot, labels along its axis), in the order in which layers run.
    inputs, outputs: the slots along which layers take channels and output them.
    parameters: labels of each element of parameters that are used outside of layers, by (module, tensor).
    producers: layers that made new labels, in the order in which they run.
    group_sizes: {(module, attribute that counts groups): channels of one group}.
    constraints: axes that the forward splits.
    splits: {line of the teacher's code: labels of what it splits, or takes a slice of}.
    parts: {view of some rows of a weight: ((module, tensor), rows)}.
    transposed: {transposed view of a weight, or of some rows: ((module, tensor), rows)}.
    roots: for each attention that divides by the root of the size of its heads {slot: what holds its queries}.
    spread: (labels, other labels, the axes along which the first are broadcast over the second).
    running: layers that are being called, the innermost last.
    within_heads: whether the channels of a matrix of activations are told apart (the dimensions of a head); else all
        of a matrix are one (a head).
    sums: labels of activations that are sums of several.
    has_products: whether activations were multiplied as matrices.
    """

    def __init__(self, model: nn.Module, *, within_heads: bool = False) -> None:
        self.model = model
        self.within_heads, self.has_products = within_heads, False
        self.sums: list[Tensor] = []
        self.sets = UnionFind()
        self.slots: list[tuple[Slot, Tensor]] = []
        self.inputs: set[Slot] = set()
        self.outputs: set[Slot] = set()
        self.parameters: dict[tuple[str, str], Tensor] = {}
        self.producers: list[str] = []
        self.group_sizes: dict[tuple[str, str], int] = {}
        self.constraints: list[SplitConstraint] = []
        self.splits: dict[str, list[Tensor]] = {}
        self.parts: Any = WeakIdKeyDictionary()
        self.spread: list[tuple[Tensor, Tensor, list[int]]] = []
        self.transposed: Any = WeakIdKeyDictionary()
        self.roots: list[dict[Slot, tuple[int, ...]]] = []
        self.running: list[str] = []
        self._labels: Any = WeakIdKeyDictionary()  # tensor -> labels, in its shape
        self._parameter_ranges: list[tuple[int, int]] = []  # first label, and the one after the last
        self._alive: list[Tensor] = []  # so that no two tensors share an id
        self._owners: dict[int, tuple[str, str]] = {}  # id of a tensor of a module -> module, name
        for module_name, module in model.named_modules():
            for name, tensor in _tensors_of(module):
                if tensor.is_floating_point():
                    self._owners.setdefault(id(tensor), (module_name, name))
                    self._alive.append(tensor)

    # Labels of tensors

    def owner(self, tensor: object) -> tuple[str, str] | None:
        """(module, name) of a parameter, a buffer or another tensor of a module; None for any other tensor."""
        return self._owners.get(id(tensor))

    def labels(self, tensor: object) -> Tensor | None:
        """Labels of `tensor`, in its shape; None if it carries none.

        A parameter that is used outside of its layer gets a new label for each element.
        """
        if not isinstance(tensor, Tensor):
            return None
        labels = self.recorded(tensor)
        if labels is None and (owner := self.owner(tensor)) and tensor.numel() > 1:
            module = self.model.get_submodule(owner[0])
            if not (isinstance(module, LAYERS) and owner[1] == "weight" and owner[0] in self.running):
                labels = self._labels[tensor] = self.sets.new(tensor.numel()).view(tensor.shape)
                self._parameter_ranges.append((int(labels.min()), int(labels.max()) + 1))
                self.parameters[owner] = labels
        return labels

    def recorded(self, tensor: Tensor) -> Tensor | None:
        """The labels that `tensor` has got so far; None if it has none."""
        labels: Tensor | None = self._labels.get(tensor)
        return labels

    def set_labels(self, result: Any, labels: Any) -> None:
        """Give what an operator returned its labels.

        result: a tensor, or a sequence of tensors.
        labels: labels for each of them, or one tensor of labels for all; None leaves a tensor without.
        """
        if isinstance(result, Tensor):
            if isinstance(labels, Tensor) and (result.is_floating_point() or result.is_complex()):
                self._labels[result] = labels
        elif isinstance(result, (tuple, list)):
            parts = labels if isinstance(labels, (tuple, list)) else [labels] * len(result)
            for one, part in zip(result, parts, strict=False):
                if part is not None and isinstance(one, Tensor) and part.shape == one.shape:
                    self.set_labels(one, part)

    def write(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Record that `tensor` is overwritten in place. Where it is a view, its base is, too."""
        labels = no_labels(()) if labels is None else labels
        labels, old, base = labels.expand(tensor.shape), self.recorded(tensor), tensor._base
        self._labels[tensor] = labels
        if (
            base is None
            or 0 in base.stride()
            or (old is not None and torch.equal(self.sets.find(old), self.sets.find(labels)))
        ):
            return
        whole = torch.empty_strided(base.shape, base.stride(), dtype=torch.float64)
        known = self.labels(base)
        whole.copy_(known) if known is not None else whole.zero_()
        whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - base.storage_offset()).copy_(labels)
        self._labels[base] = whole

    def from_parameters(self, labels: Tensor) -> bool:
        """Whether all of `labels` come from parameters that are used outside of layers."""
        return all(
            any(start <= label < stop for start, stop in self._parameter_ranges)
            for label in (labels.amin(), labels.amax())
        )

    def summed(self) -> set[int]:
        """Representatives of the sets in which activations are added to each other."""
        return {int(root) for labels in self.sums for root in self.sets.find(labels).tolist()}

    # Slots

    def hold(self, owner: tuple[str, str], axis: int, labels: Tensor) -> None:
        """Note that a tensor holds the channels `labels` along `axis`."""
        self.slots.append((Slot(*owner, axis), labels))

    def consume(self, owner: tuple[str, str], axis: int, labels: Tensor) -> None:
        """Note that the layer with the weight `owner` takes the channels `labels` along `axis` of that."""
        self.hold(owner, axis, labels)
        self.inputs.add(Slot(*owner, axis))

    def produce(self, owner: tuple[str, str], labels: Tensor, *, axis: int = 0) -> Tensor:
        """Note that the layer with the weight `owner` outputs `labels`, which are new. Returns them."""
        self.pass_on(owner, labels, axis=axis)
        self.producers.append(owner[0])
        return labels

    def pass_on(self, owner: tuple[str, str], labels: Tensor, *, axis: int = 0) -> None:
        """Note that the layer with the weight `owner` outputs the channels `labels` that it takes, one by one."""
        self.hold(owner, axis, labels)
        self.outputs.add(Slot(*owner, axis))

    def attach(self, tensor: Tensor | None, labels: Tensor) -> None:
        """Note that `tensor`, a bias or a scale, has one element for each of `labels`."""
        if tensor is None:
            return
        owner = self.owner(tensor)
        if owner is not None and tensor.dim() == 1:
            self.hold(owner, 0, labels)
        elif (elements := self.labels(tensor)) is not None and elements.numel() == labels.numel():
            self.sets.union(elements.reshape(-1), labels)

    def note_split(self, labels: Tensor, axis: int, parts: Any) -> None:
        """Note where the code splits `labels` along `axis` into `parts`, if it does."""
        whole = parts.shape == labels.shape if isinstance(parts, Tensor) else len(parts) < 2
        if whole or not self.sets.varies(labels, [axis]):
            return
        if line := calling_line():
            self.splits.setdefault(line, []).append(torch.unique(labels))

    def note_root(self, queries: Tensor) -> None:
        """Note what holds `queries`, each dimension of which attention divides by the root of how many there are.

        That is the last layer or norm before it, and biases that were added to it.
        """
        labels = self.recorded(queries)
        if labels is None or not self.within_heads:
            return
        roots = torch.unique(self.sets.find(labels))
        held: dict[Slot, tuple[int, ...]] = {}
        own = [(Slot(*owner, 0), labels) for owner, labels in self.parameters.items() if labels.dim() == 1]
        for slot, along in [*self.slots, *own]:
            indices = torch.isin(self.sets.find(along), roots[roots != 0]).nonzero()[:, 0].tolist()
            if slot.axis == 0 and slot.tensor.endswith(("weight", "bias")) and indices:
                held[slot] = tuple(indices)
        last = next((slot.module for slot in reversed(held) if slot.tensor.endswith("weight")), None)
        ends = [Slot(*owner, 0) for owner in self.parameters]
        self.roots.append({slot: rows for slot, rows in held.items() if slot.module == last or slot in ends})

    # What can't be pruned

    def refuse_mixed(self, operator: str, labels: Iterable[Tensor], result: Any) -> Any:
        """Unite and refuse all of `labels`, which `operator` mixes. Returns labels for its `result`."""
        mixed = torch.cat([torch.unique(self.sets.find(part)) for part in labels])
        one = self.sets.union_along(mixed[None], [0])
        self.sets.refuse(one, f"{operator} mixes them")
        outputs = result if isinstance(result, (tuple, list)) else [result]
        spread = [one.view([1] * o.dim()).expand(o.shape) if isinstance(o, Tensor) else None for o in outputs]
        return spread if isinstance(result, (tuple, list)) else spread[0]
