"""Ranges from histograms, and int8 graphs that compute nearly what the fp32 graph does."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.graph.calibration import CALIBRATION_METHODS, TensorStatistics, choose_range, observe
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.export import onnx_from_student
from edgeoe.graph.fp16 import to_fp16
from edgeoe.graph.quantize import quantisable_layers, quantise, watched_tensors
from edgeoe.graph.recipes import RECIPES, Recipe
from edgeoe.records.graphs import CalibrationMethod

PREPROCESS = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_fraction=1.0)


def pictures(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(n, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 16, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )
    return onnx_from_student(model.eval(), preprocess=PREPROCESS, metadata={})


@pytest.fixture(scope="module")
def seen(graph: onnx.ModelProto) -> dict[str, TensorStatistics]:
    return observe(graph, watched_tensors(graph), pictures(20), np.ones(20))


def logits(graph: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return run_model(graph, x, ["logits"])["logits"]


def error(graph: onnx.ModelProto, other: onnx.ModelProto) -> float:
    x = pictures(30)
    expected = logits(graph, x)
    return float(np.abs(logits(other, x) - expected).max() / np.abs(expected).max())


def constant(values: list[float]) -> TensorStatistics:
    """What `observe` tells of a tensor with these values."""
    low, high = min(0.0, *values), max(0.0, *values)
    histogram, _ = np.histogram(values, bins=2048, range=(low, high), density=False)
    return TensorStatistics(low, high, histogram / len(values), None)


def test_what_was_seen_is_what_numpy_counts(graph: onnx.ModelProto, seen: dict[str, TensorStatistics]) -> None:
    x = pictures(20)
    for name, tensor in seen.items():
        value = run_model(graph, x, [name])[name]
        assert tensor.low == pytest.approx(min(0.0, value.min()))
        assert tensor.high == pytest.approx(max(0.0, value.max()))
        assert tensor.histogram.sum() == pytest.approx(1)
        centres = np.linspace(tensor.low, tensor.high, 2049)[:-1] + (tensor.high - tensor.low) / 4096
        assert tensor.histogram @ centres == pytest.approx(value.mean(), abs=(tensor.high - tensor.low) / 2048)
        assert tensor.mean is not None
        np.testing.assert_allclose(tensor.mean, value.mean(0), rtol=1e-4, atol=1e-5)


def test_weights_of_images_count(graph: onnx.ModelProto) -> None:
    x = pictures(4)
    alone = observe(graph, ["images"], x[:1], np.ones(1))["images"]
    heavy = observe(graph, ["images"], x, np.array([1e9, 1, 1, 1]))["images"]
    assert heavy.mean is not None
    assert alone.mean is not None
    np.testing.assert_allclose(heavy.mean, alone.mean, atol=1e-6)


def test_weights_count_in_histograms_and_over_batches(graph: onnx.ModelProto) -> None:
    x, weights = pictures(70), np.random.default_rng(1).uniform(0, 3, 70)
    x[weights > 1.5] += 1  # so that the weights matter
    tensor = observe(graph, ["images"], x, weights)["images"]
    assert tensor.mean is not None
    np.testing.assert_allclose(tensor.mean, np.average(x, axis=0, weights=weights), atol=1e-5)
    expected, _ = np.histogram(
        x, bins=2048, range=(tensor.low, tensor.high), weights=np.broadcast_to(weights[:, None, None, None], x.shape)
    )
    np.testing.assert_allclose(np.cumsum(tensor.histogram), np.cumsum(expected) / expected.sum(), atol=1e-4)


@pytest.mark.parametrize(("images", "shape"), [(5, (-1, 6)), (5, (1, -1)), (70, (4, -1, 5))])
def test_rows_that_are_not_one_an_image_are_seen_too(images: int, shape: tuple[int, ...]) -> None:
    """Windows of an image each in a row, all images in one row, and (with batches of 64 and 6) a mix."""
    x = np.random.default_rng(0).normal(size=(images, 3, 4, 5)).astype(np.float32)
    to = numpy_helper.from_array(np.array(shape), "shape")
    ends = [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ("batch", 3, 4, 5))]
    rows = helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, [None] * len(shape))
    reshape = helper.make_node("Reshape", ["images", "shape"], ["rows"])
    model = helper.make_model(
        helper.make_graph([reshape], "rows", ends, [rows], [to]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    seen = observe(model, ["rows"], x, np.ones(images))["rows"]
    assert (seen.low, seen.high) == (x.min(), x.max())
    assert seen.histogram.sum() == pytest.approx(1)
    if shape == (-1, 6):
        assert seen.mean is not None
        np.testing.assert_allclose(seen.mean, x.reshape(shape).mean(0), atol=1e-6)
    else:
        assert seen.mean is None, "rows are no images"


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60).filter(lambda v: max(map(abs, v)) > 1e-3),
    st.sampled_from(CALIBRATION_METHODS),
    st.booleans(),
)
def test_a_range_holds_zero_and_nothing_that_was_not_there(
    values: list[float], method: CalibrationMethod, symmetric: bool
) -> None:
    tensor = constant(values)
    low, high = choose_range(tensor, method, symmetric=symmetric)
    top = max(-tensor.low, tensor.high)
    assert -top * 1.001 <= low <= 0 <= high <= top * 1.001
    assert low < high
    assert low == -high or not symmetric


def test_an_outlier_is_cut_off_by_all_rules_but_minmax() -> None:
    rng = np.random.default_rng(0)
    values = [*rng.normal(size=400_000), 60.0]
    tensor = constant(values)
    tops = {method: choose_range(tensor, method, symmetric=True)[1] for method in CALIBRATION_METHODS}
    assert tops["minmax"] == pytest.approx(60, rel=1e-3)
    assert all(3 < top < 25 for method, top in tops.items() if method != "minmax"), tops


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_percentile_cuts_one_value_in_100_000_off_each_end(symmetric: bool) -> None:
    values = np.random.default_rng(2).normal(size=1_000_000) * np.where(np.arange(1_000_000) % 2, 1.0, 3.0)
    tensor = constant([*values])
    low, high = choose_range(tensor, "percentile", symmetric=symmetric)
    bin_width = (tensor.high - tensor.low) / 2048
    if symmetric:
        assert low == -high
        low = -high if (values < -high + bin_width).sum() > (values > high - bin_width).sum() else tensor.low
    for beyond, nearer in (
        ((values > high + 1e-9).sum(), (values > high - bin_width).sum()),
        ((values < low - 1e-9).sum(), (values < low + bin_width).sum()),
    ):
        if beyond or nearer > 1:
            assert beyond <= 10 < nearer + 1


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("tail", [4.0, 8.0, 60.0])
def test_mse_leaves_the_least_squared_error(tail: float, symmetric: bool) -> None:
    """Against rounding and clipping of the values themselves, over every share of the whole range."""
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(size=20_000), [tail, -0.6 * tail]])
    tensor = constant([*values])

    def error(low: float, high: float) -> float:
        step = (high - low) / (254 if symmetric else 255)
        return float(np.square(np.clip(np.round(values / step) * step, low, high) - values).mean())

    found = error(*choose_range(tensor, "mse", symmetric=symmetric))
    ends = (-tail, tail) if symmetric else (tensor.low, tensor.high)
    others = [error(part * ends[0], part * ends[1]) for part in np.linspace(0.2, 1, 33)]
    assert found < 1.02 * min(others)
    assert min(others) < 0.99 * max(others), "the choice matters"


@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_entropy_counts_what_it_cuts_off_where_it_is_cut_to(kind: str) -> None:
    """Without outliers hardly anything is cut off: what is would pile up at the end of the range."""
    tensor = constant([*getattr(np.random.default_rng(0), kind)(size=200_000)])
    assert choose_range(tensor, "entropy", symmetric=False)[1] > 0.9 * tensor.high


def test_zeros_do_not_outvote_what_a_rectifier_lets_through() -> None:
    rng = np.random.default_rng(0)
    tensor = constant([*np.maximum(rng.normal(size=100_000), 0)])
    assert choose_range(tensor, "entropy", symmetric=False)[1] > 2


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("method", CALIBRATION_METHODS)
def test_int8_is_near_fp32(
    graph: onnx.ModelProto, seen: dict[str, TensorStatistics], recipe: Recipe, method: CalibrationMethod
) -> None:
    made = quantise(graph, recipe, seen, method=method)
    onnx.checker.check_model(made)
    assert 0 < error(graph, made) < 0.15


def test_the_recipes_differ_where_their_runtimes_do(graph: onnx.ModelProto, seen: dict[str, TensorStatistics]) -> None:
    def zero_points(made: onnx.ModelProto) -> Counter[str]:
        tensors = {t.name: t for t in made.graph.initializer}
        found = [tensors[n.input[2]] for n in made.graph.node if n.op_type == "QuantizeLinear"]
        return Counter(onnx.TensorProto.DataType.Name(t.data_type) for t in found if numpy_helper.to_array(t).ndim == 0)

    cpu, trt = (quantise(graph, recipe, seen, method="minmax") for recipe in ("int8-cpu", "int8-trt"))
    assert set(zero_points(cpu)) == {"UINT8"}
    assert set(zero_points(trt)) == {"INT8"}
    points = [t for t in trt.graph.initializer if t.name.endswith("zero_point")]
    assert all((numpy_helper.to_array(t) == 0).all() for t in points), "TensorRT takes no other"
    assert not [t for t in trt.graph.initializer if t.data_type == onnx.TensorProto.INT32], "its biases stay float"
    assert [t for t in cpu.graph.initializer if t.data_type == onnx.TensorProto.INT32], "as integer kernels add them"
    for made in (cpu, trt):
        assert {t.name for t in made.graph.initializer} <= {name for node in made.graph.node for name in node.input}


def test_seven_bits_are_never_exceeded(graph: onnx.ModelProto, seen: dict[str, TensorStatistics]) -> None:
    def widest(recipe: Recipe) -> int:
        made = quantise(graph, recipe, seen, method="minmax")
        weights = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
        assert len(weights) == 4
        return max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in weights)

    assert (widest("int8-cpu-7bit"), widest("int8-cpu")) == (64, 127)


def test_layers_that_are_kept_stay_as_they_are(graph: onnx.ModelProto, seen: dict[str, TensorStatistics]) -> None:
    layers = quantisable_layers(graph)
    assert len(layers) == 4
    made = quantise(graph, "int8-cpu", seen, method="minmax", keep=layers)
    left = [node for node in made.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    floats = {t.name for t in made.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert all(node.input[1] in floats for node in left)


def test_fp16_keeps_its_ends_and_nearly_its_numbers(graph: onnx.ModelProto) -> None:
    made = to_fp16(graph)
    ends = [*made.graph.input, *made.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT}
    kinds = Counter(t.data_type for t in made.graph.initializer)
    assert kinds[onnx.TensorProto.FLOAT16] > kinds[onnx.TensorProto.FLOAT]
    assert 0 < error(graph, made) < 0.01
