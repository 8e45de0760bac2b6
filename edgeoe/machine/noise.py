"""Disturbances of a measurement: other processes on its cores, and throttling of the machine.

Imports the standard library only, because it also runs on devices.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import times
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from edgeoe.machine.system import (
    ask_nvidia_smi,
    cgroup_folders,
    load_1min,
    read_int,
    read_text,
    usable_cores,
)

__all__ = ["NoiseWatch"]

_CORES = "sys/devices/system/cpu"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_LEAST_TICKS = 20  # the counters advance in ticks: too coarse for shorter times

# NVML's bit masks, see nvmlClocksEventReasons; the counters are in microseconds and came with driver 555.
_GPU_BITS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
_GPU_IDLE, _GPU_POWER_CAP = 0x01, 0x04
_GPU_COUNTERS = {
    "clocks_event_reasons_counters.sw_power_cap": "software power cap",
    "clocks_event_reasons_counters.sw_thermal_slowdown": "software thermal slowdown",
    "clocks_event_reasons_counters.hw_thermal_slowdown": "hardware thermal slowdown",
    "clocks_event_reasons_counters.hw_power_brake_slowdown": "hardware power brake",
}
_GPU_QUERIES = (  # newest drivers first; a driver refuses a query with any field that it does not know
    ("clocks_event_reasons.active", *_GPU_COUNTERS),
    ("clocks_event_reasons.active",),
    ("clocks_throttle_reasons.active",),
)
_GPU_SHARE = 0.01  # of the time: shorter slowdowns can't move a p99 far

# vcgencmd get_throttled: bits 0 to 3 are the current state; bits 16 to 19 are sticky.
_PI_BITS = ("under-voltage", "capped frequency", "throttled clock", "soft temperature limit")
_PI_FILES = ("sys/devices/platform/soc*/*firmware/get_throttled", "sys/devices/platform/*firmware/get_throttled")
_COOLING = re.compile(r"cpufreq|devfreq|throttle-alert")  # cooling that lowers clocks, not fans


class NoiseWatch(AbstractContextManager["NoiseWatch"]):
    """Watches the machine during a block: `with NoiseWatch(cores=(0, 1)) as watch: measure()`.

    After the block, `facts` and `reasons` report on it. Processes that the block starts must also end in it; otherwise
    their CPU time counts as that of other processes.
    cores: numbers of the cores that the measurement runs on; None means all that this process may use.
    gpu: whether to watch the GPU's clocks.
    root: folder that contains proc and sys.
    """

    def __init__(self, *, cores: Iterable[int] | None, gpu: bool = True, root: Path = Path("/")) -> None:
        self._cores = usable_cores() if cores is None else tuple(sorted(set(cores)))
        self._gpu, self._root = gpu, root

    def __enter__(self) -> NoiseWatch:
        self._gpu_before = _ask_gpu(_GPU_QUERIES) if self._gpu else {}
        self._throttling_before = _Throttling.read(self._root, self._cores)
        self._before = _Usage.read(self._root, self._cores)  # last, to exclude the time of the other readings
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = _Usage.read(self._root, self._cores)
        self._throttling_after = _Throttling.read(self._root, self._cores)
        self._gpu_after = _ask_gpu([tuple(self._gpu_before)]) if self._gpu_before else {}

    def facts(self) -> dict[str, Any]:
        """The recorded facts, as JSON values; an absent key is unknown.

        foreign_load: share, 0 to 1, of the watched cores' time that other processes used. It is the busy time of the
            cores (user, nice, system, irq, softirq, steal) less the CPU time of this process and its ended children.
        steal: share that the hypervisor gave to other virtual machines. Both shares are unknown for a block shorter
            than 20 clock ticks (0.2 s).
        throttled: what throttled the machine, in words.
        load_before, load_after: load averages over one minute.
        cpu_mhz_before, cpu_mhz_after: mean clock of the watched cores.
        Sources: /proc/stat, times(2), cpufreq.
        """
        before, after = self._before, self._after
        facts = {
            "foreign_load": self._share(before.busy, after.busy, less=after.own_seconds - before.own_seconds),
            "steal": self._share(before.steal, after.steal),
            "throttled": [*(what for group in self._throttled().values() for what in group), *self._quota()],
            "load_before": before.load,
            "load_after": after.load,
            "cpu_mhz_before": before.mhz,
            "cpu_mhz_after": after.mhz,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def reasons(self, max_foreign_load: float) -> tuple[str, ...]:
        """Why figures measured in the block can't be judged, one line each; empty if they can.

        max_foreign_load: the share of the watched cores' time that other processes may use, 0 to 1.
        """
        foreign = self.facts().get("foreign_load", 0.0)
        used = f"other processes used {_percent(foreign)} of the CPU, allowed {_percent(max_foreign_load)}"
        return (
            *((used,) if foreign > max_foreign_load else ()),
            *(f"{who} throttled ({_shortened(what)})" for who, what in self._throttled().items() if what),
            *(f"the container's {text}" for text in self._quota()),
        )

    def _share(self, before: Mapping[int, int], after: Mapping[int, int], *, less: float = 0.0) -> float | None:
        """Growth of tick counters, minus `less` seconds, as a share of the watched cores' time."""
        cores = before.keys() & after.keys()
        seconds = self._after.seconds - self._before.seconds
        if not cores or seconds * _TICKS_PER_SECOND < _LEAST_TICKS:
            return None
        growth = sum(max(0, after[core] - before[core]) for core in cores) / _TICKS_PER_SECOND
        return round(min(1.0, max(0.0, (growth - less) / (seconds * len(cores)))), 3)

    def _throttled(self) -> dict[str, list[str]]:
        """What throttled the machine, by component."""
        before, after = self._throttling_before, self._throttling_after
        return {
            "the processor": [f"{name} +{more}" for name, more in _increases(before.counters, after.counters)],
            "the board": sorted(before.states | after.states | (after.past_states - before.past_states)),
            "the GPU": list(self._gpu_throttled()),
        }

    def _quota(self) -> list[str]:
        periods = self._throttling_after.quota - self._throttling_before.quota
        return [f"CPU quota throttled it {periods} times"] if periods > 0 else []

    def _gpu_throttled(self) -> Iterator[str]:
        microseconds = 1e6 * (self._after.seconds - self._before.seconds)
        counted = set()
        for field, name in _GPU_COUNTERS.items():
            more = _number(self._gpu_after.get(field)) - _number(self._gpu_before.get(field))
            if more > _GPU_SHARE * microseconds:
                counted.add(name)
                yield f"{name} for {more / 1e3:.0f} ms"
        bits = next((_number(text) for field, text in self._gpu_after.items() if field.endswith(".active")), 0)
        if bits & _GPU_IDLE:  # an idle GPU does not lack power
            bits &= ~_GPU_POWER_CAP
        yield from (name for bit, name in _GPU_BITS.items() if bits & bit and name not in counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    """CPU usage up to now.

    seconds: monotonic clock.
    own_seconds: CPU time of this process and its ended children.
    busy, steal: ticks, by core.
    load: load average over one minute.
    mhz: mean clock of the cores.
    """

    seconds: float
    own_seconds: float
    busy: dict[int, int]
    steal: dict[int, int]
    load: float | None
    mhz: int | None

    @classmethod
    def read(cls, root: Path, cores: Sequence[int]) -> _Usage:
        seconds, own_seconds = monotonic(), sum(times()[:4])  # user and system, of this process and its ended children
        lines = re.findall(r"^cpu(\d{1,6})((?: +\d{1,19}){7,})", read_text(root / "proc/stat"), re.MULTILINE)
        ticks = {int(core): [int(count) for count in counts.split()] for core, counts in lines}
        khz = [read_int(root / _CORES / f"cpu{core}/cpufreq/scaling_cur_freq") for core in cores]
        known = [value for value in khz if value is not None]
        return cls(
            seconds=seconds,
            own_seconds=own_seconds,
            # user nice system idle iowait irq softirq steal; the first two include guest, guest_nice. See proc(5)
            busy={core: sum(ticks[core][:3]) + sum(ticks[core][5:8]) for core in cores if core in ticks},
            steal={core: sum(ticks[core][7:8]) for core in cores if core in ticks},
            load=load_1min(root=root),
            mhz=round(sum(known) / len(known) / 1000) if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Throttling:
    """Throttling of the machine up to now.

    counters: monotonic event counters, by name.
    quota: periods in which a control group's CPU quota was exhausted.
    states: active causes.
    past_states: causes that have been active since they were last cleared.
    Sources: the kernel's documentation of thermal_throttle, cgroup, thermal and raspberrypi-hwmon; NVIDIA's Jetson
    Linux guide, over-current event counters.
    """

    counters: dict[str, int]
    quota: int
    states: frozenset[str]
    past_states: frozenset[str]

    @classmethod
    def read(cls, root: Path, cores: Sequence[int]) -> _Throttling:
        bits = _pi_bits(root)
        cooling = root.glob("sys/class/thermal/cooling_device*")
        kinds = [read_text(folder / "type") for folder in cooling if (read_int(folder / "cur_state") or 0) > 0]
        return cls(
            counters={**_thermal_counters(root, cores), **_over_current_counters(root)},
            quota=sum(map(_throttled_periods, cgroup_folders(root, "cpu"))),
            states=frozenset(f"cooling by {kind}" for kind in kinds if _COOLING.search(kind)) | _pi_names(bits),
            past_states=_pi_names(bits >> 16),
        )


def _thermal_counters(root: Path, cores: Sequence[int]) -> dict[str, int]:
    """Counters of each watched core, and of each package once, as all its cores show the same."""
    counters = {}
    for core in cores:
        folder = root / _CORES / f"cpu{core}"
        package = read_int(folder / "topology/physical_package_id") or 0
        for unit, name in ((f"cpu{core}", "core_throttle_count"), (f"package{package}", "package_throttle_count")):
            count = read_int(folder / "thermal_throttle" / name)
            if count is not None:
                counters[f"{unit} {name}"] = count
    return counters


def _over_current_counters(root: Path) -> dict[str, int]:
    """Over-current events of a Jetson, each of which throttles it."""
    files = root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")
    return {path.name: count for path in sorted(files) if (count := read_int(path)) is not None}


def _throttled_periods(folder: Path) -> int:
    count = re.search(r"^nr_throttled (\d{1,19})$", read_text(folder / "cpu.stat"), re.MULTILINE)
    return int(count[1]) if count else 0


def _pi_bits(root: Path) -> int:
    """Bits of a Raspberry Pi's get_throttled."""
    for files in _PI_FILES:
        for path in root.glob(files):
            text = read_text(path)
            return int(text, 16) if re.fullmatch(r"(0x)?[0-9a-f]{1,8}", text) else 0
    return 0


def _pi_names(bits: int) -> frozenset[str]:
    return frozenset(name for place, name in enumerate(_PI_BITS) if bits >> place & 1)


def _ask_gpu(queries: Iterable[Sequence[str]]) -> dict[str, str]:
    """nvidia-smi's values for the first query whose fields it knows; empty if it knows none."""
    for fields in queries:
        values = ask_nvidia_smi(*fields)
        if values:
            return dict(zip(fields, values, strict=True))
    return {}


def _increases(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int]]:
    """Counters that increased, with their increases, largest first."""
    increases = [(name, count - before[name]) for name, count in after.items() if count > before.get(name, count)]
    return sorted(increases, key=lambda increase: -increase[1])


def _number(text: str | None) -> int:
    """`text` as a decimal number, or as a hexadecimal one after 0x; 0 if it is neither."""
    try:
        return int(text or "0", 0)
    except ValueError:
        return 0


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _shortened(what: Sequence[str]) -> str:
    return ", ".join([*what[:2], *([f"and {len(what) - 2} more"] if len(what) > 2 else [])])
