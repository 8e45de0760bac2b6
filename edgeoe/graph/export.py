"""Export of a student to ONNX, with a parity gate on real images."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.errors import BackendError, ExportError, first_line, pass_on_out_of_memory
from edgeoe.graph.evaluation import run_graph
from edgeoe.graph.layer_names import name_layers
from edgeoe.graph.padding import fold_padding

__all__ = ["OPSET", "TOLERANCE", "Exporter", "Parity", "check_parity", "onnx_from_student"]

OPSET = 18  # read by TensorRT 10 and 11, and by every onnxruntime that we support
TOLERANCE = {"fp32": 1e-3}  # of max |difference| / max |logit|
INPUT, OUTPUT = "images", "logits"
Exporter = Literal["dynamo", "legacy"]


@dataclass(frozen=True, slots=True)
class Parity:
    """Difference of a graph from its student.

    max_rel_error: max |difference| / max |logit|.
    agreement: share of images with equal top-1.
    """

    max_rel_error: float
    agreement: float


def onnx_from_student(
    student: nn.Module, *, preprocess: Preprocess, metadata: Mapping[str, Any], exporter: Exporter = "dynamo"
) -> onnx.ModelProto:
    """The fp32 graph: input `images` (batch, C, H, W) normalised, output `logits` (batch, K), batch dynamic.

    Layers with weights have the names of their modules.

    metadata: JSON data to store under "edgeoe.<key>", beside the preprocessing.
    exporter: "legacy" is torch's TorchScript exporter, for students that "dynamo" can't read.
    Raises ExportError if the exporter fails.
    """
    example = torch.zeros(2, *preprocess.shape)  # two images: a batch of 1 would become a constant
    try:
        with _quiet():
            model = (_dynamo if exporter == "dynamo" else _legacy)(student.eval(), example)
        opset = next(entry.version for entry in model.opset_import if entry.domain == "")
        if opset != OPSET:
            raise ExportError(f"the {exporter} exporter wrote opset {opset} instead of {OPSET}.")
        name_layers(model, student)
        _strip(model)
        onnx.checker.check_model(model)
    except ExportError:
        raise
    except Exception as reason:
        pass_on_out_of_memory(reason)
        cause: BaseException = reason
        while cause.__cause__ is not None:  # the exporters wrap the cause in advice
            cause = cause.__cause__
        line = first_line(cause).rstrip(".")
        raise ExportError(f"the {exporter} exporter can't read this student: {line}.") from reason
    onnx.helper.set_model_props(
        model,
        {
            "edgeoe.preprocess": json.dumps(asdict(preprocess)),
            **{f"edgeoe.{key}": json.dumps(value) for key, value in metadata.items()},
        },
    )
    return model


def _dynamo(student: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    program = torch.onnx.export(
        student,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    assert program is not None  # noqa: S101 - what dynamo=True returns without a file
    return program.model_proto


def _legacy(student: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    stream = io.BytesIO()
    torch.onnx.export(
        student,
        (example,),
        stream,  # type: ignore[arg-type, unused-ignore]
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
    )
    model = onnx.load_from_string(stream.getvalue())
    _copy_shared(model.graph)
    fold_padding(model)
    return model


def _copy_shared(graph: onnx.GraphProto) -> None:
    """Replace, in place, each Identity of an initializer by a copy of it.

    The exporter stores equal biases once, and a bias behind an Identity is not quantised.
    """
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Identity"]:
        tensor = initializers.get(node.input[0])
        if tensor is not None and node.output[0] not in outputs:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output and the deprecation warnings of the exporters."""
    log_level, stdout = logging.root.manager.disable, os.dup(1)
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            Path(os.devnull).open("w") as nowhere,
        ):
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 1)  # the legacy exporter's C++ prints the whole graph that it can't read
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        logging.disable(log_level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove, in place, what the exporters record about the source code: local paths, lines, stack traces."""
    del model.metadata_props[:]
    model.doc_string = ""
    for part in (*_graphs(model.graph), *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.doc_string = ""
            del value.metadata_props[:]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and the graphs within its nodes: branches and loop bodies."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def check_parity(
    graph: Path,
    student: Callable[[torch.Tensor], torch.Tensor],
    images: NDArray[np.float32],
    *,
    precision: str,
) -> tuple[Parity, NDArray[np.float32]]:
    """Compare `graph` with `student` on real images, as a batch and on a single image.

    student: images -> logits (N, K): the network, or what is known of its outputs.
    images: (N, C, H, W) as the network takes them.
    precision: key of TOLERANCE.
    Returns the difference, and the student's logits (N, K).
    Raises ExportError if the error is over TOLERANCE, or the graph can't be run on both.
    """
    with torch.no_grad():
        expected = student(torch.from_numpy(images)).float().numpy()
    try:
        logits = run_graph(graph, images)
        single = np.concatenate([run_graph(graph, images[:1]), logits[1:]])  # the batch axis is really dynamic
    except BackendError as reason:
        raise ExportError(f"the exported graph can't be run: {reason}") from reason
    scale = float(np.abs(expected).max()) or 1.0
    error = max(float(np.abs(out - expected).max()) for out in (logits, single)) / scale
    parity = Parity(error, float((logits.argmax(1) == expected.argmax(1)).mean()))
    if not error <= TOLERANCE[precision]:
        raise ExportError(
            f"the exported graph does not compute what the student does: max relative error {error:.2g} over "
            f"{len(images)} images, allowed {TOLERANCE[precision]:g}."
        )
    return parity, expected
