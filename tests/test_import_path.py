"""What lies in the working folder is not imported, however PYTHONPATH names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import MODULES, hostile_folder, imported

import edgeoe
from edgeoe.import_path import child_environment, import_path

ROOT = Path(edgeoe.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


def test_the_working_folder_goes_and_the_rest_stays_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/one", str(folder), ".", str(ROOT), str(folder / ".venv"), "/two"])
    assert import_path() == ["/one", str(ROOT), str(folder / ".venv"), "/two"]


def test_a_link_to_the_working_folder_is_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deep").mkdir()
    (folder / "link").symlink_to(folder / "deep")
    monkeypatch.chdir(folder / "deep")
    monkeypatch.setattr(sys, "path", [str(folder / "link"), "/one"])
    assert import_path() == ["/one", str(ROOT)]


def test_what_pythonpath_names_relative_to_it_goes_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["libs", "/elsewhere", "", "."]))
    monkeypatch.setattr(sys, "path", [str(folder / "libs"), "/elsewhere", str(folder)])
    assert import_path() == ["/elsewhere", str(ROOT)]
    assert child_environment()["PYTHONPATH"] == "/elsewhere"


def test_edgeoes_own_folder_stays_where_it_is_worked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), "/one"])
    assert import_path() == [str(ROOT), "/one"]


@pytest.mark.parametrize("given", ["", ".", os.pathsep])
def test_a_pythonpath_of_nothing_else_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("PYTHONPATH", given)
    made = child_environment(OMP_NUM_THREADS="3")
    assert "PYTHONPATH" not in made
    assert (made["OMP_NUM_THREADS"], made["PATH"]) == ("3", os.environ["PATH"])


def test_python_m_edgeoe_imports_nothing_from_where_it_is_started(tmp_path: Path) -> None:
    """But what Python itself looks for there before edgeoe runs, so no edgeoe/ lies there."""
    folder = hostile_folder(tmp_path)
    (folder / "edgeoe/__init__.py").unlink()
    (folder / "edgeoe").rmdir()
    ran = subprocess.run(
        [sys.executable, "-m", "edgeoe", "targets", "check", "host-cpu"],
        cwd=folder, env=child_environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert imported(folder) in ("", "sitecustomize.py ")


def test_the_folder_of_these_tests_is_hostile(tmp_path: Path) -> None:
    folder = hostile_folder(tmp_path)
    subprocess.run([sys.executable, "-c", "import json"], cwd=folder, env=child_environment(), check=True, timeout=60)
    assert imported(folder) == "json.py "
    assert len(MODULES) == 6
