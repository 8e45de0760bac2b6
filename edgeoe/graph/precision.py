"""The record of a precision: everything that profiles, export and build need to know about it.

A record imports little: the functions that write graphs import onnx when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeoe.progress import Progress
from edgeoe.records.graphs import CalibrationMethod, LayerSensitivity
from edgeoe.registry import PRECISIONS
from edgeoe.targets.profile import Target

if TYPE_CHECKING:
    import onnx

__all__ = ["Draft", "Int8Settings", "Precision", "Source", "logits_of", "precision_of", "precision_with"]


@dataclass(frozen=True, slots=True)
class Int8Settings:
    """How int8 graphs are written.

    calibration: rule that chooses ranges.
    bias_correction: subtract the mean error of int8 weights from the biases.
    max_drop: share of images that may change class, None for no limit; the most sensitive layers stay fp32 until it is
        met.
    sensitivity: measure the sensitivity of every layer even if `max_drop` does not need it.
    """

    calibration: CalibrationMethod = "percentile"
    bias_correction: bool = True
    max_drop: float | None = None
    sensitivity: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """The inputs of graphs of reduced precision.

    graph: the fp32 graph.
    calibration: (N, C, H, W) images, as the network takes them, that determine the ranges.
    judging: (M, C, H, W) other images, on which the graphs are compared with the fp32 graph.
    expected: (M, K) logits of the fp32 graph for `judging`.
    settings: for int8 graphs.
    progress: shows long work.
    kept_fp32: {variant: layers that stay fp32 in it, whatever the drop}.
    """

    graph: onnx.ModelProto
    calibration: NDArray[np.float32]
    judging: NDArray[np.float32]
    expected: NDArray[np.float32]
    settings: Int8Settings
    progress: Progress
    kept_fp32: Mapping[str, Collection[str]] = field(default_factory=dict)

    def agreement(self, logits: NDArray[np.float32]) -> float:
        """Share of judging images with the same class as the fp32 graph.

        logits: (m, K) for the first m judging images.
        """
        expected = self.expected[: len(logits)]
        return float((logits.argmax(1) == expected.argmax(1)).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A graph of reduced precision before its check; the fields below `graph` are those of a GraphRecord."""

    graph: onnx.ModelProto
    calibration: CalibrationMethod | None = None
    calibration_images: int = 0
    bias_corrected: bool = False
    kept_fp32: tuple[str, ...] = ()
    layers: tuple[LayerSensitivity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A row of the table PRECISIONS.

    variants: names of its graphs, as in student-<variant>.onnx; the first is the default.
    writer: Source -> function from variant to graph; it does the work that variants share. None for fp32, which the
        exporter writes.
    variant_for: (target, here) -> the variant that the target computes fast and exactly. here: the graph runs on this
        machine.
    max_rel_error: maximum difference of logits from the fp32 graph, relative to the largest logit.
    min_agreement: minimum share of images with the same class as the fp32 graph.
    refusal: what an error above max_rel_error means, and what to do.
    retry: what to try after a refused graph; {run} stands for the run's path.
    compute_capability: minimum of an NVIDIA GPU.
    on_cpu: CPUs compute in it; else runtimes would compute fp32 there.
    on_npu: NPUs and DLAs compute in it.
    note: (target, facts of the machine, bundled) -> what a reader of the results should know; empty for nothing.
        bundled: the graph came in a bundle.
    """

    variants: tuple[str, ...]
    writer: Callable[[Source], Callable[[str], Draft]] | None
    variant_for: Callable[[Target, bool], str] | None = None
    max_rel_error: float = float("inf")
    min_agreement: float = 0.0
    refusal: str = ""
    retry: str = ""
    compute_capability: float = 0.0
    on_cpu: bool = True
    on_npu: bool = True
    note: Callable[[Target, Mapping[str, Any], bool], str] | None = None

    def variant(self, target: Target, *, here: bool) -> str:
        """The variant for `target`."""
        return self.variant_for(target, here) if self.variant_for else self.variants[0]


def precision_of(name: str) -> Precision:
    """The precision of that name. Raises ConfigError for an unknown one."""
    precision: Precision = PRECISIONS.load(name)
    return precision


def precision_with(variant: str) -> Precision:
    """The precision that has `variant`."""
    return next(precision for precision in map(precision_of, PRECISIONS) if variant in precision.variants)


def logits_of(graph: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (N, K) of `graph` for `images` (N, C, H, W), by exact arithmetic."""
    from edgeoe.graph.evaluation import run_model
    from edgeoe.graph.export import OUTPUT

    parts = [run_model(graph, images[at : at + 64], [OUTPUT])[OUTPUT] for at in range(0, len(images), 64)]
    return np.concatenate(parts)
