"""The mean error that int8 weights leave in a layer's output is taken off its bias, whatever the layer and recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeoe.graph.bias_correction import correct_biases, mean_errors
from edgeoe.graph.calibration import TensorStatistics, observe
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.quantize import quantise, watched_tensors
from edgeoe.graph.recipes import RECIPES, Recipe

Array = NDArray[np.float32]
RNG = np.random.default_rng(0)


def normal(*shape: int, mean: float = 0.0) -> Array:
    return (RNG.normal(size=shape) + mean).astype(np.float32)


def model(nodes: list[onnx.NodeProto], shape: tuple[int, ...], outputs: int, **constants: Array) -> onnx.ModelProto:
    """images (batch, *shape) -> logits, of rank `outputs`."""
    x = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ("batch", *shape))
    y = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [None] * outputs)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def convolution(weight: Array, shape: tuple[int, ...], *, bias: Array | None = None, **options: Any) -> onnx.ModelProto:
    constants = {"weight": weight, **({} if bias is None else {"bias": bias})}
    node = helper.make_node("Conv", ["images", *constants], ["logits"], name="layer", **options)
    return model([node], shape, 4, **constants)


def gemm(weight: Array, *, bias: Array | None = None, **options: Any) -> onnx.ModelProto:
    constants = {"weight": weight, **({} if bias is None else {"bias": bias})}
    inputs = weight.shape[1 if options.get("transB") else 0]
    node = helper.make_node("Gemm", ["images", *constants], ["logits"], name="layer", **options)
    return model([node], (inputs,), 2, **constants)


def tokens(weight: Array, bias: Array) -> onnx.ModelProto:
    """As a linear layer on (batch, tokens, channels) is exported."""
    product = helper.make_node("MatMul", ["images", "weight"], ["product"], name="layer")
    add = helper.make_node("Add", ["bias", "product"], ["logits"], name="add")
    return model([product, add], (5, len(weight)), 3, weight=weight, bias=bias)


def look(graph: onnx.ModelProto, x: Array) -> dict[str, TensorStatistics]:
    return observe(graph, watched_tensors(graph), x, np.ones(len(x)))


def bias_of_outputs(graph: onnx.ModelProto, made: onnx.ModelProto, x: Array) -> float:
    """Mean over channels of |mean error|."""
    error = run_model(made, x, ["logits"])["logits"] - run_model(graph, x, ["logits"])["logits"]
    channels = 1 if error.ndim == 4 else error.ndim - 1
    return float(np.abs(error.mean(tuple(axis for axis in range(error.ndim) if axis != channels))).mean())


def plain_and_corrected(graph: onnx.ModelProto, x: Array, recipe: Recipe) -> tuple[float, float]:
    seen = look(graph, x)
    plain = quantise(graph, recipe, seen, method="minmax")
    made = quantise(correct_biases(graph, mean_errors(graph, plain, seen)), recipe, seen, method="minmax")
    onnx.checker.check_model(made)
    return bias_of_outputs(graph, plain, x), bias_of_outputs(graph, made, x)


GRAPHS = {
    "1x1": lambda: convolution(normal(32, 3, 1, 1), (3, 16, 16), bias=normal(32)),
    "1x1 without a bias": lambda: convolution(normal(32, 3, 1, 1), (3, 16, 16)),
    "3x3 padded": lambda: convolution(normal(32, 3, 3, 3), (3, 6, 6), bias=normal(32), pads=[1, 1, 1, 1]),
    "3x3 in steps": lambda: convolution(normal(32, 3, 3, 3), (3, 7, 6), pads=[1, 1, 1, 1], strides=[2, 2]),
    "3x3 dilated": lambda: convolution(normal(32, 3, 3, 3), (3, 8, 8), pads=[2, 2, 2, 2], dilations=[2, 2]),
    "grouped": lambda: convolution(normal(32, 4, 3, 3), (8, 6, 6), bias=normal(32), group=2, pads=[1, 1, 1, 1]),
    "depthwise": lambda: convolution(normal(16, 1, 3, 3), (16, 6, 6), bias=normal(16), group=16, pads=[1, 1, 1, 1]),
    "gemm": lambda: gemm(normal(12, 32), bias=normal(32)),
    "gemm transposed": lambda: gemm(normal(32, 12), bias=normal(32), transB=1),
    "gemm without a bias": lambda: gemm(normal(32, 12), transB=1),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_most_of_the_mean_error_is_gone(name: str, recipe: Recipe) -> None:
    graph = GRAPHS[name]()
    shape = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim[1:]]
    plain, corrected = plain_and_corrected(graph, normal(200, *shape, mean=3), recipe)
    assert corrected < plain / 3


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_bias_of_tokens_is_what_is_added_to_them(recipe: Recipe) -> None:
    """The CPU recipes round before and after the sum, so that a small correction may be lost."""
    graph = tokens(normal(12, 64), normal(64))
    plain, corrected = plain_and_corrected(graph, normal(100, 5, 12, mean=3), recipe)
    assert corrected < (plain / 3 if recipe == "int8-trt" else plain)


@settings(max_examples=25)
@given(
    st.sampled_from(RECIPES),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 2),
    st.floats(-4, 4),
    st.integers(0, 2**32 - 1),
)
def test_no_convolution_is_made_worse(
    recipe: Recipe, kernel: int, inputs: int, stride: int, padding: int, mean: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((16, inputs, kernel, kernel), (16,)))
    graph = convolution(weight, (inputs, 5, 5), bias=bias, strides=[stride] * 2, pads=[min(padding, kernel - 1)] * 4)
    x = (rng.normal(size=(64, inputs, 5, 5)) + mean).astype(np.float32)
    plain, corrected = plain_and_corrected(graph, x, recipe)
    step = np.abs(run_model(graph, x, ["logits"])["logits"]).max() / 127  # of the output's own rounding
    assert corrected <= plain + 0.05 * step


@pytest.mark.parametrize("recipe", RECIPES)
def test_errors_are_those_of_the_weights_that_were_written(recipe: Recipe) -> None:
    """As onnx's own reference reads them from the graph, on all images one by one."""
    graph = GRAPHS["3x3 in steps"]()
    x = normal(20, 3, 7, 6, mean=1)
    seen = look(graph, x)
    made = quantise(graph, recipe, seen, method="minmax")
    errors = mean_errors(graph, made, seen)
    (read,) = (node.input[1] for node in made.graph.node if node.op_type == "Conv")
    made.graph.output[0].name = read
    made.opset_import[0].version = 19  # from which on onnx's reference reads them; the same in 18
    (weight,) = ReferenceEvaluator(made).run(None, {"images": x[:1]})
    assert isinstance(weight, np.ndarray)
    written = convolution(weight, (3, 7, 6), pads=[1, 1, 1, 1], strides=[2, 2])
    difference = run_model(written, x, ["logits"])["logits"] - run_model(graph, x, ["logits"])["logits"]
    np.testing.assert_allclose(errors["layer"], difference.mean((0, 2, 3)), atol=1e-5)


def test_a_layer_that_is_not_in_int8_has_no_error() -> None:
    graph, x = GRAPHS["1x1"](), normal(4, 3, 16, 16)
    seen = look(graph, x)
    assert mean_errors(graph, quantise(graph, "int8-cpu", seen, method="minmax", keep=["layer"]), seen) == {}


def test_a_bias_that_two_layers_share_is_corrected_for_each() -> None:
    one = helper.make_node("Conv", ["images", "one", "bias"], ["between"], name="first")
    two = helper.make_node("Conv", ["between", "two", "bias"], ["logits"], name="second")
    constants = {"one": normal(4, 4, 1, 1), "two": normal(4, 4, 1, 1), "bias": normal(4)}
    graph = model([one, two], (4, 3, 3), 4, **constants)
    made = correct_biases(graph, {"first": np.full(4, 1, np.float32), "second": np.full(4, 2, np.float32)})
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    given = [tensors[node.input[2]] for node in made.graph.node]
    np.testing.assert_allclose(given, [constants["bias"] - 1, constants["bias"] - 2])
    assert "corrected" not in str(graph), "the graph itself stays"


def test_a_scaled_bias_is_corrected_before_it_is_scaled() -> None:
    graph = gemm(normal(4, 2), bias=np.array([1, 2], np.float32), beta=2.0)
    made = correct_biases(graph, {"layer": np.array([1, 1], np.float32)})
    (bias,) = (tensor for tensor in made.graph.initializer if tensor.name == made.graph.node[0].input[2])
    np.testing.assert_allclose(numpy_helper.to_array(bias), [0.5, 1.5])


def test_a_product_that_nothing_is_added_to_stays() -> None:
    product = helper.make_node("MatMul", ["images", "weight"], ["logits"], name="layer")
    graph = model([product], (4,), 2, weight=normal(4, 3))
    assert correct_biases(graph, {"layer": np.ones(3, np.float32)}) == graph


def test_nodes_of_one_input_are_passed_over() -> None:
    conv = helper.make_node("Conv", ["images", "weight"], ["between"], name="layer")
    relu = helper.make_node("Relu", ["between"], ["rectified"], name="relu")
    pool = helper.make_node("GlobalMaxPool", ["rectified"], ["logits"], name="pool")
    graph, x = model([conv, relu, pool], (3, 4, 4), 4, weight=normal(5, 3, 1, 1)), normal(8, 3, 4, 4)
    seen = look(graph, x)
    quantised = quantise(graph, "int8-trt", seen, method="minmax")
    assert any(len(node.input) == 1 for node in quantised.graph.node)
    assert {*mean_errors(graph, quantised, seen)} == {"layer"}


def test_a_bias_that_is_computed_stays() -> None:
    conv = helper.make_node("Conv", ["images", "weight", "made"], ["logits"], name="layer")
    negated = helper.make_node("Neg", ["bias"], ["made"], name="made")
    graph = model([negated, conv], (3, 4, 4), 4, weight=normal(5, 3, 1, 1), bias=normal(5))
    assert correct_biases(graph, {"layer": np.ones(5, np.float32)}) == graph
