"""The parts of a teacher that a budget may cut: groups to several widths, and blocks; and the students without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod

from torch import nn

from edgeoe.method import load_method
from edgeoe.methods.cuts.channels import narrowed_groups
from edgeoe.methods.meter import Variants
from edgeoe.models.structure import Block, Structure, blocks_by_kind
from edgeoe.progress import Progress, silent
from edgeoe.pruning.choices import is_in, layer_shares, lies_within, outside, width_levels
from edgeoe.pruning.groups import Group
from edgeoe.pruning.kinds import by_kind, group_kind
from edgeoe.pruning.programme import Choice, Option, Resource
from edgeoe.pruning.prune import Pruned, count_params, drop_blocks, drop_channels
from edgeoe.pruning.removal import without_blocks, without_channels
from edgeoe.pruning.savings import macs_by_module, own_macs
from edgeoe.records.latency_table import TEACHER
from edgeoe.settings import CompressSettings

__all__ = ["Parts", "Taken", "block_choice", "parts_of"]

_MOST_WIDTHS = 8  # of a group, besides its own

Taken = Mapping[str, int]  # {choice: option}; 0 is whole, and so are choices that are missing


@dataclass(frozen=True)
class Parts:
    """What of `teacher` may be cut.

    teacher: in eval mode, on the CPU.
    shape: (C, H, W) of an image.
    groups: all groups; those that stay whole are refused.
    blocks: those that may be dropped.
    multiple: the width of every layer stays a multiple of it.
    most_widths: of a group, besides its own.
    """

    teacher: nn.Module
    shape: tuple[int, int, int]
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    multiple: int
    most_widths: int

    @cached_property
    def levels(self) -> dict[str, tuple[int, ...]]:
        """{group: how many units are pruned at each of its widths}, of the groups that can be narrowed."""
        levels = {
            group.name: width_levels(group, self.multiple, most=self.most_widths)
            for group in self.groups
            if not group.refused
        }
        return {name: pruned for name, pruned in levels.items() if pruned}

    @cached_property
    def narrowed(self) -> tuple[Group, ...]:
        """The groups that can be narrowed."""
        return tuple(group for group in self.groups if group.name in self.levels)

    @cached_property
    def macs_of(self) -> dict[str, int]:
        """{module: its MACs for one image, those of its children included}."""
        return macs_by_module(self.teacher, self.shape)

    @cached_property
    def own_macs_of(self) -> dict[str, int]:
        """{module: its own MACs for one image}."""
        return own_macs(self.macs_of)

    @cached_property
    def params_of(self) -> dict[str, int]:
        """{module: its own parameters}."""
        return {
            name: sum(parameter.numel() for parameter in module.parameters(recurse=False))
            for name, module in self.teacher.named_modules()
        }

    def student(self, taken: Taken, *, orders: Mapping[str, Sequence[int]] | None = None) -> Pruned:
        """The teacher without what `taken` cuts.

        orders: {group: its units in the order in which they are pruned}; None takes the groups' own.
        """
        dropped = [block.name for block in self.blocks if taken.get(block_choice(block.name))]
        removed = {
            group.name: tuple((orders or {}).get(group.name, group.order)[: self.levels[group.name][option - 1]])
            for group in self.narrowed
            if (option := taken.get(group.name, 0))
        }
        first = drop_blocks(self.teacher, dropped, shape=self.shape)
        groups = tuple(outside(group, dropped) for group in self.groups)
        return (
            first.then(drop_channels(first.model, groups, removed, shape=self.shape))
            if removed
            else replace(first, groups=self.groups)
        )

    def variants(self) -> Variants:
        """The networks whose latencies make the table: all groups of a kind at one width, all blocks of a kind dropped.

        What alike parts save together stands far above the noise.
        """
        variants: dict[str, Callable[[], nn.Module]] = {TEACHER: lambda: self.teacher}
        for alike in self.group_kinds:
            for pruned in self.levels[alike[0].name]:
                variants[_narrow_key(alike, pruned)] = partial(self._narrowed, alike, pruned)
        for names in self.block_kinds:
            variants[_drop_key(names)] = partial(without_blocks, self.teacher, names)
        return variants

    def _narrowed(self, alike: Sequence[Group], pruned: int) -> nn.Module:
        removed = {group.name: group.order[:pruned] for group in alike}
        return without_channels(self.teacher, self.groups, removed)

    def kinds(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], str]]:
        """(choices, their parts, what is left of each at its last option) of each kind of part."""
        for names in self.block_kinds:
            yield tuple(block_choice(name) for name in names), tuple(names), "dropped"
        for alike in self.group_kinds:
            groups, units = tuple(group.name for group in alike), len(alike[0].order)
            yield groups, groups, f"{units - self.levels[groups[0]][-1]} of {units} channels"

    def choices(self, losses: Mapping[str, Sequence[float]]) -> tuple[Choice, ...]:
        """A choice for each group and each block.

        losses: {group or block: loss of each of its options, the first of which keeps it whole}; those that are missing
            lose nothing.
        """
        nothing = {name: (0.0,) * (1 + len(levels)) for name, levels in self.levels.items()}
        losses = nothing | {block_choice(block.name): (0.0, 0.0) for block in self.blocks} | {**losses}
        choices = []
        for block in self.blocks:
            shares = {name: 1.0 for name in self.params_of if is_in(name, block.name)}
            options = (Option(0.0, {}), Option(losses[block_choice(block.name)][1], shares))
            choices.append(Choice(block_choice(block.name), options))
        for group in self.narrowed:
            within = next((block_choice(block.name) for block in self.blocks if lies_within(group, block.name)), "")
            states = zip((0, *self.levels[group.name]), losses[group.name], strict=True)
            choices.append(
                Choice(
                    group.name,
                    tuple(Option(loss, layer_shares(self.teacher, group, pruned)) for pruned, loss in states),
                    within,
                )
            )
        return tuple(choices)

    def latency(self, table: Mapping[str, float]) -> Resource:
        """Milliseconds on one target.

        table: {variant: p50 in ms}.
        """
        savings: dict[str, Sequence[float]] = {}
        for alike in self.group_kinds:
            saved = [0.0]
            for pruned in self.levels[alike[0].name]:
                share = self._alone(alike, pruned)
                saved.append((table[TEACHER] - table[_narrow_key(alike, pruned)]) * share)
            savings |= {group.name: saved for group in alike}
        for names in self.block_kinds:
            each = (table[TEACHER] - table[_drop_key(names)]) / len(names)
            savings |= {block_choice(name): (0.0, each) for name in names}
        return Resource(savings, self.own_macs_of)

    def parameters(self) -> Resource:
        """Parameters of the network."""
        savings: dict[str, Sequence[float]] = {}
        for group in self.narrowed:
            shares = [layer_shares(self.teacher, group, pruned) for pruned in (0, *self.levels[group.name])]
            savings[group.name] = [sum(self.params_of[name] * share for name, share in one.items()) for one in shares]
        for block in self.blocks:
            savings[block_choice(block.name)] = (0.0, count_params(self.teacher.get_submodule(block.name)))
        return Resource(savings, self.params_of)

    def _alone(self, alike: Sequence[Group], pruned: int) -> float:
        """What one of the groups `alike` saves by itself, as a share of what they save together: narrowed layers that
        two of them share are saved once."""
        shares: dict[str, list[float]] = {}
        for group in alike:
            for name, share in layer_shares(self.teacher, group, pruned).items():
                shares.setdefault(name, []).append(share)
        apart = sum(self.own_macs_of.get(name, 0) * sum(parts) for name, parts in shares.items())
        together = sum(
            self.own_macs_of.get(name, 0) * (1 - prod(1 - part for part in parts)) for name, parts in shares.items()
        )
        return (apart / together if together else 1.0) / len(alike)

    @cached_property
    def group_kinds(self) -> list[list[Group]]:
        """The groups that can be narrowed, in lists of one kind each."""
        return by_kind(self.narrowed, lambda group: group_kind(self.teacher, group, self.macs_of))

    @cached_property
    def block_kinds(self) -> list[list[str]]:
        """The names of the blocks, in lists of one kind each."""
        return [[block.name for block in alike] for alike in blocks_by_kind(self.teacher, self.blocks)]


def parts_of(
    teacher: nn.Module,
    structure: Structure,
    settings: CompressSettings,
    *,
    shape: tuple[int, int, int],
    channel_multiple: int,
    progress: Progress = silent,
) -> Parts:
    """The parts of `teacher` that a budget may cut, by the method, the layers and the multiple of `settings`.

    shape: (C, H, W) of an image.
    channel_multiple: what the targets compute fast, unless the settings name a multiple.
    """
    method = load_method(settings.method)
    head = structure.head if method.spares_features else None
    groups = narrowed_groups(teacher, settings, shape=shape, protect=head, progress=progress)
    return Parts(
        teacher,
        shape,
        groups if "channels" in method.to_budget else (),
        structure.blocks if "blocks" in method.to_budget else (),
        multiple=settings.channel_multiple or channel_multiple,
        most_widths=_MOST_WIDTHS,
    )


def block_choice(name: str) -> str:
    """The choice whether the block `name` is dropped; groups have names of layers."""
    return f"block {name}"


def _narrow_key(alike: Sequence[Group], pruned: int) -> str:
    return f"{','.join(group.name for group in alike)} -{pruned}"


def _drop_key(names: Sequence[str]) -> str:
    return f"{','.join(names)} dropped"
