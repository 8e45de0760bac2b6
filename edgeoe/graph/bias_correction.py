"""Bias correction: the mean error that the written int8 weights leave in a layer's output is taken off its bias.

Source: Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeoe.graph.calibration import Observed
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.quantize import quantisable_layers

__all__ = ["correct_biases", "mean_errors"]


def mean_errors(
    graph: onnx.ModelProto, quantised: onnx.ModelProto, observed: Mapping[str, Observed]
) -> dict[str, NDArray[np.float32]]:
    """(O,) mean error of each output channel, by layer of the fp32 `graph` whose weights `quantised` holds in int8.

    Layers are linear, so the mean error is what the layer makes of its mean input with the weights' error in place of
    the weights: padding, strides and groups included.

    observed: what the inputs hold; layers whose mean input is unknown are skipped.
    """
    constants = _constants(graph)
    written = _written_weights(quantised)
    errors = {}
    for name, node in quantisable_layers(graph).items():
        mean = observed[node.input[0]].mean if node.input[0] in observed else None
        if mean is None or name not in written or _attribute(node, "transA", 0):
            continue
        output = _run_layer(graph, node, written[name] - numpy_helper.to_array(constants[node.input[1]]), mean)
        channels = 1 if node.op_type == "Conv" else output.ndim - 1
        errors[name] = output.mean(tuple(axis for axis in range(output.ndim) if axis != channels))
    return errors


def _constants(graph: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.graph.initializer}


def _written_weights(quantised: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """What the int8 weights of a Q/DQ graph stand for, by the name of the layer that reads them."""
    constants = _constants(quantised)
    producers = {name: node for node in quantised.graph.node for name in node.output}
    weights = {}
    for node in quantised.graph.node:
        source = producers.get(node.input[1]) if len(node.input) > 1 else None
        if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in constants:
            stored, scale, zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in source.input)
            shape = [1] * stored.ndim
            if scale.ndim:
                shape[_attribute(source, "axis", 1)] = -1
            weights[node.name] = (stored - zero.reshape(shape)) * scale.reshape(shape)
    return weights


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return int(next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default))


def _run_layer(
    graph: onnx.ModelProto, node: onnx.NodeProto, weight: NDArray[np.float32], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the layer `node` of `graph` makes of one input `x`, with another `weight` and no bias."""
    layer = onnx.NodeProto()
    layer.CopyFrom(node)
    del layer.input[:], layer.output[:]
    layer.input.extend(("x", "weight"))
    layer.output.append("y")
    ends = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, *x.shape)), onnx.ValueInfoProto(name="y")]
    alone = helper.make_graph([layer], "layer", ends[:1], ends[1:], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(alone, opset_imports=graph.opset_import, ir_version=graph.ir_version)
    return run_model(model, x[None], ["y"])["y"]


def correct_biases(graph: onnx.ModelProto, errors: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """`graph` with the `errors` of its layers taken off their biases: see `mean_errors`.

    A convolution or Gemm without a bias gets one. The bias of a MatMul is the constant that is added to its output;
    where there is none, the layer stays as it is.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(graph)
    constants = _constants(graph)
    for node in corrected.graph.node:
        if node.name not in errors:
            continue
        place = _bias_place(corrected, node, constants)
        if place is None:
            continue
        holder, at = place
        own = constants.get(holder.input[at]) if at < len(holder.input) else None
        beta = next((one.f for one in node.attribute if one.name == "beta"), 1.0)
        bias = (0.0 if own is None else numpy_helper.to_array(own)) - errors[node.name] / beta
        tensor = numpy_helper.from_array(np.asarray(bias, np.float32), f"{node.name}.corrected_bias")
        corrected.graph.initializer.append(tensor)
        holder.input[:] = [*holder.input[:at], tensor.name, *holder.input[at + 1 :]]
    return corrected


def _bias_place(
    graph: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, int] | None:
    """The node and the number of its input that hold the bias of the layer `node`; None where it has no place."""
    if node.op_type != "MatMul":
        given = node.input[2] if len(node.input) > 2 else ""
        return (node, 2) if not given or given in constants else None
    readers = [other for other in graph.graph.node if node.output[0] in other.input]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    at = 1 - [*readers[0].input].index(node.output[0])
    return (readers[0], at) if readers[0].input[at] in constants else None
