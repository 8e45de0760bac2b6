"""The record of `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from edgeoe.bounds import Count, Fraction, NotNegative

__all__ = ["CalibrationMethod", "ExportRecord", "GraphRecord", "LayerSensitivity", "RefusedGraph"]

CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """Sensitivity of a student to one layer in int8, with all others in fp32.

    error: relative root mean square error of the logits.
    drop: share of images that change class.
    """

    layer: str
    error: NotNegative
    drop: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRecord:
    """A graph derived from the fp32 graph, and its error relative to that on images not used for calibration.

    agreement: share of `images` with the same class.
    images: number of images that it was judged on.
    bias_corrected: whether biases compensate the mean quantisation error.
    kept_fp32: layers left in fp32 to limit the drop.
    layers: sensitivities, highest first; empty if they were not measured.
    """

    path: str
    sha256: str
    precision: str
    size_bytes: Annotated[int, Ge(1)]
    max_rel_error: NotNegative
    agreement: Fraction
    images: Count
    calibration: CalibrationMethod | None = None
    calibration_images: Count = 0
    bias_corrected: bool = False
    kept_fp32: tuple[str, ...] = ()
    layers: tuple[LayerSensitivity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedGraph:
    """A graph that differs too much from the fp32 graph to be written.

    agreement: share of `images` with the same class.
    """

    precision: str
    agreement: Fraction
    images: Count
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """Result of `export`: the fp32 graph, with its error relative to the student.

    graphs: further graphs, derived from the fp32 graph.
    refused: int8 graphs that were rejected and not written.
    student_sha256: of the files of the student.
    golden_sha256: of the golden outputs.
    """

    path: str
    sha256: str
    precision: str
    opset: Annotated[int, Ge(1)]
    exporter: str
    max_rel_error: NotNegative
    agreement: Fraction
    images: Count
    graphs: tuple[GraphRecord, ...] = ()
    refused: tuple[RefusedGraph, ...] = ()
    student_sha256: str = ""
    golden_sha256: str = ""
