"""A precision that graphs are written in: everything that profiles, export and build need to know of it.

What a record imports is light: the functions that write graphs import onnx when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    bias_correction: take the mean error of int8 weights off the biases.
    max_drop: share of images that may change class, None for no limit; the most sensitive layers stay fp32 until it is
        met.
    sensitivity: measure the sensitivity of every layer, needed or not.
    """

    calibration: CalibrationMethod = "percentile"
    bias_correction: bool = True
    max_drop: float | None = None
    sensitivity: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """What graphs of reduced precision are written from.

    graph: the fp32 graph.
    calibration: (N, C, H, W) images, as the network takes them, that ranges are taken from.
    judging: (M, C, H, W) other images, that the written graphs are compared on.
    expected: (M, K) logits of the fp32 graph for `judging`.
    settings: of int8 graphs.
    progress: of long work.
    """

    graph: onnx.ModelProto
    calibration: NDArray[np.float32]
    judging: NDArray[np.float32]
    expected: NDArray[np.float32]
    settings: Int8Settings
    progress: Progress

    def agreement(self, logits: NDArray[np.float32]) -> float:
        """Share of the judging images on which the class is that of the fp32 graph.

        logits: (m, K) of the first m of them.
        """
        expected = self.expected[: len(logits)]
        return float((logits.argmax(1) == expected.argmax(1)).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A graph that was written from a Source, and how; the fields below `graph` are those of a GraphRecord."""

    graph: onnx.ModelProto
    calibration: CalibrationMethod | None = None
    calibration_images: int = 0
    bias_corrected: bool = False
    kept_fp32: tuple[str, ...] = ()
    layers: tuple[LayerSensitivity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A row of the table PRECISIONS.

    variants: its graphs, each named as in student-<variant>.onnx; the first is for targets that need no other.
    writer: what writes the graph of a variant, ready after work that variants share; None for that of the student.
    variant_for: the variant that a target computes fast and exactly. here: the target's graph runs on this machine.
    max_rel_error: most that logits may differ from the fp32 graph's, as a share of the greatest.
    min_agreement: least share of images on which the class must be the fp32 graph's.
    refusal: what an error above max_rel_error means, and what to do.
    retry: what to try where a graph was refused; {run} stands for the run's path.
    compute_capability: that an NVIDIA GPU needs for it.
    on_cpu: runtimes compute in it on a CPU; else they would compute fp32 there.
    on_npu: NPUs and DLAs compute in it.
    note: what a reader should know of results that were measured in it, from the target, the facts of the machine and
        whether a bundle brought the graph there; empty for nothing.
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
    return next(one for one in map(precision_of, PRECISIONS) if variant in one.variants)


def logits_of(graph: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) logits of a graph for (N, C, H, W) images, by exact arithmetic."""
    from edgeoe.graph.evaluation import run_model
    from edgeoe.graph.export import OUTPUT

    parts = [run_model(graph, images[at : at + 64], [OUTPUT])[OUTPUT] for at in range(0, len(images), 64)]
    return np.concatenate(parts)
