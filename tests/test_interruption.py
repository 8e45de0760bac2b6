"""Ctrl-C, SIGTERM and a closed terminal, from the first import on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeoe.interruption import handling_signals, shielded, was_interrupted, work_begins

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
LINE = "interrupted: nothing half-written was left.\n"
HOOK = """
import os, signal, sys

class SignalAtImport:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SIGNAL_AT"]:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, SignalAtImport())
"""


def signalled_at_import(
    tmp_path: Path, module: str, number: int, *arguments: str, ignored: bool = False
) -> tuple[int, str]:
    """Exit code and stderr of a command to which that signal comes as it begins to import `module`."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)

    def prepare() -> None:
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)

    ended = subprocess.run(
        [sys.executable, "-m", "edgeoe", *arguments],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SIGNAL_AT": module, "SIGNAL": str(int(number))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=prepare,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["edgeoe.cli.app", "typer", "annotated_types", "edgeoe.run.directory"])
def test_a_signal_during_an_import_is_one_line_and_130(tmp_path: Path, module: str, number: signal.Signals) -> None:
    assert signalled_at_import(tmp_path, module, number, "export", "nowhere") == (130, LINE)


def test_a_signal_while_torch_is_imported_is_one_line_and_130(tmp_path: Path) -> None:
    assert signalled_at_import(tmp_path, "torch._C", signal.SIGINT, "export", "nowhere") == (130, LINE)


def test_a_signal_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    code, err = signalled_at_import(tmp_path, "typer", signal.SIGHUP, "targets", "show", "host-cpu", ignored=True)
    assert (code, err) == (0, "")


@pytest.fixture
def listening() -> Iterator[None]:
    """Signals as a terminal sends them, also where the tests run in the background or under nohup."""
    default = {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, default.get(number, signal.SIG_DFL)) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_work_is_a_keyboard_interrupt(listening: None, number: signal.Signals) -> None:
    with handling_signals(until_exit=False):
        work_begins()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert was_interrupted()


def test_handlers_and_hooks_return(listening: None) -> None:
    before = [signal.getsignal(number) for number in SIGNALS], sys.excepthook, sys.unraisablehook
    with handling_signals(until_exit=False):
        work_begins()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert ([signal.getsignal(number) for number in SIGNALS], sys.excepthook, sys.unraisablehook) == before


def test_a_shielded_block_runs_to_its_end(listening: None) -> None:
    done = []
    with handling_signals(until_exit=False):
        work_begins()
        with pytest.raises(KeyboardInterrupt), shielded():  # noqa: PT012 - the block is what is tested
            with shielded():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
    assert done == ["inner", "outer"]


def test_an_error_of_a_shielded_block_is_not_hidden(listening: None) -> None:
    with handling_signals(until_exit=False):
        work_begins()
        with pytest.raises(OSError, match="full"), shielded():  # noqa: PT012 - as above
            signal.raise_signal(signal.SIGINT)
            raise OSError("full")
        assert was_interrupted()
