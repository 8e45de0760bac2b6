"""Graphs are judged by exact arithmetic, whatever the processor's fast kernels do."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgeoe.graph.calibration import observe
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.quantize import quantise, watched_tensors
from edgeoe.graph.recipes import RECIPES, Recipe


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("group", [1, 16])
def test_sums_that_16_bits_cant_hold_are_right(recipe: Recipe, group: int) -> None:
    """All weights and inputs are nearly as large as they can be. The reference runs every node as it stands."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.9, 1, (16, 16 // group, 3, 3)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.zeros(16, np.float32), "bias")]
    node = helper.make_node("Conv", ["images", "weight", "bias"], ["logits"], name="layer", group=group)
    x = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ("batch", 16, 6, 6))
    y = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("batch", 16, 4, 4))
    graph = helper.make_model(
        helper.make_graph([node], "layer", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    images = rng.uniform(0.9, 1, (4, 16, 6, 6)).astype(np.float32)
    seen = observe(graph, watched_tensors(graph), images, np.ones(4))
    made = quantise(graph, recipe, seen, method="minmax")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (expected,) = plain.run(None, {"images": images})
    step = expected.max() / 127
    np.testing.assert_allclose(run_model(made, images, ["logits"])["logits"], expected, atol=1.01 * step)


def test_biases_stay_what_the_graph_says() -> None:
    """Floats between two steps of the product's integers, to which ONNX Runtime would round them before the next layer.

    Some sums then fall on the other side of the next layer's own steps.
    """
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.uniform(-1, 1, shape).astype(np.float32), name)
        for name, shape in (("one", (4, 1, 1, 1)), ("bias", (4,)), ("two", (4, 1, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["images", "one", "bias"], ["between"], name="first", group=4),
        helper.make_node("Conv", ["between", "two"], ["logits"], name="second", group=4),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", 4, 16, 16))
        for name in ("images", "logits")
    ]
    graph = helper.make_model(
        helper.make_graph(nodes, "layers", ends[:1], ends[1:], constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    images = rng.uniform(-1, 1, (64, 4, 16, 16)).astype(np.float32)
    made = quantise(graph, "int8-trt", observe(graph, watched_tensors(graph), images, np.ones(64)), method="minmax")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (expected,) = plain.run(None, {"images": images})
    np.testing.assert_allclose(run_model(made, images, ["logits"])["logits"], expected, atol=2e-6)


def test_exact_kernels_are_asked_for_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with VNNI is exact anyhow, so that no figure would tell there."""
    asked: list[tuple[str, int, list[str]]] = []

    class Session(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, model: bytes, options: ort.SessionOptions, providers: list[str], **others: object) -> None:
            precision = options.get_session_config_entry("session.x64quantprecision")
            asked.append((precision, options.intra_op_num_threads, providers))
            super().__init__(model, options, providers=providers, **others)

    monkeypatch.setattr(ort, "InferenceSession", Session)
    node = helper.make_node("Identity", ["images"], ["logits"])
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ("batch", 2)) for n in ("images", "logits")]
    graph = helper.make_graph([node], "same", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert run_model(model, np.ones((1, 2), np.float32), ["logits"])["logits"].tolist() == [[1, 1]]
    assert asked == [("1", 1, ["CPUExecutionProvider"])]
