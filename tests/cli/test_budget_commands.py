"""compress, validate and deploy to a budget, as a user types them; costs are counted instead of measured."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from made_up import QUICK_PROFILE
from meters import count_instead

from edgeoe.settings import CompressSettings
from edgeoe.stages.precisions import variant_for
from edgeoe.targets.load import load_target

Edgeoe = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: CompressSettings) -> None:
    """The working folder: an edgeoe.toml, and profiles `a` and `b` with limits on p50, `bare` without."""
    monkeypatch.chdir(tmp_path)
    for console in ("out", "err"):
        monkeypatch.setattr(f"edgeoe.report.terminal.{console}.width", 200)  # no table wraps, whatever the terminal
    Path("targets").mkdir()
    for name, budget in (("a", "p50_ms = 0.3"), ("b", "p50_ms = 0.2"), ("bare", "")):
        Path("targets", f"{name}.toml").write_text(f"{QUICK_PROFILE}{budget}\n", encoding="utf-8")
    tables = replace(settings, target=("bare",)).to_toml()
    tables["compress"]["target"] = ["bare"]
    Path("edgeoe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    count_instead(monkeypatch)


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_a_student_is_made_shown_and_judged_by_the_latency_asked_for(edgeoe: Edgeoe, pictures: Path) -> None:
    code, out, err = edgeoe("compress", "--latency-ms", 0.3, "--out", "run", "--json", "c.json")
    assert code == 0, err
    budget = read("c.json")["budget"]
    (teacher,), (student,) = budget["teacher"], budget["student"]
    assert student <= 0.3 < teacher
    line = f"p50_ms on bare: teacher {teacher:.4g} (fp32), student {student:.4g}, limit 0.3 (from --latency-ms)"
    assert line in out.splitlines()
    assert f"{len(budget['rounds'])} cut" in out
    assert "keep-macs" not in out
    for command in (["export", "run"], ["build", "run", "--target", "bare"]):
        assert edgeoe(*command)[0] == 0
    code, out, _ = edgeoe("validate", "run", "--target", "bare", "--test", pictures / "test", "--json", "v.json")
    *_, check = read("v.json")["checks"]
    assert (check["name"], check["limit"], check["origin"]) == ("p50_ms", 0.3, "--latency-ms")
    assert "at most 0.3 (from --latency-ms)" in out
    assert code in (0, 1, 3)
    page = html.unescape(Path("run/report.html").read_text(encoding="utf-8"))
    assert page.count("from --latency-ms") == 2, "in the section on the budget, and among the checks"


def test_a_budget_out_of_reach_is_one_line_after_the_table(edgeoe: Edgeoe) -> None:
    code, out, err = edgeoe("compress", "--latency-ms", 1e-6, "--out", "run", "--json", "c.json")
    assert code == 2
    *table, line = err.rstrip().splitlines()
    assert line.startswith("error: no student of this teacher can meet p50_ms at most 1e-06 on bare (the nearest ")
    assert any("what each kind of part saves at most" in row for row in table)
    assert any("wide.0" in row and "1 of 16 channels" in row for row in table), err
    assert not Path("run").exists()
    assert not Path("c.json").exists()
    assert out == ""


def test_deploy_reports_each_target_with_the_student_of_its_own(edgeoe: Edgeoe, pictures: Path) -> None:
    line = ("deploy", "--out", "all", "--target", "a", "--target", "b", "--test", pictures / "test", "--json", "d.json")
    code, out, err = edgeoe(*line)
    assert code in (0, 1, 3), err
    record = read("d.json")
    assert set(record) == {"targets"}
    for name, limit in (("a", 0.3), ("b", 0.2)):
        one = record["targets"][name]
        assert one["compress"]["budget"]["limits"][0]["limit"] == limit
        assert one["export"]["path"]
        assert f"student in all/{name}:\np50_ms on {name}: teacher " in out
        assert f"report: all/{name}/report.html" in out
        assert edgeoe("report", f"all/{name}")[0] == 0, "it is a whole run"
    worst = {record["targets"][name]["verdict"] for name in ("a", "b")}
    assert code == (1 if "failed" in worst else 3 if "inconclusive" in worst else 0)


def test_deploy_of_one_student_is_reported_once(edgeoe: Edgeoe, pictures: Path) -> None:
    line = ("deploy", "--out", "one", "--target", "a", "--target", "b", "--test", pictures / "test", "--json", "d.json")
    code, out, err = edgeoe(*line, "--one-student")
    assert code in (0, 1, 3), err
    record = read("d.json")
    assert len(record["compress"]["budget"]["limits"]) == 2
    assert set(record["targets"]) == {"a", "b"}
    assert "student in one/" not in out


def test_deploy_keeps_layers_in_fp32_that_the_budget_paid_for(
    edgeoe: Edgeoe, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (variant,) = {variant_for(replace(load_target("host-cpu"), precision="int8"))}
    count_instead(monkeypatch, kept_fp32={variant: ("stem.0", "head")})
    Path("targets", "bare.toml").write_text(f'precision = "int8"\n{QUICK_PROFILE}', encoding="utf-8")
    line = ("--max-drop", "20%", "--latency-ms", 0.3, "--out", "run", "--test", pictures / "test", "--json", "d.json")
    code, out, err = edgeoe("deploy", *line)
    assert code in (0, 1, 3), err
    assert "kept in fp32, and measured so: stem.0, head in int8-cpu" in out
    record = read("d.json")
    assert record["compress"]["max_drop"] == 0.2
    assert record["compress"]["budget"]["kept_fp32"] == {variant: ["stem.0", "head"]}
    (graph,) = record["export"]["graphs"]
    assert {"stem.0", "head"} <= {*graph["kept_fp32"]}
    code, out, err = edgeoe("export", "run", "--precision", "int8")
    assert code == 0, err
    assert f"student-{variant}.onnx: " in out
    assert "; kept in fp32: stem.0, head" in out


def test_methods_say_what_a_budget_prunes(edgeoe: Edgeoe) -> None:
    code, out, _ = edgeoe("methods", "--json", "m.json")
    assert code == 0
    assert {name: one["to_budget"] for name, one in read("m.json").items()} == {
        "none": [],
        "kd": ["blocks", "channels"],
        "fskd": ["blocks", "channels"],
        "cd": ["blocks", "channels"],
        "mir": ["blocks", "channels"],
        "practise": ["blocks"],
    }
    assert "a budget prunes" in out
