"""inspect: what of a teacher can be pruned, and what it would bring, before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import PruningError
from edgeoe.models.structure import LAYERS, Block, Structure, read_structure
from edgeoe.models.teacher import TeacherSource, check_outputs, load_teacher
from edgeoe.progress import Progress, silent
from edgeoe.pruning.groups import Group, narrow_groups
from edgeoe.pruning.prune import count_macs, count_params, drop_blocks
from edgeoe.pruning.removal import without_channels
from edgeoe.pruning.slots import Slot
from edgeoe.pruning.trace import unfused_attention
from edgeoe.pruning.verify import prunable_groups
from edgeoe.records.inspection import BlockShare, GroupShare, InspectRecord
from edgeoe.settings import PreprocessSettings, Weights
from edgeoe.stages.latency_probe import new_clock
from edgeoe.targets.profile import Target

__all__ = ["inspect"]

_CLASSES = 1000  # of a published architecture, unless the user says how many
_TIMES = 4  # so often the whole network is timed, to tell the noise
_T = TypeVar("_T", Group, Block)


def inspect(
    teacher: str,
    *,
    weights: Weights | None = None,
    weights_key: str | None = None,
    classes: int | None = None,
    preprocess: PreprocessSettings | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    target: Target | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> InspectRecord:
    """What of `teacher` can be pruned, and what it would bring; no images are needed.

    classes: outputs of a timm or torchvision architecture; None is 1000, or what published weights have. target:
    measures latencies on its runtime, here. Groups that are alike (same shapes, same MACs) are halved all at once and
    share the time saved, so that it stands out from the noise, which several timings of the teacher itself tell.
    Raises EdgeoeError for anything that the user can put right.
    """
    started = perf_counter()
    torch.manual_seed(seed)
    source = TeacherSource.parse(teacher)
    preprocess = preprocess or PreprocessSettings()
    model = load_teacher(
        source,
        weights,
        classes=_CLASSES if classes is None else classes,
        channels=preprocess.channels,
        key=weights_key,
    )
    prepared = Preprocess.resolve(source.preprocess(model), preprocess)
    check_outputs(model, prepared.shape, classes=classes)
    clock = new_clock(target, prepared) if target else None
    found = prunable_groups(model, shape=prepared.shape, progress=progress)
    groups = [_if_several(group) for group in narrow_groups(found, include=include, exclude=exclude)]
    structure, unread = _structure(model, prepared.shape)
    look = _Look(model, prepared.shape, groups, structure.blocks if structure else (), progress)
    latency_ms = noise_ms = None
    if clock is not None:
        latency_ms, noise_ms = look.measure(clock)
    return InspectRecord(
        teacher=str(source),
        random_weights=weights == "random",
        shape=prepared.shape,
        macs=look.macs,
        params=look.params,
        groups=tuple(look.group_share(group) for group in groups),
        untraced=_untraced(model, groups),
        blocks=tuple(look.block_share(block) for block in look.blocks),
        head=structure.head if structure else None,
        features=structure.features.module if structure and structure.features.side == "output" else None,
        unread=unread,
        target=target.name if target else None,
        latency_ms=latency_ms,
        noise_ms=noise_ms,
        seconds=perf_counter() - started,
    )


def _if_several(group: Group) -> Group:
    return group if group.refused or len(group.order) > 1 else replace(group, refused="they go together or not at all")


def _structure(model: nn.Module, shape: tuple[int, int, int]) -> tuple[Structure | None, str]:
    """The structure, or why it can't be read."""
    try:
        return read_structure(model, shape), ""
    except PruningError as reason:
        return None, str(reason)


def _untraced(model: nn.Module, groups: Iterable[Group]) -> tuple[str, ...]:
    made = {name for group in groups for name in group.producers}
    return tuple(name for name, module in model.named_modules() if isinstance(module, LAYERS) and name not in made)


class _Look:
    """Cuts a network in every way there is, one kind after the other, and notes the share that each saves."""

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        groups: Sequence[Group],
        blocks: Sequence[Block],
        progress: Progress,
    ) -> None:
        self.model, self.shape, self.groups, self.blocks, self.progress = model, shape, groups, blocks, progress
        self._macs_of = _macs_of_modules(model, shape)
        self._products = _with_products(model, self._macs_of)
        self.macs, self.params = self._macs_of[""], count_params(model)
        self._groups = _kinds((group for group in groups if not group.refused), self._group_kind)
        self._blocks = _kinds(blocks, lambda block: (block.shape, _block_kind(model.get_submodule(block.name))))
        self._saved: list[tuple[float, float]] = []  # by each kind of groups: shares of MACs and of parameters
        self._saved_latency: list[float] = []  # by each kind of groups, then of blocks; empty if nobody measured it
        with progress("Counting what goes", len(self._groups)) as advance:
            for alike in self._groups:
                self._saved.append(self._saved_by(alike[0]))
                advance()

    def _saved_by(self, group: Group) -> tuple[float, float]:
        """Shares of MACs and of parameters that go with half of `group`.

        What a layer computes falls as its weights do. Where channels also pass products of activations (attention),
        or weights that are computed, a network that was cut is counted.
        """
        left: dict[tuple[str, str], float] = {}
        for slot, rows in group.slots.items():
            gone = len(rows) * len(rows[0]) / self._tensor(slot).shape[slot.axis] / 2
            left[slot[:2]] = left.get(slot[:2], 1.0) * (1 - gone)
        params = sum((1 - part) * self._parameters(*key) for key, part in left.items())
        if all(self._is_plain(slot) for slot in group.slots):
            macs = sum((1 - part) * self._macs_of.get(key[0], 0) for key, part in left.items() if key[1] == "weight")
        else:
            macs = (self.macs - count_macs(self._halved([group]), self.shape)) * _scale(group)
        return macs / self.macs, params / self.params

    def _is_plain(self, slot: Slot) -> bool:
        """Whether the MACs at `slot` follow from the shape of a layer's weight."""
        if any(slot.module == name or slot.module.startswith(name + ".") or not name for name in self._products):
            return False
        return slot.tensor in ("weight", "bias") or not isinstance(self.model.get_submodule(slot.module), LAYERS)

    def _tensor(self, slot: Slot) -> Tensor:
        tensor: Tensor = getattr(self.model.get_submodule(slot.module), slot.tensor)
        return tensor

    def _parameters(self, module: str, name: str) -> int:
        """How many parameters a tensor holds; none where it is a buffer."""
        parameter = dict(self.model.get_submodule(module).named_parameters(recurse=False)).get(name)
        return 0 if parameter is None else parameter.numel()

    def _group_kind(self, group: Group) -> object:
        """What two groups have in common that save the same: the shapes, and the MACs, of all that holds them."""
        held: Counter[object] = Counter()
        for slot, rows in group.slots.items():
            held[self._tensor(slot).shape, slot.axis, len(rows[0]), self._macs_of.get(slot.module)] += 1
        return len(group.order), frozenset(held.items())

    def measure(self, clock: Callable[[Sequence[nn.Module]], list[float]]) -> tuple[float, float]:
        """Time the network without half of each kind's channels, and without the blocks of each kind.

        Returns the latency of the whole network, and by how much measurements of it differ, in milliseconds.
        """
        cuts = [self._halved(alike) for alike in self._groups]
        cuts += [drop_blocks(self.model, [b.name for b in same], shape=self.shape).model for same in self._blocks]
        with self.progress("Measuring latency", 1) as advance:
            measured = clock([*[self.model] * _TIMES, *cuts])
            advance()
        times, without = measured[:_TIMES], measured[_TIMES:]
        whole = sum(times) / _TIMES
        each = [_scale(alike[0]) / len(alike) for alike in self._groups] + [1 / len(same) for same in self._blocks]
        self._saved_latency = [(whole - ms) / whole * part for ms, part in zip(without, each, strict=True)]
        return whole, max(times) - min(times)

    def group_share(self, group: Group) -> GroupShare:
        """The record of `group`."""
        share = GroupShare(
            name=group.name,
            layers=tuple(group.producers),
            consumers=tuple(group.consumers),
            channels=sum(map(len, next(iter(group.producers.values())))),
            units=len(group.order),
            refused=group.refused,
        )
        if group.refused:
            return share
        kind = next(number for number, alike in enumerate(self._groups) if group in alike)
        macs, params = self._saved[kind]
        return replace(
            share, alike=kind, macs_share=macs, params_share=params, latency_share=self._latency_saved_by(kind)
        )

    def block_share(self, block: Block) -> BlockShare:
        """The record of `block`."""
        kind = next(number for number, same in enumerate(self._blocks, len(self._groups)) if block in same)
        return BlockShare(
            name=block.name,
            alike=kind,
            macs_share=self._macs_of[block.name] / self.macs,
            params_share=count_params(self.model.get_submodule(block.name)) / self.params,
            latency_share=self._latency_saved_by(kind),
        )

    def _latency_saved_by(self, kind: int) -> float | None:
        return self._saved_latency[kind] if self._saved_latency else None

    def _halved(self, groups: Iterable[Group]) -> nn.Module:
        return without_channels(self.model, self.groups, {g.name: g.order[: len(g.order) // 2] for g in groups})


def _scale(group: Group) -> float:
    """What half of the units are to those that `_halved` takes: more than 1 where their number is odd."""
    return len(group.order) / 2 / (len(group.order) // 2)


def _kinds(cuts: Iterable[_T], kind: Callable[[_T], object]) -> list[list[_T]]:
    kinds: dict[object, list[_T]] = {}
    for cut in cuts:
        kinds.setdefault(kind(cut), []).append(cut)
    return list(kinds.values())


def _block_kind(block: nn.Module) -> object:
    return tuple((type(part).__name__, tuple(p.shape for p in part.parameters(False))) for part in block.modules())


@torch.no_grad()
def _macs_of_modules(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, int]:
    """The MACs of each module that is called, by name, those of its children included."""
    with unfused_attention(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    return {
        name.partition(".")[2]: sum(operations.values()) // 2 for name, operations in counter.get_flop_counts().items()
    }


def _with_products(model: nn.Module, macs_of: dict[str, int]) -> list[str]:
    """Modules other than layers that multiply and accumulate themselves, as attention does."""
    own = dict(macs_of)
    for name, macs in macs_of.items():
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in reversed(range(len(parts))))
        if name:
            own[next(parent for parent in above if parent in macs_of)] -= macs
    return [name for name, macs in own.items() if macs and not isinstance(model.get_submodule(name), LAYERS)]
