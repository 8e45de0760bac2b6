"""Compiled code that prints does not disturb what the process writes to its standard output."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from scipy.optimize import milp

from edgeoe.pruning import programme
from edgeoe.pruning.native_output import native_output_dropped
from edgeoe.pruning.programme import Choice, Option, Programme, Resource

PRELUDE = """
import ctypes, os, sys, threading
from edgeoe.pruning.native_output import native_output_dropped
C = ctypes.CDLL(None)
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the C library is called as POSIX has it")


def printed(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=True, timeout=120
    )
    return ran.stdout


def test_what_compiled_code_prints_is_dropped_and_the_rest_comes_out_in_order() -> None:
    """To a pipe both Python and C keep lines in buffers, which come out at their end unless they are flushed."""
    assert printed("""
print("before")
C.printf(b"C before\\n")
with native_output_dropped():
    C.printf(b"buffered\\n")
    os.write(1, b"at once\\n")
    print("Python", flush=True)
C.printf(b"C after\\n")
C.fflush(None)
print("after")
""").splitlines() == ["before", "C before", "C after", "after"]


def test_an_error_restores_the_standard_output_and_no_descriptor_leaks() -> None:
    assert (
        printed("""
before = len(os.listdir("/dev/fd"))
for _ in range(5):
    try:
        with native_output_dropped():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print("caught", flush=True)
assert len(os.listdir("/dev/fd")) == before
""").splitlines()
        == ["caught"] * 5
    )


def test_threads_share_the_block_and_the_last_one_restores() -> None:
    assert printed("""
entered, leave = threading.Event(), threading.Event()
def other():
    with native_output_dropped():
        entered.set()
        leave.wait()
        os.write(1, b"in the other\\n")
thread = threading.Thread(target=other)
with native_output_dropped():
    thread.start()
    entered.wait()
os.write(1, b"still dropped\\n")
leave.set()
thread.join()
print("after")
""").splitlines() == ["after"]


def test_a_process_without_standard_output_works_all_the_same() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PRELUDE + "\nos.close(1)\nwith native_output_dropped(): pass\nsys.stderr.write('ok')"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.stderr.startswith("ok")


def test_the_solver_is_called_in_such_a_block(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def talkative(*arguments: object, **options: object) -> object:
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n")
        return milp(*arguments, **options)

    monkeypatch.setattr(programme, "milp", talkative)
    choice = Choice("a", (Option(0.0, {}), Option(1.0, {"a": 0.5})))
    assert Programme((choice,), (Resource({"a": (0.0, 2.0)}, {"a": 1.0}),)).least_loss([1.0]) == {"a": 1}
    sys.stdout.write("then\n")
    assert capfd.readouterr().out == "then\n"


def test_many_threads_leave_the_standard_output_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for _ in range(20):
            with native_output_dropped():
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write("after\n")
    assert capfd.readouterr().out == "after\n"
