"""What a system's files and programs tell, and that what they don't is no error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up import write_files

from edgeoe.machine import system
from edgeoe.machine.system import (
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

pytestmark = pytest.mark.usefixtures("programs")
V2 = "sys/fs/cgroup"


def test_control_groups_are_told_innermost_first(tmp_path: Path) -> None:
    root = write_files(tmp_path, {"proc/self/cgroup": "0::/a/b\n7:cpu:/c\n", f"{V2}/cpu/tasks": ""})
    found = [str(folder.relative_to(root / V2)) for folder in cgroup_folders(root, "cpu")]
    assert found == ["a/b", "a", ".", "unified/a/b", "unified/a", "unified", "cpu/c", "cpu"]


def test_an_nvidia_smi_that_hangs_is_left(
    tmp_path: Path, programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs("nvidia-smi", "exec /bin/sleep 60")
    monkeypatch.setattr("edgeoe.machine.system._COMMAND_SECONDS", 0.1)
    assert ask_nvidia_smi("name") == ()


def test_a_file_of_that_name_that_is_no_program_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "programs/nvidia-smi"
    path.write_bytes(b"\x7fELF nothing")
    path.chmod(0o755)
    assert ask_nvidia_smi("name") == ()


@pytest.mark.parametrize(
    ("visible", "asked"),
    [("1,0", "--id=1"), ("GPU-8a6f", "--id=GPU-8a6f"), ("MIG-12/3/0", ""), ("", None), ("-1", None), (None, "--id=0")],
)
def test_the_gpu_is_the_one_that_cuda_sees_first(
    visible: str | None,
    asked: str | None,
    tmp_path: Path,
    programs: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs("nvidia-smi", 'echo "asked $3"')
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ask_nvidia_smi("name") == (() if asked is None else (f"asked {asked}".strip(),))


def test_one_gpu_answers_field_by_field_and_what_it_lacks_is_empty(programs: Callable[..., None]) -> None:
    programs("nvidia-smi", 'printf " Tesla T4 , N/A, [Not Supported],570.1\\nNVIDIA L4, 1, 2, 3\\n"')
    assert ask_nvidia_smi("name", "power.limit", "persistence_mode", "driver_version") == ("Tesla T4", "", "", "570.1")
    assert ask_nvidia_smi("name", "power.limit") == (), "an answer for each field, or none"


def test_cores_are_those_of_the_affinity_else_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1}, raising=False)
    assert usable_cores() == (1, 3)
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, cores in ((4, (0, 1, 2, 3)), (None, (0,))):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_cores() == cores


def test_the_load_is_that_of_proc_else_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.2345, 2.0, 3.0), raising=False)
    assert load_1min(root=write_files(tmp_path, {"proc/loadavg": "0.42 0.40 0.30 2/900 4242"})) == 0.42
    assert load_1min(root=tmp_path / "nothing") is None, "a root without it is no system of ours"
    monkeypatch.setattr(system, "ROOT", tmp_path / "nothing")
    assert load_1min(root=tmp_path / "nothing") == 1.23
    monkeypatch.delattr(os, "getloadavg")
    assert load_1min(root=tmp_path / "nothing") is None


def test_a_file_is_read_without_blanks_and_zero_bytes_at_its_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0 \t\r\n one\0two \xff\n\0")
    assert read_text(tmp_path / "a") == "one\0two \ufffd"
    for unreadable in (tmp_path, tmp_path / "nothing", tmp_path / "a\0b"):
        assert read_text(unreadable) == ""


@pytest.mark.parametrize(("text", "number"), [("42\n", 42), ("-1", -1), ("", None), ("4 2", None), ("0x4", None)])
def test_a_number_is_all_that_a_file_holds(text: str, number: int | None, tmp_path: Path) -> None:
    assert read_int(write_files(tmp_path, {"a": text}) / "a") == number
    assert parse_int(text) == number


def test_what_is_in_a_folder_that_can_not_be_looked_into_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_there(tmp_path) is True
    assert is_there(tmp_path / "nothing") is False

    def refuse(self: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "exists", refuse)
    assert is_there(tmp_path) is False


@pytest.mark.parametrize(
    ("groups", "folders"),
    [
        ("3:memory:/a", []),
        ("3:memory,cpuset:/a", []),
        ("3:cpu,cpuacct:/a", ["cpu,cpuacct/a", "cpu,cpuacct"]),
        ("3:cpuacct,cpu:/a", ["cpu/a", "cpu"]),
        ("0::/../x", [".", "unified"]),
        ("0:cpu:/a", ["cpu/a", "cpu"]),
        ("1::/a", []),
        ("nonsense", []),
        ("", [".", "unified", "cpu"]),
    ],
)
def test_control_groups_are_those_of_the_controller(groups: str, folders: list[str], tmp_path: Path) -> None:
    root = write_files(tmp_path, {"proc/self/cgroup": groups, f"{V2}/cpu/x": "", f"{V2}/cpu,cpuacct/x": ""})
    assert [str(folder.relative_to(root / V2)) for folder in cgroup_folders(root, "cpu")] == folders


def test_a_program_tells_what_it_prints_if_it_succeeds(programs: Callable[..., None]) -> None:
    programs("says", 'read line; echo " $1 $2$line "; echo problem >&2; exit "$3"')
    assert run_program("says", "one", "two", "0") == "one two"
    assert run_program("says", "one", "two", "1") == ""
    assert run_program("nothing") == ""
