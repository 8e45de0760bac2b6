"""Structured pruning of channels and of whole blocks, to a share of the teacher's multiply-accumulates.

Channels that depend on each other are found by torch-pruning's dependency graph (Fang et al., CVPR 2023) and
then *verified*: removing a channel must do to the outputs exactly what silencing it does. A group for which
that fails (a zero-padded shortcut that the graph does not follow, a reshape that mixes channels, a layer norm
over the removed channel) is left alone, and the result says so.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeoe.errors import PruningError
from edgeoe.progress import Progress, silent

__all__ = [
    "Group",
    "Pruned",
    "Spread",
    "count_macs",
    "count_params",
    "drop_blocks",
    "drop_channels",
    "prunable_groups",
    "prune_channels",
    "without_channels",
]

TOLERANCE = 0.02
_PRUNED_TYPES = (nn.Conv2d, nn.Linear)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


Spread = Mapping[str, tuple[tuple[int, ...], ...]]  # layer -> for each channel of a group, its indices in that layer


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that go together, named by one of the layers that make them.

    order: channel indices in the order in which they should go, least L1 norm first unless `cost` says more.
    refused: why they must stay; empty if they may go. writers: layers that make them, and where in their
    outputs; readers: layers that take them in, and where. cost: error that each further channel of `order`
    adds when it goes; empty if nobody measured it.
    """

    name: str
    order: tuple[int, ...]
    refused: str = ""
    writers: Spread = field(default_factory=dict)
    readers: Spread = field(default_factory=dict)
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
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=device))
    return int(counter.get_total_flops()) // 2


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def prune_channels(
    teacher: nn.Module,
    *,
    shape: tuple[int, int, int],
    keep_macs: float,
    channel_multiple: int = 1,
    groups: Iterable[Group] | None = None,
    progress: Progress = silent,
) -> Pruned:
    """A copy of `teacher` that keeps `keep_macs` of its MACs, within 2 %.

    groups: `prunable_groups`, possibly ranked anew; None finds them. Where no costs are known, every group
    loses the same share of its channels; where they are, those channels go whose loss adds the least error for
    the MACs it saves. Both in steps of `channel_multiple`, and each group keeps at least one step.
    Raises PruningError if nothing can be pruned, or the nearest reachable share is off by more than 2 %.
    """
    original = count_macs(teacher, shape)
    groups = tuple(prunable_groups(teacher, shape=shape, progress=progress) if groups is None else groups)
    units = sorted(_units(teacher, groups, channel_multiple, shape, original), key=lambda unit: unit[0])
    if keep_macs < 1 and not units:
        reasons = {f"{group.name}: {group.refused}" for group in groups if group.refused}
        raise PruningError(
            f"no channel of this teacher can be pruned in steps of {channel_multiple}. "
            f"{'; '.join(sorted(reasons)[:3]) or 'No convolution or linear layer was found'}."
        )

    def cut(count: int) -> tuple[dict[str, tuple[int, ...]], float]:
        removed: dict[str, tuple[int, ...]] = {}
        for _, name, channels in units[:count]:
            removed[name] = removed.get(name, ()) + channels
        return removed, count_macs(without_channels(teacher, removed, shape), shape) / original

    low, high = 0, len(units)  # cut(low) keeps at least keep_macs; search the last such count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cut(middle)[1] >= keep_macs else (low, middle - 1)
    removed, kept = min((cut(count) for count in {low, min(low + 1, len(units))}), key=lambda c: abs(c[1] - keep_macs))
    if abs(kept - keep_macs) > TOLERANCE * keep_macs:
        floor = cut(len(units))[1]
        raise PruningError(
            f"--keep-macs {keep_macs} can't be met within 2 %: the nearest is {kept:.4g}, the least {floor:.4g}. "
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
    student = without_channels(teacher if start is None else start, removed, shape)
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


_Unit = tuple[float, str, tuple[int, ...]]


def _units(
    teacher: nn.Module, groups: tuple[Group, ...], multiple: int, shape: tuple[int, int, int], macs: int
) -> Iterator[_Unit]:
    """(rank, group, channels) of every unit that may go, least rank first.

    The rank is the error that it adds for each MAC that it saves, where a group's cost is known, or the share of
    its group that is gone once it is.
    """
    for group in groups:
        steps = [] if group.refused else list(_steps(group, multiple))
        if not group.cost:
            yield from ((edge / len(group.order), group.name, channels) for edge, channels in steps)
        elif steps:
            first = steps[0][1]
            saved = (macs - count_macs(without_channels(teacher, {group.name: first}, shape), shape)) / len(first)
            rank, start = 0.0, 0
            for edge, channels in steps:
                rank = max(rank, sum(group.cost[start:edge]) / len(channels) / max(1.0, saved))
                start = edge
                yield rank, group.name, channels


def _steps(group: Group, multiple: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(channels gone by then, channels) of each step in which `group` shrinks."""
    width = len(group.order)
    first = width % multiple  # the odd channels go first, so that what stays is a multiple
    start = 0
    for edge in [*range(first, width, multiple)] if first else [*range(multiple, width, multiple)]:
        yield edge, group.order[start:edge]
        start = edge


def _graph(model: nn.Module, shape: tuple[int, int, int]) -> tp.DependencyGraph:
    # Fresh containers each time: torch-pruning writes into them, and appends to unwrapped_parameters.
    return tp.DependencyGraph().build_dependency(
        model, example_inputs=_example(shape), customized_pruners={}, unwrapped_parameters=[], verbose=False
    )


def _example(shape: tuple[int, int, int], rows: int = 1) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


def _prune(graph: tp.DependencyGraph, model: nn.Module, name: str, channels: tuple[int, ...]) -> tp.Group:
    """The graph's group that removes output `channels` of layer `name`; `.prune()` does it."""
    layer = model.get_submodule(name)
    function = graph.get_pruner_of_module(layer).prune_out_channels
    return graph.get_pruning_group(layer, function, list(channels))


def without_channels(
    model: nn.Module, removed: Mapping[str, tuple[int, ...]], shape: tuple[int, int, int]
) -> nn.Module:
    """A copy of `model` without those channels, by the layer that makes them, and whatever depends on them."""
    student = copy.deepcopy(model)
    with torch.enable_grad():  # the graph is traced through autograd
        student.requires_grad_(True)
        graph = _graph(student, shape)
    for name, channels in removed.items():
        _prune(graph, student, name, channels).prune()
    return student


def prunable_groups(teacher: nn.Module, *, shape: tuple[int, int, int], progress: Progress = silent) -> Iterator[Group]:
    """Every group of tied channels, in the order of the layers, verified or refused with the reason."""
    model = copy.deepcopy(teacher).requires_grad_(True)
    try:
        with torch.enable_grad():  # the graph is traced through autograd
            tied = list(_graph(model, shape).get_all_groups(root_module_types=list(_PRUNED_TYPES)))
    except Exception as reason:
        raise PruningError(
            f"the teacher's layers can't be traced: {type(reason).__name__}: {str(reason).splitlines()[0]}"
        ) from reason
    names = {module: name for name, module in model.named_modules()}
    order = {name: position for position, name in enumerate(names.values())}
    importance = tp.importance.GroupMagnitudeImportance(
        p=1, group_reduction="mean", normalizer="mean", target_types=list(_PRUNED_TYPES)
    )
    roots = sorted(((names[group[0].dep.target.module], group) for group in tied), key=lambda g: order[g[0]])
    with progress("Verifying channel groups", len(roots)) as advance:
        for name, group in roots:
            scores = importance(group)
            width = len(group[0].idxs)
            writers, readers = _spread(group, names, "out", width), _spread(group, names, "in", width)
            if scores is None or len(scores) != width:
                refused = "its channels can't be ranked one by one"
                yield Group(name, tuple(range(width)), refused, writers, readers)
            else:
                ranked = tuple(torch.argsort(scores, stable=True).tolist())
                refused = _refusal(teacher, name, ranked[: max(1, width // 4)], shape)
                yield Group(name, ranked, refused, writers, readers)
            advance()


def _spread(group: tp.Group, names: Mapping[nn.Module, str], side: str, width: int) -> Spread:
    """Layers that make ("out") or take in ("in") the group's channels, and where each channel lies in them."""
    spread: dict[str, list[list[int]]] = {}
    for item in group:
        layer = item.dep.target.module
        if layer in names and isinstance(layer, _LAYERS) and f"{side}_channels" in item.dep.handler.__name__:
            rows = spread.setdefault(names[layer], [[] for _ in range(width)])
            for index, root in zip(item.idxs, item.root_idxs, strict=True):
                if root is not None and index not in rows[root]:
                    rows[root].append(index)
    return {name: tuple(tuple(row) for row in rows) for name, rows in spread.items()}


@torch.no_grad()
def _refusal(teacher: nn.Module, name: str, channels: tuple[int, ...], shape: tuple[int, int, int]) -> str:
    """Why output `channels` of `name` can't go; "" if removing them equals silencing them."""
    images = _example(shape, rows=2)
    before = teacher(images)
    silenced = copy.deepcopy(teacher)
    try:
        with torch.enable_grad():
            graph = _graph(silenced.requires_grad_(True), shape)
        _silence(_prune(graph, silenced, name, channels))
        pruned = without_channels(teacher, {name: channels}, shape)
        after = pruned(images)
    except Exception as reason:
        return f"the network fails without them ({type(reason).__name__}: {str(reason).splitlines()[0][:120]})"
    if after.shape != before.shape:
        return "they are the network's outputs"
    expected = silenced(images)
    if not torch.allclose(after, expected, rtol=1e-3, atol=1e-4 * float(before.abs().max())):
        return "removing them is not the same as silencing them"
    return ""


def _silence(group: tp.Group) -> None:
    """Zero what makes the group's channels (weights, biases, normalisation), in place, keeping every shape."""
    for dependency, indices in group:
        layer = dependency.target.module
        if not dependency.handler.__name__.startswith("prune_") or "out" not in dependency.handler.__name__:
            continue
        for parameter in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
            if isinstance(parameter, nn.Parameter) and parameter.dim() > 0:
                parameter.data[list(indices)] = 0.0
