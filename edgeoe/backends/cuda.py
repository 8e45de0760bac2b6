"""One CUDA device: its facts, memory, copies and a stream.

It calls the driver's library through ctypes: every device that can run TensorRT has that library, on the loader's path
and with the same interface in CUDA 12 and 13, but it may have neither torch nor cuda-python.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeoe.errors import BackendError

__all__ = ["SIGNATURES", "Cuda", "CudaDevice", "open_device"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for the default stream
_int, _size, _address, _pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
SIGNATURES: dict[str, tuple[Any, ...]] = {  # `_v2` names: the 64-bit ABI, which headers hide behind the short name
    "cuInit": (ctypes.c_uint,),
    "cuGetErrorString": (_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuDriverGetVersion": (ctypes.POINTER(_int),),
    "cuDeviceGet": (ctypes.POINTER(_int), _int),
    "cuDeviceGetName": (ctypes.c_char_p, _int, _int),
    "cuDeviceGetAttribute": (ctypes.POINTER(_int), _int, _int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_pointer), _int),
    "cuDevicePrimaryCtxRelease_v2": (_int,),
    "cuCtxSetCurrent": (_pointer,),
    "cuMemAlloc_v2": (ctypes.POINTER(_address), _size),
    "cuMemFree_v2": (_address,),
    "cuMemcpyHtoDAsync_v2": (_address, _pointer, _size, _pointer),
    "cuMemcpyDtoHAsync_v2": (_pointer, _address, _size, _pointer),
    "cuStreamCreate": (ctypes.POINTER(_pointer), ctypes.c_uint),
    "cuStreamSynchronize": (_pointer,),
    "cuStreamDestroy_v2": (_pointer,),
}


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """Facts of a device that a plan depends on.

    cuda: the CUDA version of the driver.
    """

    name: str
    compute_capability: str
    cuda: str
    driver: str


class Cuda:
    """The primary context of the device, which TensorRT uses too, current in this thread; see `open_device`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._device = _int()
        context = _pointer()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self._device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._allocated: list[int] = []
        self._stream = _pointer()
        try:
            self.call("cuCtxSetCurrent", context)
            self.call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        except BackendError:
            self._library.cuDevicePrimaryCtxRelease_v2(self._device)
            raise

    def call(self, name: str, *arguments: Any) -> None:
        """Call the driver's function `name`. Raises BackendError with the driver's reason."""
        status = getattr(self._library, name)(*arguments)
        if status:
            reason = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(reason))
            raise BackendError(f"CUDA: {name} failed: {(reason.value or b'unknown error').decode()} ({status}).")

    @property
    def stream(self) -> int:
        """The handle of the stream that all work is queued on; never the default stream."""
        return int(self._stream.value or 0)

    def device(self) -> CudaDevice:
        """Facts on the device, asked of the driver."""
        major, minor, cuda = _int(), _int(), _int()
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, len(name), self._device)
        self.call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, self._device)
        self.call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, self._device)
        self.call("cuDriverGetVersion", ctypes.byref(cuda))
        return CudaDevice(
            name=name.value.decode(),
            compute_capability=f"{major.value}.{minor.value}",
            cuda=f"{cuda.value // 1000}.{cuda.value % 1000 // 10}",
            driver=_driver_version(),
        )

    def allocate(self, size_bytes: int) -> int:
        """The address of device memory that is freed with this context."""
        address = _address()
        self.call("cuMemAlloc_v2", ctypes.byref(address), size_bytes)
        self._allocated.append(address.value)
        return address.value

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of the contiguous `array` to the device; `array` must live until `synchronize`."""
        self.call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the device into the contiguous `array`, which is complete after `synchronize`."""
        self.call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self._stream)

    def synchronize(self) -> None:
        """Wait for everything in the queue. Raises BackendError if any of it failed."""
        self.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free all memory, the stream and the context, in any state."""
        for address in self._allocated:
            self._library.cuMemFree_v2(address)
        self._library.cuStreamDestroy_v2(self._stream)
        self._library.cuDevicePrimaryCtxRelease_v2(self._device)


@contextmanager
def open_device() -> Iterator[Cuda]:
    """The first CUDA device (CUDA_VISIBLE_DEVICES chooses another). Raises BackendError without one."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name, arguments in SIGNATURES.items():
            getattr(library, name).argtypes = arguments
    except (OSError, AttributeError) as reason:
        raise BackendError(
            f"no CUDA driver here ({reason}). Run this on the NVIDIA device itself; in a container, pass the GPU in "
            "(docker run --gpus all, on a Jetson --runtime nvidia)."
        ) from None
    cuda = Cuda(library)
    try:
        yield cuda
    finally:
        cuda.close()


def _driver_version() -> str:
    """The driver's version from /proc; "unknown" without that file."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    version = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return version[0] if version else "unknown"
