"""A stand-in for the module `tensorrt`: its names, with the work done by ONNX Runtime on the memory of stub_cuda.c.

It exercises our logic where there is no GPU, and proves nothing about TensorRT itself. test_tensorrt_contract.py holds
its names against the real bindings. `state` is for tests to set and to look at.
"""

from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

__version__ = "10.3.0"
state = SimpleNamespace(
    dla_cores=0,  # how many the builder finds
    fail="",  # the call that answers as a failure does
    message="[stub.cpp::fail::1] Error Code 4: out of stubs",  # what is logged then
    phases=[("Building", None, 2), ("Tactics", "Building", 4)],
    calls=[],  # names, and what they were given
    cache_key="device A",
)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    GPU_FALLBACK = 3
    TF32 = 6


class HardwareCompatibilityLevel(enum.IntEnum):  # as in 10.3: SAME_COMPUTE_CAPABILITY came later
    NONE = 0
    AMPERE_PLUS = 1


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class DeviceType(enum.IntEnum):
    GPU = 0
    DLA = 1


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING


class IProgressMonitor:
    pass


def _fails(what: str, logger: Any) -> bool:
    if state.fail == what:
        logger.log(ILogger.ERROR, state.message)
    return state.fail == what


class Builder:
    def __init__(self, logger: Any) -> None:
        if _fails("Builder", logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        logger.log(ILogger.WARNING, "a warning is no error")

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return int(state.dla_cores)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        state.calls.append(("create_network", flags))
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        state.calls.append(("build", config))
        if _fails("build", self._logger):
            return None
        for name, parent, steps in state.phases:
            config.progress_monitor.phase_start(name, parent, steps)
        for name, _, steps in reversed(state.phases):
            for step in range(steps):
                if not config.progress_monitor.step_complete(name, step):
                    return None
            config.progress_monitor.phase_finish(name)
        if config._timings:
            config._timings.entries.add(f"layer of {len(network._graph)} bytes")
        return b"PLAN" + json.dumps(config._profile._shapes).encode() + b"\0" + network._graph


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class INetworkDefinition:
    _graph = b""

    @property
    def num_inputs(self) -> int:
        return len(onnx.load_from_string(self._graph).graph.input)

    def get_input(self, index: int) -> ITensor:
        value = onnx.load_from_string(self._graph).graph.input[index]
        return ITensor(value.name, tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim))


class ParserError:
    def __init__(self, reason: str) -> None:
        self._reason = reason

    def desc(self) -> str:
        return self._reason

    def node_name(self) -> str:
        return ""


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            onnx.checker.check_model(onnx.load_from_string(model))
        except Exception as reason:
            self._errors.append(ParserError(f"Failed to parse\nthe ONNX model: {type(reason).__name__}"))
            return False
        self._network._graph = model
        return True


class IOptimizationProfile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._shapes = {"input": input, "min": min, "opt": opt, "max": max}


class ITimingCache:
    def __init__(self, key: str, entries: set[str]) -> None:
        self.key, self.entries = key, entries

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if input_cache.key == self.key or ignore_mismatch:
            self.entries |= input_cache.entries
        return True

    def serialize(self) -> bytes:
        return json.dumps([self.key, sorted(self.entries)]).encode()


class IBuilderConfig:
    builder_optimization_level = -1
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE
    default_device_type = DeviceType.GPU
    DLA_core = -1
    progress_monitor: Any = None

    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}
        self._timings: ITimingCache | None = None
        self._pools: dict[MemoryPoolType, int] = {}

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profile = profile
        return -1 if state.fail == "profile" else 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if not serialized_timing_cache:
            return ITimingCache(state.cache_key, set())
        try:
            key, entries = json.loads(serialized_timing_cache)
        except ValueError:
            return None
        return ITimingCache(key, set(entries))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.key != state.cache_key and not ignore_mismatch:
            return False
        self._timings = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timings


class Runtime:
    engine_host_code_allowed: Any = None
    DLA_core = -1

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        state.calls.append(("deserialize", self))
        if _fails("deserialize", self._logger) or not serialized_engine.startswith(b"PLAN"):
            return None
        return ICudaEngine(serialized_engine, self._logger)


class ICudaEngine:
    def __init__(self, plan: bytes, logger: Any) -> None:
        shapes, _, graph = plan.removeprefix(b"PLAN").partition(b"\0")
        self._shapes, self._logger = json.loads(shapes), logger
        self._session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self._tensors[0].name else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.HALF if state.fail == "dtype" else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> list[int]:
        (tensor,) = (one for one in self._tensors if one.name == name)
        return [dim if isinstance(dim, int) else -1 for dim in tensor.shape]

    def create_execution_context(self) -> IExecutionContext | None:
        return None if _fails("context", self._logger) else IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        shapes = self._engine._shapes
        self._shape = tuple(shape)
        fits = all(low <= size <= high for low, size, high in zip(shapes["min"], shape, shapes["max"], strict=True))
        return fits and not _fails("set_input_shape", self._engine._logger)

    def infer_shapes(self) -> list[str]:
        return ["images"] if state.fail == "infer_shapes" else []

    def get_tensor_shape(self, name: str) -> list[int]:
        return [self._shape[0], *self._engine.get_tensor_shape(name)[1:]]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return not _fails("set_tensor_address", self._engine._logger)

    def execute_async_v3(self, stream_handle: int) -> bool:
        state.calls.append(("execute", self._shape, stream_handle))
        if _fails("execute", self._engine._logger):
            return False
        images, logits = (tensor.name for tensor in self._engine._tensors)
        (answer,) = self._engine._session.run([logits], {images: self._view(images, self._shape)})
        self._view(logits, answer.shape)[:] = answer
        return True

    def _view(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        buffer: Any = (ctypes.c_float * int(np.prod(shape))).from_address(self._addresses[name])
        return np.frombuffer(buffer, np.float32).reshape(shape)
