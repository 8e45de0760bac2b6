"""A fresh process loads an artifact, answers, and is gone; what goes wrong in it is one line here."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile import hostile_folder, imported
from made_up import QUICK

from edgeoe.codec import to_json
from edgeoe.errors import BackendError
from edgeoe.measure.process import Process
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import RuntimeSettings, Target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_it_answers_until_it_is_left(exported: Path, target: Target) -> None:
    with Process(exported / "student.onnx", target) as process:
        pid = process._child.pid
        assert process.loaded()["load_ms"] > 0
        assert process.loaded()["first_ms"] > 0
        assert process.ask("warm_up", least_seconds=0, most_seconds=0) == {"seconds": 0.0, "steady": True}
        assert len(process.ask("time", seconds=0, calls=7)["calls_ns"]) == 7
        assert len(process.ask("burst", calls=5)["calls_ns"]) == 5
        assert process.ask("throughput", batch=3, seconds=0.0)["images_per_second"] > 0
        assert 10 < process.ask("peak_memory")["peak_memory_mb"] < 2000
        assert alive(pid)
    assert not alive(pid)


def test_two_may_be_loaded_at_once(exported: Path, target: Target) -> None:
    with Process(exported / "student.onnx", target) as one, Process(exported / "student.onnx", target) as two:
        assert one._child.pid != two._child.pid
        assert one.loaded()
        assert two.loaded()


def test_what_the_backend_refuses_is_told_as_the_backend_tells_it(tmp_path: Path, target: Target) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with (
        Process(tmp_path / "a.onnx", target) as process,
        pytest.raises(BackendError, match=r"a\.onnx: .*can't load it"),
    ):
        process.loaded()


def test_a_process_that_is_killed_is_told(exported: Path, target: Target) -> None:
    with Process(exported / "student.onnx", target) as process:
        process.loaded()
        os.kill(process._child.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"student\.onnx: the process that measures it died: killed by signal 9"):
            process.ask("time", seconds=0, calls=5)


def test_a_process_that_fails_tells_its_last_words(exported: Path, target: Target) -> None:
    with Process(exported / "student.onnx", target) as process, pytest.raises(BackendError, match="no_such_command"):
        process.ask("no_such_command")


@pytest.fixture
def child(target: Target, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Process]:
    """`child(program)`: a process that runs these lines of Python instead of the worker."""

    def start(program: str) -> Process:
        monkeypatch.setattr("edgeoe.measure.process._START", f"import json, os, signal, sys, time\n{program}")
        return Process(Path("a.onnx"), replace(target, runtime=RuntimeSettings(threads=3)))

    return start


def test_the_job_is_the_artifact_and_the_target(child: Callable[[str], Process]) -> None:
    with child("print(json.dumps({'job': json.loads(input()), 'threads': os.environ['OMP_NUM_THREADS']}))") as process:
        answer: Any = process.loaded()
        assert answer == {"job": {"artifact": "a.onnx", "target": to_json(process._target)}, "threads": "3"}
        assert process.loaded() is answer, "it is read once"


def test_a_command_is_sent_once_it_has_loaded(child: Callable[[str], Process]) -> None:
    with child(
        "input(); print(json.dumps({'load_ms': 1})); print(json.dumps({'was': json.loads(input())}))"
    ) as process:
        assert process.ask("burst", calls=3) == {"was": {"do": "burst", "calls": 3}}


def test_an_answer_that_is_an_error_is_raised_as_it_is(child: Callable[[str], Process]) -> None:
    with (
        child("print(json.dumps({'error': 'no such core.'}))") as process,
        pytest.raises(BackendError, match=r"^no such core\.$"),
    ):
        process.loaded()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "killed by signal 15"),
        ("print('one\\n two \\n\\n', file=sys.stderr); sys.exit(1)", "two"),
        ("print('said', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGTERM)", "said"),
    ],
)
def test_its_last_words_are_what_it_printed_last_or_how_it_ended(
    program: str, words: str, child: Callable[[str], Process]
) -> None:
    with child(program) as process, pytest.raises(BackendError) as raised:
        process.loaded()
    assert str(raised.value) == f"a.onnx: the process that measures it died: {words}"


def test_one_that_does_not_end_by_itself_is_killed(
    child: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, waited = subprocess.Popen.wait, []

    def impatient(self: Any, timeout: float | None = None) -> int:
        waited.append(timeout)
        return wait(self, timeout and 0.05)

    monkeypatch.setattr(subprocess.Popen, "wait", impatient)
    with child("time.sleep(60)") as process:
        pass
    assert waited == [5, None]
    assert process._child.returncode == -signal.SIGKILL
    assert process._errors.closed


def test_it_ends_where_the_block_fails(exported: Path, target: Target) -> None:
    process = Process(exported / "student.onnx", target)
    with pytest.raises(ZeroDivisionError), process:
        raise ZeroDivisionError
    assert not alive(process._child.pid)


def test_it_is_kept_on_the_cores_that_the_profile_names(exported: Path, target: Target) -> None:
    core = min(os.sched_getaffinity(0))
    pinned = replace(target, runtime=RuntimeSettings(affinity=(core,)))
    with Process(exported / "student.onnx", pinned) as process:
        process.loaded()
        assert os.sched_getaffinity(process._child.pid) == {core}


def test_a_core_that_is_not_here_is_refused_in_one_line(exported: Path, target: Target) -> None:
    elsewhere = replace(target, runtime=RuntimeSettings(affinity=(4000,)))
    with Process(exported / "student.onnx", elsewhere) as process, pytest.raises(BackendError, match="affinity"):
        process.loaded()


def test_what_libraries_print_does_not_get_between(
    exported: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nprint('a greeting', file=sys.stderr)\n")
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(
        "import os, sys\n"
        "os.write(1, b'printed by a library\\n')\n"
        "sys.path.remove(os.path.dirname(os.path.dirname(__file__)))\n"
        "del sys.modules['onnxruntime']\n"
        "import onnxruntime\n"
        "sys.modules[__name__] = onnxruntime\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with Process(exported / "student.onnx", target) as process:
        assert process.loaded()["load_ms"] > 0


@pytest.mark.parametrize("pythonpath", [None, "", ".", "{folder}"])
def test_nothing_is_imported_from_the_working_folder(
    exported: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pythonpath: str | None
) -> None:
    folder = hostile_folder(tmp_path / "hostile")
    monkeypatch.chdir(folder)
    if pythonpath is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", pythonpath.format(folder=folder))
    with Process(exported / "student.onnx", target) as process:
        assert process.loaded()["load_ms"] > 0
    assert imported(folder) == ""
