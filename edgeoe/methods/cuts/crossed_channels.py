"""Channels are chosen layer by layer, by proximal gradient on the cross-distillation loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgeoe.methods import Bench
from edgeoe.methods.cuts.channels import find_groups, prune_groups
from edgeoe.methods.options import ChannelOptions
from edgeoe.models.layer_statistics import input_moments
from edgeoe.models.reconstruction import can_regress, columns, matrix
from edgeoe.models.repair import refit_without
from edgeoe.models.structure import Structure, read_structure
from edgeoe.pruning.groups import Group
from edgeoe.pruning.prune import Pruned, drop_channels
from edgeoe.run.saved_work import State
from edgeoe.settings import CompressSettings

__all__ = ["MU", "CrossedChannels", "choose_channels", "cross_moments"]

MU = 0.9  # of the paper's ResNet-56; 0.6 for its VGG-16
ITERATIONS = 1000  # of proximal gradient: the third of the paper's 3,000 in which channels go
LEARNING_RATE = 1e-3  # of Adam, as the paper's ResNet-56
_KEY = "crossed channels"


def cross_moments(teacher: Tensor, student: Tensor, *, mu: float) -> Tensor:
    """(D, D) G such that the cross-distillation loss of weights W is tr((W - W_T) G (W - W_T)^T).

    teacher, student: (D, D) second moments of the layer's inputs in either network. The correction term feeds
    the teacher's inputs to both layers and weighs `mu`, the distillation term the student's and weighs 1 - mu.
    Source: Bai, Wu, King and Lyu, "Few Shot Network Compression via Cross Distillation", AAAI 2020, the convex
    combination of both losses; as they are quadratic in W, the moments say all about them.
    """
    return mu * teacher + (1 - mu) * student


def choose_channels(
    problems: Sequence[tuple[Tensor, Tensor, Sequence[Tensor]]],
    *,
    keep: int,
    iterations: int = ITERATIONS,
    lr: float = LEARNING_RATE,
) -> tuple[int, ...]:
    """The `keep` channels that stay, in ascending order.

    Adam descends the loss, and after each step the channels with the least norm are set to zero for good (the proximal
    map of the number of channels), their number growing evenly.
    problems: for each layer that reads the channels its cross moments G (D, D), its weights W_T (O, D) and the columns
        of each channel.
    keep: channels.
    iterations, lr: of Adam.
    """
    channels = len(problems[0][2])
    alive = torch.ones(channels, dtype=torch.bool)
    parameters = [w.clone() for _, w, _ in problems]
    owners = [_owner(spread, w.shape[1]).to(w.device) for _, w, spread in problems]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for step in range(iterations):
        for parameter, (g, w, _) in zip(parameters, problems, strict=True):
            parameter.grad = 2 / len(w) * (parameter - w) @ g
        optimizer.step()
        remaining = keep + int((channels - keep) * (1 - (step + 1) / iterations))
        norms = torch.zeros(channels)
        for parameter, owner in zip(parameters, owners, strict=True):
            squares = parameter.square().sum(0).cpu()
            norms += torch.zeros(channels + 1).index_add_(0, owner.cpu(), squares)[:channels]
        norms[~alive] = -1
        if remaining < int(alive.sum()):
            alive[:] = False
            alive[norms.topk(remaining).indices] = True
        for parameter, owner in zip(parameters, owners, strict=True):
            parameter *= torch.cat([alive, torch.tensor([True])]).to(parameter.device)[owner]
    return tuple(alive.nonzero()[:, 0].tolist())


def _owner(spread: Sequence[Tensor], width: int) -> Tensor:
    """(D,) which channel each column belongs to; the number of channels where it is none of them."""
    owner = torch.full((width,), len(spread))
    for channel, indices in enumerate(spread):
        owner[indices] = channel
    return owner


class CrossedChannels:
    """The cut of Cross Distillation (Bai et al., AAAI 2020), which solves for the student's weights as well.

    Groups of channels are taken in the order of the layers that read them. Their number is given; which of them
    stay is chosen by `choose_channels`, and the readers' weights are then the exact minimum of the same loss over
    the remaining channels, which is where the paper's further iterations lead. The loss is zero at the teacher's
    weights, so layers that lose no inputs stay as they are.
    """

    Options = ChannelOptions
    measures_latency = False

    def __init__(self, settings: CompressSettings) -> None:
        self.settings = settings

    @torch.no_grad()
    def prune(self, teacher: nn.Module, bench: Bench) -> Pruned:
        groups = find_groups(teacher, bench, self.settings)
        planned = prune_groups(teacher, bench, self.settings, groups)
        structure = read_structure(teacher, bench.shape)
        reference, student = (copy.deepcopy(teacher).to(bench.device) for _ in range(2))
        rows = bench.rows()
        readers = {g.name: _readers(reference, g, structure) for g in groups if g.name in planned.removed}
        narrowed = sorted(
            (group for group in groups if readers.get(group.name)),
            key=lambda group: min(map(structure.layers.index, readers[group.name])),
        )
        layers = {name: reference.get_submodule(name) for group in narrowed for name in readers[group.name]}
        expected = input_moments(reference, layers, rows, progress=bench.progress)
        removed, chosen = dict(planned.removed), dict[str, tuple[int, ...]]()
        if (state := bench.work.take("cut", _KEY)) is not None:
            chosen = {name: tuple(pruned) for name, pruned in state.facts["chosen"].items()}
            student.load_state_dict(state.tensors)
        with bench.progress("Choosing channels", len(narrowed)) as advance:
            for group in narrowed:
                if group.name not in chosen:
                    layers = {name: student.get_submodule(name) for name in readers[group.name]}
                    moments = input_moments(student, layers, rows)
                    crossed = {name: cross_moments(expected[name], moments[name], mu=MU) for name in layers}
                    chosen[group.name] = _narrow(group, layers, crossed, len(planned.removed[group.name]))
                    if bench.work.is_due or group is narrowed[-1]:
                        bench.work.save("cut", State(_KEY, {"chosen": chosen}, student.state_dict()))
                advance()
        removed |= chosen
        pruned = drop_channels(teacher, groups, removed, shape=bench.shape, start=student.to("cpu"))
        return replace(pruned, note=planned.note)


def _readers(model: nn.Module, group: Group, structure: Structure) -> list[str]:
    """The layers that read the group's channels and are regressions, each run once."""
    return [
        name
        for name, spread in group.consumers.items()
        if name in structure.layers
        and can_regress(model.get_submodule(name))
        and all(len(inputs) == len(spread[0]) > 0 for inputs in spread)
    ]


def _narrow(
    group: Group, readers: Mapping[str, nn.Module], moments: Mapping[str, Tensor], count: int
) -> tuple[int, ...]:
    """Choose the `count` channels that are pruned, zero the weights that read them, and solve for the others.

    Returns those channels.
    """
    spreads = {name: columns(layer, group.consumers[name]) for name, layer in readers.items()}
    problems = [(moments[name], matrix(layer), spreads[name]) for name, layer in readers.items()]
    stays = choose_channels(problems, keep=len(group.order) - count)
    pruned = tuple(sorted(set(range(len(group.order))) - set(stays)))
    for name, layer in readers.items():
        refit_without(layer, torch.cat([spreads[name][channel] for channel in pruned]), moments[name])
    return pruned
