"""TensorRT, 10.3 to 11.x. The artifact is a plan, with a sidecar file that records what the plan depends on.

A plan is executable code, and TensorRT can't check beforehand whether it fits. It is loaded only if the sidecar has the
seal of this machine, or `edgeoe trust` vouches for it, if the plan's sha256 is in it, and if everything that the plan
depends on is unchanged.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeoe.backends.cuda import Cuda, CudaDevice, open_device
from edgeoe.backends.tensorrt_bindings import bindings
from edgeoe.backends.tensorrt_engine import Engine, plan_from_onnx
from edgeoe.backends.tensorrt_limits import issues
from edgeoe.codec import read_json_object
from edgeoe.errors import BackendError, quoted
from edgeoe.files import cache_folder, write_atomic
from edgeoe.progress import Progress, silent
from edgeoe.targets.backends import Traits
from edgeoe.versions import versions
from edgeoe.vouching import is_sealed, is_vouched, seal

if TYPE_CHECKING:
    from edgeoe.targets.profile import EngineSettings, Target

__all__ = ["TensorRT", "sidecar_path", "sidecar_sha256"]

_FORMAT = 1
_MUST_MATCH = {  # facts that must be the same where a plan is loaded, by hardware compatibility
    "none": ("tensorrt", "system", "compute_capability", "device", "cuda", "driver"),
    "same_compute_capability": ("tensorrt", "system", "compute_capability"),
    "ampere_plus": ("tensorrt", "system"),
}


def _describe() -> str:
    version = bindings().__version__
    with open_device() as cuda:
        device = cuda.device()
    return f"TensorRT {version} on {device.name}, compute capability {device.compute_capability}, CUDA {device.cuda}"


class TensorRT:
    """Backend "tensorrt": builds a plan on the device that runs it."""

    traits = Traits(
        title="TensorRT",
        requirement="tensorrt",
        extra="tensorrt",
        modules=("tensorrt",),
        suffix=".plan",
        portable=False,
        processor=lambda target: "nvidia",  # noqa: ARG005 - the device's GPU or its DLA
        int8_recipe=lambda target: "int8-trt",  # noqa: ARG005 - for both
        describe=_describe,
        tables=("engine",),
        issues=issues,
    )

    def check(self, target: Target) -> None:
        with open_device() as cuda:
            _require_same_device(target, _here(cuda))

    def build(self, graph: Path, target: Target, artifact: Path, *, progress: Progress = silent) -> dict[str, Any]:
        settings, onnx = target.engine, graph.read_bytes()
        with open_device() as cuda:
            here = _here(cuda)
            _require_same_device(target, here)
            timing_cache = _timing_cache(cuda.device()) if settings.timing_cache else None
            plan = plan_from_onnx(onnx, settings, timing_cache=timing_cache, progress=progress)
            with closing(Engine(plan.data, settings, cuda)) as engine:
                engine.infer(np.zeros((target.measure.batch, *engine.image_shape), np.float32))
                image_shape = engine.image_shape
        sidecar = {
            "format": _FORMAT,
            "onnx_sha256": sha256(onnx).hexdigest(),
            "plan_sha256": sha256(plan.data).hexdigest(),
            "tied_to": here,
            "engine": asdict(settings),
            "flags": plan.flags,
            "profile": plan.shapes,
            "image_shape": image_shape,
        }
        text = json.dumps({**sidecar, "seal": seal(_sealed_part(sidecar))}, indent=2) + "\n"
        write_atomic(artifact, lambda path: path.write_bytes(plan.data))
        write_atomic(sidecar_path(artifact), lambda path: path.write_text(text, encoding="utf-8"))
        return {key: sidecar[key] for key in ("tied_to", "engine", "flags", "profile")}

    @contextmanager
    def open(self, artifact: Path, target: Target) -> Iterator[Engine]:
        again = f"Build again: edgeoe build RUN --target {quoted(target.name)}"
        sidecar, plan = _read_sidecar(artifact, again), artifact.read_bytes()
        if sha256(plan).hexdigest() != sidecar["plan_sha256"]:
            raise BackendError(
                f"{artifact}: can't load it: its sha256 is not the one in {sidecar_path(artifact).name}. {again}"
            )
        with open_device() as cuda:
            differs = _difference(sidecar, here=_here(cuda), settings=target.engine)
            if differs:
                raise BackendError(f"{artifact}: can't load it: {differs}. {again}")
            with closing(Engine(plan, target.engine, cuda)) as engine:
                yield engine

    def versions(self) -> dict[str, str]:
        with open_device() as cuda:
            here = _here(cuda)
        return {**versions(), **{key: here[key] for key in ("tensorrt", "cuda", "driver")}}


def sidecar_path(artifact: Path) -> Path:
    """The path of the sidecar of a plan."""
    return artifact.with_name(f"{artifact.name}.json")


def _here(cuda: Cuda) -> dict[str, str]:
    return {
        "tensorrt": bindings().__version__,
        "system": f"{platform.system()} {platform.machine()}",
        **{("device" if key == "name" else key): value for key, value in asdict(cuda.device()).items()},
    }


def _require_same_device(target: Target, here: Mapping[str, str]) -> None:
    capability = target.device.compute_capability
    if capability is not None and capability != float(here["compute_capability"]):
        raise BackendError(
            f"target {target.name} is a device of compute capability {capability}, and this is {here['device']} with "
            f"{here['compute_capability']}. A plan is built on the device that runs it; or choose another target."
        )


def _difference(sidecar: Mapping[str, Any], *, here: Mapping[str, str], settings: EngineSettings) -> str:
    """The first setting or fact that differs from the plan's build; empty if there is none."""
    engine, tied_to = sidecar["engine"], sidecar["tied_to"]
    for key, value in asdict(settings).items():
        if engine.get(key) != value:
            return f"it was built with {key} = {engine.get(key)}, and the profile says {value}"
    for key in _MUST_MATCH[settings.hardware_compatibility]:
        if tied_to.get(key) != here[key]:
            return f"it was built for {key} {tied_to.get(key)}, and here is {here[key]}"
    return ""


def _read_sidecar(artifact: Path, again: str) -> dict[str, Any]:
    path = sidecar_path(artifact)
    try:
        sidecar: dict[str, Any] = read_json_object(path)
        digest, given = sidecar_sha256(sidecar), sidecar.pop("seal", "")
        if sidecar["format"] != _FORMAT or not {"plan_sha256", "engine", "tied_to"} <= sidecar.keys():
            raise ValueError
        if not is_sealed(_sealed_part(sidecar), given) and not is_vouched("artifact", digest):
            raise BackendError(
                f"{artifact}: can't load it: a plan is code, and {path.name} was written by another machine or user, "
                f"or changed. {again}, or if you know whom it is from: edgeoe trust {quoted(artifact)}"
            )
    except FileNotFoundError:
        raise BackendError(
            f"{artifact}: can't load it: a plan is code, and no {path.name} beside it vouches for it. {again}"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BackendError(f"{path}: can't load {artifact.name}: not a sidecar of this edgeoe. {again}") from None
    return sidecar


def sidecar_sha256(sidecar: Mapping[str, Any]) -> str:
    """The hash of a sidecar by which `edgeoe trust` vouches for it: the same for equal content."""
    return sha256(_sealed_part(sidecar)).hexdigest()


def _sealed_part(sidecar: Mapping[str, Any]) -> bytes:
    """What of a sidecar is sealed: all but the seal, the same for equal content."""
    return json.dumps(sidecar, sort_keys=True).encode()


def _timing_cache(device: CudaDevice) -> Path:
    """The file of the timing cache for this device and these versions."""
    name = f"{device.name}-sm{device.compute_capability}-cuda{device.cuda}-tensorrt{bindings().__version__}"
    return cache_folder("timings") / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.cache"
