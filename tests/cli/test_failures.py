"""What a command says, leaves and exits with, whatever is raised in it."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tomli_w

from edgeoe import files
from edgeoe.errors import RunError
from edgeoe.settings import CompressSettings

Edgeoe = Callable[..., tuple[int, str, str]]
QUICK = ("--method", "none", "--keep-macs", "1", "--no-oe")  # a compression without a training step


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: CompressSettings) -> Path:
    """The working folder, with the options of a quick compression; reports of bugs go to a folder beside it."""
    folder, reports = tmp_path / "here", tmp_path / "reports"
    folder.mkdir()
    reports.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(reports))
    Path("edgeoe.toml").write_text(tomli_w.dumps(settings.to_toml()), encoding="utf-8")
    return folder


@pytest.fixture
def compress_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """`compress_raises(reason)`: what `edgeoe compress` then ends with."""

    def set_reason(reason: BaseException) -> None:
        def compress(*_: object, **__: object) -> NoReturn:
            raise reason

        monkeypatch.setattr("edgeoe.pipeline.compress", compress)

    return set_reason


def system_error(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (system_error(errno.ENOSPC, "a/x"), "a/x: no space left on device. Free some space there (df -h"),
        (system_error(errno.EACCES, "a"), "a: permission denied. Change its permissions, or use another place."),
        (system_error(errno.EROFS, "a"), "a: read-only file system. Write elsewhere."),
        (system_error(errno.ENAMETOOLONG, "a"), "a: file name too long. Choose a shorter name."),
        (system_error(errno.EMFILE, "a"), "a: too many open files. Raise the limit (ulimit -n)."),
        (system_error(errno.ENOENT, "a"), "a: no such file or directory."),
        (system_error(errno.EIO), "the system says: input/output error. Look at the disk, or use another."),
        (ImportError("libx.so.1: no such file"), "a package can't be imported: libx.so.1: no such file. Reinstall it"),
        (MemoryError(), "out of memory: MemoryError. Use less with a smaller --batch, [oe] ood_batch or"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes."),
            "out of memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes. Use less",
        ),
        (system_error(errno.ENOMEM), "out of memory: [Errno 12] Cannot allocate memory. Use less with"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    edgeoe: Edgeoe, compress_raises: Callable[[BaseException], None], reason: Exception, line: str
) -> None:
    compress_raises(reason)
    code, out, err = edgeoe("compress", "--out", "a")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_a_name_of_300_characters_is_shortened_in_the_middle(edgeoe: Edgeoe) -> None:
    code, _, err = edgeoe("compress", "--out", f"runs/{'x' * 300}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"runs/{'x' * 50}...{'x' * 50}: file name too long. Choose a shorter name.\n" in err
    assert "x" * 51 not in err


@pytest.mark.parametrize("command", ["report", "collect", "samples"])
def test_out_of_memory_advises_what_the_command_can_make_smaller(
    edgeoe: Edgeoe, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def run_out(*_: object, **__: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr("edgeoe.run.directory.Run.open", run_out)
    monkeypatch.setattr("edgeoe.data.samples.find_samples", run_out)
    code, _, err = edgeoe(command, "a", *(["b"] if command == "collect" else []))
    advice = "Use less with smaller images" if command == "samples" else "Close other programs."
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: out of memory: MemoryError. {advice}")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["targets list", "targets list -q", "--version"])
def test_an_output_that_can_not_be_written_is_one_line(words: str, unbuffered: str) -> None:
    """Python printed a traceback of its own at exit, and ended with code 120."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "edgeoe", *words.split()],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: standard output: no space left on device. Free some space there (df")
    assert ended.stderr.count("\n") == 1


def test_a_log_file_on_a_full_disk_does_not_stop_the_command(edgeoe: Edgeoe) -> None:
    code, _, err = edgeoe("targets", "list", "--log-file", "/dev/full")
    assert code == 0
    assert err.count("can't be written") == 1
    assert "Traceback" not in err
    assert "Logging error" not in err


def test_a_full_disk_without_a_name_is_that_of_temporary_files_perhaps(
    edgeoe: Edgeoe, compress_raises: Callable[[BaseException], None], tmp_path: Path
) -> None:
    compress_raises(system_error(errno.ENOSPC))
    code, _, err = edgeoe("compress", "--out", "a")
    assert code == 2
    assert f"temporary files lie in {tmp_path / 'reports'}" in err


@pytest.mark.parametrize(
    "reason",
    [TypeError("bad\nnews"), KeyError("x"), ImportError("no name 'x' in 'edgeoe.y'"), ZeroDivisionError("by 0")],
)
def test_a_bug_is_code_70_one_line_and_a_report(
    edgeoe: Edgeoe, compress_raises: Callable[[BaseException], None], tmp_path: Path, reason: Exception
) -> None:
    compress_raises(reason)
    code, out, err = edgeoe("compress", "--out", "my run")
    (report,) = (tmp_path / "reports").iterdir()
    text = report.read_text(encoding="utf-8")
    assert (code, out, err.count("\n")) == (70, "", 1)
    assert err.startswith(f"bug in edgeoe: {type(reason).__name__}: ")
    assert str(report) in err
    assert "edgeoe doctor" in err
    assert "edgeoe compress --out 'my run'" in text
    assert "Traceback (most recent call last):" in text
    assert "torch" in text.splitlines()[0]


def test_a_bug_shows_its_traceback_with_v(edgeoe: Edgeoe, compress_raises: Callable[[BaseException], None]) -> None:
    compress_raises(TypeError("bad"))
    code, _, err = edgeoe("compress", "--out", "a", "-v")
    assert code == 70
    assert "Traceback (most recent call last):" in err
    assert "bug in edgeoe: TypeError: bad." in err.splitlines()[-1]


def test_a_bug_is_in_the_log_file_where_there_is_one(
    edgeoe: Edgeoe, compress_raises: Callable[[BaseException], None], tmp_path: Path
) -> None:
    compress_raises(TypeError("bad"))
    code, _, err = edgeoe("compress", "--out", "a", "--log-file", "log.txt")
    assert code == 70
    assert "Its traceback is in " in err
    assert "log.txt" in err
    assert list((tmp_path / "reports").iterdir()) == []
    assert "TypeError: bad" in Path("log.txt").read_text(encoding="utf-8")


def test_a_bug_whose_report_can_not_be_written_shows_its_traceback(
    edgeoe: Edgeoe, compress_raises: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    compress_raises(TypeError("bad"))
    code, _, err = edgeoe("compress", "--out", "a")
    assert code == 70
    assert "Traceback (most recent call last):" in err
    assert "Its traceback is above" in err


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Path]]:
    """`full_disk(number)`: that write of a run, counted from 0, stops half-way; the list is of those before it."""
    whole = files.write_atomic

    def fill(number: int) -> list[Path]:
        written: list[Path] = []

        def write_atomic(path: Path, write: Callable[[Path], object], **options: bool) -> None:
            def half(temporary: Path) -> None:
                write(temporary)
                if len(written) == number:
                    temporary.write_bytes(temporary.read_bytes()[:10])
                    raise system_error(errno.ENOSPC)

            whole(path, half, **options)
            written.append(path)

        monkeypatch.setattr("edgeoe.run.directory.write_atomic", write_atomic)
        return written

    return fill


def test_a_disk_that_is_full_at_any_write_leaves_nothing(
    edgeoe: Edgeoe, place: Path, full_disk: Callable[[int], list[Path]]
) -> None:
    before = sorted(place.rglob("*"))
    for number in itertools.count():
        full_disk(number)
        code, _, err = edgeoe("compress", "--out", "runs/a", *QUICK)
        if code == 0:
            break
        assert code == 2
        assert "runs/" in err.splitlines()[-1]
        assert "no space left on device. Free some space" in err.splitlines()[-1]
        assert sorted(place.rglob("*")) == before
    assert number > 8, "each file and the manifest after it"


@pytest.mark.parametrize("number", [1, 4])
def test_an_export_that_the_disk_stopped_can_be_made_again(
    edgeoe: Edgeoe, exported: Path, full_disk: Callable[[int], list[Path]], number: int
) -> None:
    full_disk(number)
    assert edgeoe("export", exported, "--exporter", "legacy")[0] == 2
    assert [path for path in exported.rglob("*") if ".partial" in path.name] == []
    full_disk(-1)
    assert edgeoe("export", exported, "--exporter", "legacy")[0] == 0


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeoe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def test_a_file_that_the_system_does_not_let_grow_leaves_nothing(place: Path) -> None:
    """As a full disk, but real: also what safetensors itself writes stops."""
    before = sorted(place.rglob("*"))
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ended = run(
        "compress",
        "--out",
        "runs/a",
        *QUICK,
        env=unmeasured,  # its data would not fit either
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert ended.returncode == 2, ended.stderr
    assert "file too large. Write to another file system, or raise the limit (ulimit -f)." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(place.rglob("*")) == before


def test_memory_that_runs_out_in_a_search_for_groups_makes_no_other_student(
    edgeoe: Edgeoe, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for a group whose channels can't go."""

    def without_channels(*_: object) -> NoReturn:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes.")

    monkeypatch.setattr("edgeoe.pruning.trial.without_channels", without_channels)
    code, _, err = edgeoe("compress", "--out", "a")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: out of memory: DefaultCPUAllocator: not enough memory")
    assert not (place / "a").exists()


def test_a_reader_that_leaves_is_no_error() -> None:
    """As `edgeoe targets list | head -1`."""
    for arguments in (["targets", "list"], ["--help"], ["targets", "show", "host-cpu"]):
        reading, writing = os.pipe()
        os.close(reading)
        ended = subprocess.run(
            [sys.executable, "-m", "edgeoe", *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writing)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_a_name_that_is_no_text_is_printed_all_the_same(edgeoe: Edgeoe) -> None:
    code, _, err = edgeoe("export", os.fsdecode(b"caf\xe9"))
    assert code == 2
    assert "no finished run here" in err


def test_no_handler_of_the_log_stays(edgeoe: Edgeoe, compress_raises: Callable[[BaseException], None]) -> None:
    before = [*logging.getLogger().handlers]
    compress_raises(RunError("x"))
    edgeoe("compress", "--out", "a", "-v", "--log-file", "log.txt")
    assert logging.getLogger().handlers == before
