"""What went on beside a measurement: others on its cores, and whatever slowed the machine down meanwhile.

It needs the standard library alone, because it runs on the devices too.
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
_LEAST_TICKS = 20  # the counters step by ticks: of less time than so many they tell nothing

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
_GPU_QUESTIONS = (  # of newer drivers first; one that a driver does not know all of is refused
    ("clocks_event_reasons.active", *_GPU_COUNTERS),
    ("clocks_event_reasons.active",),
    ("clocks_throttle_reasons.active",),
)
_GPU_SHARE = 0.01  # of the time: slower for less than that, it can't move a p99 far

# vcgencmd get_throttled: bits 0 to 3 are now, and 16 further up, since they were last cleared.
_PI_BITS = ("under-voltage", "capped frequency", "throttled clock", "soft temperature limit")
_PI_FILES = ("sys/devices/platform/soc*/*firmware/get_throttled", "sys/devices/platform/*firmware/get_throttled")
_COOLING = re.compile(r"cpufreq|devfreq|throttle-alert")  # that which lowers clocks, and no fan


class NoiseWatch(AbstractContextManager["NoiseWatch"]):
    """Watches the machine while its block runs: `with NoiseWatch(cores=(0, 1)) as watch: measure()`.

    cores: those that are measured on, by the system's numbers; None is all that this process may use. gpu: whether the
    GPU's clocks matter. root: where proc and sys are looked for; without them, nothing is known. After the block,
    `facts` and `reasons` tell of it. Processes that the block starts must end in it, or they count as others.
    """

    def __init__(self, *, cores: Iterable[int] | None, gpu: bool = True, root: Path = Path("/")) -> None:
        self._cores = usable_cores() if cores is None else tuple(sorted(set(cores)))
        self._gpu, self._root = gpu, root

    def __enter__(self) -> NoiseWatch:
        self._gpu_before = _ask_gpu(_GPU_QUESTIONS) if self._gpu else {}
        self._slowed_before = _Slowed.read(self._root, self._cores)
        self._before = _Used.read(self._root, self._cores)  # last, so that the others' reading is not in it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = _Used.read(self._root, self._cores)
        self._slowed_after = _Slowed.read(self._root, self._cores)
        self._gpu_after = _ask_gpu([tuple(self._gpu_before)]) if self._gpu_before else {}

    def facts(self) -> dict[str, Any]:
        """What the watch recorded, as JSON can hold it. A key that is absent is unknown.

        foreign_load, steal: shares, 0 to 1, of the watched cores' time that other processes used, and that of it which
        the hypervisor gave to other machines; unknown of less than 20 ticks of the system's clock, which are 0.2 s.
        throttled: what slowed the machine, in words. load_before, load_after: averages of a minute.
        cpu_mhz_before, cpu_mhz_after: the watched cores' clock, on average.

        What other processes used is what the cores were busy with (user, nice, system, irq, softirq, steal) less what
        this process and its ended children used, on whatever core they did. Sources: /proc/stat, times(2), cpufreq.
        """
        before, after = self._before, self._after
        facts = {
            "foreign_load": self._share(before.busy, after.busy, less=after.own_seconds - before.own_seconds),
            "steal": self._share(before.steal, after.steal),
            "throttled": [*(what for group in self._throttled().values() for what in group), *self._cut()],
            "load_before": before.load,
            "load_after": after.load,
            "cpu_mhz_before": before.mhz,
            "cpu_mhz_after": after.mhz,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def reasons(self, max_foreign_load: float) -> tuple[str, ...]:
        """Why figures of that time can't be judged, a line each; empty if nothing speaks against it.

        max_foreign_load: the share of the watched cores' time that other processes may use, 0 to 1.
        """
        foreign = self.facts().get("foreign_load", 0.0)
        used = f"other processes used {_percent(foreign)} of the CPU, allowed {_percent(max_foreign_load)}"
        return (
            *((used,) if foreign > max_foreign_load else ()),
            *(f"{who} throttled ({_shortened(what)})" for who, what in self._throttled().items() if what),
            *(f"the container's {cut}" for cut in self._cut()),
        )

    def _share(self, before: Mapping[int, int], after: Mapping[int, int], *, less: float = 0.0) -> float | None:
        """Of the watched cores' time, the seconds that counters in ticks tell, `less` some."""
        cores = before.keys() & after.keys()
        seconds = self._after.seconds - self._before.seconds
        if not cores or seconds * _TICKS_PER_SECOND < _LEAST_TICKS:
            return None
        counted = sum(max(0, after[core] - before[core]) for core in cores) / _TICKS_PER_SECOND
        return round(min(1.0, max(0.0, (counted - less) / (seconds * len(cores)))), 3)

    def _throttled(self) -> dict[str, list[str]]:
        """What slowed the machine, by who did."""
        before, after = self._slowed_before, self._slowed_after
        return {
            "the processor": [f"{name} +{more}" for name, more in _grown(before.counters, after.counters)],
            "the board": sorted(before.states | after.states | (after.past_states - before.past_states)),
            "the GPU": list(self._gpu_throttled()),
        }

    def _cut(self) -> list[str]:
        times_cut = self._slowed_after.quota - self._slowed_before.quota
        return [f"CPU quota throttled it {times_cut} times"] if times_cut > 0 else []

    def _gpu_throttled(self) -> Iterator[str]:
        microseconds = 1e6 * (self._after.seconds - self._before.seconds)
        counted = set()
        for field, name in _GPU_COUNTERS.items():
            more = _number(self._gpu_after.get(field)) - _number(self._gpu_before.get(field))
            if more > _GPU_SHARE * microseconds:
                counted.add(name)
                yield f"{name} for {more / 1e3:.0f} ms"
        bits = next((_number(text) for field, text in self._gpu_after.items() if field.endswith(".active")), 0)
        if bits & _GPU_IDLE:  # it has nothing to do, so no power is missing
            bits &= ~_GPU_POWER_CAP
        yield from (name for bit, name in _GPU_BITS.items() if bits & bit and name not in counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Used:
    """Where time went until `seconds` of the clock. busy, steal: ticks, by core."""

    seconds: float
    own_seconds: float
    busy: dict[int, int]
    steal: dict[int, int]
    load: float | None
    mhz: int | None

    @classmethod
    def read(cls, root: Path, cores: Sequence[int]) -> _Used:
        seconds, own_seconds = monotonic(), sum(times()[:4])  # user and system, its own and its ended children's
        lines = re.findall(r"^cpu(\d{1,6})((?: +\d{1,19}){7,})", read_text(root / "proc/stat"), re.MULTILINE)
        ticks = {int(core): [int(one) for one in counted.split()] for core, counted in lines}
        khz = [read_int(root / _CORES / f"cpu{core}/cpufreq/scaling_cur_freq") for core in cores]
        known = [value for value in khz if value is not None]
        return cls(
            seconds=seconds,
            own_seconds=own_seconds,
            # user nice system idle iowait irq softirq steal; guest and guest_nice are in the first two. See proc(5)
            busy={core: sum(ticks[core][:3]) + sum(ticks[core][5:8]) for core in cores if core in ticks},
            steal={core: sum(ticks[core][7:8]) for core in cores if core in ticks},
            load=load_1min(root=root),
            mhz=round(sum(known) / len(known) / 1000) if known else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slowed:
    """What slowed the machine until now.

    counters: that only grow, by name. quota: periods that the control groups' quotas cut short. states: what slows it
    at this time; past_states: what has at some time. Sources: the kernel's documents on thermal_throttle, cgroup,
    thermal and raspberrypi-hwmon; NVIDIA's Jetson Linux guide, over-current event counters.
    """

    counters: dict[str, int]
    quota: int
    states: frozenset[str]
    past_states: frozenset[str]

    @classmethod
    def read(cls, root: Path, cores: Sequence[int]) -> _Slowed:
        bits = _pi_bits(root)
        cooling = root.glob("sys/class/thermal/cooling_device*")
        kinds = [read_text(folder / "type") for folder in cooling if (read_int(folder / "cur_state") or 0) > 0]
        return cls(
            counters={**_thermal_counters(root, cores), **_over_current_counters(root)},
            quota=sum(map(_periods_cut, cgroup_folders(root, "cpu"))),
            states=frozenset(f"cooling by {kind}" for kind in kinds if _COOLING.search(kind)) | _pi_names(bits),
            past_states=_pi_names(bits >> 16),
        )


def _thermal_counters(root: Path, cores: Sequence[int]) -> dict[str, int]:
    """Of each watched core, and once of each package: its cores all tell the same."""
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
    """A Jetson's: how often its power supply's alarms slowed it."""
    files = root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")
    return {path.name: count for path in sorted(files) if (count := read_int(path)) is not None}


def _periods_cut(folder: Path) -> int:
    found = re.search(r"^nr_throttled (\d{1,19})$", read_text(folder / "cpu.stat"), re.MULTILINE)
    return int(found[1]) if found else 0


def _pi_bits(root: Path) -> int:
    """A Raspberry Pi's get_throttled, hexadecimal."""
    for files in _PI_FILES:
        for path in root.glob(files):
            told = read_text(path)
            return int(told, 16) if re.fullmatch(r"(0x)?[0-9a-f]{1,8}", told) else 0
    return 0


def _pi_names(bits: int) -> frozenset[str]:
    return frozenset(name for place, name in enumerate(_PI_BITS) if bits >> place & 1)


def _ask_gpu(questions: Iterable[Sequence[str]]) -> dict[str, str]:
    """nvidia-smi's answers to the first of the questions that it knows; empty if to none."""
    for fields in questions:
        answers = ask_nvidia_smi(*fields)
        if answers:
            return dict(zip(fields, answers, strict=True))
    return {}


def _grown(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int]]:
    """Counters that grew, and by how much, the most first."""
    grown = [(name, count - before[name]) for name, count in after.items() if count > before.get(name, count)]
    return sorted(grown, key=lambda one: -one[1])


def _number(text: str | None) -> int:
    """Of a decimal number, or of a hexadecimal one after 0x; 0 for what is none."""
    try:
        return int(text or "0", 0)
    except ValueError:
        return 0


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _shortened(what: Sequence[str]) -> str:
    return ", ".join([*what[:2], *([f"and {len(what) - 2} more"] if len(what) > 2 else [])])
