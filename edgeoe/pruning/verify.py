"""Which channels of a network can go.

Which of them go together is read from a forward pass (`models/channels.py`) and then *verified*: a network without them
must compute what the network computes in which they are zeroed. Where it does not (a forward that counts its channels
in a way that no rule knows) they stay, and the result says why.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeoe.errors import PruningError, first_line, pass_on_out_of_memory
from edgeoe.progress import Progress, silent
from edgeoe.pruning.groups import Group
from edgeoe.pruning.removal import is_counted, without_caches, without_channels
from edgeoe.pruning.trace import Fix, Tied, decomposed, read_channels

__all__ = ["prunable_groups"]

_DIFFERS = "removing them is not the same as zeroing them"
_NUMBER = re.compile(r"\d+")


def prunable_groups(teacher: nn.Module, *, shape: tuple[int, int, int], progress: Progress = silent) -> list[Group]:
    """Every group of tied channels, in the order of the layers, verified or refused with the reason.

    Raises PruningError if the forward can't be read.
    """
    try:
        tied = read_channels(without_caches(copy.deepcopy(teacher)), _example(shape))
    except Exception as reason:
        pass_on_out_of_memory(reason)
        raise PruningError(
            f"the teacher's layers can't be traced: {type(reason).__name__}: {first_line(reason)}"
        ) from reason
    groups = _named(_group(teacher, one) for one in tied)
    return _Verification(teacher, shape, progress).verify(groups)


def _named(groups: Iterable[Group]) -> list[Group]:
    """A name for each: that of its first layer, with a number where one makes several groups."""
    found: list[Group] = []
    seen: dict[str, int] = {}
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        again = seen[group.name]
        found.append(group if again == 1 else replace(group, name=f"{group.name}#{again}"))
    return found


def _group(teacher: nn.Module, tied: Tied) -> Group:
    producers: dict[str, tuple[tuple[int, ...], ...]] = {}
    consumers: dict[str, tuple[tuple[int, ...], ...]] = {}
    norms = []
    for slot, rows in tied.slots.items():
        module = teacher.get_submodule(slot.module)
        if slot.tensor.endswith("weight") and slot.axis < 2 and getattr(module, slot.tensor).dim() > 1:
            (consumers if slot.axis else producers)[slot.module] = rows
            sums = getattr(module, slot.tensor).detach().movedim(slot.axis, 0).flatten(1).abs().sum(1)
            norms.append(sums[torch.tensor(rows)].sum(1))
    norm = torch.stack(norms).mean(0)
    order = torch.argsort(norm, stable=True)
    relative = norm[order] / norm.mean().clamp(min=1e-12)
    return Group(
        name=next(iter(producers)),
        order=tuple(order.tolist()),
        refused=tied.refused,
        producers=producers,
        consumers=consumers,
        slots=tied.slots,
        fixes=tied.fixes,
        norms=tuple(relative.tolist()),
    )


class _Verification:
    """Takes a quarter of their channels out of all groups of a kind at once and, where that fails, of ever fewer.

    A kind are groups of layers that are called alike but for numbers, as in the blocks of a stage.
    """

    def __init__(self, teacher: nn.Module, shape: tuple[int, int, int], progress: Progress) -> None:
        self.model, self.images = _randomised(teacher), _example(shape)
        self.progress = progress
        self.verdicts: dict[str, Group] = {}

    def verify(self, groups: Sequence[Group]) -> list[Group]:
        kinds: dict[object, list[Group]] = {}
        for group in groups:
            if not group.refused:
                key = frozenset((_NUMBER.sub("#", slot.module), slot[1:]) for slot in group.slots)
                kinds.setdefault(key, []).append(group)
        with self.progress("Verifying channel groups", sum(map(len, kinds.values()))) as advance:
            self._advance = advance
            for kind in kinds.values():
                self._settle(kind)
            self._settle_together([[g for g in map(self._verdict, kind) if not g.refused] for kind in kinds.values()])
        return [self._verdict(group) for group in groups]

    def _verdict(self, group: Group) -> Group:
        return self.verdicts.get(group.name, group)

    def _settle(self, groups: list[Group]) -> None:
        """Find which of `groups` may go, as if no others did."""
        guesses = [self._guesses(group) for group in groups]
        reasons = []
        for turn in range(max(map(len, guesses))):
            tried = [replace(g, fixes=own[min(turn, len(own) - 1)]) for g, own in zip(groups, guesses, strict=True)]
            reasons.append(self._failure(tried))
            if not reasons[-1]:
                self._note(tried)
                return
        first = reasons[0]
        if len(groups) > 2 and all(self._fails(groups[at]) for at in (0, len(groups) // 2, -1)):
            self._note(replace(group, refused=first) for group in groups)
        elif len(groups) > 1:
            half = len(groups) // 2
            self._settle(groups[:half])
            self._settle(groups[half:])
        else:
            self._note([replace(groups[0], refused=first)])

    def _fails(self, group: Group) -> bool:
        return all(self._failure([replace(group, fixes=fixes)]) for fixes in self._guesses(group))

    def _settle_together(self, kinds: list[list[Group]]) -> None:
        """Refuse the kinds that only go without others."""
        together: list[Group] = []
        if not (reason := self._failure([group for kind in kinds for group in kind])):
            return
        for kind in kinds:
            if kind and (reason := self._failure([*together, *kind])):
                self._note((replace(group, refused=f"beside others, {reason}") for group in kind), again=True)
            else:
                together += kind

    def _note(self, groups: Iterable[Group], *, again: bool = False) -> None:
        for group in groups:
            self.verdicts[group.name] = group
            if not again:
                self._advance()

    def _guesses(self, group: Group) -> list[tuple[Fix, ...]]:
        """Attributes of the modules around a group's layers that may count its channels: all of them, none, those
        that are as many as its channels, and those that are as many as an axis is long."""
        certain = {(fix.module, fix.attribute) for fix in group.fixes}
        owners = {slot.module for slot in group.slots}
        above = {".".join(parts[:n]) for owner in owners if (parts := owner.split(".")) for n in range(len(parts))}
        lengths = {
            getattr(self.model.get_submodule(s.module), s.tensor).shape[s.axis]: len(rows[0])
            for s, rows in group.slots.items()
        }
        units, sizes = [], []
        for name in sorted(above | owners):
            module = self.model.get_submodule(name)
            for attribute, value in _numbers(module):
                if (name, attribute) in certain or is_counted(module, attribute):
                    continue
                if value == len(group.order) and value not in lengths:
                    units.append(Fix(name, attribute, 1))
                elif value in lengths:
                    sizes.append(Fix(name, attribute, lengths[value]))
        home, guesses = _common(owners), []
        for near in (True, False):
            for tuples in (False, True):
                own, other = (
                    [
                        fix
                        for fix in fixes
                        if (tuples or "." not in fix.attribute) and (not near or f"{fix.module}.".startswith(home))
                    ]
                    for fixes in (units, sizes)
                )
                guesses += [(*group.fixes, *extra) for extra in ([*own, *other], [], own, other)]
        return list(dict.fromkeys(guesses))

    def _failure(self, groups: Sequence[Group]) -> str:
        """Why channels of `groups` can't go; "" if removing them equals zeroing them, if need be in doubles, since
        a deep network may blow rounding up."""
        reason = self._difference(groups, self.model, self.images)
        if reason != _DIFFERS:
            return reason
        exact = self._difference(groups, copy.deepcopy(self.model).double(), self.images.double())
        return exact if exact in ("", _DIFFERS) else reason

    @torch.no_grad()
    def _difference(self, groups: Sequence[Group], model: nn.Module, images: Tensor) -> str:
        removed = {group.name: group.order[: max(1, len(group.order) // 4)] for group in groups}
        zeroed = copy.deepcopy(model)
        for group in groups:
            for slot, rows in group.slots.items():
                tensor = getattr(zeroed.get_submodule(slot.module), slot.tensor)
                lost = torch.tensor([index for channel in removed[group.name] for index in rows[channel]])
                tensor.data.index_fill_(slot.axis, lost, 0.0)
        with decomposed(), _Unscaled():  # type: ignore[no-untyped-call]
            expected = zeroed(images)
            del zeroed
            try:
                got = without_channels(model, groups, removed)(images)
            except Exception as reason:
                pass_on_out_of_memory(reason)
                return f"the network fails without them ({type(reason).__name__}: {first_line(reason)})"
        if got.shape != expected.shape:
            return "they are the network's outputs"
        if not torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
            return _DIFFERS
        return ""


def _common(modules: Iterable[str]) -> str:
    """What the names of all those modules begin with, with a dot at its end; "" if that is the whole network."""
    paths = [name.split(".") for name in modules]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*(path[:-1] for path in paths)))  # noqa: B905
    return "".join(f"{parts[0]}." for parts in shared)


def _numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Whole numbers that a module keeps, also in tuples: ("shape.0", 64)."""
    for attribute, value in vars(module).items():
        if type(value) is int:
            yield attribute, value
        elif type(value) is tuple and all(type(one) is int for one in value):
            yield from ((f"{attribute}.{at}", one) for at, one in enumerate(value))


def _randomised(teacher: nn.Module) -> nn.Module:
    """A copy in which no tensor is all of one value, so that none hides what others do: fresh networks scale whole
    branches by zero."""
    model = without_caches(copy.deepcopy(teacher)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if name.endswith(("running_var", "weight", "gamma")) else noise - 0.5)
    return model


def _example(shape: tuple[int, int, int], rows: int = 1) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


class _Unscaled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What depends on how many channels there are is replaced by what silent ones do not change: layer norms divide
    by a length instead of a mean square, means become sums, and weights are not standardised."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | (kwargs or {})
        if name in ("native_layer_norm", "_fused_rms_norm"):
            x, axes = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
            y = _affine(x * (x.square().sum(axes, keepdim=True) + 1e-6).rsqrt() * 16, given)
            return (y, *(x.new_zeros(1) for _ in func._schema.returns[1:]))
        if name == "native_group_norm" and given["group"] == 1:
            x = given["input"]
            scale = (x.square().flatten(1).sum(1) + 1e-6).rsqrt().view(-1, *([1] * (x.dim() - 1))) * 16
            shape = (1, -1, *([1] * (x.dim() - 2)))
            return _affine(x * scale, given, shape), x.new_zeros(1), x.new_zeros(1)
        if name in ("mean", "var", "std"):
            y, dim = given["self"] if name == "mean" else given["self"].square(), given.get("dim")
            return (y.sum(dim, keepdim=given.get("keepdim", False)) if dim else y.sum()) / 64
        if name == "native_batch_norm" and given["training"]:
            x = given["input"]
            return _affine(x, given, (1, -1, *([1] * (x.dim() - 2)))), x.new_zeros(1), x.new_zeros(1)
        return func(*args, **(kwargs or {}))


def _affine(x: Tensor, given: Mapping[str, Any], shape: tuple[int, ...] | None = None) -> Tensor:
    weight, bias = given.get("weight"), given.get("bias")
    x = x if weight is None else x * (weight if shape is None else weight.view(shape))
    return x if bias is None else x + (bias if shape is None else bias.view(shape))
