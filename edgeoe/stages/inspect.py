"""inspect: what can be pruned in a teacher, and what it would save, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import perf_counter

import torch
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import PruningError
from edgeoe.models.outputs import check_outputs, check_rows
from edgeoe.models.structure import LAYERS, Block, Structure, blocks_by_kind, read_structure
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.progress import Progress, silent
from edgeoe.pruning.groups import Group, narrow_groups
from edgeoe.pruning.kinds import by_kind
from edgeoe.pruning.prune import count_params, drop_blocks
from edgeoe.pruning.savings import Savings, odd_factor
from edgeoe.pruning.verify import prunable_groups
from edgeoe.records.inspection import BlockShare, GroupShare, InspectRecord
from edgeoe.settings import PreprocessSettings, Weights
from edgeoe.stages.latency_probe import probe_on
from edgeoe.targets.profile import Target

__all__ = ["inspect"]

_CLASSES = 1000  # default of a published architecture
_REPEATS = 4  # timings of the whole network; their range is the noise


def inspect(
    teacher: str | nn.Module,
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
    """What can be pruned in `teacher`, and what that saves; needs no images.

    teacher: its name, or the network itself.
    classes: number of outputs of a timm or torchvision architecture; None is 1000, or that of published weights.
    target: its runtime measures latencies on this machine; None measures none. Groups of one kind (same shapes, same
        MACs) are halved together and share the time saved, so that it exceeds the noise, which is the range of several
        timings of the whole teacher.
    Raises EdgeoeError for anything that the user can fix.
    """
    started = perf_counter()
    torch.manual_seed(seed)
    source = TeacherSource.parse(teacher) if isinstance(teacher, str) else TeacherSource.in_memory(teacher)
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
    check_rows(model, prepared.shape)
    probe = probe_on(target, prepared) if target else None
    verified_groups = prunable_groups(model, shape=prepared.shape, progress=progress)
    groups = [_if_divisible(group) for group in narrow_groups(verified_groups, include=include, exclude=exclude)]
    structure, unread = _structure(model, prepared.shape)
    shares = _Shares(model, prepared.shape, groups, structure.blocks if structure else (), progress)
    latency_ms = noise_ms = None
    if probe is not None:
        latency_ms, noise_ms = shares.measure(probe)
    return InspectRecord(
        teacher=str(source),
        random_weights=weights == "random",
        shape=prepared.shape,
        macs=shares.savings.macs,
        params=shares.savings.params,
        groups=tuple(shares.group_share(group) for group in groups),
        untraced=_untraced(model, groups),
        blocks=tuple(shares.block_share(block) for block in shares.blocks),
        head=structure.head if structure else None,
        features=structure.features.module if structure and structure.features.side == "output" else None,
        unread=unread,
        target=target.name if target else None,
        latency_ms=latency_ms,
        noise_ms=noise_ms,
        seconds=perf_counter() - started,
    )


def _if_divisible(group: Group) -> Group:
    return (
        group
        if group.refused or len(group.order) > 1
        else replace(group, refused="they can only be pruned all at once")
    )


def _structure(model: nn.Module, shape: tuple[int, int, int]) -> tuple[Structure | None, str]:
    """The structure, or the reason why it can't be read."""
    try:
        return read_structure(model, shape), ""
    except PruningError as reason:
        return None, str(reason)


def _untraced(model: nn.Module, groups: Iterable[Group]) -> tuple[str, ...]:
    """Layers whose output channels are in no group."""
    producers = {name for group in groups for name in group.producers}
    return tuple(name for name, module in model.named_modules() if isinstance(module, LAYERS) and name not in producers)


class _Shares:
    """Shares of MACs, parameters and latency that each group and each block saves, computed once per kind.

    model: in eval mode.
    shape: (C, H, W) of an image.
    groups, blocks: those to report; refused groups save nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        groups: Sequence[Group],
        blocks: Sequence[Block],
        progress: Progress,
    ) -> None:
        self.model, self.shape, self.blocks, self.progress = model, shape, blocks, progress
        self.savings = Savings(model, shape, groups)
        self._groups = by_kind((group for group in groups if not group.refused), self.savings.kind)
        self._blocks = blocks_by_kind(model, blocks)
        self._latency: list[float] = []  # saved by each kind of groups, then of blocks; empty if it was not measured
        with progress("Counting what halving saves", len(self._groups)) as advance:
            self._savings = []
            for alike in self._groups:
                self._savings.append(self.savings.of_half(alike[0]))
                advance()

    def measure(self, probe: Callable[[Sequence[nn.Module]], list[float]]) -> tuple[float, float]:
        """Measure the network with each kind of groups halved, and with each kind of blocks dropped.

        Returns the latency of the whole network, and the range of its timings, in milliseconds.
        """
        variants = [self.savings.without_half(alike) for alike in self._groups]
        variants += [drop_blocks(self.model, [b.name for b in alike], shape=self.shape).model for alike in self._blocks]
        with self.progress("Measuring latency", 1) as advance:
            latencies_ms = probe([*[self.model] * _REPEATS, *variants])
            advance()
        times, without = latencies_ms[:_REPEATS], latencies_ms[_REPEATS:]
        whole = sum(times) / _REPEATS
        shares = [odd_factor(alike[0]) / len(alike) for alike in self._groups] + [
            1 / len(alike) for alike in self._blocks
        ]
        self._latency = [(whole - ms) / whole * share for ms, share in zip(without, shares, strict=True)]
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
        saved = self._savings[kind]
        return replace(
            share, alike=kind, macs_share=saved.macs, params_share=saved.params, latency_share=self._latency_of(kind)
        )

    def block_share(self, block: Block) -> BlockShare:
        """The record of `block`."""
        kind = next(number for number, alike in enumerate(self._blocks, len(self._groups)) if block in alike)
        return BlockShare(
            name=block.name,
            alike=kind,
            macs_share=self.savings.macs_of[block.name] / self.savings.macs,
            params_share=count_params(self.model.get_submodule(block.name)) / self.savings.params,
            latency_share=self._latency_of(kind),
        )

    def _latency_of(self, kind: int) -> float | None:
        return self._latency[kind] if self._latency else None
