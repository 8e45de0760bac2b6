"""Layers as linear regressions: weighted moments of what they read, which channels they can spare, new weights.

A convolution or linear layer maps each patch u of its input to W u. With the weighted second moments of the
patches, G = sum w u u^T, everything about reconstructing its outputs by least squares is in closed form.
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
    "patches",
    "positions",
    "ridge",
    "sees_all",
    "spare",
    "take",
]

Rows = Sequence[tuple[Tensor, Tensor]]  # images (N, C, H, W) and a weight (N,) for each
_POINTS = 400_000  # patches in one regression, about; rare layers have more columns than that tells apart
_WIDEST = 8192  # columns: half a gigabyte of moments
_AT_ONCE = 64  # channels go one by one up to this many, beyond that a 64th at a time
_SPREAD = 100  # images, drawn evenly, that the variance of a layer's output is taken from
_DAMPING = 1e-4  # of the mean diagonal of G


def sees_all(layer: nn.Module) -> bool:
    """Whether every output of `layer` sees all its inputs, so that 1x1 convolutions around it can be merged."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def can_regress(layer: nn.Module) -> bool:
    """Whether `layer` is one regression, and not too wide to invert its moments."""
    return sees_all(layer) and matrix(layer).shape[1] <= _WIDEST


def matrix(layer: nn.Module) -> Tensor:
    """(O, D) weight of `layer`, a row for each output, columns as `patches` has them."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().flatten(1)


def patches(layer: nn.Module, x: Tensor, *, total: int, generator: torch.Generator) -> Tensor:
    """(N, P, D) what `layer` reads from its input x, at P positions of each image drawn as `draw_places` says."""
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
    """x (N, ...) in pieces of which each takes no more than about 256 MB when an image becomes `floats` numbers."""
    return torch.split(x, max(1, 2**26 // floats))


def positions(layer: nn.Module, y: Tensor) -> Tensor:
    """(N, P, O) of an output y of `layer`, or of anything of that shape: a row for each position."""
    return y.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else y.reshape(len(y), -1, y.shape[-1])


def draw_places(rows: Tensor, *, total: int, generator: torch.Generator) -> Tensor | None:
    """(N, P) which positions of `rows` (N, L, D) to look at, so that `total` images give about 400,000 in all.

    None is all of them.
    """
    wanted = max(16, _POINTS // total)
    if rows.shape[1] <= wanted:
        return None
    return torch.rand(rows.shape[:2], generator=generator).topk(wanted, dim=1).indices.to(rows.device)


def take(rows: Tensor, places: Tensor | None) -> Tensor:
    """(N, P, D) of `rows` (N, L, D) at `places` (N, P)."""
    return rows if places is None else rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))


def columns(layer: nn.Module, spread: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each channel of a group the columns of `matrix(layer)` that read it."""
    window = layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1
    return [torch.tensor([i * window + k for i in inputs for k in range(window)]) for inputs in spread]


def ridge(moments: Tensor, cross: Tensor, *, prior: Tensor, damping: float = _DAMPING) -> Tensor:
    """(O, D) weights W that minimise tr(W G W^T) - 2 tr(W C) and stay near `prior` (O, D).

    moments: G (D, D). cross: C (D, O), second moments of inputs and targets. damping: what a step away from
    `prior` costs, as a share of G's mean diagonal; directions that the rows don't show stay as they were.
    """
    g, c = moments.double(), cross.double()
    loading = damping * g.diagonal().mean().clamp(min=1e-12) * torch.eye(len(g), dtype=g.dtype, device=g.device)
    change: Tensor = torch.linalg.solve(g + loading, c - g @ prior.double().T)
    return (prior.double() + change.T).to(prior.dtype)


def spare(
    problems: Sequence[tuple[Tensor, Tensor, Sequence[Tensor]]], *, floor: int = 1
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """In which order channels can go, and what error each adds once the others have made up for it.

    problems: for each layer that reads the channels its moments G (D, D), its weights W (O, D), scaled so that
    errors of different layers compare, and the columns of each channel. Source: the structured optimal brain
    surgeon (Hassibi and Stork, 1993; Kurtic et al., "ZipLM", 2023): of the channels left, that one goes which
    adds the least squared error when all other weights are solved anew.
    """
    states = [_State.begin(*problem) for problem in problems]
    alive = list(range(len(problems[0][2])))
    order: list[int] = []
    cost: list[float] = []
    while len(alive) > floor:
        added = torch.stack([state.added(len(alive)) for state in states]).sum(0)
        several = min(-(-len(alive) // _AT_ONCE), len(alive) - floor)  # one by one where there are few
        going = added.argsort(stable=True)[:several].tolist()
        order += [alive[position] for position in going]
        cost += [max(0.0, float(added[position])) for position in going]
        for state in states:
            state.remove(going)
        alive = [channel for position, channel in enumerate(alive) if position not in going]
    return (*order, *alive), tuple(cost)


@dataclass(slots=True)
class _State:
    """A regression on the channels that are left: G^-1 and the weights (D, O), `width` rows a channel, then those
    of no channel."""

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
        """(channels,) squared error that the loss of each adds: W_c^T (G^-1_cc)^-1 W_c."""
        size = channels * self.width
        blocks = self.inverse[:size, :size].view(channels, self.width, channels, self.width)
        own = self.weights[:size].view(channels, self.width, -1)
        found: Tensor = (own * torch.linalg.solve(blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1), own)).sum((1, 2))
        return found

    def remove(self, channels: Sequence[int]) -> None:
        """Solve anew without `channels`, counted among those that are left."""
        gone = torch.tensor([channel * self.width + k for channel in channels for k in range(self.width)])
        left = torch.ones(len(self.inverse), dtype=torch.bool)
        left[gone] = False
        left, gone = left.nonzero()[:, 0].to(self.inverse.device), gone.to(self.inverse.device)
        gain = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone][:, left])  # (gone, left)
        self.weights = self.weights[left] - gain.T @ self.weights[gone]
        self.inverse = self.inverse[left][:, left] - self.inverse[left][:, gone] @ gain


@torch.no_grad()
def measure_sensitivity(
    teacher: nn.Module,
    groups: Sequence[Group],
    structure: Structure,
    rows: Rows,
    *,
    progress: Progress = silent,
) -> Iterator[Group]:
    """`groups` with their costs: the error that losing one channel more leaves in what the consumers compute, as a
    share of the variance there (of the residual sum, where it goes into one), summed over consumers.

    It is the least error that as many channels can leave, all others solved anew, so it tells how wide a group
    must be and not which channels go: that order stays. A group that no regression reads (grouped convolutions
    alone) is refused.
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
    with progress("Weighing channels", len(groups)) as advance:
        for group in groups:
            advance()
            problems = [
                (moments[name], matrix(consumers[name]) * scales[name][:, None], columns(consumers[name], spread))
                for name, spread in group.consumers.items()
                if name in consumers and all(len(inputs) == len(spread[0]) > 0 for inputs in spread)
            ]
            if group.refused or not problems:
                reason = group.refused or "no layer that can be solved for reads its channels"
                yield replace(group, refused=reason)
                continue
            yield replace(group, sensitivity=spare(problems)[1])


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], rows: Rows, *, progress: Progress = silent
) -> dict[str, Tensor]:
    """(D, D) weighted mean of u u^T for each of `layers`, in one pass over `rows`."""
    generator = torch.Generator().manual_seed(0)
    total, mass = sum(len(x) for x, _ in rows), sum(float(weight.sum()) for _, weight in rows)
    moments: dict[str, Tensor] = {}
    with progress("Measuring layers", len(rows)) as advance:
        for x, weight in rows:
            inputs = capture(model, x, *(HookPoint(name, "input") for name in layers))
            for (name, layer), given in zip(layers.items(), inputs, strict=True):
                u = patches(layer, given, total=total, generator=generator)
                share = (weight / (mass * u.shape[1])).sqrt().repeat_interleave(u.shape[1])[:, None]
                u = u.flatten(0, 1) * share
                moments[name] = moments.get(name, 0) + u.T @ u
            advance()
    return moments


def _scale(teacher: nn.Module, structure: Structure, name: str, rows: Rows) -> Tensor:
    """(O,) factors that turn errors of layer `name` into shares of the variance where its outputs go."""
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
    """(O,) by what the batch norm `norm` multiplies in eval mode; ones where there is none."""
    if norm is None:
        return torch.ones_like(like)
    module = model.get_submodule(norm)
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: S101 - what the structure calls a norm
    assert module.running_var is not None  # noqa: S101
    gain = (module.running_var + module.eps).rsqrt()
    return gain * module.weight.detach() if module.affine else gain
