"""Calibration: statistics of the tensors of a graph, and the range that eight bits should cover.

Ranges are chosen from histograms by one of four rules. `minmax` covers every value. `percentile` cuts one
value in 100,000 off each end. `mse` takes the range, between a fifth and all of it, with the least squared error of
rounding and clipping. `entropy` takes the range with the least Kullback-Leibler divergence between the values and the
rounded values (Migacz, "8-bit inference with TensorRT", 2017); it folds 2048 bins into 128 levels, where onnxruntime's
default folds 128 into 128, which leaves nothing to choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeoe.graph.evaluation import run_model
from edgeoe.progress import Progress, silent
from edgeoe.records.graphs import CalibrationMethod

__all__ = ["CALIBRATION_METHODS", "Range", "TensorStatistics", "choose_range", "observe"]

Range = tuple[float, float]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
_BINS = 2048
_LEVELS = 128  # per side, of the entropy rule
_TAIL = 1e-5
_MAX_FLOATS = 2**27  # of activations in memory at a time


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Statistics of one tensor over all calibration images, as weighted.

    low, high: minimum and maximum, with 0 included.
    histogram: (2048,) mass between `low` and `high`.
    mean: mean over images, of the tensor's shape without its first axis; None if that axis is not the images'.
    """

    low: float
    high: float
    histogram: NDArray[np.float64]
    mean: NDArray[np.float32] | None


def observe(
    graph: onnx.ModelProto,
    tensors: Sequence[str],
    images: NDArray[np.float32],
    weights: NDArray[np.float64],
    *,
    progress: Progress = silent,
) -> dict[str, TensorStatistics]:
    """Statistics of `tensors` of `graph` by name, in two passes over the images: extremes, then histograms.

    images: (N, C, H, W) as the network takes them.
    weights: (N,) of the images.
    """
    ends: dict[str, Range] = {}
    means: dict[str, NDArray[np.float64] | None] = {}
    histograms: dict[str, NDArray[np.float64]] = {}
    batch = _batch(graph, tensors, images)
    share = weights / weights.sum()
    with progress("Calibrating", 2 * -(-len(images) // batch)) as advance:
        for at, values in _activations(graph, tensors, images, batch):
            for name, value in values.items():
                low, high = ends.get(name, (0.0, 0.0))
                ends[name] = min(low, float(value.min())), max(high, float(value.max()))
                means[name] = _add_mean(means.get(name, np.zeros(value.shape[1:])), value, share[at : at + batch])
            advance()
        for at, values in _activations(graph, tensors, images, batch):
            for name, value in values.items():
                histogram = _histogram(value, _row_shares(value, share[at : at + batch]), ends[name])
                histograms[name] = histograms.get(name, 0.0) + histogram
            advance()
    return {
        name: TensorStatistics(*ends[name], histograms[name], None if mean is None else mean.astype(np.float32))
        for name, mean in means.items()
    }


def _row_shares(value: NDArray[np.float32], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of each row of `value`: the image's, divided among its rows; equal if rows are not of images."""
    if len(value) % len(share):
        return np.full(len(value), share.sum() / len(value))
    rows = len(value) // len(share)
    return np.repeat(share, rows) / rows


def _add_mean(
    total: NDArray[np.float64] | None, value: NDArray[np.float32], share: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """`total` plus the weighted sum of `value` over its rows; None if rows are not of images."""
    if total is None or total.shape != value.shape[1:] or len(value) % len(share):
        return None
    return np.asarray(total + np.tensordot(_row_shares(value, share), value, 1))


def _batch(graph: onnx.ModelProto, tensors: Sequence[str], images: NDArray[np.float32]) -> int:
    size = sum(value.size for value in run_model(graph, images[:1], tensors).values())
    return max(1, min(64, _MAX_FLOATS // max(1, size)))


def _activations(
    graph: onnx.ModelProto, tensors: Sequence[str], images: NDArray[np.float32], batch: int
) -> Iterator[tuple[int, Mapping[str, NDArray[np.float32]]]]:
    for at in range(0, len(images), batch):
        yield at, run_model(graph, images[at : at + batch], tensors)


def _histogram(value: NDArray[np.float32], share: NDArray[np.float64], ends: Range) -> NDArray[np.float64]:
    low, high = ends
    scale = _BINS / max(high - low, 1e-30)
    total = np.zeros(_BINS)
    for row, mass in zip(value, share, strict=True):
        places = np.clip((row.ravel() - low) * scale, 0, _BINS - 1).astype(np.int32)
        total += np.bincount(places, minlength=_BINS) * (mass / row.size)
    return total


def choose_range(statistics: TensorStatistics, method: CalibrationMethod, *, symmetric: bool) -> Range:
    """The range (low, high) that eight bits should cover; low <= 0 <= high.

    method: the rule; see the module.
    symmetric: low = -high.
    """
    low, high = {"minmax": _all, "percentile": _percentile, "mse": _mse, "entropy": _entropy}[method](
        statistics, symmetric
    )
    if symmetric:
        high = max(-low, high)
        low = -high
    return (low, high) if high > low else (-1.0 if symmetric else 0.0, 1.0)  # a tensor of zeros


def _all(statistics: TensorStatistics, symmetric: bool) -> Range:  # noqa: ARG001 - one signature for all rules
    return statistics.low, statistics.high


def _edges(statistics: TensorStatistics) -> NDArray[np.float64]:
    return np.linspace(statistics.low, statistics.high, _BINS + 1)


def _percentile(statistics: TensorStatistics, symmetric: bool) -> Range:  # noqa: ARG001 - as above
    mass = np.cumsum(statistics.histogram)
    mass /= mass[-1]
    edges = _edges(statistics)
    low = edges[np.searchsorted(mass, _TAIL, side="right")]
    high = edges[min(_BINS, np.searchsorted(mass, 1 - _TAIL) + 1)]
    return min(0.0, float(low)), max(0.0, float(high))


def _mse(statistics: TensorStatistics, symmetric: bool) -> Range:
    edges = _edges(statistics)
    centres = (edges[1:] + edges[:-1]) / 2
    best, lowest = (statistics.low, statistics.high), np.inf
    for part in np.linspace(1, 0.2, 81):
        low, high = part * statistics.low, part * statistics.high
        if symmetric:
            high = max(-low, high)
            low = -high
        step = (high - low) / (254 if symmetric else 255)
        quantised = np.clip(np.round(centres / step), np.round(low / step), np.round(high / step)) * step
        error = float(statistics.histogram @ np.square(centres - quantised))
        if error < lowest:
            best, lowest = (low, high), error
    return best


def _entropy(statistics: TensorStatistics, symmetric: bool) -> Range:  # noqa: ARG001 - as above
    """The entropy rule on |x|, as published; an asymmetric range is clipped at the same threshold at both ends.

    Every range rounds zeros exactly: their bin gets the mass of its neighbour, or it would dominate all others.
    """
    top = max(-statistics.low, statistics.high)
    ends = np.linspace(0, top, _BINS + 1)
    below = np.concatenate([[0.0], np.cumsum(statistics.histogram)])
    p = np.diff(np.interp(ends, _edges(statistics), below) - np.interp(-ends, _edges(statistics), below))
    p[0] = p[1]
    best, lowest = _BINS, np.inf
    for bins in range(_LEVELS, _BINS + 1, _LEVELS // 8):
        divergence = _divergence(p, bins)
        if divergence < lowest:
            best, lowest = bins, divergence
    threshold = top * best / _BINS
    return max(statistics.low, -threshold), min(statistics.high, threshold)


def _divergence(p: NDArray[np.float64], bins: int) -> float:
    """KL(P || Q) of the first `bins` of `p`: P has the outliers in its last bin, Q is folded into 128 levels."""
    clipped = p[:bins].copy()
    clipped[-1] += p[bins:].sum()
    groups = np.minimum(np.arange(bins) * _LEVELS // bins, _LEVELS - 1)
    occupied = p[:bins] > 0
    mass = np.bincount(groups, weights=p[:bins], minlength=_LEVELS)
    count = np.bincount(groups, weights=occupied, minlength=_LEVELS)
    q = np.where(occupied, (mass / np.maximum(count, 1))[groups], 0.0)
    if q.sum() == 0:
        return np.inf
    clipped, q = clipped / clipped.sum(), q / q.sum()
    nonzero = clipped > 0
    if (q[nonzero] == 0).any():
        q = np.maximum(q, 1e-12)
    return float(np.sum(clipped[nonzero] * np.log(clipped[nonzero] / q[nonzero])))
