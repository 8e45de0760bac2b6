"""fp32 graph -> int8 graph, in one of three recipes, since no graph serves all processors.

`int8-cpu`: activations uint8 with a zero point, weights int8 per channel; ONNX Runtime fuses these to integer kernels
on x86. `int8-cpu-7bit`: the same with weights of 7 bits, for x86 without VNNI, whose kernels add pairs of products in
16 bits, which those of 8 overflow. `int8-trt`: everything int8 and symmetric, only what TensorRT has integer kernels
for, biases float. All are Q/DQ graphs with ranges from `graph/calibration.py`, so that they differ in nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeoe.graph.calibration import Observed, choose_range
from edgeoe.records import CalibrationMethod

__all__ = ["RECIPES", "Recipe", "correct_biases", "quantisable_layers", "quantise", "watched_tensors"]

Recipe = Literal["int8-cpu", "int8-cpu-7bit", "int8-trt"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
SEVEN_BITS: tuple[Recipe, ...] = ("int8-cpu-7bit",)
LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class _Layer:
    node: onnx.NodeProto
    weight: NDArray[np.float32]
    axis: int  # of the weight, that outputs lie along


def _layers(graph: onnx.ModelProto) -> dict[str, _Layer]:
    """Layers with constant weights by the name of their node."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    found = {}
    for node in graph.graph.node:
        if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in constants:
            weight = numpy_helper.to_array(constants[node.input[1]])
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 0 if node.op_type == "Conv" or transposed else weight.ndim - 1
            found[node.name] = _Layer(node, weight, axis)
    return found


def quantisable_layers(graph: onnx.ModelProto) -> list[str]:
    """The nodes of layers with constant weights, in their order."""
    return [*_layers(graph)]


def watched_tensors(graph: onnx.ModelProto) -> list[str]:
    """Every floating-point activation of the graph, its inputs and outputs included."""
    inferred = onnx.shape_inference.infer_shapes(graph)
    values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    made = {name for node in graph.graph.node for name in node.output} | {value.name for value in graph.graph.input}
    floats = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    return [name for name, dimensions in floats.items() if name in made and dimensions >= 2]


def quantise(
    graph: onnx.ModelProto,
    recipe: Recipe,
    seen: Mapping[str, Observed],
    *,
    method: CalibrationMethod,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """The int8 graph of an fp32 `graph`; nodes named in `keep` stay as they are. seen: what its tensors hold."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod as OrtMethod
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    symmetric = recipe == "int8-trt"
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, tensor in seen.items()
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
    made: onnx.ModelProto = quantizer.model.model
    return made


def correct_biases(
    graph: onnx.ModelProto, seen: Mapping[str, Observed], *, layers: Iterable[str], recipe: Recipe
) -> onnx.ModelProto:
    """`graph` with the mean error that rounding weights would leave in each output of `layers` taken off its bias.

    Source: Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(graph)
    wanted, found = set(layers), _layers(graph)
    constants = {tensor.name: tensor for tensor in corrected.graph.initializer}
    for node in corrected.graph.node:
        layer = found.get(node.name)
        if layer is None or node.name not in wanted or node.input[0] not in seen or len(node.input) < 3:
            continue
        shift = _mean_shift(layer, seen[node.input[0]].means, levels=63 if recipe in SEVEN_BITS else 127)
        bias = constants.get(node.input[2])
        if shift is None or bias is None:
            continue
        own = numpy_helper.to_array(bias)
        new = numpy_helper.from_array((own - shift.reshape(own.shape)).astype(own.dtype), f"{node.name}.bias")
        corrected.graph.initializer.append(new)
        node.input[2] = new.name
    return corrected


def _mean_shift(layer: _Layer, means: NDArray[np.float64], *, levels: int) -> NDArray[np.float64] | None:
    """(O,) mean of (rounded weight - weight) x, given the mean of each input channel; padding is not seen."""
    error = (_rounded(layer, levels) - layer.weight).astype(np.float64)
    if layer.node.op_type != "Conv":
        inputs = error if layer.axis == 0 else error.T
        return inputs @ means if inputs.ndim == 2 and inputs.shape[1] == len(means) else None
    outputs, within = error.shape[:2]
    groups = len(means) // within
    by_input = error.reshape(outputs, within, -1).sum(2)
    own = means.reshape(groups, within).repeat(outputs // groups, axis=0)
    return np.asarray((by_input * own).sum(1))


def _rounded(layer: _Layer, levels: int) -> NDArray[np.float32]:
    """The weight as int8 per channel holds it."""
    others = tuple(axis for axis in range(layer.weight.ndim) if axis != layer.axis)
    scale = np.maximum(np.abs(layer.weight).max(others, keepdims=True), 1e-12) / levels
    return np.asarray(np.clip(np.round(layer.weight / scale), -levels, levels) * scale, np.float32)
