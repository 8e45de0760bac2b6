"""What a graph computes, by ONNX Runtime on the CPU: for whoever writes graphs and must check them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edgeoe.backends.onnxruntime import OnnxRuntime
from edgeoe.targets.profile import Target

__all__ = ["run_graph", "run_model"]

_HERE = Target(name="this machine", backend="onnxruntime")


def run_graph(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, K) logits of one ONNX file for (N, C, H, W) images, with default settings."""
    with OnnxRuntime().open(path, _HERE) as runner:
        return runner.infer(x)


def run_model(graph: onnx.ModelProto, x: NDArray[np.float32], tensors: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """What `tensors` of a graph hold for (N, C, H, W) images, by exact arithmetic: the same on every processor.

    On x86 without VNNI the fast kernels of int8 graphs add products in 16 bits, which overflow; the slower ones that
    are taken here do not. Biases stay what the graph says.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(
        watched.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["WeightBiasQuantization"],  # it rounds the float biases of an int8 graph
    )
    return dict(zip(tensors, session.run(None, {session.get_inputs()[0].name: x}), strict=True))
