"""A network as a list of calls of torch's operators: plain data, without the code of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Call", "Program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call.

    name: of what it returns.
    function: as "aten.conv2d.default", or "python.getitem".
    arguments: by position, in the form that `models/program.py` describes.
    named: by name.
    """

    name: str
    function: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A network: images (N, C, H, W) in, logits (N, K) out.

    images: name of the input.
    parameters, buffers: names of its tensors, as its state dict has them.
    calls: in the order of their execution.
    logits: name of the output.
    """

    images: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    calls: tuple[Call, ...]
    logits: str
