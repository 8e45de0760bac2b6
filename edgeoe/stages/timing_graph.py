"""network -> ONNX graph in the precision of a target, to be timed only: its weights and ranges mean nothing."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import ExportError
from edgeoe.graph.export import Exporter, onnx_from_student
from edgeoe.graph.precision import Int8Settings, Source, precision_of
from edgeoe.progress import silent
from edgeoe.targets.profile import Target

__all__ = ["fp32_graph", "in_precision", "timing_graph"]

_IMAGES = 2  # of noise, to calibrate with: latency does not depend on the ranges


def timing_graph(
    model: nn.Module,
    target: Target,
    preprocess: Preprocess,
    *,
    here: bool = True,
    kept_fp32: Collection[str] = (),
    as_exported: bool = False,
) -> onnx.ModelProto:
    """The graph of `model` that `target` would run, calibrated on noise.

    here, kept_fp32: as for `in_precision`.
    as_exported: as for `fp32_graph`.
    Raises ExportError if the network can't be exported.
    """
    graph = fp32_graph(model, preprocess, as_exported=as_exported)
    return in_precision(graph, target, preprocess, here=here, kept_fp32=kept_fp32)


def fp32_graph(model: nn.Module, preprocess: Preprocess, *, as_exported: bool = False) -> onnx.ModelProto:
    """The graph of `model`. Raises ExportError if the network can't be exported.

    as_exported: by the exporter that `export` tries first. It is much slower than the legacy one, and writes some
        networks otherwise: attention as operators that take 6 % longer.
    """
    first: Exporter = "dynamo" if as_exported else "legacy"
    second: Exporter = "legacy" if as_exported else "dynamo"
    try:
        return onnx_from_student(model, preprocess=preprocess, metadata={}, exporter=first)
    except ExportError:
        return onnx_from_student(model, preprocess=preprocess, metadata={}, exporter=second)


def in_precision(
    graph: onnx.ModelProto,
    target: Target,
    preprocess: Preprocess,
    *,
    here: bool = True,
    kept_fp32: Collection[str] = (),
) -> onnx.ModelProto:
    """The fp32 `graph` in the precision of `target`, calibrated on noise.

    here: it runs on this machine, whose processor decides if the profile does not.
    kept_fp32: layers that stay fp32; those that the graph lacks do not count.
    """
    precision = precision_of(target.precision)
    if precision.writer is None:
        return graph
    noise = np.random.default_rng(0).standard_normal((_IMAGES, *preprocess.shape), dtype=np.float32)
    settings = Int8Settings(calibration="minmax", bias_correction=False)
    variant = precision.variant(target, here=here)
    kept = {variant: kept_fp32}
    source = Source(graph, noise, noise, np.zeros((_IMAGES, 1), np.float32), settings, silent, kept_fp32=kept)
    return precision.writer(source)(variant).graph
