"""Facts about the machine that latency depends on.

They are read from /proc, /sys and /etc, and from nvidia-smi and nvpmodel where installed; unreadable facts are omitted.
Imports the standard library only, because it also runs on devices.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeoe.machine.system import (
    ROOT,
    ask_nvidia_smi,
    cgroup_folders,
    is_there,
    load_1min,
    parse_int,
    read_int,
    read_text,
    run_program,
    usable_cores,
)

__all__ = ["cpu_flags", "cpu_model", "environment", "int8_saturates"]

_FLAGS_OF_KERNELS = re.compile(r"avx.*|amx.*|fma4?|f16c|ssse3|sse4_[12]|asimd.*|fphp|neon|i8mm|bf16|sve.*|sme(?!p).*")
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_CORES = "sys/devices/system/cpu"
_NO_LIMIT = 1 << 60  # bytes; v1 writes "no limit" as 2^63 less a page

# Linux on Arm lists part numbers only. Source: Arm's MIDR_EL1 registers, as lscpu (util-linux) lists them.
_ARM_CORES = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2",
    "0xd83": "Neoverse-V3AE",
}  # fmt: skip


def environment(*, root: Path = ROOT) -> dict[str, Any]:
    """Collect facts about this machine, as JSON values.

    root: folder that contains proc, sys and etc.
    Returns these keys; an absent key is unknown or does not apply:
    cpu, machine, system: names.
    cpu_flags: instruction sets that select kernels, sorted.
    int8_saturates: result of `int8_saturates`.
    cores: number of cores that this process may use.
    governor, energy_preference: cpufreq settings of these cores.
    cpu_max_mhz: highest allowed clock.
    turbo: whether it is on.
    cpu_limit: quota of the control group, in cores.
    memory_mb: memory of the machine, in 10^6 bytes.
    memory_limit_mb: memory limit of the control group, in 10^6 bytes.
    container: its kind.
    board: model in the device tree.
    power_mode: name of nvpmodel's mode.
    jetson_clocks: whether the clocks of a Jetson are fixed.
    gpu, driver, gpu_max_mhz, gpu_power_limit_w, gpu_persistence: of the GPU that `ask_nvidia_smi` queries.
    load_1min: average number of processes that ran or waited.
    Sources: proc(5), the kernel's cpufreq and cgroup documentation.
    """
    cores = usable_cores()
    facts: dict[str, Any] = {
        "cpu": cpu_model(root=root),
        "cpu_flags": sorted(flag for flag in cpu_flags(root=root) if _FLAGS_OF_KERNELS.fullmatch(flag)),
        "int8_saturates": int8_saturates(root=root),
        "cores": len(cores),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "governor": _of_cores(root, cores, "scaling_governor"),
        "energy_preference": _of_cores(root, cores, "energy_performance_preference"),
        "cpu_max_mhz": _cpu_max_mhz(root, cores),
        "turbo": _turbo(root),
        "cpu_limit": _cpu_limit(root),
        "memory_mb": _memory_mb(root),
        "memory_limit_mb": _memory_limit_mb(root),
        "container": _container(root),
        **_board(root),
        **_gpu(root),
        "load_1min": load_1min(root=root),
    }
    return {key: value for key, value in facts.items() if value is not None and value not in ("", [])}


def cpu_model(*, root: Path = ROOT) -> str:
    """Name of the processor, or of its cores on Arm. Source: /proc/cpuinfo."""
    parts = sorted(set(zip(_cpuinfo(root, "CPU implementer"), _cpuinfo(root, "CPU part"), strict=False)))
    arm = [_ARM_CORES.get(part) or f"{maker}:{part}" if maker == "0x41" else f"{maker}:{part}" for maker, part in parts]
    names = _cpuinfo(root, "model name")
    return (names[0] if names else "") or " + ".join(arm) or platform.processor() or platform.machine()


def cpu_flags(*, root: Path = ROOT) -> frozenset[str]:
    """Instruction-set flags of the processor; empty if the system does not list them. Source: /proc/cpuinfo."""
    flags = _cpuinfo(root, "flags") or _cpuinfo(root, "Features")
    return frozenset(flags[0].split()) if flags else frozenset()


def int8_saturates(*, root: Path = ROOT) -> bool | None:
    """Whether the processor's fast int8 kernels overflow with 8-bit weights; None if unknown.

    On x86 they add pairs of products in 16 bits, unless the processor has AVX512-VNNI or AVX-VNNI. On Arm they never
    overflow.
    """
    if _cpuinfo(root, "flags"):  # the key on x86
        return cpu_flags(root=root).isdisjoint(_VNNI)
    return False if _cpuinfo(root, "Features") else None


def _cpuinfo(root: Path, key: str) -> list[str]:
    """The values of `key`, one for each core that has it."""
    pairs = (line.partition(":") for line in read_text(root / "proc/cpuinfo").splitlines())
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def _of_cores(root: Path, cores: Sequence[int], name: str) -> str:
    """Distinct values of a cpufreq file over `cores`."""
    return ", ".join(sorted({text for core in cores if (text := read_text(_cpufreq(root, core) / name))}))


def _cpufreq(root: Path, core: int) -> Path:
    return root / _CORES / f"cpu{core}/cpufreq"


def _cpu_max_mhz(root: Path, cores: Sequence[int]) -> int | None:
    """Highest clock of the fastest core: the current limit if known, otherwise the hardware's."""
    for name in ("scaling_max_freq", "cpuinfo_max_freq"):
        khz = max((read_int(_cpufreq(root, core) / name) or 0 for core in cores), default=0)
        if khz > 0:
            return round(khz / 1000)
    return None


def _turbo(root: Path) -> bool | None:
    off = read_int(root / _CORES / "intel_pstate/no_turbo")
    boost = read_int(root / _CORES / "cpufreq/boost")
    return off == 0 if off is not None else boost == 1 if boost is not None else None


def _cpu_limit(root: Path) -> float | None:
    limits = []
    for folder in cgroup_folders(root, "cpu"):
        v2 = read_text(folder / "cpu.max").split()
        v1 = [read_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        for quota, period in ([parse_int(text) for text in pair] for pair in (v2, v1) if len(pair) == 2):
            if quota and period and quota > 0 and period > 0:  # else "max" or -1
                limits.append(quota / period)
    return round(min(limits), 3) if limits else None


def _memory_limit_mb(root: Path) -> int | None:
    sizes = [
        size
        for folder in cgroup_folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (size := read_int(folder / name)) is not None and 0 < size < _NO_LIMIT
    ]
    return round(min(sizes) / 1e6) if sizes else None


def _memory_mb(root: Path) -> int | None:
    total = re.search(r"^MemTotal:\s*(\d{1,18}) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    return round(int(total[1]) * 1024 / 1e6) if total else None


def _container(root: Path) -> str:
    if "microsoft" in read_text(root / "proc/sys/kernel/osrelease").lower():
        return "wsl"
    for name, kind in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if is_there(root / name):
            return kind
    return read_text(root / "run/systemd/container")


def _board(root: Path) -> dict[str, Any]:
    model = "".join(_cpuinfo(root, "Model")[:1])  # a Raspberry Pi's, in a container that hides the device tree
    board = read_text(root / "proc/device-tree/model") or read_text(root / "sys/devices/soc0/machine") or model
    jetson = (
        "jetson" in board.lower()
        or "nvidia,tegra" in read_text(root / "proc/device-tree/compatible")
        or bool(read_text(root / "etc/nv_tegra_release"))
    )
    if not jetson:
        return {"board": board}
    return {"board": board, "power_mode": _power_mode(root), "jetson_clocks": _jetson_clocks(root)}


def _power_mode(root: Path) -> str:
    """Name of the active mode, or its number if the name is unknown."""
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", read_text(root / "etc/nvpmodel.conf"))
    names: dict[str, str] = {number.lstrip("0"): name for number, name in modes}
    active = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    number = active[1].lstrip("0") if active else None
    if number in names:
        return names[number]
    name = re.search(r"NV Power Mode:\s*(\S+)", run_program("nvpmodel", "-q"))
    return name[1] if name else "" if number is None else number or "0"


def _jetson_clocks(root: Path) -> bool | None:
    """Whether minimum and maximum clocks are equal for every core and the GPU; None if unknown for either."""
    cores = [folder / "cpufreq" for folder in (root / _CORES).glob("cpu[0-9]*")]
    fixed = {
        "cpu": [_fixed(folder, "scaling_min_freq", "scaling_max_freq") for folder in cores],
        "gpu": [_fixed(folder, "min_freq", "max_freq") for folder in _gpu_clocks(root)],
    }
    known = {unit: [value for value in values if value is not None] for unit, values in fixed.items()}
    if not all(all(values) for values in known.values()):
        return False
    return True if all(known.values()) else None


def _fixed(folder: Path, low: str, high: str) -> bool | None:
    minimum, maximum = read_int(folder / low), read_int(folder / high)
    return None if minimum is None or maximum is None else minimum == maximum


def _gpu_clocks(root: Path) -> Iterator[Path]:
    """devfreq folders of a Jetson's GPU: 17000000.gpu, before JetPack 6 also .ga10b, .gv11b; gpu-gpc-0 on Thor."""
    name = re.compile(r"gpu|g[abkmpv]\d+b")
    for folders in ("sys/class/devfreq/*", "sys/devices/*/devfreq/*", "sys/devices/platform/*/devfreq/*"):
        clocks = [folder for folder in sorted(root.glob(folders)) if name.search(folder.name)]
        if clocks:
            yield from clocks
            return


def _gpu(root: Path) -> dict[str, Any]:
    fields = ("name", "driver_version", "clocks.max.sm", "power.limit", "persistence_mode")
    name, driver, max_mhz, power, persistence = ask_nvidia_smi(*fields) or ("",) * len(fields)
    module = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", read_text(root / "proc/driver/nvidia/version"))
    return {
        "gpu": name,
        "driver": driver or (module[0] if module else ""),
        "gpu_max_mhz": parse_int(max_mhz),
        "gpu_power_limit_w": float(power) if re.fullmatch(r"\d+(\.\d+)?", power) else None,
        "gpu_persistence": {"Enabled": True, "Disabled": False}.get(persistence),
    }
