"""Tables of interchangeable parts: a name and where its class lies, imported only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from edgeoe.errors import ConfigError

__all__ = ["BACKENDS", "METHODS", "REPORT_FORMATS", "nearest", "resolve"]

METHODS = {
    "kd": "edgeoe.methods.kd:KD",
    "fskd": "edgeoe.methods.fskd:FSKD",
    "cd": "edgeoe.methods.cross_distillation:CrossDistillation",
    "mir": "edgeoe.methods.mir:MiR",
    "practise": "edgeoe.methods.practise:Practise",
    "none": "edgeoe.methods.unchanged:Unchanged",
}
BACKENDS = {
    "onnxruntime": "edgeoe.backends.onnxruntime:OnnxRuntime",
    "openvino": "edgeoe.backends.openvino:OpenVino",
    "tensorrt": "edgeoe.backends.tensorrt:TensorRT",
}
REPORT_FORMATS = {
    "junit": "edgeoe.report.junit:JUnit",
    "markdown": "edgeoe.report.markdown:Markdown",
    "github": "edgeoe.report.github:GitHub",
    "json": "edgeoe.report.json:Json",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """How to go on from an unknown `name`: its nearest known neighbour, or all of them."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


def resolve(table: Mapping[str, str], name: str, *, kind: str) -> Any:
    """The class that `table` has under `name`.

    kind: what the table holds, for the message. Raises ConfigError for an unknown name.
    """
    if name not in table:
        raise ConfigError(f"unknown {kind} {name!r}. {nearest(name, table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
