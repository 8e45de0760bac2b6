"""ONNX -> plan -> engine, with TensorRT 10.3 to 11.x.

Flags and levels are resolved by name, because their numbers changed from 10 to 11.
tests/backends/test_tensorrt_contract.py checks every name of TensorRT in this module against the real bindings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeoe.backends.cuda import Cuda
from edgeoe.backends.tensorrt_bindings import BuildPhases, bindings, new_monitor, one_line, process_logger, why
from edgeoe.errors import BackendError, pass_on_out_of_memory
from edgeoe.files import write_atomic
from edgeoe.progress import Progress

if TYPE_CHECKING:
    import tensorrt

    from edgeoe.targets.profile import EngineSettings

__all__ = ["Engine", "Plan", "plan_from_onnx"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A serialised engine.

    flags: names of the builder flags that were set.
    shapes: (N, C, H, W) of min, opt and max.
    """

    data: bytes
    flags: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]


def plan_from_onnx(graph: bytes, settings: EngineSettings, *, timing_cache: Path | None, progress: Progress) -> Plan:
    """Build a strongly typed plan: precisions are those of the graph.

    timing_cache: file for this device and these versions, which is read and updated; None uses no cache.
    Raises BackendError with what TensorRT logged.
    """
    trt = bindings()
    logger = process_logger(trt)
    logger.errors.clear()
    try:
        builder: tensorrt.Builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as reason:  # how the bindings report a null pointer
        pass_on_out_of_memory(reason)
        raise BackendError(f"TensorRT can't start: {why(logger) or reason}") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)  # its memory holds the weights until all is built
    _parse(parser, graph)
    config = builder.create_builder_config()
    _configure(builder, config, settings)
    shapes = _add_profile(builder, network, config, settings)
    timings = _load_timing_cache(config, timing_cache) if timing_cache else None  # must live as long as the build
    with progress("Building the engine", BuildPhases.STEPS) as advance:
        phases = BuildPhases(advance)
        monitor = new_monitor(trt, phases)  # the config does not keep it alive
        config.progress_monitor = monitor
        data = builder.build_serialized_network(network, config)
    if phases.error:
        raise phases.error
    if data is None:
        raise BackendError(f"TensorRT can't build this graph: {why(logger) or 'it logged no reason'}")
    if timing_cache and timings is not None:
        _store_timing_cache(config, timing_cache)
    flags = tuple(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag))
    return Plan(bytes(memoryview(data)), flags, shapes)


def _parse(parser: tensorrt.OnnxParser, graph: bytes) -> None:
    if parser.parse(graph):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = "; ".join(f"{error.node_name() or 'graph'}: {error.desc()}" for error in errors)
    raise BackendError(f"TensorRT can't read this graph: {one_line(reasons) or 'it gave no reason'}")


def _configure(builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, settings: EngineSettings) -> None:
    trt = bindings()
    config.builder_optimization_level = settings.optimization_level
    if settings.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb << 20)
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    levels = {name.lower(): level for name, level in trt.HardwareCompatibilityLevel.__members__.items()}
    if settings.hardware_compatibility not in levels:
        raise BackendError(
            f"hardware_compatibility = {settings.hardware_compatibility!r}: TensorRT {trt.__version__} "
            f"knows {', '.join(levels)}."
        )
    config.hardware_compatibility_level = levels[settings.hardware_compatibility]
    if settings.dla_core is not None:
        if settings.dla_core >= builder.num_DLA_cores:
            raise BackendError(
                f"dla_core = {settings.dla_core}: TensorRT {trt.__version__} finds {builder.num_DLA_cores} DLA cores "
                "here (10.7 was the last 10.x with DLA; 11.4 has it on AGX Orin only). Leave dla_core out."
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = settings.dla_core
        if settings.gpu_fallback:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _add_profile(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    settings: EngineSettings,
) -> dict[str, tuple[int, ...]]:
    if network.num_inputs != 1:
        raise BackendError(f"the graph has {network.num_inputs} inputs; edgeoe runs graphs with one.")
    images = network.get_input(0)
    image_shape = tuple(images.shape)[1:]
    batches = {"min": settings.batch_min, "opt": settings.batch_opt, "max": settings.batch_max}
    shapes = {name: (batch, *image_shape) for name, batch in batches.items()}
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, min=shapes["min"], opt=shapes["opt"], max=shapes["max"])
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses the optimisation profile {shapes}. See batch_min, batch_opt, batch_max.")
    return shapes


def _load_timing_cache(config: tensorrt.IBuilderConfig, path: Path) -> tensorrt.ITimingCache:
    data = path.read_bytes() if path.is_file() else b""
    timings = config.create_timing_cache(data)
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        _log.warning("%s: TensorRT refuses this timing cache; it is replaced by a new one.", path)
        path.unlink(missing_ok=True)
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, ignore_mismatch=False)
    return timings


def _store_timing_cache(config: tensorrt.IBuilderConfig, path: Path) -> None:
    """Merge the timing cache into its file, which other builds update; of two writes at once one is lost."""
    timings = config.get_timing_cache()
    try:
        newest = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if newest is not None:
            timings.combine(newest, ignore_mismatch=False)
        data = bytes(memoryview(timings.serialize()))
        write_atomic(path, lambda file: file.write_bytes(data))
    except OSError as reason:  # it only saves time
        _log.warning("the timing cache can't be written: %s", reason)


class Engine:
    """A loaded plan with one input and one output, both float32, and device memory for a batch of batch_max.

    Raises BackendError if TensorRT refuses `plan`, which must come from a trusted file: it is executable code.
    """

    def __init__(self, plan: bytes, settings: EngineSettings, cuda: Cuda) -> None:
        self._logger = process_logger(bindings())
        self._cuda = cuda
        self._batches = settings.batch_min, settings.batch_max
        try:
            self._load(plan, settings)
        except BaseException:
            self.close()
            raise

    def _load(self, plan: bytes, settings: EngineSettings) -> None:
        trt = bindings()
        self._logger.errors.clear()
        try:
            self._runtime: tensorrt.Runtime = trt.Runtime(self._logger)
        except (TypeError, RuntimeError) as reason:
            pass_on_out_of_memory(reason)
            raise BackendError(f"TensorRT can't start: {why(self._logger) or reason}") from None
        self._runtime.engine_host_code_allowed = False
        if settings.dla_core is not None:
            self._runtime.DLA_core = settings.dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(f"TensorRT can't load the plan: {why(self._logger) or 'it logged no reason'}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT can't run the plan: {why(self._logger) or 'not enough memory'}")
        self._input, self._output = self._io(trt.TensorIOMode.INPUT), self._io(trt.TensorIOMode.OUTPUT)
        self._image: tuple[int, ...] = tuple(self._engine.get_tensor_shape(self._input))[1:]
        self._batch = 0
        self._set_batch(settings.batch_max)
        self._addresses = [
            self._allocate(self._input, (settings.batch_max, *self._image)),
            self._allocate(self._output, self._out_shape),
        ]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image."""
        return self._image

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, K) of images `x` (N, C, H, W), in parts of at most batch_max, padded to batch_min."""
        if x.shape[1:] != self._image or not len(x):
            raise BackendError(f"tensorrt can't run it on {x.shape}: the engine takes (n, {str(self._image)[1:]}.")
        smallest, largest = self._batches
        logits = []
        for start in range(0, len(x), largest):
            part = x[start : start + largest]
            padded = np.zeros((max(smallest, len(part)), *self._image), np.float32)
            padded[: len(part)] = part
            logits.append(self._run(padded)[: len(part)])
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self._set_batch(len(x))
        y = np.empty(self._out_shape, np.float32)
        self._logger.errors.clear()
        self._cuda.copy_in(self._addresses[0], x)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise BackendError(f"TensorRT can't run it on {x.shape}: {why(self._logger) or 'it logged no reason'}")
        self._cuda.copy_out(y, self._addresses[1])
        self._cuda.synchronize()
        return y

    def _set_batch(self, batch: int) -> None:
        if batch == self._batch:
            return
        shape = (batch, *self._image)
        accepted = self._context.set_input_shape(self._input, shape)
        if not accepted or self._context.infer_shapes():
            raise BackendError(f"TensorRT can't run it on {shape}: {why(self._logger) or 'not in its profile'}")
        self._batch = batch
        self._out_shape: tuple[int, ...] = tuple(self._context.get_tensor_shape(self._output))

    def _io(self, mode: tensorrt.TensorIOMode) -> str:
        """The name of the only input or output."""
        trt = bindings()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        names_of_mode = [name for name in names if self._engine.get_tensor_mode(name) == mode]
        if len(names_of_mode) != 1 or self._engine.get_tensor_dtype(names_of_mode[0]) != trt.DataType.FLOAT:
            raise BackendError(
                f"the plan must have one {mode.name.lower()} of type float32. It has: {', '.join(names_of_mode)}."
            )
        return str(names_of_mode[0])

    def _allocate(self, name: str, shape: tuple[int, ...]) -> int:
        address = self._cuda.allocate(int(np.prod(shape)) * np.dtype(np.float32).itemsize)
        if not self._context.set_tensor_address(name, address):
            raise BackendError(f"TensorRT refuses the memory for {name}: {why(self._logger) or 'no reason logged'}")
        return address

    def close(self) -> None:
        """Free TensorRT's objects, each before those that it depends on."""
        for name in ("_context", "_engine", "_runtime"):
            self.__dict__.pop(name, None)
