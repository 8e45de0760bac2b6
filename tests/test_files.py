"""Atomic writes beside other processes, and what killed ones left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeoe import files
from edgeoe.files import hidden_name, sweep, sync_folder, write_atomic

WRITE = """
import sys
from pathlib import Path
from edgeoe.files import write_atomic

def write(path):
    path.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()

write_atomic(Path(sys.argv[1]), write)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_was_writing_goes_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_swept", set())
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, tmp_path / "a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        sweep(tmp_path)
        assert len(names(tmp_path)) == 1, "it is alive"
        writer.kill()
    assert len(names(tmp_path)) == 1
    write_atomic(tmp_path / "b", lambda path: path.write_text("b"))
    assert names(tmp_path) == ["b"]


def test_only_temporary_files_are_swept(tmp_path: Path) -> None:
    kept = ("table.json.partial", ".a.partial", ".a.0123456789AB.partial", "a.0123456789ab.partial", "target")
    for name in (*kept, ".a.0123456789ab.partial", "deep/.b.0123456789ab.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".c.0123456789ab.partial").symlink_to(tmp_path / "target")
    sweep(tmp_path)
    assert (tmp_path / "deep/.b.0123456789ab.partial").exists()
    sweep(tmp_path, everything=True)
    assert names(tmp_path) == sorted([*kept, ".c.0123456789ab.partial", "deep"])
    assert names(tmp_path / "deep") == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_is_up_to_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    def replace(path: Path) -> None:
        """As safetensors does."""
        other = path.with_name("other")
        other.touch(mode=0o600)
        other.replace(path)

    earlier = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", replace)
        write_atomic(tmp_path / "b", lambda path: path.write_text("b"))
    finally:
        os.umask(earlier)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [mode, mode]


def test_the_name_of_a_temporary_file_can_not_be_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(["0" * 12, "1" * 12])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(tokens))
    (tmp_path / "precious").write_text("the user's own")
    (tmp_path / f".a.{'0' * 12}.partial").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "a", lambda path: path.write_text("new"))
    assert (tmp_path / "precious").read_text() == "the user's own"
    assert (tmp_path / "a").read_text() == "new"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        flushed.append((name, (tmp_path / "a").exists()))

    monkeypatch.setattr("os.fsync", fsync)
    write_atomic(tmp_path / "a", lambda path: path.write_text("a"))
    write_atomic(tmp_path / "b", lambda path: path.write_text("b"), durable=False)
    (file, before), folder = flushed
    assert file.startswith(".a.")
    assert not before
    assert folder == (tmp_path.name, True)


def test_a_whole_folder_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr("os.fsync", lambda one: flushed.append(Path(f"/proc/self/fd/{one}").readlink().name))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a").write_text("a")
    sync_folder(tmp_path, everything=True)
    assert sorted(flushed) == sorted(["a", "deep", tmp_path.name])


@pytest.mark.parametrize("name", ["a", "x" * 255, "ü" * 127])
def test_a_hidden_name_is_one_that_a_file_system_takes(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, lambda path: path.write_text("x"))
    assert names(tmp_path) == [name]
    (tmp_path / hidden_name(name, "0123456789ab.partial")).write_text("x")
    sweep(tmp_path)
    assert names(tmp_path) == [name]


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="name too long") as raised:
        write_atomic(tmp_path / ("x" * 300), lambda path: path.write_text("x"))
    assert raised.value.filename == str(tmp_path / ("x" * 300))
    assert names(tmp_path) == []
