"""Names of the layers in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.graph.export import Exporter, onnx_from_student
from edgeoe.graph.quantize import quantisable_layers
from edgeoe.models.program import ProgramModule, capture

PREPROCESS = Preprocess(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
EXPORTERS = get_args(Exporter)


class Tokens(nn.Module):
    """A block of a transformer, whose linear layers are products of matrices, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(2)])
        self.shared_1 = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        x = self.shared_1(torch.relu(self.shared_1(x)))
        return self.head(x.mean(1))


def layers(model: nn.Module, exporter: Exporter) -> list[str]:
    graph = onnx_from_student(model, preprocess=PREPROCESS, metadata={}, exporter=exporter)
    names = [node.name for node in graph.graph.node]
    assert len({*names}) == len(names)
    return [*quantisable_layers(graph)]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", ["residual", "chain", "stages", "several"])
def test_layers_are_called_as_their_modules(kind: str, exporter: Exporter, network: Callable[[str], nn.Module]) -> None:
    """Batch norms are folded into convolutions, which change their weights."""
    model = network(kind)
    kinds = (nn.Conv2d, nn.Linear)
    expected = [name for name, module in model.named_modules() if isinstance(module, kinds) and name != "aux"]
    assert sorted(layers(model, exporter)) == sorted(expected)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_products_of_matrices_and_second_calls_have_names(exporter: Exporter) -> None:
    torch.manual_seed(0)
    expected = ["patches", "blocks.0.1", "blocks.1.1", "shared_1", "shared_1:2", "head"]
    assert layers(Tokens().eval(), exporter) == expected


def test_a_program_has_the_names_of_its_network(network: Callable[[str], nn.Module]) -> None:
    """It calls operators, and no modules."""
    torch.manual_seed(0)
    for model in (Tokens().eval(), network("stages")):
        program = ProgramModule(*capture(model, PREPROCESS.shape, name="network")).eval()
        assert layers(program, "dynamo") == layers(model, "dynamo")
