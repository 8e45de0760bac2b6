"""Evaluation of graphs with ONNX Runtime on the CPU, to check graphs as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.backends.telemetry import import_onnxruntime
from edgeoe.targets.profile import Target

__all__ = ["run_graph", "run_model"]

_HERE = Target(name="this machine", backend="onnxruntime")


def run_graph(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (N, K) of the ONNX file `path` for images `x` (N, C, H, W), with default settings."""
    with OnnxRuntime().open(path, _HERE) as runner:
        return runner.infer(x)


def run_model(graph: onnx.ModelProto, x: NDArray[np.float32], tensors: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Values of `tensors` of `graph` by name, for images `x` (N, C, H, W), the same on every processor.

    Arithmetic is exact: on x86 without VNNI the fast kernels of int8 graphs add products in 16 bits, which overflow,
    and the slower kernels that are used here do not. Biases stay as the graph has them.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["WeightBiasQuantization"],  # it rounds the float biases of an int8 graph
    )
    return dict(zip(tensors, session.run(None, {session.get_inputs()[0].name: x}), strict=True))
