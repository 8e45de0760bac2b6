"""A quantity that edgeoe has never heard of: one file and one row, and every command measures, judges and shows it."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from distributions import write_distribution
from made_up import QUICK_PROFILE, result, speed

from edgeoe.errors import RunError
from edgeoe.measure.process import Process
from edgeoe.measure.speed import measure_speed
from edgeoe.pipeline import build, bundle, collect
from edgeoe.run.directory import Run
from edgeoe.run.result_file import read_result, write_result
from edgeoe.targets.load import check_target, load_target

SOURCE = '''
"""Energy of a call, from the counter that the kernel's powercap keeps, in microjoules."""
import os
from contextlib import contextmanager
from pathlib import Path

from edgeoe.bounds import Positive
from edgeoe.measure.quantity import Probe, probed_quantity


def read_uj():
    return int(Path(os.environ["FAKE_POWERCAP"], "energy_uj").read_text())


@contextmanager
def counting(target):
    before, spent = read_uj(), []
    yield lambda calls: spent[0] / calls / 1e3
    spent.append(read_uj() - before)


ENERGY = probed_quantity(
    "energy_mj", sense="at most", bounds=Positive, noisy=False, probe=Probe(title="energy", unit="mJ", open=counting)
)
'''
Edgeoe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A powercap counter that every timed call raises by 2 mJ, and the distribution that reads it."""
    site = tmp_path / "site"
    site.mkdir()
    write_distribution(site, "energy_meter", SOURCE, quantities={"energy_mj": "energy_meter:ENERGY"})
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "energy_meter", raising=False)
    path = tmp_path / "energy_uj"
    path.write_text("1000", encoding="utf-8")
    monkeypatch.setenv("FAKE_POWERCAP", str(tmp_path))
    ask = Process.ask

    def ask_and_spend(self: Process, do: str, **arguments: Any) -> dict[str, Any]:
        answer = ask(self, do, **arguments)
        if path.exists():
            calls = len(answer["calls_ns"]) if do == "time" else 1_000_000  # what the probe must not count
            path.write_text(str(int(path.read_text()) + 2000 * calls), encoding="utf-8")
        return answer

    monkeypatch.setattr(Process, "ask", ask_and_spend)
    monkeypatch.chdir(tmp_path)
    write_profile("energy_mj = 2.5")
    return path


def write_profile(budget: str) -> None:
    Path("targets").mkdir(exist_ok=True)
    Path("targets/metered.toml").write_text(f"{QUICK_PROFILE}{budget}\n", encoding="utf-8")


@pytest.mark.usefixtures("counter")
def test_a_profile_sets_its_limit() -> None:
    assert load_target("metered").budget == {"energy_mj": 2.5}
    line = QUICK_PROFILE.count("\n") + 1
    for text, message in {
        "energy_mj = -1": "energy_mj: input should be greater than 0. Got -1.",
        "energy_mJ = 2": "unknown key 'energy_mJ' in [budget]. Did you mean 'energy_mj'?",
    }.items():
        write_profile(text)
        assert check_target("metered") == [f"targets/metered.toml:{line}: {message}"]


@pytest.mark.parametrize(("limit", "code", "outcome"), [(2.5, 0, "passed"), (1.5, 1, "failed")])
@pytest.mark.usefixtures("counter")
def test_it_is_measured_judged_and_shown(
    limit: float, code: int, outcome: str, exported: Path, pictures: Path, edgeoe: Edgeoe
) -> None:
    write_profile(f"energy_mj = {limit}")
    build(Run.open(exported), load_target("metered"))
    reports = "--junit", "j.xml", "--markdown", "m.md", "--json", "v.json"
    got, out, _ = edgeoe("validate", exported, "--target", "metered", "--test", pictures / "test", *reports)
    assert got == code
    text = f"energy_mj 2, at most {limit}"
    assert any(line.split() == [outcome, *text.split()] for line in out.splitlines())
    assert "2.000 mJ" in out
    cases = {case.get("name"): case for case in ElementTree.parse("j.xml").iter("testcase")}  # noqa: S314
    assert (cases["energy_mj"].find("failure") is not None) == (outcome == "failed")
    assert text.replace("_", r"\_") in Path("m.md").read_text(encoding="utf-8")
    assert "energy_mj" in (exported / "report.html").read_text(encoding="utf-8")
    (check,) = (one for one in json.loads(Path("v.json").read_text())["checks"] if one["name"] == "energy_mj")
    assert check["measured"]["value"] == pytest.approx(2.0)


def test_a_counter_that_can_not_be_read_leaves_it_unknown(counter: Path, exported: Path) -> None:
    counter.unlink()
    measured = measure_speed(exported / "student.onnx", load_target("metered"))
    assert measured.probed == {}
    assert measured.not_probed == {
        "energy_mj": "its probe failed: [Errno 2] No such file or directory: " + repr(str(counter))
    }
    assert len(measured.calls_ms) == 2


@pytest.mark.usefixtures("counter")
def test_it_travels_from_a_device(exported: Path, tmp_path: Path) -> None:
    run, target = Run.open(exported), load_target("metered")
    record = bundle(run, target, out=tmp_path / "b.tar.gz")
    assert {"lib/energy_meter.py", "lib/energy_meter-1.2.dist-info/entry_points.txt"} < set(record.files)
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        archive.extractall(tmp_path / "device", filter="data")
    ran = subprocess.run(
        [sys.executable, "edgeoe-metered/run.py"],
        cwd=tmp_path / "device", capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    path = tmp_path / "device/result.json"
    there = read_result(path)
    assert there.speed is not None
    assert there.speed.not_probed == {"energy_mj": "its probe failed: it must read more than 0. Got 0"}
    verdict = collect(run, path).verdict
    assert [(one.name, one.outcome, one.reason) for one in verdict.checks[1:]] == [
        ("energy_mj", "inconclusive", there.speed.not_probed["energy_mj"])
    ]
    write_result(path, replace(there, speed=replace(there.speed, probed={"energy_mj": (2.0, 2.0)}, not_probed={})))
    assert collect(run, path).outcome == "passed"
    write_result(path, replace(there, speed=replace(there.speed, not_probed={})))
    with pytest.raises(RunError, match=r"speed\.probed is of nothing, but in the latest bundle .* it is of energy_mj"):
        collect(run, path)


def test_every_process_has_a_figure(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    own = result(speed=speed(probed={"energy_mj": (2.0,) * 8}, not_probed={"x": "why"}))
    write_result(path, own)
    assert read_result(path).speed == own.speed
    data = json.loads(path.read_text(encoding="utf-8"))
    data["speed"]["probed"]["energy_mj"].pop()
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RunError, match=r"speed\.probed\.energy_mj: 7 values for 8 processes"):
        read_result(path)
