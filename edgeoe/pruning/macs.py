"""Counting of multiply-accumulates, also of operators that torch's own counter does not know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeoe.pruning.trace import unfused_attention

__all__ = ["counting_macs"]


@contextmanager
def counting_macs() -> Iterator[FlopCounterMode]:
    """Within it operations are counted, two for each multiply-accumulate, with attention as matrix products."""
    formulas: dict[Any, Any] = {torch.ops.aten.mkldnn_rnn_layer: _lstm}
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # where torchvision is imported
        formulas[torch.ops.torchvision.deform_conv2d] = _deformable
    with unfused_attention(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        yield counter


def _lstm(x: Any, inputs: Any, hidden: Any, *_: Any, **__: Any) -> int:
    """One layer in one direction. x: (T, N, I), inputs: (4H, I), hidden: (4H, H)."""
    return 2 * int(x[0] * x[1] * inputs[0] * (inputs[1] + hidden[1]))


def _deformable(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001 - as torch calls it
    """A deformable convolution. weight: (O, I / groups, kernel), out_shape: (N, O, H, W)."""
    each = weight[1] * weight[2] * weight[3]
    return 2 * int(out_shape[0] * out_shape[1] * out_shape[2] * out_shape[3] * each)
