"""TensorRT (fake_tensorrt.py) on a CUDA device (stub_cuda.c) where there is neither."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESET = {"major": 8, "minor": 7, "no_device": 0, "status": 0, "allocations": 0, "contexts": 0, "streams": 0}


@dataclass
class FakeDevice:
    """trt: the module that `import tensorrt` gives. timings: the folder of timing caches."""

    trt: Any
    library: ctypes.CDLL
    timings: Path

    def set(self, name: str, value: int) -> None:
        """Set `stub_<name>` of stub_cuda.c."""
        ctypes.c_int.in_dll(self.library, f"stub_{name}").value = value

    def get(self, name: str) -> int:
        return ctypes.c_int.in_dll(self.library, f"stub_{name}").value

    def reset(self) -> None:
        """As stub_cuda.c starts: the library stays loaded from test to test."""
        for name, value in RESET.items():
            self.set(name, value)
