"""Names of the layers in a graph: those of the network's modules, whichever exporter wrote it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from edgeoe.graph.quantize import quantisable_layers

__all__ = ["name_layers"]

_SCOPES = (
    "pkg.torch.onnx.name_scopes"  # of the dynamo exporter: modules from the outside to the inside, and the operator
)


def name_layers(model: onnx.ModelProto, network: nn.Module) -> None:
    """Give each layer with constant weights in the graph `model`, in place, the name of its module in `network`.

    A layer that is called again gets a number, too: `conv:2`. A node whose module can't be told keeps its name.

    model: as the exporter wrote it, with its metadata.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    modules = {name for name, _ in network.named_modules(remove_duplicate=False)}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    calls: dict[str, int] = {}
    for node in quantisable_layers(model).values():
        layer = (
            _by_parameter(node.input[1], parameters)
            or _by_scopes(node, modules)
            or _by_path(node.name, modules)
            or _by_values(weights[node.input[1]], parameters)
        )
        if layer:
            calls[layer] = calls.get(layer, 0) + 1
            node.name = layer if calls[layer] == 1 else f"{layer}:{calls[layer]}"


def _by_parameter(weight: str, parameters: Collection[str]) -> str:
    """The layer whose parameter the exporter kept under its name."""
    return weight.removesuffix(".weight") if weight in parameters else ""


def _by_scopes(node: onnx.NodeProto, modules: Collection[str]) -> str:
    """The innermost module that the dynamo exporter says `node` is within."""
    scopes: list[str] = next(
        (ast.literal_eval(entry.value) for entry in node.metadata_props if entry.key == _SCOPES), []
    )
    return next((scope for scope in reversed(scopes) if scope in modules), "")


def _by_path(name: str, modules: Collection[str]) -> str:
    """The module in the name of a node by the legacy exporter: `/blocks/blocks.0/attn/qkv/MatMul`.

    Each step is a name within one of the modules so far; `_1` at its end counts calls.
    """
    module = ""
    for step in name.split("/")[1:-1]:
        inner = _within(module, step, modules) or _within(module, re.sub(r"_\d+$", "", step), modules)
        if not inner:
            return ""
        module = inner
    return module


def _within(module: str, step: str, modules: Collection[str]) -> str:
    """The module called `step` within `module`, or within one around it."""
    while module:
        if f"{module}.{step}" in modules:
            return f"{module}.{step}"
        module = module.rpartition(".")[0]
    return step if step in modules else ""


def _by_values(weight: onnx.TensorProto, parameters: dict[str, nn.Parameter]) -> str:
    """The layer that has the values of `weight`, transposed: a network captured as a program has no modules."""
    values = numpy_helper.to_array(weight).T
    alike = (name for name, parameter in parameters.items() if tuple(parameter.shape) == values.shape)
    return next(
        (name.removesuffix(".weight") for name in alike if np.array_equal(parameters[name].detach().numpy(), values)),
        "",
    )
