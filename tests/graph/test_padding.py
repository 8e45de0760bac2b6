"""Padding of graphs that the legacy exporter wrote."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.graph.evaluation import run_graph
from edgeoe.graph.export import onnx_from_student
from edgeoe.graph.padding import fold_padding
from edgeoe.stages.timing_graph import in_precision
from edgeoe.targets.load import load_target

PREPROCESS = Preprocess(size=(12, 10), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))


class Padded(nn.Module):
    """A convolution behind `pad`, whose images a second layer may read, too."""

    def __init__(self, pad: nn.Module, *, conv: nn.Conv2d | None = None, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pad, self.conv = pad, conv or nn.Conv2d(3, 8, 3, stride=2, padding=(1, 0))
        self.pooled = nn.MaxPool2d(3, 2) if pooled else None
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        padded = self.pad(x)
        features = self.conv(padded).mean((2, 3))
        if self.pooled is not None:
            features = features + self.pooled(padded).mean((1, 2, 3))[:, None]
        logits: Tensor = self.head(features)
        return logits


def exported(network: nn.Module, folder: Path) -> tuple[onnx.ModelProto, Counter[str]]:
    """The graph of `network`, which computes the same, and how many nodes it has of each kind."""
    model = onnx_from_student(network.eval(), preprocess=PREPROCESS, metadata={}, exporter="legacy")
    onnx.save(model, folder / "graph.onnx")
    x = torch.randn(3, 3, 12, 10)
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.allclose(run_graph(folder / "graph.onnx", x.numpy()), expected, atol=1e-5)
    return model, Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("amounts", [(0, 1, 0, 1), (2, 0, 1, 3), (1, 1, 1, 1), 2])
def test_zeros_before_a_convolution_are_its_own(amounts: int | tuple[int, int, int, int], tmp_path: Path) -> None:
    _, kinds = exported(Padded(nn.ZeroPad2d(amounts)), tmp_path)
    assert kinds["Pad"] == kinds["ConstantOfShape"] == kinds["Concat"] == 0


@pytest.mark.parametrize(
    "pad",
    [nn.ConstantPad2d(1, 0.5), nn.ReflectionPad2d(1), nn.ReplicationPad2d((0, 1, 0, 1)), nn.ZeroPad2d((-1, 2, 0, 1))],
    ids=["not zero", "reflected", "replicated", "cropped"],
)
def test_what_a_convolution_can_not_pad_stays_with_constant_amounts(pad: nn.Module, tmp_path: Path) -> None:
    model, kinds = exported(Padded(pad), tmp_path)
    assert (kinds["Pad"], kinds["ConstantOfShape"]) == (1, 0)
    (node,) = (node for node in model.graph.node if node.op_type == "Pad")
    assert {name for name in node.input[1:] if name} <= {tensor.name for tensor in model.graph.initializer}


def test_images_that_another_layer_reads_stay_padded(tmp_path: Path) -> None:
    _, kinds = exported(Padded(nn.ZeroPad2d((0, 1, 0, 1)), pooled=True), tmp_path)
    assert kinds["Pad"] == 1


def test_two_convolutions_of_the_same_padded_images(tmp_path: Path) -> None:
    class Two(Padded):
        def forward(self, x: Tensor) -> Tensor:
            padded = self.pad(x)
            logits: Tensor = self.head((self.conv(padded) + 2 * self.conv(padded)).mean((2, 3)))
            return logits

    _, kinds = exported(Two(nn.ZeroPad2d((0, 1, 0, 1))), tmp_path)
    assert kinds["Pad"] == 0


def test_amounts_that_follow_from_the_images_stay(tmp_path: Path) -> None:
    """As of networks that pad to a multiple of something."""
    pads = onnx.helper.make_node("Pad", ["images", "amounts"], ["padded"])
    shape = onnx.helper.make_node("Shape", ["images"], ["shape"])
    twice = onnx.helper.make_node("Concat", ["zeros", "shape"], ["amounts"], axis=0)
    inputs = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 2])
    outputs = onnx.helper.make_tensor_value_info("padded", onnx.TensorProto.FLOAT, None)
    zeros = onnx.numpy_helper.from_array(np.zeros(2, np.int64), "zeros")
    graph = onnx.helper.make_graph([shape, twice, pads], "g", [inputs], [outputs], [zeros])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    before = model.SerializeToString()
    fold_padding(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("pad", [nn.ZeroPad2d((0, 1, 0, 1)), nn.ConstantPad2d(1, 0.5)])
def test_such_networks_can_be_timed_in_int8(pad: nn.Module, tmp_path: Path) -> None:
    model, _ = exported(Padded(pad), tmp_path)
    int8 = in_precision(model, replace(load_target("host-cpu"), precision="int8"), PREPROCESS)
    onnx.save(int8, tmp_path / "int8.onnx")
    assert run_graph(tmp_path / "int8.onnx", np.zeros((2, 3, 12, 10), np.float32)).shape == (2, 4)
