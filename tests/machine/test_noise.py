"""What a made-up machine's counters say went on beside a measurement, and a real one's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from made_up import write_files

from edgeoe.machine.noise import NoiseWatch

CORES = "sys/devices/system/cpu"
TICKS = os.sysconf("SC_CLK_TCK")
PI = "sys/devices/platform/soc/soc:firmware/get_throttled"


def stat(*cores: Mapping[str, float]) -> str:
    """/proc/stat after so many seconds of each kind, by core."""
    kinds = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
    rows = [[round(TICKS * core.get(kind, 0)) for kind in kinds] for core in cores]
    named = [("cpu ", list(map(sum, zip(*rows, strict=True)))), *((f"cpu{n}", row) for n, row in enumerate(rows))]
    return "".join(f"{name} {' '.join(map(str, row))}\n" for name, row in named) + "intr 5 0 0\nctxt 9\n"


class Now:
    """The clock, in seconds, and the CPU seconds of this process and of its ended children."""

    def __init__(self) -> None:
        self.seconds, self.own, self.children = 100.0, 7.0, 3.0

    def pass_by(self, seconds: float, *, own: float = 0.0, children: float = 0.0) -> None:
        self.seconds += seconds
        self.own += own
        self.children += children


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Now:
    """A clock of one's own, two cores, and no programs."""
    made = Now()
    monkeypatch.setattr("edgeoe.machine.noise.monotonic", lambda: made.seconds)
    monkeypatch.setattr(
        "edgeoe.machine.noise.times", lambda: (made.own / 2, made.own / 2, made.children / 2, made.children / 2, 1e6)
    )
    monkeypatch.setattr("edgeoe.machine.noise.usable_cores", lambda: (0, 1))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


def watch(
    root: Path, now: Now, before: Mapping[str, str], after: Mapping[str, str], *, seconds: float = 10
) -> NoiseWatch:
    """Watch two cores while the files change."""
    with NoiseWatch(cores=(0, 1), root=write_files(root, before)) as watched:
        now.pass_by(seconds)
        write_files(root, after)
    return watched


# who used the cores


@pytest.mark.parametrize(
    ("used", "own", "children", "foreign"),
    [
        ([{}, {}], 0, 0, 0.0),
        ([{"user": 10}, {}], 10, 0, 0.0),
        ([{"user": 10}, {}], 0, 10, 0.0),
        ([{"user": 10}, {"user": 5}], 4, 6, 0.25),
        ([{"user": 10}, {"user": 10}], 0, 0, 1.0),
        ([{"user": 2, "nice": 1, "system": 1}, {"irq": 1, "softirq": 1, "steal": 2}], 0, 0, 0.4),
        ([{"idle": 10}, {"iowait": 10}], 0, 0, 0.0),
        ([{"user": 4, "guest": 4}, {"nice": 2, "guest_nice": 2}], 0, 0, 0.3),  # guests are in user and in nice
        ([{"user": 1}, {}], 5, 0, 0.0),  # ticks are rough: never below none
        ([{"user": 99}, {"user": 99}], 0, 0, 1.0),
    ],
)
def test_what_others_used_is_what_was_used_less_ones_own(
    used: list[dict[str, float]], own: float, children: float, foreign: float, tmp_path: Path, now: Now
) -> None:
    start: list[dict[str, float]] = [{"user": 50, "idle": 500, "steal": 1}, {"system": 20}]
    both = zip(start, used, strict=True)
    end = [{**one, **{kind: one.get(kind, 0) + more[kind] for kind in more}} for one, more in both]
    with NoiseWatch(cores=(0, 1), root=write_files(tmp_path, {"proc/stat": stat(*start)})) as watched:
        now.pass_by(10, own=own, children=children)
        write_files(tmp_path, {"proc/stat": stat(*end)})
    assert watched.facts()["foreign_load"] == pytest.approx(foreign, abs=0.001)


@pytest.mark.parametrize(
    ("cores", "foreign", "steal"),
    [
        ((0,), 0.5, 0.0),
        ((1,), 0.9, 0.3),
        ((0, 1), 0.7, 0.15),
        ((0, 7), 0.5, 0.0),  # there is no core 7
        ((1, 1), 0.9, 0.3),
        (None, 0.7, 0.15),
    ],
)
def test_only_the_watched_cores_count(
    cores: tuple[int, ...] | None, foreign: float, steal: float, tmp_path: Path, now: Now
) -> None:
    with NoiseWatch(cores=cores, root=write_files(tmp_path, {"proc/stat": stat({}, {}, {})})) as watched:
        now.pass_by(10)
        write_files(tmp_path, {"proc/stat": stat({"user": 5}, {"user": 6, "steal": 3}, {"user": 10})})
    assert watched.facts()["foreign_load"] == pytest.approx(foreign)
    assert watched.facts()["steal"] == pytest.approx(steal)


def test_others_may_use_what_is_allowed_and_no_more(tmp_path: Path, now: Now) -> None:
    watched = watch(tmp_path, now, {"proc/stat": stat({}, {})}, {"proc/stat": stat({"user": 6.2}, {"user": 6.2})})
    assert watched.reasons(0.62) == ()
    assert watched.reasons(0.25) == ("other processes used 62 % of the CPU, allowed 25 %",)
    assert watched.reasons(0.615) == ("other processes used 62 % of the CPU, allowed 61.5 %",)


def test_of_a_moment_nothing_is_known(tmp_path: Path, now: Now) -> None:
    after = {"proc/stat": stat({"user": 0.1}, {})}
    watched = watch(tmp_path, now, {"proc/stat": stat({}, {})}, after, seconds=19 / TICKS)
    assert "foreign_load" not in watched.facts()
    assert watched.reasons(0) == ()


def test_counters_that_go_back_are_no_time(tmp_path: Path, now: Now) -> None:
    before, after = stat({"user": 10}, {"steal": 5}), stat({"user": 4}, {"steal": 4, "user": 3})
    watched = watch(tmp_path, now, {"proc/stat": before}, {"proc/stat": after})
    assert watched.facts()["foreign_load"] == pytest.approx(0.1)
    assert watched.facts()["steal"] == 0


def test_load_and_clocks_are_told_before_and_after(tmp_path: Path, now: Now) -> None:
    def files(load: str, *khz: int) -> dict[str, str]:
        clocks = {f"{CORES}/cpu{core}/cpufreq/scaling_cur_freq": str(one) for core, one in enumerate(khz)}
        return {"proc/loadavg": f"{load} 0.10 0.10 1/99 7", **clocks}

    watched = watch(tmp_path, now, files("0.50", 800000, 1000000), files("2.25", 3000000, 3400000))
    assert watched.facts() == {
        "throttled": [],
        "load_before": 0.5,
        "load_after": 2.25,
        "cpu_mhz_before": 900,
        "cpu_mhz_after": 3200,
    }


def test_without_proc_and_sys_nothing_is_known_and_nothing_is_wrong(tmp_path: Path, now: Now) -> None:
    watched = watch(tmp_path / "nothing", now, {}, {})
    assert watched.facts() == {"throttled": []}
    assert watched.reasons(0) == ()


@pytest.mark.parametrize("text", ["", "nonsense", "cpu0", "cpu0 1 2", "cpu0 a b c d e f g h", "-5", "9" * 5000, "\0"])
def test_malformed_files_are_unknown_and_no_error(text: str, tmp_path: Path, now: Now) -> None:
    names = [
        "proc/stat", "proc/loadavg", PI, "sys/fs/cgroup/cpu.stat", "sys/class/hwmon/hwmon0/oc1_event_cnt",
        "sys/class/thermal/cooling_device0/type", "sys/class/thermal/cooling_device0/cur_state",
        f"{CORES}/cpu0/thermal_throttle/core_throttle_count", f"{CORES}/cpu0/topology/physical_package_id",
        f"{CORES}/cpu0/cpufreq/scaling_cur_freq",
    ]  # fmt: skip
    root = write_files(tmp_path, dict.fromkeys(names, text))
    with NoiseWatch(cores=(0, 1), root=root) as watched:
        now.pass_by(10)
    assert "foreign_load" not in watched.facts()
    assert watched.reasons(0) == ()


# what slowed the machine


def thermal(core: int, cores: int, package: int, number: int = 0) -> dict[str, str]:
    folder = f"{CORES}/cpu{core}"
    return {
        f"{folder}/thermal_throttle/core_throttle_count": str(cores),
        f"{folder}/thermal_throttle/package_throttle_count": str(package),
        f"{folder}/topology/physical_package_id": str(number),
    }


def test_a_processor_that_throttled(tmp_path: Path, now: Now) -> None:
    before = {**thermal(0, 3, 9), **thermal(1, 0, 9), **thermal(2, 0, 9)}
    watched = watch(tmp_path, now, before, {**thermal(0, 15, 9), **thermal(2, 50, 9)})  # none watches core 2
    assert watched.facts()["throttled"] == ["cpu0 core_throttle_count +12"]
    assert watched.reasons(1) == ("the processor throttled (cpu0 core_throttle_count +12)",)


def test_a_package_is_told_once_and_a_long_list_is_cut_short(tmp_path: Path, now: Now) -> None:
    watched = watch(tmp_path, now, {**thermal(0, 0, 0), **thermal(1, 0, 0)}, {**thermal(0, 1, 7), **thermal(1, 2, 7)})
    told = ["package0 package_throttle_count +7", "cpu1 core_throttle_count +2", "cpu0 core_throttle_count +1"]
    assert watched.facts()["throttled"] == told
    assert watched.reasons(1) == (f"the processor throttled ({told[0]}, {told[1]}, and 1 more)",)


def test_counters_that_stand_still_or_come_up_are_nothing(tmp_path: Path, now: Now) -> None:
    assert watch(tmp_path, now, thermal(0, 5, 5), {**thermal(0, 5, 5), **thermal(1, 9, 5)}).reasons(1) == ()


def test_a_jetsons_over_current(tmp_path: Path, now: Now) -> None:
    file = "sys/class/hwmon/hwmon3/oc1_event_cnt"
    watched = watch(tmp_path, now, {file: "2"}, {file: "6"})
    assert watched.reasons(1) == ("the processor throttled (oc1_event_cnt +4)",)


@pytest.mark.parametrize(
    ("kind", "state", "told"),
    [
        ("cpufreq-cpu0", "2", ("the board throttled (cooling by cpufreq-cpu0)",)),
        ("gpu-throttle-alert", "1", ("the board throttled (cooling by gpu-throttle-alert)",)),
        ("cpufreq-cpu0", "0", ()),
        ("pwm-fan", "3", ()),
    ],
)
def test_cooling_that_lowers_clocks(kind: str, state: str, told: tuple[str, ...], tmp_path: Path, now: Now) -> None:
    folder = "sys/class/thermal/cooling_device1"
    watched = watch(tmp_path, now, {f"{folder}/type": kind, f"{folder}/cur_state": "0"}, {f"{folder}/cur_state": state})
    assert watched.reasons(1) == told


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("0", "0", []),
        ("0x0", "50000", ["throttled clock", "under-voltage"]),
        ("50000", "50000", []),  # some time before
        ("50000", "d0000", ["soft temperature limit"]),
        ("0", "4", ["throttled clock"]),
        ("2", "0", ["capped frequency"]),
        ("60006", "60006", ["capped frequency", "throttled clock"]),
    ],
)
def test_a_raspberry_pi(before: str, after: str, told: list[str], tmp_path: Path, now: Now) -> None:
    watched = watch(tmp_path, now, {PI: before}, {PI: f"{after}\n"})
    assert watched.facts()["throttled"] == told
    assert watched.reasons(1) == ((f"the board throttled ({', '.join(told)})",) if told else ())


def test_a_raspberry_pi_5_has_it_elsewhere(tmp_path: Path, now: Now) -> None:
    file = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    assert watch(tmp_path, now, {file: "0"}, {file: "1"}).facts()["throttled"] == ["under-voltage"]


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/", "sys/fs/cgroup/cpu.stat"),
        ("0::/a/b", "sys/fs/cgroup/a/cpu.stat"),
        ("4:cpu,cpuacct:/docker/01\n0::/docker/01", "sys/fs/cgroup/cpu,cpuacct/cpu.stat"),
    ],
)
def test_a_containers_quota(groups: str, file: str, tmp_path: Path, now: Now) -> None:
    def files(periods: int) -> dict[str, str]:
        told = f"usage_usec 5000\nnr_periods 400\nnr_throttled {periods}\nthrottled_usec 9\n"
        return {"proc/self/cgroup": groups, file: told}

    watched = watch(tmp_path, now, files(9), files(40))
    assert watched.facts()["throttled"] == ["CPU quota throttled it 31 times"]
    assert watched.reasons(1) == ("the container's CPU quota throttled it 31 times",)
    assert watch(tmp_path, now, files(40), files(40)).reasons(1) == ()


# the GPU

Smi = Callable[..., None]


@pytest.fixture
def smi(tmp_path: Path, now: Now) -> Smi:
    """An nvidia-smi of a driver of some age: `smi(mask, counters_us)` sets what it answers from now on."""

    def answer(mask: str, *counters_us: int, fields: str = "clocks_event_reasons.active", code: int = 0) -> None:
        asks = "*counters*" if counters_us else f"--query-gpu={fields}"
        told = ", ".join([mask, *map(str, counters_us)])
        script = f'case "$1" in {asks}) echo "{told}"; exit {code};; esac; echo "not a valid field to query."; exit 2'
        path = write_files(tmp_path, {"programs/nvidia-smi": f"#!/bin/sh\n{script}\n"}) / "programs/nvidia-smi"
        path.chmod(0o755)

    return answer


@pytest.mark.parametrize("fields", ["clocks_event_reasons.active", "clocks_throttle_reasons.active"])
@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ("0x0000000000000000", ""),
        ("0x0000000000000001", ""),
        ("0x0000000000000005", ""),  # idle, so no power is missing
        ("0x0000000000000012", ""),  # the user's clocks, and those of another GPU
        ("0x0000000000000004", "software power cap"),
        ("0x0000000000000008", "hardware slowdown"),
        ("0x0000000000000061", "software thermal slowdown, hardware thermal slowdown"),
        ("0x0000000000000080", "hardware power brake"),
        ("[N/A]", ""),
        ("nonsense", ""),
    ],
)
def test_a_gpu_that_is_slowed_at_the_end(mask: str, told: str, fields: str, tmp_path: Path, now: Now, smi: Smi) -> None:
    smi("0x0000000000000001", fields=fields)
    with NoiseWatch(cores=(0,), root=tmp_path / "nothing") as watched:
        now.pass_by(10)
        smi(mask, fields=fields)
    assert watched.reasons(1) == ((f"the GPU throttled ({told})",) if told else ())


def test_a_gpu_that_was_slowed_meanwhile(tmp_path: Path, now: Now, smi: Smi) -> None:
    smi("0x0000000000000001", 5_000_000, 0, 70, 0)
    with NoiseWatch(cores=(0,), root=tmp_path / "nothing") as watched:
        now.pass_by(10)
        smi("0x0000000000000025", 5_090_000, 2_500_000, 70, 100_001)  # 90 ms of 10 s are too few
    told = ["software thermal slowdown for 2500 ms", "hardware power brake for 100 ms"]
    assert watched.facts()["throttled"] == told
    assert watched.reasons(1) == (f"the GPU throttled ({', '.join(told)})",)


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_a_driver_is_asked_what_newer_ones_know_first_and_again_what_it_knew(
    known: int, tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = [f"clocks_event_reasons_counters.{name}" for name in ("sw_power_cap", "sw_thermal_slowdown")]
    reasons += [f"clocks_event_reasons_counters.{name}" for name in ("hw_thermal_slowdown", "hw_power_brake_slowdown")]
    questions = [
        ("clocks_event_reasons.active", *reasons),
        ("clocks_event_reasons.active",),
        ("clocks_throttle_reasons.active",),
    ]
    asked: list[tuple[str, ...]] = []

    def ask(*fields: str) -> tuple[str, ...]:
        asked.append(fields)
        return ("0",) * len(fields) if known < 3 and fields == questions[known] else ()

    monkeypatch.setattr("edgeoe.machine.noise.ask_nvidia_smi", ask)
    with NoiseWatch(cores=(0,), root=tmp_path / "nothing"):
        now.pass_by(10)
    assert asked == [*questions[: known + 1], *([questions[known]] if known < 3 else [])]


def test_the_longest_that_is_still_a_moment_is_19_ticks(tmp_path: Path, now: Now) -> None:
    after = {"proc/stat": stat({"user": 20 / TICKS}, {})}
    watched = watch(tmp_path, now, {"proc/stat": stat({}, {})}, after, seconds=20.001 / TICKS)
    assert watched.facts()["foreign_load"] == pytest.approx(0.5, abs=0.001)


def test_a_gpu_that_does_not_matter_is_not_asked(tmp_path: Path, now: Now, smi: Smi) -> None:
    smi("0x0000000000000040")
    with NoiseWatch(cores=(0,), gpu=False, root=tmp_path / "nothing") as watched:
        now.pass_by(10)
    assert watched.reasons(1) == ()


def test_an_nvidia_smi_that_fails_at_the_end_tells_nothing(tmp_path: Path, now: Now, smi: Smi) -> None:
    smi("0x0000000000000001", 900_000_000, 0, 0, 0)
    with NoiseWatch(cores=(0,), root=tmp_path / "nothing") as watched:
        now.pass_by(10)
        smi("0x0000000000000040", 0, 0, 0, 0, code=9)
    assert watched.reasons(1) == ()


# all together, and for real


def test_all_that_was_wrong_is_told_and_json_can_hold_it(tmp_path: Path, now: Now) -> None:
    group = "sys/fs/cgroup/cpu.stat"
    before = {"proc/stat": stat({}, {}), group: "nr_throttled 0", PI: "0", **thermal(0, 0, 0)}
    after = {"proc/stat": stat({"user": 9}, {}), group: "nr_throttled 2", PI: "10001", **thermal(0, 1, 0)}
    watched = watch(tmp_path, now, before, after)
    assert watched.reasons(0.25) == (
        "other processes used 45 % of the CPU, allowed 25 %",
        "the processor throttled (cpu0 core_throttle_count +1)",
        "the board throttled (under-voltage)",
        "the container's CPU quota throttled it 2 times",
    )
    facts = watched.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["throttled"] == ["cpu0 core_throttle_count +1", "under-voltage", "CPU quota throttled it 2 times"]


def test_an_error_in_the_block_goes_on(tmp_path: Path, now: Now) -> None:
    with pytest.raises(ZeroDivisionError), NoiseWatch(cores=(0,), root=tmp_path):
        _ = 1 // 0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system has no /proc/stat")
def test_on_this_machine_a_busy_process_that_goes_on_is_seen() -> None:
    core = min(os.sched_getaffinity(0))
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(busy.pid, {core})
        with NoiseWatch(cores=(core,), gpu=False) as watched:
            deadline = time.monotonic() + 60
            while used_ticks(busy.pid) < TICKS / 2 and time.monotonic() < deadline:
                time.sleep(0.05)
    finally:
        busy.kill()
        busy.wait()
    assert watched.facts()["foreign_load"] > 0
    assert watched.reasons(0.0)[0].startswith("other processes used ")


def used_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime, see proc(5)
