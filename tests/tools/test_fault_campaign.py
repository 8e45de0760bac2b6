"""The campaign of faults: what it takes for a problem, and that it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import fault_campaign
import pytest
from fault_campaign import main, table, trials_of
from faults import kinds
from faults.checks import leftovers, lost, wrong_end
from faults.commands import COMMANDS, PAIRS, SETUP
from faults.kinds import KINDS, Kind, Trial
from faults.workspace import Workspace
from small_runs import make_run

from edgeoe.cli.app import app


def ended(code: int, stderr: str = "") -> Any:
    return SimpleNamespace(code=code, stderr=stderr)


@pytest.mark.parametrize(
    ("process", "categories"),
    [
        (ended(0), []),
        (ended(2, "Reading\nerror: a: no space left on device.\n"), []),
        (ended(2, "no line"), ["exit"]),
        (ended(2, "error: one\nerror: two\n"), ["exit"]),
        (ended(1), ["exit"]),
        (ended(70, "bug in edgeoe: x"), ["exit"]),
        (ended(0, "Traceback (most recent call last):\nKeyError"), ["traceback"]),
        (ended(120, "Exception ignored in: <stdout>"), ["traceback", "exit"]),
    ],
)
def test_how_a_command_may_end(process: Any, categories: list[str]) -> None:
    problems = wrong_end(process, COMMANDS["compress"], allowed=(2,))
    assert [problem.partition(":")[0] for problem in problems] == categories


def test_a_verdict_is_no_wrong_end() -> None:
    assert list(wrong_end(ended(1), COMMANDS["validate"], allowed=())) == []


def test_a_half_written_result_and_a_broken_run_are_lost(tmp_path: Path) -> None:
    assert list(lost(tmp_path)) == []
    (tmp_path / "verdict.json").write_text("{")
    make_run(tmp_path / "runs/a")
    assert [problem.partition(":")[0] for problem in lost(tmp_path)] == ["lost", "lost"]


def test_only_hidden_temporary_names_are_left_over(tmp_path: Path) -> None:
    for name in (".a.partial", ".a.0f.old", ".a.previous", ".lock", "table.json.partial", ".hidden"):
        (tmp_path / name).touch()
    found = sorted(leftovers(tmp_path))
    assert found == [f"leftover: {name}" for name in (".a.0f.old", ".a.partial", ".a.previous", ".lock")]


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def trial(_: Workspace, rng: Random, name: str, commands: Sequence[str]) -> Trial:
        assert commands == tuple(COMMANDS)
        ran.append(name)
        return Trial(f"{rng.random()}", ("lost: x",) if name.endswith("-1") else (), True)

    monkeypatch.setitem(KINDS, "kill", Kind(4, trial))
    work = Workspace(tmp_path)
    first = trials_of("kill", work, seed=0, count=2, minutes=1)
    assert trials_of("kill", work, seed=0, count=4, minutes=1)[:2] == first
    assert ran == ["kill-0-0", "kill-0-1", "kill-0-2", "kill-0-3"]
    assert trials_of("kill", work, seed=0, count=9, minutes=0)[:2] == first
    assert table({"kill": first}).splitlines()[1].split() == ["kill", "2", "2", "0", "0", "1", "0", "0"]
    assert main(["--kind", "kill", "--folder", str(tmp_path)]) == 1
    assert fault_campaign.CATEGORIES == ("traceback", "exit", "lost", "silent", "leftover")


def test_each_command_starts_where_another_ended() -> None:
    every = {**COMMANDS, **SETUP}
    assert {command.after for command in every.values()} <= {"", *every}
    assert {name for pair in PAIRS for name in pair} <= {"", *every}
    assert kinds.KINDS.keys() == {"kill", "signals", "pairs", "disk"}


def test_every_command_that_writes_is_disturbed() -> None:
    names = {command.name or "" for command in app.registered_commands}
    apart = {"latency-table", "methods", "doctor", "demo"}  # minutes long, or writes nothing
    assert names - apart <= {command.arguments[0] for command in COMMANDS.values()}
