"""Facts of made-up machines; what can't be read is unknown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up import write_files

from edgeoe.machine.environment import cpu_flags, cpu_model, environment, int8_saturates
from edgeoe.machine.fingerprint import FINGERPRINT
from edgeoe.machine.system import usable_cores

pytestmark = pytest.mark.usefixtures("programs")
CORES = "sys/devices/system/cpu"
LAPTOP = {
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nmodel name\t: 13th Gen Intel(R) Core(TM) i7-1360P\n"
        "flags\t\t: fpu sse sse4_2 smep svm avx avx2 fma avx_vnni aes\n\n"
        for core in range(4)
    ),
    "proc/meminfo": "MemTotal:       16000000 kB\nMemFree:         1000000 kB\n",
    "proc/loadavg": "0.42 0.40 0.30 2/900 4242\n",
    "proc/self/cgroup": "0::/user.slice/user-1000.slice\n",
    "sys/fs/cgroup/user.slice/user-1000.slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/user-1000.slice/memory.max": "max\n",
    f"{CORES}/intel_pstate/no_turbo": "0\n",
    **{
        f"{CORES}/cpu{core}/cpufreq/{name}": text
        for core, most in ((0, 5000000), (1, 5000000), (2, 3700000), (3, 3700000))
        for name, text in {
            "scaling_governor": "powersave\n",
            "energy_performance_preference": "balance_performance\n",
            "scaling_max_freq": f"{most}\n",
            "cpuinfo_max_freq": f"{most}\n",
        }.items()
    },
}
JETSON = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp asimddp sha512\nCPU implementer\t: 0x41\n"
    "CPU part\t: 0xd42\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull",
    "etc/nvpmodel.conf": "# modes\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
    "<POWER_MODEL ID=2 NAME=MAXN_SUPER>\n< PM_CONFIG DEFAULT=1 >\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "1020000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/15480000.nvdec/min_freq": "0\n",
    **{
        f"{CORES}/cpu{core}/cpufreq/{name}": text
        for core in range(4)
        for name, text in {
            "scaling_governor": "schedutil\n",
            "scaling_min_freq": "1728000\n",
            "scaling_max_freq": "1728000\n",
        }.items()
    },
}
RASPBERRY = {
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nFeatures\t: fp asimd fphp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
        for core in range(4)
    )
    + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    **{f"{CORES}/cpu{core}/cpufreq/scaling_governor": "ondemand\n" for core in range(4)},
    **{f"{CORES}/cpu{core}/cpufreq/cpuinfo_max_freq": "2400000\n" for core in range(4)},
}
SMI = "NVIDIA GeForce RTX 4070, 560.35.03, 3105, 200.00, Enabled"


def test_a_laptop(tmp_path: Path) -> None:
    told = environment(root=write_files(tmp_path, LAPTOP))
    assert told == {
        "cpu": "13th Gen Intel(R) Core(TM) i7-1360P",
        "cpu_flags": ["avx", "avx2", "avx_vnni", "fma", "sse4_2"],
        "int8_saturates": False,
        "cores": 4,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "governor": "powersave",
        "energy_preference": "balance_performance",
        "cpu_max_mhz": 5000,
        "turbo": True,
        "memory_mb": 16384,
        "load_1min": 0.42,
    }
    assert json.loads(json.dumps(told)) == told


def test_a_jetson(tmp_path: Path) -> None:
    told = environment(root=write_files(tmp_path, JETSON))
    assert told["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert told["power_mode"] == "MAXN_SUPER"
    assert told["jetson_clocks"] is True
    assert told["driver"] == "540.4.0"
    assert told["cpu"] == "Cortex-A78AE"
    assert told["cpu_flags"] == ["asimd", "asimddp", "asimdhp", "fphp"]
    assert told["cpu_max_mhz"] == 1728


def test_a_raspberry_pi(tmp_path: Path) -> None:
    told = environment(root=write_files(tmp_path, RASPBERRY))
    assert told["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert told["cpu"] == "Cortex-A76"
    assert told["governor"] == "ondemand"
    assert told["cpu_max_mhz"] == 2400
    assert told.keys().isdisjoint({"power_mode", "jetson_clocks", "gpu", "turbo", "cpu_limit"})


def test_a_raspberry_pi_that_hides_its_device_tree_is_known_by_its_cpuinfo(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": RASPBERRY["proc/cpuinfo"] + "Model : another\n"}
    assert environment(root=write_files(tmp_path, files))["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    write_files(tmp_path, {"sys/devices/soc0/machine": "Some board\n"})
    assert environment(root=tmp_path)["board"] == "Some board"


@pytest.mark.parametrize(
    ("cpuinfo", "saturates"),
    [
        ("flags\t\t: fpu sse4_1 ssse3\n", True),
        ("flags\t\t: fpu avx avx2 fma\n", True),
        ("flags\t\t: fpu avx2 fma avx512f avx512bw avx512vl\n", True),
        ("flags\t\t: fpu avx2 fma avx512f avx512_vnni\n", False),
        ("flags\t\t: fpu avx2 fma avx_vnni\n", False),
        (JETSON["proc/cpuinfo"], False),
        ("Features\t: half thumb fastmult vfp neon\n", False),
        ("isa\t\t: rv64imafdcv\n", None),
        ("", None),
    ],
)
def test_int8_sums_saturate_on_x86_without_vnni(cpuinfo: str, saturates: bool | None, tmp_path: Path) -> None:
    root = write_files(tmp_path, {"proc/cpuinfo": cpuinfo})
    assert int8_saturates(root=root) is saturates
    assert environment(root=root).get("int8_saturates") is saturates


def test_of_an_empty_root_only_what_python_knows_is_known(tmp_path: Path) -> None:
    told = environment(root=tmp_path / "nothing")
    assert set(told) - {"container"} == {"cpu", "cores", "machine", "system"}


def test_this_machine_is_known() -> None:
    told = environment()
    assert told["cpu"]
    assert told["load_1min"] >= 0
    assert json.loads(json.dumps(told)) == told
    assert usable_cores() == tuple(sorted(os.sched_getaffinity(0)))


def _every_file(text: str) -> dict[str, str]:
    nvml = {"sys/fs/cgroup/cpu.max": "", "sys/fs/cgroup/memory.max": "", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": ""}
    return dict.fromkeys([*LAPTOP, *JETSON, *nvml, f"{CORES}/cpufreq/boost", "run/systemd/container"], text)


@pytest.mark.parametrize(
    "text", ["", "\n", "nonsense", "0x12", "-1", ":::\n::", "\0", "0::/a\0b", "9" * 5000, "pmode:"]
)
def test_malformed_files_are_unknown_and_no_error(text: str, tmp_path: Path) -> None:
    told = environment(root=write_files(tmp_path, _every_file(text)))
    assert told["cores"] == 4
    assert told.keys().isdisjoint({"cpu_limit", "memory_limit_mb", "memory_mb", "power_mode", "cpu_flags"})
    assert told.keys().isdisjoint({"load_1min", "cpu_max_mhz"})
    json.dumps(told, allow_nan=False)


def test_bytes_that_are_no_text_and_folders_in_a_files_place_are_unknown(tmp_path: Path) -> None:
    for name in ("proc/cpuinfo", "proc/loadavg", "etc/nvpmodel.conf", f"{CORES}/cpu0/cpufreq/scaling_governor"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_bytes(b"\xff\xfe MemTotal: x kB")
    assert set(environment(root=tmp_path)) - {"container"} == {"cpu", "cores", "machine", "system"}


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({f"{CORES}/intel_pstate/no_turbo": "1"}, False),
        ({f"{CORES}/intel_pstate/no_turbo": "0", f"{CORES}/cpufreq/boost": "0"}, True),
        ({f"{CORES}/cpufreq/boost": "1"}, True),
        ({f"{CORES}/cpufreq/boost": "0"}, False),
        ({}, None),
    ],
)
def test_turbo(files: dict[str, str], turbo: bool | None, tmp_path: Path) -> None:
    assert environment(root=write_files(tmp_path, files)).get("turbo") is turbo


def test_governors_of_all_cores_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("schedutil", "performance", "performance", "powersave")
    write_files(tmp_path, {f"{CORES}/cpu{core}/cpufreq/scaling_governor": name for core, name in enumerate(names)})
    assert environment(root=tmp_path)["governor"] == "performance, powersave, schedutil"
    monkeypatch.setattr("edgeoe.machine.environment.usable_cores", lambda: (1, 2))
    assert environment(root=tmp_path)["governor"] == "performance"


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ("model name : Some CPU\nCPU implementer : 0x41\nCPU part : 0xd0b\n", "Some CPU"),
        (
            "CPU implementer : 0x41\nCPU part : 0xd0b\nCPU implementer : 0x41\nCPU part : 0xd05\n",
            "Cortex-A55 + Cortex-A76",
        ),
        ("CPU implementer : 0x41\nCPU part : 0xfff\n", "0x41:0xfff"),
        ("CPU implementer : 0x51\nCPU part : 0xd0b\n", "0x51:0xd0b"),
    ],
)
def test_a_cpu_has_a_name(listed: str, name: str, tmp_path: Path) -> None:
    assert cpu_model(root=write_files(tmp_path, {"proc/cpuinfo": listed})) == name


def test_flags_are_those_of_the_first_core(tmp_path: Path) -> None:
    root = write_files(tmp_path, {"proc/cpuinfo": "flags : avx avx2\n\nflags : avx\n"})
    assert cpu_flags(root=root) == {"avx", "avx2"}
    assert cpu_flags(root=tmp_path / "nothing") == frozenset()


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({f"{V2}/cpu.max": "150000 100000"}, 1.5),  # a container, whose group is mounted as the outermost
        ({"proc/self/cgroup": "0::/", f"{V2}/cpu.max": "50000 100000"}, 0.5),
        ({"proc/self/cgroup": "0::/../..", f"{V2}/cpu.max": "50000 100000"}, 0.5),
        ({"proc/self/cgroup": "0::/a/b", f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "200000 100000"}, 2.0),
        ({"proc/self/cgroup": "0::/a/b", f"{V2}/a/b/cpu.max": "100000 100000", f"{V2}/a/cpu.max": "200000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a", f"{V2}/b/cpu.max": "100000 100000"}, None),  # another's
        ({f"{V2}/cpu.max": "max 100000"}, None),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123\n3:memory:/docker/0123\n0::/docker/0123\n",
                f"{V1}/cpu.cfs_quota_us": "200000",
                f"{V1}/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "0"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000"}, None),
    ],
)
def test_the_quota_of_a_container(files: dict[str, str], limit: float | None, tmp_path: Path) -> None:
    assert environment(root=write_files(tmp_path, files)).get("cpu_limit") == limit


@pytest.mark.parametrize(
    ("files", "limit_mb"),
    [
        ({f"{V2}/memory.max": "512000000"}, 512),
        ({f"{V2}/memory.max": "max"}, None),
        ({"proc/self/cgroup": "0::/a", f"{V2}/a/memory.max": "2000000000", f"{V2}/memory.max": "1000000000"}, 1000),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000000"}, 1000),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_the_memory_of_a_container(files: dict[str, str], limit_mb: int | None, tmp_path: Path) -> None:
    assert environment(root=write_files(tmp_path, files)).get("memory_limit_mb") == limit_mb


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": "engine=podman"}, "podman"),
        ({"run/systemd/container": "lxc\n"}, "lxc"),
        ({"proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2\n"}, "wsl"),
        ({}, None),
    ],
)
def test_the_kind_of_container(files: dict[str, str], kind: str | None, tmp_path: Path) -> None:
    assert environment(root=write_files(tmp_path, files)).get("container") == kind


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({"var/lib/nvpmodel/status": "pmode:0000"}, "15W"),
        ({"var/lib/nvpmodel/status": "pmode:0012"}, "12"),  # no such mode
        ({"etc/nvpmodel.conf": ""}, "2"),
        ({"etc/nvpmodel.conf": "", "var/lib/nvpmodel/status": "pmode:0000"}, "0"),
        ({"var/lib/nvpmodel/status": ""}, None),
    ],
)
def test_the_power_mode_is_named(changes: dict[str, str], mode: str | None, tmp_path: Path) -> None:
    assert environment(root=write_files(tmp_path, {**JETSON, **changes})).get("power_mode") == mode


def test_where_no_file_tells_the_power_mode_nvpmodel_does(tmp_path: Path, programs: Callable[..., None]) -> None:
    programs("nvpmodel", 'test "$1" = -q && echo "NV Power Mode: MAXN" && echo 0')
    unknown = {"var/lib/nvpmodel/status": "", "etc/nvpmodel.conf": ""}
    assert environment(root=write_files(tmp_path, {**JETSON, **unknown}))["power_mode"] == "MAXN"


@pytest.mark.parametrize(
    ("changes", "fixed"),
    [
        ({f"{CORES}/cpu2/cpufreq/scaling_min_freq": "729600"}, False),
        ({"sys/class/devfreq/17000000.gpu/min_freq": "306000000"}, False),
        ({"sys/class/devfreq/17000000.gpu/min_freq": "?"}, None),
        ({"sys/class/devfreq/17000000.gpu/min_freq": "?", f"{CORES}/cpu2/cpufreq/scaling_min_freq": "1"}, False),
    ],
)
def test_jetson_clocks(changes: dict[str, str], fixed: bool | None, tmp_path: Path) -> None:
    assert environment(root=write_files(tmp_path, {**JETSON, **changes})).get("jetson_clocks") is fixed


@pytest.mark.parametrize(
    "folder",
    [
        "sys/class/devfreq/17000000.ga10b",  # Orin, JetPack 5
        "sys/class/devfreq/17000000.gv11b",  # Xavier
        "sys/class/devfreq/gpu-gpc-0",  # Thor
        "sys/devices/gpu.0/devfreq/17000000.gpu",
        "sys/devices/platform/17000000.gpu/devfreq/17000000.gpu",
    ],
)
def test_the_gpus_clock_is_found_on_every_jetson(folder: str, tmp_path: Path) -> None:
    files = {name: text for name, text in JETSON.items() if "devfreq" not in name}
    root = write_files(tmp_path, {**files, f"{folder}/min_freq": "1", f"{folder}/max_freq": "2"})
    assert environment(root=root)["jetson_clocks"] is False


def test_a_board_that_names_itself_otherwise_is_a_jetson_by_its_chip(tmp_path: Path) -> None:
    root = write_files(tmp_path, {**JETSON, "proc/device-tree/model": "NVIDIA Orin Nano Developer Kit\0"})
    assert environment(root=root)["power_mode"] == "MAXN_SUPER"


@pytest.mark.parametrize(
    ("sign", "text"),
    [
        ("proc/device-tree/model", "NVIDIA Jetson AGX Orin"),
        ("proc/device-tree/compatible", "nvidia,p3768\0nvidia,tegra234"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.0"),
    ],
)
def test_any_sign_of_a_jetson_is_enough(sign: str, text: str, tmp_path: Path) -> None:
    plain = {name: text for name, text in JETSON.items() if "device-tree" not in name}
    assert "power_mode" not in environment(root=write_files(tmp_path, plain))
    assert environment(root=write_files(tmp_path, {sign: text}))["power_mode"] == "MAXN_SUPER"


def test_an_nvidia_gpu(tmp_path: Path, programs: Callable[..., None]) -> None:
    programs("nvidia-smi", f'echo "$@" > {tmp_path}/asked; echo "{SMI}"; echo "{SMI}"')
    told = environment(root=tmp_path)
    assert {key: told[key] for key in told if key.startswith(("gpu", "driver"))} == {
        "gpu": "NVIDIA GeForce RTX 4070",
        "driver": "560.35.03",
        "gpu_max_mhz": 3105,
        "gpu_power_limit_w": 200.0,
        "gpu_persistence": True,
    }
    asked = (tmp_path / "asked").read_text().split()
    fields = "name,driver_version,clocks.max.sm,power.limit,persistence_mode"
    assert asked == [f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]


def test_what_a_gpu_does_not_tell_is_unknown(tmp_path: Path, programs: Callable[..., None]) -> None:
    programs("nvidia-smi", 'echo "Orin (nvgpu), 540.4.0, [N/A], N/A, [Not Supported]"')
    told = environment(root=tmp_path)
    assert told["gpu"] == "Orin (nvgpu)"
    assert told.keys().isdisjoint({"gpu_max_mhz", "gpu_power_limit_w", "gpu_persistence"})


@pytest.mark.parametrize(
    "script",
    [
        "exit 9",
        'echo "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."; exit 9',
        'echo "No devices were found"',
        f'echo "{SMI}"; exit 1',
        "exec 1>&-",
        "printf '\\377\\376'",
    ],
)
def test_an_nvidia_smi_that_fails_tells_nothing(script: str, tmp_path: Path, programs: Callable[..., None]) -> None:
    programs("nvidia-smi", script)
    assert environment(root=tmp_path).keys().isdisjoint({"gpu", "driver"})


def test_the_fingerprint_is_of_facts_that_are_told(tmp_path: Path, programs: Callable[..., None]) -> None:
    programs("nvidia-smi", f'echo "{SMI}"')
    told = environment(root=write_files(tmp_path, {**LAPTOP, **JETSON, f"{V2}/cpu.max": "100000 100000"}))
    assert set(FINGERPRINT) <= set(told)
