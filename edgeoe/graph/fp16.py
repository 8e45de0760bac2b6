"""fp32 graph -> fp16 graph: weights and arithmetic in fp16, inputs and outputs stay float32."""

from __future__ import annotations

import warnings

import onnx

__all__ = ["to_fp16"]


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `graph` that computes in fp16 where the operator allows it, with casts at both ends."""
    from onnxconverter_common import float16

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about every weight that becomes 0 or infinite; the check against fp32 decides
        converted: onnx.ModelProto = float16.convert_float_to_float16(copy, keep_io_types=True)
    onnx.checker.check_model(converted)
    return converted
