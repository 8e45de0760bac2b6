"""What `export` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CalibrationMethod", "ExportRecord", "GraphRecord", "LayerSensitivity", "RefusedGraph"]

CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """How a student responds to one layer in int8, all others in fp32.

    error: of the logits, relative root mean square. drop: share of images that change class.
    """

    layer: str
    error: float
    drop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRecord:
    """A graph made of the fp32 graph, and how far it is from that on images that it was not calibrated with.

    kept_fp32: layers that stayed so to keep the drop small. layers: their sensitivities, the highest first; empty if
    they were not measured.
    """

    path: str
    sha256: str
    precision: str
    size_bytes: int
    max_rel_error: float
    agreement: float
    images: int
    calibration: CalibrationMethod | None = None
    calibration_images: int = 0
    bias_corrected: bool = False
    kept_fp32: tuple[str, ...] = ()
    layers: tuple[LayerSensitivity, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedGraph:
    """A graph that is too far from the fp32 graph to be written. agreement: share of `images` with the same class."""

    precision: str
    agreement: float
    images: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """What `export` wrote, and how far the fp32 graph is from the student; `graphs` were made of that.

    refused: int8 graphs that were tried and not written.
    """

    path: str
    sha256: str
    precision: str
    opset: int
    exporter: str
    max_rel_error: float
    agreement: float
    images: int
    graphs: tuple[GraphRecord, ...] = ()
    refused: tuple[RefusedGraph, ...] = ()
