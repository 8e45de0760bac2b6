"""What a profile can't have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeoe.errors import TargetError
from edgeoe.targets.boards import BOARDS
from edgeoe.targets.limits import require_buildable, unsupported_settings
from edgeoe.targets.profile import DeviceFacts, EngineSettings, MeasureSettings, RuntimeSettings, Target

ORIN = DeviceFacts(
    board="jetson-agx-orin", compute_capability=8.7, memory_gb=64, dla_cores=2, tensorrt="10.3", power_mode="MAXN"
)
SERVER = DeviceFacts(compute_capability=8.9, dla_cores=0, tensorrt="10.13.3.9")


def wished(device: DeviceFacts = ORIN, *, precision: Any = "fp16", batch: int = 1, **engine: Any) -> Target:
    return Target(
        name="wished",
        backend="tensorrt",
        precision=precision,
        device=device,
        engine=EngineSettings(**engine),
        measure=MeasureSettings(batch=batch),
    )


def on_cpu(precision: Any = "fp32", backend: Any = "onnxruntime", **runtime: Any) -> Target:
    return Target(name="wished", backend=backend, precision=precision, runtime=RuntimeSettings(**runtime))


def issues_of(target: Target) -> list[str]:
    return [f"{one.table}.{one.key}: {one.message}" for one in unsupported_settings(target)]


@pytest.mark.parametrize(
    "target",
    [
        wished(),
        wished(dla_core=1, gpu_fallback=True),
        wished(replace(ORIN, tensorrt="10.7.0.23"), dla_core=0),
        wished(replace(ORIN, tensorrt="11.4"), dla_core=0, precision="int8"),
        wished(replace(ORIN, tensorrt=None), dla_core=0),
        wished(DeviceFacts(), dla_core=0, hardware_compatibility="ampere_plus"),
        wished(dla_core=0, batch_min=4, batch_opt=4, batch_max=4, batch=4),
        wished(SERVER, hardware_compatibility="ampere_plus"),
        wished(SERVER, hardware_compatibility="same_compute_capability"),
        wished(DeviceFacts(power_mode="any")),
        wished(DeviceFacts(machine="AMD64", gpu="T4")),
        wished(replace(ORIN, machine="arm64", board_model="AGX Orin")),
        Target(name="pi", backend="onnxruntime", device=DeviceFacts(board="raspberry-pi-5", cpu="Cortex-A76")),
        wished(DeviceFacts(board="jetson-thor", power_mode="a name that we don't know", compute_capability=11.0)),
        wished(batch_min=2, batch_opt=4, batch_max=8, batch=8, workspace_mb=60_000),
        on_cpu("int8", threads=2, affinity=(1, 3)),
        on_cpu("fp16", provider="cuda"),
        on_cpu("fp16", provider="tensorrt"),
        on_cpu("fp16", provider="openvino", unit="gpu"),
        on_cpu("int8", "openvino", unit="npu"),
        on_cpu("fp16", "openvino", unit="gpu"),
    ],
)
def test_supported_settings_have_no_issue(target: Target) -> None:
    assert issues_of(target) == []


@pytest.mark.parametrize(
    ("target", "issue"),
    [
        (
            on_cpu("fp16"),
            ".precision: precision: onnxruntime computes fp16 graphs in fp32 on a CPU. Choose fp32 or int8.",
        ),
        (on_cpu("fp16", "openvino"), ".precision: precision: openvino computes fp16 graphs in fp32 on a CPU."),
        (
            on_cpu("fp16", provider="openvino"),
            ".precision: precision: onnxruntime computes fp16 graphs in fp32 on a CPU.",
        ),
        (on_cpu(backend="openvino", provider="cuda"), "runtime.provider: provider is for backend onnxruntime"),
        (on_cpu(unit="gpu"), "runtime.unit: unit is for backend openvino"),
        (on_cpu(backend="openvino", unit="npu"), "runtime.unit: unit: an NPU computes fp16 and int8"),
        (on_cpu(threads=4, affinity=(0, 1, 1)), "runtime.affinity: affinity has 2 cores for threads = 4."),
        (wished(replace(ORIN, tensorrt="10.8"), dla_core=0), "engine.dla_core: dla_core = 0: TensorRT 10.8 has no DLA"),
        (wished(replace(ORIN, tensorrt="11.3"), dla_core=0), "engine.dla_core: dla_core = 0: TensorRT 11.3 has no DLA"),
        (
            wished(replace(ORIN, board="jetson-orin-nx", tensorrt="11.4", power_mode=None), dla_core=0),
            "engine.dla_core: dla_core = 0: TensorRT 11.4 has DLA on AGX Orin only.",
        ),
        (wished(dla_core=2), "engine.dla_core: dla_core = 2: this device has 2 DLA cores."),
        (
            wished(replace(ORIN, board="jetson-orin-nano", dla_cores=0, power_mode="25W"), dla_core=0),
            "engine.dla_core: dla_core = 0: this device has no DLA cores.",
        ),
        (wished(dla_core=0, precision="fp32"), "engine.dla_core: dla_core = 0: a DLA computes fp16 and int8 only"),
        (wished(dla_core=0, batch_max=8), "engine.dla_core: dla_core = 0: a DLA takes one batch size"),
        (wished(gpu_fallback=True), "engine.gpu_fallback: gpu_fallback is for layers that a DLA can't run"),
        (wished(hardware_compatibility="ampere_plus"), "engine.hardware_compatibility: hardware_compatibility must be"),
        (
            wished(DeviceFacts(compute_capability=8.7), hardware_compatibility="ampere_plus"),
            "engine.hardware_compatibility: hardware_compatibility must be none on a Jetson.",
        ),
        (
            wished(DeviceFacts(compute_capability=7.5), hardware_compatibility="ampere_plus"),
            "engine.hardware_compatibility: ampere_plus needs compute capability 8.0 or higher, and this device has",
        ),
        (
            wished(replace(SERVER, tensorrt="10.3"), hardware_compatibility="same_compute_capability"),
            "engine.hardware_compatibility: same_compute_capability needs TensorRT 10.13 or newer, and this device",
        ),
        (
            wished(DeviceFacts(machine="arm")),
            "device.machine: machine must be one of x86_64, aarch64, armv7l, riscv64.",
        ),
        (wished(replace(ORIN, machine="x86_64")), "device.machine: machine of a jetson-agx-orin is aarch64. Got 'x86_"),
        (
            Target(name="pi", backend="onnxruntime", device=DeviceFacts(board="raspberry-pi-5", gpu="T4")),
            "device.gpu: gpu: a raspberry-pi-5 has no NVIDIA GPU. Remove it.",
        ),
        (wished(DeviceFacts(board="raspberry-pi-5")), "device.board: board: a raspberry-pi-5 has no NVIDIA GPU, which"),
        (wished(DeviceFacts(tensorrt="8.5")), "device.tensorrt: tensorrt 8.5 is too old: edgeoe needs 10.3 or newer."),
        (wished(DeviceFacts(tensorrt="JetPack 6")), 'device.tensorrt: tensorrt must be a version such as "10.3". Got'),
        (
            wished(DeviceFacts(board="jetson-nano")),
            "device.board: board must be one of jetson-orin-nano, jetson-orin-nx",
        ),
        (
            wished(replace(ORIN, compute_capability=8.9)),
            "device.compute_capability: compute_capability of a jetson-agx",
        ),
        (wished(replace(ORIN, dla_cores=1)), "device.dla_cores: dla_cores of a jetson-agx-orin is 2. Got 1."),
        (
            wished(replace(ORIN, power_mode="25W")),
            "device.power_mode: power_mode of a jetson-agx-orin must be one of 15W",
        ),
        (
            wished(workspace_mb=61_036),
            "engine.workspace_mb: workspace_mb = 61036 is more than the device's memory_gb = 64",
        ),
        (wished(batch_min=2, batch=2), "engine.batch_opt: batch_min <= batch_opt <= batch_max must hold. Got 2, 1, 1."),
        (
            wished(batch_opt=9, batch_max=8),
            "engine.batch_opt: batch_min <= batch_opt <= batch_max must hold. Got 1, 9, 8",
        ),
        (
            wished(batch=9, batch_max=8),
            "measure.batch: batch must be within batch_min and batch_max of [engine], 1 to 8.",
        ),
        (
            wished(DeviceFacts(compute_capability=6.0), precision="int8"),
            ".precision: precision: int8 needs compute capabi",
        ),
        (
            Target(name="cpu", backend="onnxruntime", precision="fp16"),
            ".precision: precision: onnxruntime computes fp16",
        ),
    ],
)
def test_an_unsupported_setting_is_one_issue(target: Target, issue: str) -> None:
    (told,) = issues_of(target)
    assert told.startswith(issue)


def test_tables_of_another_backend_are_an_issue_if_the_file_has_them() -> None:
    tables = {"backend": "tensorrt", "runtime": {}, "measure": {}}
    (told,) = unsupported_settings(wished(), tables)
    assert (told.table, told.key) == ("", "runtime")
    assert told.message == "backend tensorrt reads no [runtime]: that is for onnxruntime and openvino. Remove it."
    assert list(unsupported_settings(wished(), {"engine": {}})) == []


def test_boards_are_known_by_the_names_of_their_profiles() -> None:
    jetsons = {name: board for name, board in BOARDS.items() if name.startswith("jetson-")}
    assert all((board.compute_capability or 0) >= 5.3 for board in jetsons.values())
    assert {board.machine for board in BOARDS.values()} == {"aarch64"}
    assert len({name for name, board in BOARDS.items() if board.power_modes}) == 3


def test_an_unsupported_setting_is_not_built() -> None:
    require_buildable(wished(precision="fp32"))
    told = r"^target wished: \[engine\] batch_min <= batch_opt <= .* See: edgeoe targets check wished$"
    with pytest.raises(TargetError, match=told):
        require_buildable(wished(precision="fp32", batch_opt=2))
