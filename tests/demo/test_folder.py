"""The folder of a demo is whole, or as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import everything

from edgeoe.demo.folder import new_demo
from edgeoe.errors import RunError

KILLED = """
import os, signal, sys
from pathlib import Path
from edgeoe.demo.folder import new_demo

with new_demo(Path(sys.argv[1]), overwrite=True):
    (Path(sys.argv[1]) / "images").mkdir(parents=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.readline()
"""


def write_demo(out: Path, text: str, *, overwrite: bool = False) -> None:
    with new_demo(out, overwrite=overwrite):
        (out / "images").mkdir(parents=True)
        (out / "images/few-0.txt").write_text(text)


def test_a_demo_is_replaced_when_the_new_one_is_finished(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_demo(tmp_path / "demo", text, overwrite=True)
        assert everything(tmp_path) == ["demo", "demo/images", "demo/images/few-0.txt"]
        assert (tmp_path / "demo/images/few-0.txt").read_text() == text


@pytest.mark.parametrize("reason", [OSError, KeyboardInterrupt])
def test_an_earlier_demo_comes_back_after_a_failure(tmp_path: Path, reason: type[BaseException]) -> None:
    write_demo(tmp_path / "demo", "one")

    def fail() -> None:
        with new_demo(tmp_path / "demo", overwrite=True):
            (tmp_path / "demo").mkdir()
            raise reason

    with pytest.raises(reason):
        fail()
    assert (tmp_path / "demo/images/few-0.txt").read_text() == "one"
    assert everything(tmp_path) == ["demo", "demo/images", "demo/images/few-0.txt"]


def test_an_earlier_demo_comes_back_after_a_kill(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", "one")
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "demo", "kill"], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(RunError, match="already holds a demo"):
        write_demo(tmp_path / "demo", "two")
    assert (tmp_path / "demo/images/few-0.txt").read_text() == "one"
    assert everything(tmp_path) == ["demo", "demo/images", "demo/images/few-0.txt"]


def test_a_first_demo_that_was_killed_goes_with_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "demo", "kill"], check=False, timeout=300)
    write_demo(tmp_path / "demo", "two")
    assert everything(tmp_path) == ["demo", "demo/images", "demo/images/few-0.txt"]


def test_two_commands_do_not_make_one_demo(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "demo", "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        with pytest.raises(RunError, match=rf"demo: being made by process {other.pid} "):
            write_demo(tmp_path / "demo", "two")
        other.kill()
    write_demo(tmp_path / "other", "two")
    assert everything(tmp_path / "other") == ["images", "images/few-0.txt"]
