"""The history of benchmarks: what an entry holds, which entries are compared, and what the command prints."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import history
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.errors import ConfigError

TOOLS = Path(history.__file__).parent
ENTRY = history.Entry(
    benchmark="bench_loop",
    date="2026-01-02T03:04:05+00:00",
    commit="0123456789ab",
    note="first",
    arguments={"rounds": "5"},
    figures={"ratio": 0.8, "images_per_s": 100.0},
    environment={"cpu": "Some CPU", "cores": 4, "load_1min": 0.1, "versions": {"torch": "2.9.0", "python": "3.10.1"}},
)


def changed(entry: history.Entry = ENTRY, **facts: Any) -> history.Entry:
    """`entry` with other facts of its machine."""
    return replace(entry, environment={**entry.environment, **facts})


def written(folder: Path, *entries: history.Entry) -> Path:
    for entry in entries:
        history.append(folder / "history.jsonl", entry)
    return folder / "history.jsonl"


def options(**given: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    history.add_record_option(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **given})


def test_every_benchmark_records_its_figures() -> None:
    benchmarks = sorted(TOOLS.glob("bench_*.py"))
    assert len(benchmarks) >= 9
    for path in benchmarks:
        source = path.read_text(encoding="utf-8")
        assert "add_record_option(parser)" in source, path.name
        assert "record(__file__, options, " in source, path.name


def test_the_tracked_history_can_be_read_and_names_benchmarks_that_exist() -> None:
    entries = history.read_entries(history.FILE)
    assert entries
    for entry in entries:
        assert (TOOLS / f"{entry.benchmark}.py").is_file()
        assert re.fullmatch(r"[0-9a-f]{12}", entry.commit), "recorded with files that no commit holds"
        assert entry.figures
        assert entry.note


@given(
    arguments=st.dictionaries(st.text(), st.text()),
    figures=st.dictionaries(
        st.text(), st.floats(-1e99, 1e99, allow_subnormal=False).filter(lambda x: not 0 < abs(x) < 1e-99)
    ),
    note=st.text(),
)
def test_entries_are_read_as_they_were_appended(
    tmp_path_factory: pytest.TempPathFactory, arguments: Mapping[str, str], figures: Mapping[str, float], note: str
) -> None:
    entry = replace(ENTRY, arguments=dict(arguments), figures=dict(figures), note=note)
    path = written(tmp_path_factory.mktemp("history"), ENTRY, entry)
    assert history.read_entries(path) == [ENTRY, entry]


@pytest.mark.parametrize(
    ("line", "why"),
    [("{", "Expecting property name"), ("[]", "expected an object"), ('{"benchmark": "b"}', "missing key 'arguments'")],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = written(tmp_path, ENTRY)
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"history\.jsonl:2: .*{why}"):
        history.read_entries(path)


def test_without_record_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "FILE", tmp_path / "history.jsonl")
    history.record("bench_loop.py", options(), {"ratio": 1.0})
    assert not list(tmp_path.iterdir())


def test_an_entry_says_what_ran_where_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(history, "FILE", tmp_path / "history.jsonl")
    given = options(record="a faster loop", run=tmp_path / "runs/a", seeds=[1, 2], out=tmp_path, steps=5)
    history.record("tools/bench_loop.py", given, {"ratio": 2 / 3}, packages=["numpy", "absent"], without=["out"])
    (entry,) = history.read_entries(tmp_path / "history.jsonl")
    assert (entry.benchmark, entry.note, entry.figures) == ("bench_loop", "a faster loop", {"ratio": 0.666667})
    assert entry.arguments == {"run": "a", "seeds": "1 2", "steps": "5"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry.date)
    assert set(entry.environment["versions"]) >= {"numpy", "python"}
    assert "absent" not in entry.environment["versions"]
    assert entry.environment["cores"] >= 1
    assert "tools/history bench_loop" in capsys.readouterr().out


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_a_commit_is_dirty_if_a_file_other_than_the_history_differs_from_it(tmp_path: Path) -> None:
    assert history.commit(tmp_path) == "unknown"
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("history.jsonl", "bench.py"):
        (tools / name).write_text("", encoding="utf-8")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "all")
    head = history.commit(tools)
    assert re.fullmatch(r"[0-9a-f]{12}", head)
    (tools / "history.jsonl").write_text("{}", encoding="utf-8")
    assert history.commit(tools) == head
    (tools / "bench.py").write_text("1", encoding="utf-8")
    assert history.commit(tools) == f"{head}-dirty"


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (changed(cores=8), "cores 4 -> 8"),
        (changed(cpu="Another CPU"), "cpu Some CPU -> Another CPU"),
        (changed(versions={"torch": "2.10.0", "python": "3.10.1"}), "torch 2.9.0 -> 2.10.0"),
        (replace(ENTRY, arguments={"rounds": "6"}), "--rounds 5 -> 6"),
        (replace(ENTRY, arguments={}), "--rounds 5 -> None"),
    ],
)
def test_what_differs_is_named_and_not_compared(other: history.Entry, difference: str) -> None:
    assert history.differences(ENTRY, other) == [difference]
    assert history.groups([ENTRY, other, ENTRY]) == [[ENTRY, ENTRY], [other]]
    lines = list(history.show([ENTRY, other], "bench_loop"))
    assert f"not compared with the list above: {difference}" in lines
    assert not any("%" in line for line in lines)


@pytest.mark.parametrize(
    "other",
    [
        changed(load_1min=3.0),
        changed(versions={"torch": "2.9.0", "python": "3.13.0"}),
        replace(ENTRY, commit="ba9876543210", note="second", figures={"ratio": 0.6}),
    ],
)
def test_what_changes_no_figure_is_compared(other: history.Entry) -> None:
    assert history.groups([ENTRY, other]) == [[ENTRY, other]]


def test_a_figure_stands_beside_its_change_since_the_entry_that_last_had_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = [
        replace(ENTRY, note="second", figures={"ratio": 0.6}),
        replace(ENTRY, benchmark="bench_gate", figures={"ratio": 5.0}),
        replace(ENTRY, note="third", figures={"ratio": 0.9, "images_per_s": 101.0, "new": 0.0}),
    ]
    history.main(["bench_loop", "--file", str(written(tmp_path, ENTRY, *later))])
    shown = [re.sub(" +", " ", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "bench_loop rounds=5",
        "on Some CPU, 4 cores",
        "2026-01-02 0123456789ab first",
        "ratio 0.8",
        "images_per_s 100",
        "2026-01-02 0123456789ab second",
        "ratio 0.6 -25.0%",
        "2026-01-02 0123456789ab third",
        "ratio 0.9 +50.0%",
        "images_per_s 101 +1.0%",
        "new 0",
    ]


def test_without_a_name_the_benchmarks_are_listed_and_a_wrong_name_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, ENTRY, ENTRY, replace(ENTRY, benchmark="bench_gate"))
    history.main(["--file", str(path)])
    assert capsys.readouterr().out.splitlines() == ["bench_gate: 1", "bench_loop: 2"]
    with pytest.raises(SystemExit, match=r"^history: no entry of 'bench_lop' .* Did you mean 'bench_loop'\?$"):
        history.main(["bench_lop", "--file", str(path)])


def test_a_history_is_one_json_object_a_line(tmp_path: Path) -> None:
    lines = written(tmp_path, ENTRY, ENTRY).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["benchmark"] for line in lines] == ["bench_loop"] * 2
