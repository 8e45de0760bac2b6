"""Bias correction: subtracts from each bias the mean output error that int8 weights cause in its layer.

Source: Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeoe.graph.calibration import TensorStatistics
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.quantize import quantisable_layers

__all__ = ["correct_biases", "mean_errors"]


def mean_errors(
    graph: onnx.ModelProto, quantised: onnx.ModelProto, statistics: Mapping[str, TensorStatistics]
) -> dict[str, NDArray[np.float32]]:
    """Mean error (O,) of each output channel, by name of the layer.

    Layers are linear, so the mean error is the layer's output for its mean input, with the weights' error in place of
    the weights; padding, strides and groups are included.

    graph: the fp32 graph.
    quantised: its int8 graph; layers whose weights it does not hold in int8 are skipped.
    statistics: of the layers' inputs; layers whose mean input is unknown are skipped.
    """
    constants = _constants(graph)
    weights = _dequantised_weights(quantised)
    errors = {}
    for name, node in quantisable_layers(graph).items():
        mean = statistics[node.input[0]].mean if node.input[0] in statistics else None
        if mean is None or name not in weights or _attribute(node, "transA", 0):
            continue
        output = _run_layer(graph, node, weights[name] - numpy_helper.to_array(constants[node.input[1]]), mean)
        channels = 1 if node.op_type == "Conv" else output.ndim - 1
        errors[name] = output.mean(tuple(axis for axis in range(output.ndim) if axis != channels))
    return errors


def _constants(graph: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.graph.initializer}


def _dequantised_weights(quantised: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The dequantised int8 weights of a Q/DQ graph, by name of the layer that consumes them."""
    constants = _constants(quantised)
    producers = {name: node for node in quantised.graph.node for name in node.output}
    weights = {}
    for node in quantised.graph.node:
        source = producers.get(node.input[1]) if len(node.input) > 1 else None
        if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in constants:
            values, scale, zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in source.input)
            shape = [1] * values.ndim
            if scale.ndim:
                shape[_attribute(source, "axis", 1)] = -1
            weights[node.name] = (values - zero.reshape(shape)) * scale.reshape(shape)
    return weights


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    values = {attribute.name: attribute for attribute in node.attribute}
    return int(helper.get_attribute_value(values[name])) if name in values else default


def _run_layer(
    graph: onnx.ModelProto, node: onnx.NodeProto, weight: NDArray[np.float32], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Output of the layer `node` of `graph` for one input `x`, with another `weight` and no bias."""
    layer = onnx.NodeProto()
    layer.CopyFrom(node)
    del layer.input[:], layer.output[:]
    layer.input.extend(("x", "weight"))
    layer.output.append("y")
    ends = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, *x.shape)), onnx.ValueInfoProto(name="y")]
    single = helper.make_graph([layer], "layer", ends[:1], ends[1:], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(single, opset_imports=graph.opset_import, ir_version=graph.ir_version)
    return run_model(model, x[None], ["y"])["y"]


def correct_biases(graph: onnx.ModelProto, errors: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """`graph` with the `errors` of its layers subtracted from their biases.

    A convolution or Gemm without a bias gets one. The bias of a MatMul is the constant that is added to its output;
    without one, the layer stays as it is.

    errors: (O,) by name of the layer, from `mean_errors`.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(graph)
    constants = _constants(graph)
    for node in corrected.graph.node:
        if node.name not in errors:
            continue
        location = _bias_place(corrected, node, constants)
        if location is None:
            continue
        owner, index = location
        constant = constants.get(owner.input[index]) if index < len(owner.input) else None
        beta = next((attribute.f for attribute in node.attribute if attribute.name == "beta"), 1.0)
        bias = (0.0 if constant is None else numpy_helper.to_array(constant)) - errors[node.name] / beta
        tensor = numpy_helper.from_array(np.asarray(bias, np.float32), f"{node.name}.corrected_bias")
        corrected.graph.initializer.append(tensor)
        owner.input[:] = [*owner.input[:index], tensor.name, *owner.input[index + 1 :]]
    return corrected


def _bias_place(
    graph: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, int] | None:
    """The node, and the index of its input, that holds the bias of the layer `node`; None if there is no such place."""
    if node.op_type != "MatMul":
        bias = node.input[2] if len(node.input) > 2 else ""
        return (node, 2) if not bias or bias in constants else None
    consumers = [consumer for consumer in graph.graph.node if node.output[0] in consumer.input]
    if len(consumers) != 1 or consumers[0].op_type != "Add":
        return None
    index = 1 - [*consumers[0].input].index(node.output[0])
    return (consumers[0], index) if consumers[0].input[index] in constants else None
