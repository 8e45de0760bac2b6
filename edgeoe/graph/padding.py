"""Padding of an exported graph: amounts that are computed become constants, and zeros before a convolution its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

__all__ = ["fold_padding"]


def fold_padding(model: onnx.ModelProto) -> None:
    """Compute, in place, the amounts of each Pad that depend on no input, and leave the padding to Conv where it can.

    The legacy exporter computes amounts by a dozen nodes. Runtimes fold these, but a quantiser sees a tensor without a
    range, and an int8 Conv behind a Pad is several times slower.
    """
    for pad in [node for node in model.graph.node if node.op_type == "Pad"]:
        constants = [_constant(model, name) if name else None for name in pad.input[1:]]
        if constants[0] is None or (len(constants) > 2 and pad.input[3]):
            continue
        value = constants[1] if len(constants) > 1 else None
        readers = [node for node in model.graph.node if pad.output[0] in node.input]
        if _is_zeros(pad, value) and all(_takes(node, pad.output[0], constants[0]) for node in readers):
            for conv in readers:
                _pad_more(conv, constants[0])
                conv.input[0] = pad.input[0]
            model.graph.node.remove(pad)
        else:
            for at, constant in enumerate(constants, 1):
                if constant is not None:
                    pad.input[at] = _initializer(model.graph, constant, f"{pad.output[0]}.{at}")
    _drop_unread(model.graph)


def _constant(model: onnx.ModelProto, name: str) -> NDArray[Any] | None:
    """The value of a tensor; None if it depends on an input of the graph."""
    producers = {output: node for node in model.graph.node for output in node.output}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    needed: list[onnx.NodeProto] = []
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if not current or current in initializers or current in seen:
            continue
        seen.add(current)
        if current not in producers:
            return None
        needed.append(producers[current])
        waiting += producers[current].input
    if name in initializers:
        return onnx.numpy_helper.to_array(initializers[name])
    ordered = [node for node in model.graph.node if any(node is one for one in needed)]
    used = [initializers[one] for one in {one for node in ordered for one in node.input} & initializers.keys()]
    part = onnx.helper.make_graph(ordered, "constant", [], [onnx.ValueInfoProto(name=name)], used)
    (value,) = ReferenceEvaluator(onnx.helper.make_model(part, opset_imports=model.opset_import)).run(None, {})
    return np.asarray(value)


def _is_zeros(pad: onnx.NodeProto, value: NDArray[Any] | None) -> bool:
    """Whether a Pad adds zeros."""
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    return mode == b"constant" and (value is None or not value.any())


def _takes(node: onnx.NodeProto, padded: str, amounts: NDArray[Any]) -> bool:
    """Whether `node` is a Conv that can pad its images itself: by no less than nothing, and not across channels."""
    names = {attribute.name for attribute in node.attribute}
    return (
        node.op_type == "Conv"
        and [*node.input].count(padded) == 1
        and node.input[0] == padded
        and "auto_pad" not in names
        and bool((amounts >= 0).all())
        and not amounts.reshape(2, -1)[:, :2].any()
    )


def _pad_more(conv: onnx.NodeProto, amounts: NDArray[Any]) -> None:
    """Add amounts (2 * axes,), starts and ends of batch, channels and spatial axes, to what `conv` pads."""
    spatial = amounts.reshape(2, -1)[:, 2:].reshape(-1)
    own = next((attribute for attribute in conv.attribute if attribute.name == "pads"), None)
    before = np.asarray(own.ints if own else [0] * len(spatial))
    if own is not None:
        conv.attribute.remove(own)
    conv.attribute.append(onnx.helper.make_attribute("pads", (before + spatial).tolist()))


def _initializer(graph: onnx.GraphProto, value: NDArray[Any], name: str) -> str:
    graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return name


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs nothing reads, and then those that these alone read."""
    while unread := [*_unread(graph)]:
        for node in unread:
            graph.node.remove(node)


def _unread(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    read |= {name for node in graph.node for name in _captured(node)}
    yield from (node for node in graph.node if not read & {*node.output})


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """Names that graphs within `node` read."""
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for part in inner.node:
                yield from part.input
                yield from _captured(part)
            yield from (value.name for value in inner.output)
