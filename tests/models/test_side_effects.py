"""What a user's code prints and changes does not spoil reports and later work."""

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgeoe.models import side_effects
from edgeoe.models.side_effects import contained


@pytest.fixture(autouse=True)
def _nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_effects, "_logged", set())


def test_what_it_prints_is_logged_once_and_stays_out_of_stdout(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with contained("net.py"):
            print("building", "10 %\r20 %", sep="\n")  # noqa: T201
            subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
            os.write(1, b"of C\n")
    assert [record.getMessage() for record in caplog.records] == [
        "net.py prints: building",
        "net.py prints: 10 %",
        "net.py prints: 20 %",
    ]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("of a child") == printed.err.count("of C") == 2


def test_of_many_lines_some_are_logged_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    with contained("net.py"):
        print(*range(100), sep="\n")  # noqa: T201
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage() == "net.py prints 80 lines more."


def test_what_is_printed_before_an_exception_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with contained("net.py"):
            print("first")  # noqa: T201
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert caplog.messages == ["net.py prints: first"]


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "default type": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "precision": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "determinism": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "working folder": (lambda: os.chdir("/"), Path.cwd),
    "search path": (lambda: sys.path.insert(0, "/nowhere"), lambda: [*sys.path]),
    "filters": (lambda: warnings.simplefilter("ignore"), lambda: [*warnings.filters]),
    "handlers": (
        lambda: logging.getLogger().addHandler(logging.NullHandler()),
        lambda: [*logging.getLogger().handlers],
    ),
    "level": (lambda: logging.getLogger().setLevel(5), lambda: logging.getLogger().level),
    "logging": (lambda: logging.disable(logging.ERROR), lambda: logging.root.manager.disable),
    "stdout": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_it_changes_is_changed_back(change: str) -> None:
    alter, read = CHANGES[change]
    before = read()
    with contained("net.py"):
        alter()
        assert read() != before
    assert read() == before


def test_random_seeds_stay_as_it_leaves_them() -> None:
    with contained("net.py"):
        torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert drawn.equal(torch.rand(3))


def test_it_works_where_the_working_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with contained("net.py"):
        pass
