"""Statistics of a network's layers, streamed: second moments of their inputs, and scales of their outputs.

What the layers see is added up while each of them runs, so that no activation is kept; each batch runs once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from edgeoe.models.observation import HookPoint, Observer, stream
from edgeoe.models.reconstruction import Rows, matrix, norm_gain, patches, positions
from edgeoe.models.structure import Structure
from edgeoe.progress import Progress, silent

__all__ = ["LayerStatistics", "input_moments", "layer_statistics"]


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What the rows say about a layer.

    moments: (D, D) weighted mean of u u^T over the patches u of its input.
    scale: (O,) factors that turn errors of its outputs into shares of the variance where the outputs go.
    """

    moments: Tensor
    scale: Tensor


@torch.no_grad()
def layer_statistics(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    structure: Structure,
    rows: Rows,
    *,
    progress: Progress = silent,
) -> dict[str, LayerStatistics]:
    """{layer: its statistics}, in one pass over `rows`, of those whose modules run: others use a module's weight alone.

    The outputs of a layer go into its residual sum, if it has one, with at most a batch norm between. Their variance is
    that over all positions of all rows, each weighing the same, added up over channels.

    model: on the device of `rows`, in eval mode.
    structure: of `model`.
    """
    moments = _no_moments(layers, rows)
    sums = {name: structure.sums[name] for name in layers if name in structure.sums}
    outputs = {name: _Variance(layer) for name, layer in layers.items() if name not in sums}
    totals = {place.index: _Variance(layers[name]) for name, place in sums.items()}
    points = {HookPoint(name): variance.add for name, variance in outputs.items()}
    _pass(model, rows, moments, points, {index: total.add for index, total in totals.items()}, progress=progress)
    statistics = {}
    for name, layer in layers.items():
        if moments[name].is_empty:
            continue
        variance = totals[sums[name].index] if name in sums else outputs[name]
        gain = norm_gain(model, sums[name].norm if name in sums else None, like=matrix(layer)[:, 0])
        scale = gain.abs() / variance.total().clamp(min=1e-12).sqrt().to(gain.dtype)
        statistics[name] = LayerStatistics(moments.pop(name).mean(), scale)
    return statistics


@torch.no_grad()
def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], rows: Rows, *, progress: Progress = silent
) -> dict[str, Tensor]:
    """{layer: (D, D) weighted mean of u u^T over its patches u}, in one pass over `rows`, where the module runs."""
    moments = _no_moments(layers, rows)
    _pass(model, rows, moments, {}, {}, progress=progress)
    return {name: moments.pop(name).mean() for name in layers if not moments[name].is_empty}


def _no_moments(layers: Mapping[str, nn.Module], rows: Rows) -> dict[str, _Moments]:
    images = sum(len(x) for x, _ in rows)
    return {name: _Moments(layer, images) for name, layer in layers.items()}


def _pass(
    model: nn.Module,
    rows: Rows,
    moments: Mapping[str, _Moments],
    points: Mapping[HookPoint, Observer],
    sums: Mapping[int, Observer],
    *,
    progress: Progress,
) -> None:
    """Run `model` on all rows, and add up."""
    with progress("Measuring layers", len(rows)) as advance:
        for x, weight in rows:
            inputs = {HookPoint(name, "input"): partial(m.add, weight=weight) for name, m in moments.items()}
            stream(model, x, {**inputs, **points}, sums)
            advance()


class _Moments:
    """Weighted second moments of a layer's patches, added up batch by batch.

    images: in all batches.
    """

    def __init__(self, layer: nn.Module, images: int) -> None:
        self._layer, self._images = layer, images
        self._generator = torch.Generator().manual_seed(0)  # its own: other layers don't change what is drawn
        self._sum, self._mass = torch.zeros(()), 0.0

    def add(self, x: Tensor, weight: Tensor) -> None:
        """x: (N, ...) input of the layer. weight: (N,) of each image."""
        for u in patches(self._layer, x, total=self._images, generator=self._generator):
            weighted = (u * weight.sqrt()[:, None, None]).flatten(0, 1)
            if not self._mass:
                self._sum = u.new_zeros(u.shape[2], u.shape[2])
            self._sum.addmm_(weighted.T, weighted)
            self._mass += float(weight.sum()) * u.shape[1]

    @property
    def is_empty(self) -> bool:
        return not self._mass

    def mean(self) -> Tensor:
        return self._sum / self._mass


class _Variance:
    """Variance of a layer's outputs, or of a sum of their shape, added up over channels, batch by batch.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._count = layer, 0
        self._mean = self._squares = torch.zeros(())

    def add(self, y: Tensor) -> None:
        rows = positions(self._layer, y)
        mean = rows.mean((0, 1))
        squares = (rows - mean).square_().sum().double()
        count, change = rows.shape[0] * rows.shape[1], mean.double() - self._mean.to(y.device)
        both = self._count + count
        self._squares = self._squares.to(y.device) + squares + change.square().sum() * (self._count * count / both)
        self._mean, self._count = mean - change * (self._count / both), both

    def total(self) -> Tensor:
        """The unbiased variances of all channels, added up."""
        return self._squares / max(1, self._count - 1)
