"""What a system's files and programs tell, and that what they don't is no error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up import write_files

from edgeoe.machine.system import ask_nvidia_smi, cgroup_folders

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
