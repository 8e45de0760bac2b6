"""Structured pruning of channels and of whole blocks, to a share of the teacher's multiply-accumulates or parameters.

Which channels go together is read from a forward pass (`models/channels.py`) and then *verified*: a network
without them must compute what the network computes in which they are silenced. Where it does not (a forward that
counts its channels in a way that no rule knows) they stay, and the result says why.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from edgeoe.errors import PruningError
from edgeoe.models.channels import Fix, Slot, Tied, decomposed, read_channels
from edgeoe.models.names import by_reason, shortened
from edgeoe.progress import Progress, silent

__all__ = [
    "Group",
    "Measure",
    "Pruned",
    "Spread",
    "count_macs",
    "count_params",
    "drop_blocks",
    "drop_channels",
    "narrow_groups",
    "prunable_groups",
    "prune_channels",
    "without_channels",
]

TOLERANCE = 0.02
_FLOOR = 16  # a group keeps at least this part of its channels
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_BACK = 4  # units that are taken back to meet a share by others
_DIFFERS = "removing them is not the same as silencing them"
_NUMBER = re.compile(r"\d+")


Spread = Mapping[str, tuple[tuple[int, ...], ...]]  # layer -> for each channel of a group, its indices in that layer
Measure = Literal["macs", "params"]


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that are alike, each with all that goes with it: named by the first layer that makes them.

    A channel of a group may be several in a layer: a head of attention, a group of a grouped convolution.
    order: channel indices in the order in which they should go, least L1 norm first.
    refused: why they must stay; empty if they may go. writers: layers that make them, and where in their
    outputs; readers: layers that take them in, and where. slots: every tensor that holds them, and where.
    fixes: attributes that count them. norms: L1 norms in that order, as shares of their mean. cost: error that each
    further channel of `order` adds when it goes; empty if nobody measured it.
    """

    name: str
    order: tuple[int, ...]
    refused: str = ""
    writers: Spread = field(default_factory=dict)
    readers: Spread = field(default_factory=dict)
    slots: Mapping[Slot, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    fixes: tuple[Fix, ...] = ()
    norms: tuple[float, ...] = ()
    cost: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Pruned:
    """A really smaller network and how it came about.

    removed: the channels that each group lost. dropped: blocks that are gone.
    """

    model: nn.Module
    removed: dict[str, tuple[int, ...]]
    groups: tuple[Group, ...]
    macs: int
    macs_kept: float
    params_kept: float
    dropped: tuple[str, ...] = ()


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention for one image (C, H, W)."""
    device = next(model.parameters()).device
    with decomposed(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=device))
    return int(counter.get_total_flops()) // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def prune_channels(
    teacher: nn.Module,
    *,
    shape: tuple[int, int, int],
    keep: float,
    of: Measure = "macs",
    channel_multiple: int = 1,
    compete: bool = False,
    groups: Iterable[Group] | None = None,
    progress: Progress = silent,
) -> Pruned:
    """A copy of `teacher` that keeps the share `keep` of its MACs or parameters, within 2 %.

    groups: `prunable_groups`, possibly ranked anew; None finds them. Where no costs are known, every group loses
    the same share of its channels, or, if the groups `compete`, the channels of least norm beside others of their
    group go wherever they are. Where costs are known, those go whose loss adds the least error for the MACs (or
    parameters) that it saves. All in steps of `channel_multiple`; a group keeps a sixteenth, and at least one step.
    Raises PruningError if nothing can be pruned, or the nearest reachable share is off by more than 2 %.
    """
    count: Callable[[nn.Module], int] = count_params if of == "params" else lambda model: count_macs(model, shape)
    original = count(teacher)
    groups = tuple(prunable_groups(teacher, shape=shape, progress=progress) if groups is None else groups)
    units = sorted(_units(teacher, groups, channel_multiple, count, compete=compete), key=lambda unit: unit[0])
    if keep < 1 and not units:
        reasons = by_reason({group.name: group.refused for group in groups if group.refused})
        told = "; ".join(f"{shortened(names)}: {reason}" for reason, names in reasons.items())
        raise PruningError(
            f"no channel of this teacher can be pruned in steps of {channel_multiple}. "
            f"{told or 'No convolution or linear layer was found'}."
        )

    def cut(units: Sequence[_Unit]) -> _Cut:
        removed: dict[str, tuple[int, ...]] = {}
        for _, name, channels in units:
            removed[name] = removed.get(name, ()) + channels
        try:
            return removed, count(without_channels(teacher, groups, removed)) / original
        except Exception as reason:
            raise PruningError(f"the pruned network fails: {_line(reason)}. Narrow the cut with --exclude.") from reason

    low, high = 0, len(units)  # the first `low` leave at least `keep`; search the last such number
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cut(units[:middle])[1] >= keep else (low, middle - 1)
    removed, kept = min((cut(units[:end]) for end in {low, min(low + 1, len(units))}), key=lambda c: abs(c[1] - keep))
    if abs(kept - keep) > TOLERANCE * keep:
        filled = (_filled(units, max(0, low - back), keep, cut) for back in range(_BACK))
        removed, kept = min((removed, kept), *filled, key=lambda c: abs(c[1] - keep))
    if abs(kept - keep) > TOLERANCE * keep:
        floor = cut(units)[1]
        raise PruningError(
            f"--keep-{of} {keep} can't be met within 2 %: the nearest is {kept:.4g}, the least {floor:.4g}. "
            f"Ask for one of these, or for finer steps than --channel-multiple {channel_multiple}."
        )
    return drop_channels(teacher, groups, removed, shape=shape)


def drop_channels(
    teacher: nn.Module,
    groups: tuple[Group, ...],
    removed: Mapping[str, tuple[int, ...]],
    *,
    shape: tuple[int, int, int],
    start: nn.Module | None = None,
) -> Pruned:
    """`teacher` without those channels of its groups; with the weights of `start`, of the same shape, if given."""
    student = without_channels(teacher if start is None else start, groups, removed)
    original = count_macs(teacher, shape)
    return Pruned(
        model=student,
        removed={name: tuple(sorted(channels)) for name, channels in removed.items()},
        groups=groups,
        macs=original,
        macs_kept=count_macs(student, shape) / original,
        params_kept=count_params(student) / count_params(teacher),
    )


def drop_blocks(teacher: nn.Module, blocks: Iterable[str], *, shape: tuple[int, int, int]) -> Pruned:
    """A copy of `teacher` in which those blocks hand on what they are given."""
    student, dropped = copy.deepcopy(teacher), tuple(blocks)
    for name in dropped:
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, nn.Identity())
    original = count_macs(teacher, shape)
    return Pruned(
        model=student,
        removed={},
        groups=(),
        macs=original,
        macs_kept=count_macs(student, shape) / original,
        params_kept=count_params(student) / count_params(teacher),
        dropped=dropped,
    )


def narrow_groups(groups: Iterable[Group], *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Group]:
    """`groups`, those refused that the user does not want pruned.

    include, exclude: globs over the names of the layers that make a group's channels. Without `include`, what the
    first layer makes stays.
    """
    narrowed, first = [], None
    for group in groups:
        names = list(group.writers) or [group.name]
        first = first or group.name
        reason = ""
        if include and not any(fnmatch(name, glob) for name in names for glob in include):
            reason = "--include does not name it"
        elif not include and first in names:
            reason = "the first layer stays as it is unless --include names it"
        if any(fnmatch(name, glob) for name in names for glob in exclude):
            reason = "--exclude names it"
        narrowed.append(replace(group, refused=reason) if reason and not group.refused else group)
    return narrowed


# What goes first


_Unit = tuple[float, str, tuple[int, ...]]
_Cut = tuple[dict[str, tuple[int, ...]], float]


def _units(
    teacher: nn.Module, groups: tuple[Group, ...], multiple: int, count: Callable[[nn.Module], int], *, compete: bool
) -> Iterator[_Unit]:
    """(rank, group, channels) of every unit that may go, least rank first.

    The rank is the error that it adds for each MAC that it saves, where a group's cost is known; else its norm,
    where groups compete; else the share of its group that is gone once it is.
    """
    whole = count(teacher) if any(group.cost for group in groups) else 0
    for group in groups:
        steps = [] if group.refused else list(_steps(group, multiple))
        if group.cost and steps:
            first = steps[0][1]
            saved = (whole - count(without_channels(teacher, groups, {group.name: first}))) / len(first)
            rank, start = 0.0, 0
            for edge, channels in steps:
                rank = max(rank, sum(group.cost[start:edge]) / len(channels) / max(1.0, saved))
                start = edge
                yield rank, group.name, channels
        elif compete:
            yield from ((group.norms[edge - 1], group.name, channels) for edge, channels in steps)
        else:
            yield from ((edge / len(group.order), group.name, channels) for edge, channels in steps)


def _filled(units: Sequence[_Unit], start: int, keep: float, cut: Callable[[Sequence[_Unit]], _Cut]) -> _Cut:
    """The cut of the first `start` units and those of the next that don't overshoot, till `keep` is met; the very next
    waits."""
    chosen, passed = list(units[:start]), {units[start][1]} if start < len(units) else set()
    removed, kept = cut(chosen)
    for unit in units[start : start + 200]:
        if unit[1] in passed or kept <= keep * (1 + TOLERANCE):
            continue
        tried = cut([*chosen, unit])
        if tried[1] < keep * (1 - TOLERANCE):
            passed.add(unit[1])
        else:
            chosen.append(unit)
            removed, kept = tried
    return removed, kept


def _steps(group: Group, multiple: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(channels gone by then, channels) of each step in which `group` shrinks."""
    width = len(group.order)
    several = {len(rows[0]) for rows in group.writers.values()} or {1}
    multiple = math.lcm(*(multiple // math.gcd(multiple, rows) for rows in several))
    first = width % multiple  # the odd channels go first, so that what stays is a multiple
    last = width - max(multiple, -(-width // _FLOOR))
    start = 0
    for edge in range(first or multiple, last + 1, multiple):
        yield edge, group.order[start:edge]
        start = edge


# Taking channels out


def _example(shape: tuple[int, int, int], rows: int = 1) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


def _line(reason: BaseException) -> str:
    return f"{type(reason).__name__}: {(str(reason).strip() or 'no message').splitlines()[0][:120]}"


def without_channels(model: nn.Module, groups: Iterable[Group], removed: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of `model` without those channels of `groups`, and with every attribute that counts them put right."""
    student = _without_caches(copy.deepcopy(model))
    gone: dict[Slot, set[int]] = {}
    for group in groups:
        channels = removed.get(group.name, ())
        if not channels:
            continue
        for slot, rows in group.slots.items():
            gone.setdefault(slot, set()).update(index for channel in channels for index in rows[channel])
        for name, attribute, each in group.fixes:
            _lower(student.get_submodule(name), attribute, each * len(channels))
    for slot, indices in gone.items():
        _cut(student.get_submodule(slot.module), slot, indices)
    for name in {slot.module for slot in gone}:
        _count_anew(student.get_submodule(name))
    return student


def _without_caches(model: nn.Module) -> nn.Module:
    """`model`, in which nothing is left of what an earlier pass computed from its parameters and kept."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "cache" in name and isinstance(value, dict):  # as timm's LeViT calls it
                value.clear()
    return model


def _lower(module: nn.Module, attribute: str, by: int) -> None:
    """Take that off an attribute, or off one place of a tuple: "shape.0"."""
    attribute, _, place = attribute.partition(".")
    old = getattr(module, attribute)
    if place:
        setattr(module, attribute, tuple(value - by * (at == int(place)) for at, value in enumerate(old)))
    else:
        setattr(module, attribute, old - by)


def _cut(module: nn.Module, slot: Slot, indices: set[int]) -> None:
    old = getattr(module, slot.tensor)
    left = torch.tensor([i for i in range(old.shape[slot.axis]) if i not in indices], device=old.device)
    new = old.detach().index_select(slot.axis, left)
    if isinstance(old, nn.Parameter):
        setattr(module, slot.tensor, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        setattr(module, slot.tensor, new)


def _count_anew(module: nn.Module) -> None:
    """Set the attributes in which torch's own layers keep the sizes of their tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd):
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = module.running_mean if weight is None else weight
        module.num_features = module.num_features if tensor is None else len(tensor)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = module.num_channels if weight is None else len(module.weight)
    elif isinstance(weight, Tensor) and len(getattr(module, "normalized_shape", ())) == weight.dim():
        setattr(module, "normalized_shape", tuple(weight.shape))  # noqa: B010 - whatever norm it is
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


# Finding them


def prunable_groups(teacher: nn.Module, *, shape: tuple[int, int, int], progress: Progress = silent) -> list[Group]:
    """Every group of tied channels, in the order of the layers, verified or refused with the reason.

    Raises PruningError if the forward can't be read.
    """
    try:
        tied = read_channels(_without_caches(copy.deepcopy(teacher)), _example(shape))
    except Exception as reason:
        raise PruningError(f"the teacher's layers can't be traced: {_line(reason)}") from reason
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
    writers: dict[str, tuple[tuple[int, ...], ...]] = {}
    readers: dict[str, tuple[tuple[int, ...], ...]] = {}
    norms = []
    for slot, rows in tied.slots.items():
        module = teacher.get_submodule(slot.module)
        if slot.tensor.endswith("weight") and slot.axis < 2 and getattr(module, slot.tensor).dim() > 1:
            (readers if slot.axis else writers)[slot.module] = rows
            sums = getattr(module, slot.tensor).detach().movedim(slot.axis, 0).flatten(1).abs().sum(1)
            norms.append(sums[torch.tensor(rows)].sum(1))
    norm = torch.stack(norms).mean(0)
    order = torch.argsort(norm, stable=True)
    relative = norm[order] / norm.mean().clamp(min=1e-12)
    return Group(
        name=next(iter(writers)),
        order=tuple(order.tolist()),
        refused=tied.refused,
        writers=writers,
        readers=readers,
        slots=tied.slots,
        fixes=tied.fixes,
        norms=tuple(relative.tolist()),
    )


class _Verification:
    """Takes a quarter of their channels out of all groups of a kind at once and, where that fails, of ever fewer.

    A kind are groups of layers that are called alike but for numbers, as in the blocks of a stage.
    """

    def __init__(self, teacher: nn.Module, shape: tuple[int, int, int], progress: Progress) -> None:
        self.model, self.images = _roughened(teacher), _example(shape)
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
                if (name, attribute) in certain or _known(module, attribute):
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
        """Why channels of `groups` can't go; "" if removing them equals silencing them, if need be in doubles, since
        a deep network may blow rounding up."""
        reason = self._difference(groups, self.model, self.images)
        if reason != _DIFFERS:
            return reason
        exact = self._difference(groups, copy.deepcopy(self.model).double(), self.images.double())
        return exact if exact in ("", _DIFFERS) else reason

    @torch.no_grad()
    def _difference(self, groups: Sequence[Group], model: nn.Module, images: Tensor) -> str:
        removed = {group.name: group.order[: max(1, len(group.order) // 4)] for group in groups}
        silenced = copy.deepcopy(model)
        for group in groups:
            for slot, rows in group.slots.items():
                tensor = getattr(silenced.get_submodule(slot.module), slot.tensor)
                lost = torch.tensor([index for channel in removed[group.name] for index in rows[channel]])
                tensor.data.index_fill_(slot.axis, lost, 0.0)
        with decomposed(), _Unscaled():  # type: ignore[no-untyped-call]
            expected = silenced(images)
            del silenced
            try:
                got = without_channels(model, groups, removed)(images)
            except Exception as reason:
                return f"the network fails without them ({_line(reason)})"
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


def _known(module: nn.Module, attribute: str) -> bool:
    """Whether `_count_anew` sets it."""
    return isinstance(module, (*_LAYERS, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)) or attribute in (
        "normalized_shape",
    )


def _roughened(teacher: nn.Module) -> nn.Module:
    """A copy in which no tensor is all of one value, so that none hides what others do: fresh networks scale whole
    branches by zero."""
    model = _without_caches(copy.deepcopy(teacher)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if name.endswith(("running_var", "weight", "gamma")) else noise - 0.5)
    return model


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
