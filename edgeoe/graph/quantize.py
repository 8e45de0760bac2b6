"""fp32 graph -> int8 graph, by one of three recipes, since no single graph is fast on all processors.

`int8-cpu`: activations uint8 with a zero point, weights int8 per channel; ONNX Runtime fuses these into integer kernels
on x86.
`int8-cpu-7bit`: the same with 7-bit weights, for x86 without VNNI: there the kernels of ONNX Runtime and OpenVINO add
pairs of products in 16 bits, which saturate with 8-bit weights.
`int8-trt`: everything int8 and symmetric, only layers for which TensorRT has integer kernels, biases float.

All are Q/DQ graphs with ranges from `graph/calibration.py`, and differ in nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx

from edgeoe.backends.telemetry import import_onnxruntime
from edgeoe.graph.calibration import TensorStatistics, choose_range
from edgeoe.graph.recipes import Recipe
from edgeoe.records.graphs import CalibrationMethod

__all__ = ["quantisable_layers", "quantise", "watched_tensors"]

SEVEN_BITS: tuple[Recipe, ...] = ("int8-cpu-7bit",)
LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


def quantisable_layers(graph: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The nodes of layers with constant weights, by name, in graph order."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    return {
        node.name: node
        for node in graph.graph.node
        if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in constants
    }


def watched_tensors(graph: onnx.ModelProto) -> list[str]:
    """Every floating-point activation of the graph, its inputs and outputs included."""
    inferred = onnx.shape_inference.infer_shapes(graph)
    values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    produced = {name for node in graph.graph.node for name in node.output} | {value.name for value in graph.graph.input}
    floats = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return [name for name, dimensions in floats.items() if name in produced and dimensions >= 2]


def quantise(
    graph: onnx.ModelProto,
    recipe: Recipe,
    statistics: Mapping[str, TensorStatistics],
    *,
    method: CalibrationMethod,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """The int8 graph of an fp32 `graph`.

    statistics: of its tensors, by name.
    method: rule that chooses ranges.
    keep: names of nodes that stay fp32.
    """
    import_onnxruntime()
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod as OrtMethod
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    symmetric = recipe == "int8-trt"
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, tensor in statistics.items()
        for low, high in [choose_range(tensor, method, symmetric=symmetric)]
    }
    options: dict[str, Any] = {"ActivationSymmetric": symmetric, "WeightSymmetric": True, "MinimumRealRange": 1e-4}
    if symmetric:
        operations = ["Conv", "Gemm", "MatMul"]
        options |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": operations}
    else:
        operations = sorted({*QLinearOpsRegistry, *QDQRegistry})
    quantizer = QDQQuantizer(
        copy.deepcopy(graph),
        True,  # per channel
        recipe in SEVEN_BITS,
        QuantType.QInt8,
        QuantType.QInt8 if symmetric else QuantType.QUInt8,
        TensorsData(OrtMethod.MinMax, ranges),
        [],
        [*keep],
        operations,
        options,
    )
    quantizer.quantize_model()
    quantizer.model.clean_initializers()
    quantizer.model.topological_sort()
    model: onnx.ModelProto = quantizer.model.model
    return model
