"""Groups of channels that can be pruned: traced from a forward pass, then verified.

A network without channels must compute what the network computes with their weights zeroed. Where it does not (a
forward that counts its channels in a way that no rule knows), the group is refused with the reason.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from edgeoe.errors import PruningError, first_line, pass_on_out_of_memory
from edgeoe.progress import Progress, silent
from edgeoe.pruning.attention import with_explicit_attention
from edgeoe.pruning.compounds import compounds_with, heads_reading
from edgeoe.pruning.groups import Group, random_units
from edgeoe.pruning.norms import unit_norms
from edgeoe.pruning.removal import is_counted
from edgeoe.pruning.slots import CoupledChannels, SizeAttribute
from edgeoe.pruning.trace import trace_channels
from edgeoe.pruning.trial import DIFFERS, FAILS, Trials, example

__all__ = ["prunable_groups"]

_NUMBER = re.compile(r"\d+")


def prunable_groups(teacher: nn.Module, *, shape: tuple[int, int, int], progress: Progress = silent) -> list[Group]:
    """Every group of coupled channels, in the order of the layers, verified or refused with the reason.

    teacher: in eval mode.
    shape: (C, H, W) of an image.
    Raises PruningError if the forward pass can't be traced.
    """
    try:
        coupled = trace_channels(with_explicit_attention(copy.deepcopy(teacher)), example(shape))
    except Exception as reason:
        pass_on_out_of_memory(reason)
        raise PruningError(
            f"the teacher's layers can't be traced: {type(reason).__name__}: {first_line(reason)}"
        ) from reason
    groups = _named(_group(teacher, channels) for channels in coupled)
    return _Verification(teacher, shape, progress).verify(groups)


def _named(groups: Iterable[Group]) -> list[Group]:
    """`groups` under unique names: a layer that produces several groups gets a number from the second on."""
    named: list[Group] = []
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.name] = number = counts.get(group.name, 0) + 1
        named.append(group if number == 1 else replace(group, name=f"{group.name}#{number}"))
    return named


def _group(teacher: nn.Module, channels: CoupledChannels) -> Group:
    producers: dict[str, tuple[tuple[int, ...], ...]] = {}
    consumers: dict[str, tuple[tuple[int, ...], ...]] = {}
    for slot, rows in channels.slots.items():
        if slot in channels.outputs or slot in channels.inputs:
            (producers if slot in channels.outputs else consumers)[slot.module] = rows
    norm = unit_norms(teacher, {slot: channels.slots[slot] for slot in (*channels.outputs, *channels.inputs)})
    order = torch.argsort(norm, stable=True)
    relative = norm[order] / norm.mean().clamp(min=1e-12)
    return Group(
        name=next(iter(producers)),
        order=tuple(order.tolist()),
        refused=channels.refused,
        producers=producers,
        consumers=consumers,
        slots=channels.slots,
        attributes=channels.attributes,
        outputs=channels.outputs,
        inputs=channels.inputs,
        crossing=channels.crossing,
        summed=channels.summed,
        scaled=channels.scaled,
        norms=tuple(relative.tolist()),
        splits=channels.splits,
    )


def _explained(group: Group) -> Group:
    """`group`, whose reason names what to change if it is refused because code splits it at a fixed place."""
    if not group.splits or not (FAILS in group.refused or DIFFERS in group.refused):
        return group
    lines = f"{', '.join(group.splits)}: a split or slice there may have fixed sizes"
    return replace(group, refused=f"{group.refused}; {lines}, which shapes of tensors would replace")


class _Verification:
    """Finds which groups can be pruned, by trials of many groups at once.

    First all groups are pruned together, twice. Each group loses random units, a quarter to half of them, so that
    groups whose errors would cancel out if all lost the same share or the same places (a concatenation that is split in
    equal parts, a ratio of two widths, two layers whose channels must stay aligned) don't look right. The second time
    only half of the groups lose any, so that what a group breaks is also seen where others, which may hide it, are
    whole.

    Where that fails, a quarter of the channels of all groups of a kind are removed at once and, where that fails too,
    of ever fewer groups; then those of all kinds. Groups are of one kind if their layers have the same names but for
    numbers, as in the blocks of a stage.
    """

    def __init__(self, teacher: nn.Module, shape: tuple[int, int, int], progress: Progress) -> None:
        self.teacher, self.trials, self.progress = teacher, Trials(teacher, shape), progress
        self.model = self.trials.model
        self.verdicts: dict[str, Group] = {}

    def verify(self, groups: Sequence[Group]) -> list[Group]:
        kinds: dict[object, list[Group]] = {}
        for group in groups:
            if not group.refused:
                places = frozenset((_NUMBER.sub("#", slot.module), slot[1:]) for slot in group.slots)
                kinds.setdefault((places, group.crossing), []).append(group)
        with self.progress("Verifying channel groups", sum(map(len, kinds.values()))) as advance:
            self._advance = advance
            if len(kinds) < 2 or not self._settle_at_once([group for kind in kinds.values() for group in kind]):
                for kind in kinds.values():
                    self._settle(kind)
                groups = self._compounded(groups)
                self._settle_together(
                    [[g for g in map(self._verdict, kind) if not g.refused and g in groups] for kind in kinds.values()]
                )
        return [_explained(self._verdict(group)) for group in groups]

    def _settle_at_once(self, groups: Sequence[Group]) -> bool:
        """Whether all of `groups` can be pruned, in any number and company; if not, it does not say which."""
        tried = [replace(group, attributes=self._guesses(group)[0]) for group in groups]
        generator = torch.Generator().manual_seed(0)
        half = [tried[at] for at in torch.randperm(len(tried), generator=generator).tolist()[: len(tried) // 2]]
        for pruned in (tried, half):
            if self.trials.failure(pruned, random_units(pruned, generator)):
                return False
        self._note(tried)
        return True

    def _compounded(self, groups: Sequence[Group]) -> list[Group]:
        """`groups` as they are by now, a stream and heads that can only be pruned together as one."""
        settled = [self._verdict(group) for group in groups]
        accepted = [group for group in settled if not group.refused]
        refused = [
            after
            for before, after in zip(groups, settled, strict=True)
            if after.refused and not before.refused and not any(after.shares_channels(other) for other in accepted)
        ]
        compounds: list[Group] = []
        for stream in sorted(refused, key=lambda group: len(group.slots), reverse=True):
            waiting = [group for group in refused if not any(group.shares_channels(one) for one in compounds)]
            heads = heads_reading(stream, waiting)
            if stream in waiting and heads and (compound := self._compound(stream, heads)):
                compounds.append(compound)
                self.verdicts[stream.name] = compound
        whole = [self._verdict(group) for group in settled]
        return [
            group
            for group in whole
            if not (group.refused and any(group.shares_channels(compound) for compound in compounds))
        ]

    def _compound(self, stream: Group, heads: Sequence[Group]) -> Group | None:
        """`stream` in compound units with `heads`, where they can be pruned; None if they can't."""
        for channels in compounds_with(self.teacher, stream, heads):
            compound = replace(_group(self.teacher, channels), name=stream.name)
            for attributes in self._guesses(compound):
                if not self._failure([guess := replace(compound, attributes=attributes)]):
                    return guess
        return None

    def _verdict(self, group: Group) -> Group:
        return self.verdicts.get(group.name, group)

    def _settle(self, groups: list[Group]) -> None:
        """Find which of `groups` can be pruned while no others are, by bisection."""
        guesses = [self._guesses(group) for group in groups]
        reasons = []
        for turn in range(max(map(len, guesses))):
            tried = [
                replace(group, attributes=sets[min(turn, len(sets) - 1)])
                for group, sets in zip(groups, guesses, strict=True)
            ]
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
        return all(self._failure([replace(group, attributes=guess)]) for guess in self._guesses(group))

    def _settle_together(self, kinds: list[list[Group]]) -> None:
        """Refuse the kinds that can't be pruned beside others."""
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

    def _guesses(self, group: Group) -> list[tuple[SizeAttribute, ...]]:
        """Sets of attributes that may count the channels of `group`, likely ones first.

        Tried are all candidates, none, those that count units, and those that count indices of an axis: first only
        attributes of the block that holds all of the group's layers, and integers before items of tuples. Last, those
        of one name, alone and beside those that count indices.
        """
        per_unit, per_axis = self._candidates(group)
        block, guesses = _common_parent({slot.module for slot in group.slots}), []
        for nearby in (True, False):
            for in_tuples in (False, True):
                units, indices = (
                    [
                        candidate
                        for candidate in candidates
                        if (in_tuples or "." not in candidate.attribute)
                        and (not nearby or f"{candidate.module}.".startswith(block))
                    ]
                    for candidates in (per_unit, per_axis)
                )
                guesses += [(*group.attributes, *extra) for extra in ([*units, *indices], [], units, indices)]
        units, indices = (
            [one for one in all_of if f"{one.module}.".startswith(block)] for all_of in (per_unit, per_axis)
        )
        guesses += [(*group.attributes, *alike, *indices) for alike in _by_name(units)]
        guesses += [(*group.attributes, *alike) for alike in _by_name([*per_unit, *per_axis])]
        return list(dict.fromkeys(guesses))

    def _candidates(self, group: Group) -> tuple[list[SizeAttribute], list[SizeAttribute]]:
        """Attributes, of the group's layers and all modules above them, that equal its number of units, and those
        that equal the length of an axis that holds its channels."""
        certain = {(known.module, known.attribute) for known in group.attributes}
        layers = {slot.module for slot in group.slots}
        above = {".".join(parts[:n]) for layer in layers if (parts := layer.split(".")) for n in range(len(parts))}
        lengths = {
            getattr(self.model.get_submodule(slot.module), slot.tensor).shape[slot.axis]: len(rows[0])
            for slot, rows in group.slots.items()
        }
        per_unit, per_axis = [], []
        for name in sorted(above | layers):
            module = self.model.get_submodule(name)
            for attribute, value in _integers(module):
                if (name, attribute) in certain or is_counted(module, attribute):
                    continue
                if value == len(group.order) and value not in lengths:
                    per_unit.append(SizeAttribute(name, attribute, 1))
                elif value in lengths:
                    per_axis.append(SizeAttribute(name, attribute, lengths[value]))
        return per_unit, per_axis

    def _failure(self, groups: Sequence[Group]) -> str:
        """Why a quarter of the units of each of `groups` can't be pruned; "" if it can."""
        return self.trials.failure(groups, {g.name: g.order[: max(1, len(g.order) // 4)] for g in groups})


def _common_parent(modules: Iterable[str]) -> str:
    """The longest common prefix of the modules' parents, with a dot at its end; "" if that is the whole network."""
    paths = [name.split(".") for name in modules]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*(path[:-1] for path in paths)))  # noqa: B905
    return "".join(f"{parts[0]}." for parts in shared)


def _by_name(candidates: Iterable[SizeAttribute]) -> Iterable[list[SizeAttribute]]:
    """`candidates` in lists of one name each."""
    named: dict[str, list[SizeAttribute]] = {}
    for candidate in candidates:
        named.setdefault(candidate.attribute, []).append(candidate)
    return named.values()


def _integers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """(attribute, value) of the integers that a module holds, also in tuples: ("shape.0", 64)."""
    for attribute, value in vars(module).items():
        if type(value) is int:
            yield attribute, value
        elif type(value) is tuple and all(type(one) is int for one in value):
            yield from ((f"{attribute}.{at}", one) for at, one in enumerate(value))
