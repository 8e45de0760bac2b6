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
