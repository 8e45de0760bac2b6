"""Imports of runtimes that collect and send usage data by default, with that collection turned off.

ONNX Runtime 1.32 writes an identifier of the machine and a database of events below the user's cache
(`Microsoft/DeveloperTools/.onnxruntime/`), and `.ses` in the temporary folder, as soon as it is imported;
`disable_telemetry_events` comes too late for that, the environment variable does not. OpenVINO with its package
`openvino_telemetry` writes an identifier to `~/intel/` and connects to a server of Google Analytics on import; without
that package it uses a stub of its own.
Every module of edgeoe imports these runtimes through here. Imports the standard library only.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__all__ = ["import_onnxruntime", "import_openvino"]


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, with its telemetry off in this process and its children.

    Raises ModuleNotFoundError if it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    module = importlib.import_module("onnxruntime")
    disable = getattr(module, "disable_telemetry_events", None)  # older versions have none
    if disable is not None:  # also where somebody else imported it first
        disable()
    return module


def import_openvino() -> Any:
    """The module `openvino`, which finds no `openvino_telemetry` while it is imported.

    Raises ModuleNotFoundError if it is not installed.
    """
    name = "openvino_telemetry"
    if "openvino" in sys.modules or name in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[name] = None  # type: ignore[assignment] # Python's way to make an import fail
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[name]
