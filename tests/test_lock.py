"""Locks between processes: who waits, who is refused, and what a dead owner leaves."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeoe import lock
from edgeoe.lock import BusyError, is_abandoned, locked

HOLD = """
import sys
from pathlib import Path
from edgeoe.lock import locked

with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.readline()
"""
Hold = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """`hold(shared=...)`: another process that holds tmp_path/lock until its stdin is closed, or it is killed."""
    holders = []

    def start(*, shared: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "lock"), "shared" if shared else "alone"]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holders.append(holder)
        return holder

    yield start
    for holder in holders:
        holder.kill()
        with holder:
            pass


@pytest.mark.parametrize(
    ("theirs", "ours", "refused"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, True)],
)
def test_readers_share_a_lock_and_writers_do_not(
    tmp_path: Path, hold: Hold, theirs: bool, ours: bool, refused: bool
) -> None:
    hold(shared=theirs)
    if not refused:
        with locked(tmp_path / "lock", shared=ours):
            return
    with pytest.raises(BusyError), locked(tmp_path / "lock", shared=ours):
        pytest.fail("the block must not be entered")


def test_who_is_refused_reads_who_holds_the_lock(tmp_path: Path, hold: Hold) -> None:
    holder = hold()
    with pytest.raises(BusyError, match=rf"^process {holder.pid} \(.*\), since 20\d\d-"), locked(tmp_path / "lock"):
        pytest.fail("the block must not be entered")


def test_a_killed_owner_holds_nothing(tmp_path: Path, hold: Hold) -> None:
    holder = hold()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()
    with locked(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_process_gets_the_lock_when_it_is_free(tmp_path: Path, hold: Hold) -> None:
    holder = hold()
    assert holder.stdin is not None
    timer = threading.Timer(0.3, holder.stdin.close)
    timer.start()
    with locked(tmp_path / "lock", timeout_s=60):
        assert holder.wait(timeout=60) == 0
    timer.join()


def test_a_thread_may_take_its_lock_again_and_another_may_not(tmp_path: Path) -> None:
    refused = []

    def take() -> None:
        try:
            with locked(tmp_path / "lock"):
                refused.append(False)
        except BusyError:
            refused.append(True)

    with locked(tmp_path / "lock"), locked(tmp_path / "lock"), locked(tmp_path / "lock", shared=True):
        other = threading.Thread(target=take)
        other.start()
        other.join()
    take()
    assert refused == [True, False]


def test_a_shared_lock_does_not_become_exclusive(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", shared=True), pytest.raises(RuntimeError), locked(tmp_path / "lock"):
        pytest.fail("the block must not be entered")


def test_nothing_stays_after_a_lock(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), locked(tmp_path / "lock"):
        raise ValueError("x")
    with locked(tmp_path / "lock", shared=True):
        assert list(tmp_path.iterdir()) == [tmp_path / "lock"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"pid": -1}', '{"pid": 1, "host": 2}', "\x1b[31m"])
def test_a_file_that_names_no_holder_is_of_another_process(tmp_path: Path, hold: Hold, content: str) -> None:
    hold()
    (tmp_path / "lock").write_text(content, encoding="utf-8")
    with pytest.raises(BusyError, match=r"^another process$"), locked(tmp_path / "lock"):
        pytest.fail("the block must not be entered")


def test_the_name_of_a_holder_does_not_act_on_a_terminal(tmp_path: Path, hold: Hold) -> None:
    holder = hold()
    named = json.loads((tmp_path / "lock").read_text(encoding="utf-8"))
    (tmp_path / "lock").write_text(json.dumps({**named, "command": "\x1b[31m red"}), encoding="utf-8")
    with pytest.raises(BusyError, match=rf"^process {holder.pid} \(\?\[31m red\)"), locked(tmp_path / "lock"):
        pytest.fail("the block must not be entered")


def test_a_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Without:
        LOCK_EX = LOCK_SH = LOCK_NB = 0

        @staticmethod
        def flock(*_: object) -> None:
            raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(lock, "_fcntl", Without)
    monkeypatch.setattr(lock, "_warned", [])
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock"), locked(tmp_path / "other"):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: its file system has no locks. Run one edgeoe command at a time there."
    ]


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("the user's own")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock"):
        pytest.fail("the block must not be entered")
    assert (tmp_path / "precious").read_text() == "the user's own"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_reader_needs_no_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with locked(tmp_path / "lock", shared=True):
        pass
    with pytest.raises(PermissionError, match=tmp_path.name), locked(tmp_path / "lock"):
        pytest.fail("the block must not be entered")
    tmp_path.chmod(0o700)


def test_only_the_file_of_a_dead_owner_is_abandoned(tmp_path: Path, hold: Hold) -> None:
    holder = hold()
    assert not is_abandoned(tmp_path / "lock")
    holder.kill()
    holder.wait()
    assert is_abandoned(tmp_path / "lock")
    assert not is_abandoned(tmp_path / "missing")
