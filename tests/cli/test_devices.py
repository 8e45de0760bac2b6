"""Devices that are reached by SSH, on the command line: the address book, checks, and one deploy to several."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import QUICK
from ssh_server import Board, boards

from edgeoe.errors import ConfigError
from edgeoe.pipeline import Judged, Unreached, deploy
from edgeoe.report.outcomes import outcome_table
from edgeoe.settings import CompressSettings
from edgeoe.targets.address_book import Device, address_book_file, read_address_book, write_address_book
from edgeoe.targets.load import load_target

Edgeoe = Callable[..., tuple[int, str, str]]
PROFILE = """
backend = "onnxruntime"
precision = "fp32"
[measure]
processes = 2
min_iterations = 4
min_seconds = 0.01
warmup_seconds = 0.01
"""


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Board]]:
    with boards(tmp_path, "kitchen", "hall", "attic") as running:
        monkeypatch.setenv("HOME", str(tmp_path / "client"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        yield running


def python_without(board: Board, module: str) -> str:
    """A Python on `board` that can't import `module`."""
    hidden = board.home / "hidden" / module
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    return f"env PYTHONPATH={hidden.parent} {sys.executable}"


def test_a_device_is_added_checked_listed_and_removed(three: dict[str, Board], edgeoe: Edgeoe) -> None:
    code, out, err = edgeoe(
        "devices", "add", "kitchen", "--host", "kitchen", "--target", "host-cpu", "--python", sys.executable
    )
    assert code == 0, err
    assert "kitchen: kitchen, " in out
    assert "onnxruntime" in out
    assert read_address_book() == {"kitchen": Device("kitchen", "host-cpu", python=sys.executable)}
    assert load_target("kitchen") == replace(load_target("host-cpu"), name="kitchen")
    assert "kitchen" in edgeoe("devices", "list")[1]
    assert (three["kitchen"].home / ".cache/edgeoe-device").is_dir()
    code, out, _ = edgeoe("devices", "remove", "kitchen")
    assert code == 0
    assert not (three["kitchen"].home / ".cache/edgeoe-device").exists()
    assert read_address_book() == {}


def test_what_is_not_given_again_stays(three: dict[str, Board], edgeoe: Edgeoe) -> None:
    write_address_book({"kitchen": Device("kitchen", "host-cpu", keep_mb=5)})
    assert edgeoe("devices", "add", "kitchen", "--python", sys.executable)[0] == 0
    assert read_address_book()["kitchen"] == Device("kitchen", "host-cpu", python=sys.executable, keep_mb=5)


def test_what_a_device_lacks_is_said_with_the_command_that_brings_it(three: dict[str, Board], edgeoe: Edgeoe) -> None:
    write_address_book(
        {
            "kitchen": Device("kitchen", "host-cpu", python=python_without(three["kitchen"], "onnxruntime")),
            "hall": Device("hall", "host-cpu", python=sys.executable),
            "attic": Device("attic", "host-cpu", python=sys.executable),
        }
    )
    three["attic"].switch_off()
    code, out, _ = edgeoe("devices", "check")
    assert code == 2
    assert "onnxruntime can't be imported: env PYTHONPATH" in out.replace("\n", " ")
    assert "-m pip install" in out
    assert "hall: hall, " in out
    assert "attic: " in out


def test_one_deploy_serves_several_devices_and_none_stops_the_others(
    three: dict[str, Board], settings: CompressSettings, pictures: Path, tmp_path: Path
) -> None:
    devices = {
        "kitchen": Device("kitchen", "host-cpu", python=sys.executable),
        "hall": Device("hall", "host-cpu", python=python_without(three["hall"], "onnxruntime")),
        "attic": Device("attic", "host-cpu", python=sys.executable),
    }
    three["attic"].switch_off()
    targets = [replace(load_target("host-cpu"), name=name, measure=QUICK) for name in devices]
    results = deploy(
        replace(settings, keep_macs=0.5), out=tmp_path / "run", targets=targets, test=pictures / "test", devices=devices
    )
    kitchen, hall, attic = results
    assert isinstance(kitchen, Judged)
    assert kitchen.validation.measurement.golden_agreement == 1.0
    assert kitchen.validation.measurement.accuracy is not None
    assert isinstance(hall, Unreached)
    assert "libgomp" in hall.reason
    assert isinstance(attic, Unreached)
    assert attic.reason.startswith("attic: ")
    assert [column.header for column in outcome_table(results).columns][:2] == ["target", "verdict"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("devices", "add", "kitchen"), "kitchen is new: pass --host and --target."),
        (("devices", "add", "host-cpu", "--host", "x", "--target", "host-cpu"), "is a profile"),
        (("devices", "add", "-", "--host", "x", "--target", "host-cpu"), "can't be called"),
        (("devices", "add", "a/b", "--host", "x", "--target", "host-cpu"), "can't be called"),
        (("devices", "add", "k", "--host", "x", "--target", "host-cpuu"), "unknown target"),
        (("devices", "check", "attic"), "unknown device 'attic'"),
        (("devices", "remove", "attic"), "unknown device 'attic'"),
    ],
)
def test_wrong_uses_are_one_line_and_write_nothing(
    arguments: tuple[str, ...], line: str, edgeoe: Edgeoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    code, _, err = edgeoe(*arguments)
    assert code == 2
    assert line in err.replace("\n", " ")
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[kitchen]\nhost = 'x'\n", "lacks target"),
        ("[kitchen]\nhost = 'x'\ntarget = 'host-cpu'\nhots = 1\n", "hots"),
        ("kitchen = 3\n", "is no device"),
        ("[kitchen]\nhost = 'x'\ntarget = 'host-cpu'\nkeep_mb = -1\n", "keep_mb"),
    ],
)
def test_a_damaged_address_book_names_its_file(
    text: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    address_book_file().parent.mkdir()
    address_book_file().write_text(text)
    with pytest.raises(ConfigError, match=line) as raised:
        read_address_book()
    assert str(address_book_file()) in str(raised.value)


def test_reports_are_written_as_json(three: dict[str, Board], edgeoe: Edgeoe, tmp_path: Path) -> None:
    write_address_book({"kitchen": Device("kitchen", "host-cpu", python=sys.executable)})
    assert edgeoe("devices", "check", "--json", str(tmp_path / "r.json"))[0] == 0
    report = json.loads((tmp_path / "r.json").read_text())["kitchen"]
    assert report["problems"] == []
    assert report["probe"]["environment"]["cores"] >= 1
