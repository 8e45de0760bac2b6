"""Layers as linear regressions: patches of their inputs, OBS order of their channels, refitted weights.

A convolution or linear layer maps each patch u of its input to W u. With the weighted second moments of the
patches, G = sum w u u^T, reconstructing its outputs by least squares has a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Rows",
    "can_regress",
    "columns",
    "draw_places",
    "matrix",
    "norm_gain",
    "obs_order",
    "patches",
    "positions",
    "ridge",
    "sees_all",
    "small_batches",
    "take",
]

Rows = Sequence[tuple[Tensor, Tensor]]  # batches of images (N, C, H, W) and a weight (N,) for each
_POINTS = 400_000  # patches in one regression, about: few layers have more columns than that can tell apart
_WIDEST = 8192  # columns of the widest regression: its moments take half a gigabyte
_PART = 2**22  # numbers in the patches that are unfolded at a time, about: 16 MB
_BATCH = 32  # images: what is drawn of so many takes little memory
_AT_ONCE = 64  # up to so many channels are removed one by one, of more a 64th at a time
_DAMPING = 1e-4  # ridge, as a share of the mean diagonal of G


def small_batches(rows: Rows) -> Rows:
    """`rows` in batches of 32 images at most."""
    return [part for x, weight in rows for part in zip(x.split(_BATCH), weight.split(_BATCH), strict=True)]


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


def patches(layer: nn.Module, x: Tensor, *, total: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Parts (N, p, D), of about 16 MB each, of the patches of x that `layer` computes with.

    Of each image the patches are those at the positions that `draw_places` draws; no others are unfolded.

    x: (N, ...) the input of `layer`.
    total: images in all batches.
    """
    if isinstance(layer, nn.Conv2d):
        yield from _windows(layer, _padded(layer, x), total=total, generator=generator)
        return
    rows = x.reshape(len(x), -1, x.shape[-1])
    places = draw_places(len(x), rows.shape[1], total=total, generator=generator)
    yield from take(rows, places).split(_part(len(x) * rows.shape[2]), dim=1)


def _windows(layer: nn.Conv2d, x: Tensor, *, total: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`patches` of x, which is padded already: the pixels of each window are gathered by their index in the image."""
    height, width = x.shape[2:]
    pixels = torch.arange(height * width, device=x.device).view(height, width)
    (down, right), (tall, wide) = layer.dilation, layer.kernel_size
    below, beside = down * (tall - 1), right * (wide - 1)  # from the first pixel of a window to its last
    corners = pixels[: height - below : layer.stride[0], : width - beside : layer.stride[1]].flatten()
    window = pixels[: below + 1 : down, : beside + 1 : right].flatten()
    drawn = draw_places(len(x), len(corners), total=total, generator=generator)
    places = corners.expand(len(x), -1) if drawn is None else corners[drawn.to(x.device)]
    flat, channels = x.flatten(2), x.shape[1]
    for part in places.split(_part(len(x) * channels * len(window)), dim=1):
        index = (part[:, :, None] + window).flatten(1)[:, None].expand(-1, channels, -1)
        values = flat.gather(2, index).unflatten(2, (-1, len(window)))  # (N, C, p, window)
        yield values.transpose(1, 2).flatten(2)


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    down, right = layer.padding
    return F.pad(x, (right, right, down, down))


def _part(floats: int) -> int:
    """Positions in a part of about 16 MB, one of which takes `floats` numbers."""
    return max(1, _PART // floats)


def positions(layer: nn.Module, y: Tensor) -> Tensor:
    """(N, P, O) of y, an output of `layer` or of its shape: a row for each position."""
    return y.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else y.reshape(len(y), -1, y.shape[-1])


def draw_places(images: int, places: int, *, total: int, generator: torch.Generator) -> Tensor | None:
    """(images, P) positions of `places`, drawn so that `total` images give about 400,000; None takes all."""
    wanted = max(16, _POINTS // total)
    if places <= wanted:
        return None
    return torch.rand(images, places, generator=generator).topk(wanted, dim=1).indices


def take(rows: Tensor, places: Tensor | None) -> Tensor:
    """(N, P, D) of `rows` (N, L, D) at `places` (N, P)."""
    if places is None:
        return rows
    return rows.gather(1, places.to(rows.device)[:, :, None].expand(-1, -1, rows.shape[2]))


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
        return cls(_inverse(moments, rows), weights.double().T[rows], len(spread[0]))

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
        across = self.inverse[removed][:, kept]
        gain = torch.linalg.solve(self.inverse[removed][:, removed], across)  # (removed, kept)
        self.weights = self.weights[kept].addmm_(gain.T, self.weights[removed], alpha=-1)
        self.inverse = self.inverse[kept[:, None], kept].addmm_(across.T, gain, alpha=-1)


def _inverse(moments: Tensor, rows: Tensor) -> Tensor:
    """Inverse of `moments` with a ridge, in the order of `rows`; rounding may leave them not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(_damped(moments, rows))
    return torch.linalg.inv(_damped(moments, rows)) if failed else torch.cholesky_inverse(factor)


def _damped(moments: Tensor, rows: Tensor) -> Tensor:
    g = moments[rows[:, None], rows].double()
    g.diagonal().add_(_DAMPING * g.diagonal().mean().clamp(min=1e-12))
    return g


def norm_gain(model: nn.Module, norm: str | None, *, like: Tensor) -> Tensor:
    """(O,) factors of the batch norm `norm` in eval mode; ones where there is none."""
    if norm is None:
        return torch.ones_like(like)
    module = model.get_submodule(norm)
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: S101 - what the structure calls a norm
    assert module.running_var is not None  # noqa: S101
    gain = (module.running_var + module.eps).rsqrt()
    return gain * module.weight.detach() if module.affine else gain
