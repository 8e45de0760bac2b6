"""What passes each tensor of a graph, and the range that eight bits should cover there.

Ranges are chosen from histograms by one of four rules. `minmax` covers every value. `percentile` cuts one
value in 100,000 off each end. `mse` takes the range, between a fifth and all of it, in which rounding and clipping
together leave the least squared error. `entropy` takes that in which the distribution of the rounded values says most
about that of the values (Kullback-Leibler divergence, as Migacz's "8-bit inference with TensorRT", 2017): 2048 bins
into 128, which onnxruntime's own default (128 into 128) leaves without a choice.
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

__all__ = ["CALIBRATION_METHODS", "Observed", "Range", "choose_range", "observe"]

Range = tuple[float, float]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
_BINS = 2048
_LEVELS = 128  # that the entropy rule folds one side into
_TAIL = 1e-5
_AT_ONCE = 2**27  # floats of activations that are held at a time


@dataclass(frozen=True, slots=True)
class Observed:
    """One tensor over all images, these weighted.

    histogram: (2048,) mass between `low` and `high`, which include 0.
    mean: the mean over images, of the tensor's shape without its first axis; None where that axis is not of images.
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
) -> dict[str, Observed]:
    """What `tensors` of `graph` hold for images (N, C, H, W) with `weights` (N,). Two passes: ends, then histograms."""
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
        name: Observed(*ends[name], histograms[name], None if mean is None else mean.astype(np.float32))
        for name, mean in means.items()
    }


def _row_shares(value: NDArray[np.float32], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of each row of `value`: an image's is shared by its rows; all are alike where they are no images'."""
    if len(value) % len(share):
        return np.full(len(value), share.sum() / len(value))
    rows = len(value) // len(share)
    return np.repeat(share, rows) / rows


def _add_mean(
    total: NDArray[np.float64] | None, value: NDArray[np.float32], share: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """`total` and the images' shares of `value`; None where rows are no images'."""
    if total is None or total.shape != value.shape[1:] or len(value) % len(share):
        return None
    return np.asarray(total + np.tensordot(_row_shares(value, share), value, 1))


def _batch(graph: onnx.ModelProto, tensors: Sequence[str], images: NDArray[np.float32]) -> int:
    one = sum(value.size for value in run_model(graph, images[:1], tensors).values())
    return max(1, min(64, _AT_ONCE // max(1, one)))


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


def choose_range(observed: Observed, method: CalibrationMethod, *, symmetric: bool) -> Range:
    """The (low, high) that eight bits should cover; low <= 0 <= high. symmetric: low = -high."""
    low, high = {"minmax": _all, "percentile": _percentile, "mse": _least_error, "entropy": _entropy}[method](
        observed, symmetric
    )
    if symmetric:
        high = max(-low, high)
        low = -high
    return (low, high) if high > low else (-1.0 if symmetric else 0.0, 1.0)  # a tensor of zeros


def _all(observed: Observed, symmetric: bool) -> Range:  # noqa: ARG001 - one signature for all rules
    return observed.low, observed.high


def _edges(observed: Observed) -> NDArray[np.float64]:
    return np.linspace(observed.low, observed.high, _BINS + 1)


def _percentile(observed: Observed, symmetric: bool) -> Range:  # noqa: ARG001 - as above
    mass = np.cumsum(observed.histogram)
    mass /= mass[-1]
    edges = _edges(observed)
    low = edges[np.searchsorted(mass, _TAIL, side="right")]
    high = edges[min(_BINS, np.searchsorted(mass, 1 - _TAIL) + 1)]
    return min(0.0, float(low)), max(0.0, float(high))


def _least_error(observed: Observed, symmetric: bool) -> Range:
    edges = _edges(observed)
    centres = (edges[1:] + edges[:-1]) / 2
    best, least = (observed.low, observed.high), np.inf
    for part in np.linspace(1, 0.2, 81):
        low, high = part * observed.low, part * observed.high
        if symmetric:
            high = max(-low, high)
            low = -high
        step = (high - low) / (254 if symmetric else 255)
        rounded = np.clip(np.round(centres / step), np.round(low / step), np.round(high / step)) * step
        error = float(observed.histogram @ np.square(centres - rounded))
        if error < least:
            best, least = (low, high), error
    return best


def _entropy(observed: Observed, symmetric: bool) -> Range:  # noqa: ARG001 - as above
    """Of |x|, as published; an asymmetric range is cut by the same threshold at both ends.

    Zeros are rounded exactly by any range: their bin is taken to hold what its neighbour does, or it would outvote
    all others.
    """
    top = max(-observed.low, observed.high)
    ends = np.linspace(0, top, _BINS + 1)
    below = np.concatenate([[0.0], np.cumsum(observed.histogram)])
    p = np.diff(np.interp(ends, _edges(observed), below) - np.interp(-ends, _edges(observed), below))
    p[0] = p[1]
    best, least = _BINS, np.inf
    for cut in range(_LEVELS, _BINS + 1, _LEVELS // 8):
        divergence = _divergence(p, cut)
        if divergence < least:
            best, least = cut, divergence
    threshold = top * best / _BINS
    return max(observed.low, -threshold), min(observed.high, threshold)


def _divergence(p: NDArray[np.float64], cut: int) -> float:
    """KL(P || Q) of the first `cut` bins, outliers in the last, and of these folded into 128 levels."""
    kept = p[:cut].copy()
    kept[-1] += p[cut:].sum()
    groups = np.minimum(np.arange(cut) * _LEVELS // cut, _LEVELS - 1)
    filled = p[:cut] > 0
    mass = np.bincount(groups, weights=p[:cut], minlength=_LEVELS)
    count = np.bincount(groups, weights=filled, minlength=_LEVELS)
    q = np.where(filled, (mass / np.maximum(count, 1))[groups], 0.0)
    if q.sum() == 0:
        return np.inf
    kept, q = kept / kept.sum(), q / q.sum()
    there = kept > 0
    if (q[there] == 0).any():
        q = np.maximum(q, 1e-12)
    return float(np.sum(kept[there] * np.log(kept[there] / q[there])))
