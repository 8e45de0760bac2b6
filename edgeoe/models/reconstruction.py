"""Layers as linear regressions: second moments of their inputs, OBS order of their channels, refitted weights.

A convolution or linear layer maps each patch u of its input to W u. With the weighted second moments of the
patches, G = sum w u u^T, reconstructing its outputs by least squares has a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeoe.models.observation import HookPoint, capture, capture_sum
from edgeoe.models.structure import Structure
from edgeoe.progress import Progress, silent
from edgeoe.pruning.groups import Group

__all__ = [
    "Rows",
    "can_regress",
    "columns",
    "draw_places",
    "input_moments",
    "matrix",
    "measure_sensitivity",
    "norm_gain",
    "obs_order",
    "patches",
    "positions",
    "ridge",
    "sees_all",
    "take",
]

Rows = Sequence[tuple[Tensor, Tensor]]  # batches of images (N, C, H, W) and a weight (N,) for each
_POINTS = 400_000  # patches in one regression, about: few layers have more columns than that can tell apart
_WIDEST = 8192  # columns of the widest regression: its moments take half a gigabyte
_AT_ONCE = 64  # up to so many channels are removed one by one, of more a 64th at a time
_SPREAD = 100  # images, evenly spaced, from which the variance of a layer's output is estimated
_DAMPING = 1e-4  # ridge, as a share of the mean diagonal of G


def sees_all(layer: nn.Module) -> bool:
    """Whether every output of `layer` depends on all inputs, so that 1x1 convolutions around it can be merged."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def can_regress(layer: nn.Module) -> bool:
    """Whether `layer` is one regression whose moments are small enough to invert."""
    return sees_all(layer) and matrix(layer).shape[1] <= _WIDEST


def matrix(layer: nn.Module) -> Tensor:
    """(O, D) weight of `layer`: a row for each output, columns in the order of `patches`."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().flatten(1)


def patches(layer: nn.Module, x: Tensor, *, total: int, generator: torch.Generator) -> Tensor:
    """(N, P, D) patches of x that `layer` computes with, at P positions of each image, drawn by `draw_places`.

    x: the input of `layer`.
    total: images in all batches.
    """
    if not isinstance(layer, nn.Conv2d):
        rows = x.reshape(len(x), -1, x.shape[-1])
        return take(rows, draw_places(rows, total=total, generator=generator))
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)
    else:
        padding = layer.padding  # type: ignore[assignment]
    parts = []
    for part in _in_parts(x, floats=layer.weight[0].numel() * x[0, 0].numel()):
        columns = F.unfold(part, layer.kernel_size, layer.dilation, padding, layer.stride).transpose(1, 2)
        parts.append(take(columns, draw_places(columns, total=total, generator=generator)))
    return torch.cat(parts)


def _in_parts(x: Tensor, *, floats: int) -> tuple[Tensor, ...]:
    """x (N, ...) in parts of at most about 256 MB each once an image has become `floats` numbers."""
    return torch.split(x, max(1, 2**26 // floats))


def positions(layer: nn.Module, y: Tensor) -> Tensor:
    """(N, P, O) of y, an output of `layer` or of its shape: a row for each position."""
    return y.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else y.reshape(len(y), -1, y.shape[-1])


def draw_places(rows: Tensor, *, total: int, generator: torch.Generator) -> Tensor | None:
    """(N, P) positions of `rows` (N, L, D), drawn so that `total` images give about 400,000; None takes all."""
    wanted = max(16, _POINTS // total)
    if rows.shape[1] <= wanted:
        return None
    return torch.rand(rows.shape[:2], generator=generator).topk(wanted, dim=1).indices.to(rows.device)


def take(rows: Tensor, places: Tensor | None) -> Tensor:
    """(N, P, D) of `rows` (N, L, D) at `places` (N, P)."""
    return rows if places is None else rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))


def columns(layer: nn.Module, spread: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each unit of a group, the columns of `matrix(layer)` that its channels are multiplied with.

    spread: the inputs of `layer` that belong to each unit.
    """
    window = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
    return [torch.tensor([i * window + k for i in inputs for k in range(window)]) for inputs in spread]


def ridge(moments: Tensor, cross: Tensor, *, prior: Tensor, damping: float = _DAMPING) -> Tensor:
    """(O, D) weights W that minimise tr(W G W^T) - 2 tr(W C), with a ridge towards `prior`.

    moments: G (D, D), second moments of the inputs.
    cross: C (D, O), second moments of inputs and targets.
    prior: (O, D) weights to stay near in directions that the inputs don't cover.
    damping: the ridge, as a share of G's mean diagonal.
    """
    g, c = moments.double(), cross.double()
    loading = damping * g.diagonal().mean().clamp(min=1e-12) * torch.eye(len(g), dtype=g.dtype, device=g.device)
    change: Tensor = torch.linalg.solve(g + loading, c - g @ prior.double().T)
    return (prior.double() + change.T).to(prior.dtype)


def obs_order(
    problems: Sequence[tuple[Tensor, Tensor, Sequence[Tensor]]], *, floor: int = 1
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Optimal brain surgeon (OBS) order: units in the order of removal, and the squared error that each adds.

    At each step the unit is removed whose loss adds the least error once all remaining weights are refitted.

    problems: for each consumer its moments G (D, D), its weights W (O, D), scaled so that errors of different layers
        compare, and the columns of each unit.
    floor: how many units stay.
    Source: Hassibi and Stork, "Optimal brain surgeon", 1993; Kurtic et al., "ZipLM", 2023.
    """
    states = [_State.begin(*problem) for problem in problems]
    alive = list(range(len(problems[0][2])))
    order: list[int] = []
    cost: list[float] = []
    while len(alive) > floor:
        added = torch.stack([state.added(len(alive)) for state in states]).sum(0)
        several = min(-(-len(alive) // _AT_ONCE), len(alive) - floor)
        going = added.argsort(stable=True)[:several].tolist()
        order += [alive[position] for position in going]
        cost += [max(0.0, float(added[position])) for position in going]
        for state in states:
            state.remove(going)
        alive = [channel for position, channel in enumerate(alive) if position not in going]
    return (*order, *alive), tuple(cost)


@dataclass(slots=True)
class _State:
    """A regression on the remaining units.

    inverse: G^-1.
    weights: (D, O), `width` rows for each unit, then the rows that belong to none.
    width: rows of a unit.
    """

    inverse: Tensor
    weights: Tensor
    width: int

    @classmethod
    def begin(cls, moments: Tensor, weights: Tensor, spread: Sequence[Tensor]) -> _State:
        rows = torch.cat(list(spread)).to(moments.device)
        others = torch.ones(len(moments), dtype=torch.bool, device=moments.device)
        others[rows] = False
        rows = torch.cat([rows, others.nonzero()[:, 0]])
        g = moments[rows][:, rows].double()
        loading = _DAMPING * g.diagonal().mean().clamp(min=1e-12) * torch.eye(len(g), dtype=g.dtype, device=g.device)
        return cls(torch.linalg.inv(g + loading), weights.double().T[rows], len(spread[0]))

    def added(self, channels: int) -> Tensor:
        """(channels,) squared error that removing each unit c adds: W_c^T (G^-1_cc)^-1 W_c."""
        size = channels * self.width
        blocks = self.inverse[:size, :size].view(channels, self.width, channels, self.width)
        weights = self.weights[:size].view(channels, self.width, -1)
        diagonal = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        errors: Tensor = (weights * torch.linalg.solve(diagonal, weights)).sum((1, 2))
        return errors

    def remove(self, channels: Sequence[int]) -> None:
        """Refit without `channels`, given by their positions among the remaining units."""
        removed = torch.tensor([channel * self.width + k for channel in channels for k in range(self.width)])
        kept = torch.ones(len(self.inverse), dtype=torch.bool)
        kept[removed] = False
        kept, removed = kept.nonzero()[:, 0].to(self.inverse.device), removed.to(self.inverse.device)
        gain = torch.linalg.solve(self.inverse[removed][:, removed], self.inverse[removed][:, kept])  # (removed, kept)
        self.weights = self.weights[kept] - gain.T @ self.weights[removed]
        self.inverse = self.inverse[kept][:, kept] - self.inverse[kept][:, removed] @ gain


@torch.no_grad()
def measure_sensitivity(
    teacher: nn.Module,
    groups: Sequence[Group],
    structure: Structure,
    rows: Rows,
    *,
    progress: Progress = silent,
) -> Iterator[Group]:
    """`groups` with their sensitivity: the error in the consumers' outputs that each further pruned unit adds.

    The error is a share of the variance of those outputs (of the residual sum, where they go into one), summed over
    consumers. It is the least that so many units can cause, with all remaining weights refitted: it says how wide a
    group must be, not which units to prune, so `order` stays. A group without a consumer that can be refitted (grouped
    convolutions only) is refused.

    teacher: on the device of `rows`, in eval mode.
    rows: images with weights.
    """
    consumers = {
        name: teacher.get_submodule(name)
        for group in groups
        if not group.refused
        for name in group.consumers
        if can_regress(teacher.get_submodule(name))
    }
    moments = input_moments(teacher, consumers, rows, progress=progress)
    scales = {name: _scale(teacher, structure, name, rows) for name in consumers}
    with progress("Measuring sensitivity", len(groups)) as advance:
        for group in groups:
            advance()
            problems = [
                (moments[name], matrix(consumers[name]) * scales[name][:, None], columns(consumers[name], spread))
                for name, spread in group.consumers.items()
                if name in consumers and all(len(inputs) == len(spread[0]) > 0 for inputs in spread)
            ]
            if group.refused or not problems:
                reason = group.refused or "no consumer of its channels can be refitted"
                yield replace(group, refused=reason)
                continue
            yield replace(group, sensitivity=obs_order(problems)[1])


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], rows: Rows, *, progress: Progress = silent
) -> dict[str, Tensor]:
    """{layer: (D, D) weighted mean of u u^T over its patches u}, in one pass over `rows`."""
    generator = torch.Generator().manual_seed(0)
    total, mass = sum(len(x) for x, _ in rows), sum(float(weight.sum()) for _, weight in rows)
    moments: dict[str, Tensor] = {}
    with progress("Measuring layers", len(rows)) as advance:
        for x, weight in rows:
            inputs = capture(model, x, *(HookPoint(name, "input") for name in layers))
            for (name, layer), layer_input in zip(layers.items(), inputs, strict=True):
                u = patches(layer, layer_input, total=total, generator=generator)
                share = (weight / (mass * u.shape[1])).sqrt().repeat_interleave(u.shape[1])[:, None]
                u = u.flatten(0, 1) * share
                moments[name] = moments.get(name, 0) + u.T @ u
            advance()
    return moments


def _scale(teacher: nn.Module, structure: Structure, name: str, rows: Rows) -> Tensor:
    """(O,) factors that turn output errors of layer `name` into shares of the variance where the outputs go."""
    images = sum(len(x) for x, _ in rows)
    x = torch.cat([part[:: max(1, images // _SPREAD)] for part, _ in rows])
    norm = None
    layer = teacher.get_submodule(name)
    if name in structure.sums:
        place = structure.sums[name]
        norm = place.norm
        _, left, right = capture_sum(teacher, x, name, place)
        total = positions(layer, left + right)
    else:
        total = positions(layer, *capture(teacher, x, HookPoint(name)))
    variance = total.flatten(0, 1).var(0).sum().clamp(min=1e-12)
    gain = norm_gain(teacher, norm, like=total[0, 0])
    return gain.abs() / variance.sqrt()


def norm_gain(model: nn.Module, norm: str | None, *, like: Tensor) -> Tensor:
    """(O,) factors of the batch norm `norm` in eval mode; ones where there is none."""
    if norm is None:
        return torch.ones_like(like)
    module = model.get_submodule(norm)
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: S101 - what the structure calls a norm
    assert module.running_var is not None  # noqa: S101
    gain = (module.running_var + module.eps).rsqrt()
    return gain * module.weight.detach() if module.affine else gain
