"""Reports, which others read, have no folder of their owner."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from made_up import result

from edgeoe.files import path_in_report
from edgeoe.run.result_file import write_result

Edgeoe = Callable[..., tuple[int, str, str]]
PARTS = st.lists(st.text("abc.", min_size=1).filter(lambda name: set(name) != {"."}), min_size=1, max_size=4)


@given(parts=PARTS)
@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_report_has_no_folder_outside_the_working_folder(
    parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    assert path_in_report(tmp_path.joinpath("elsewhere", *parts)) == parts[-1]
    assert path_in_report(here.joinpath(*parts)) == path_in_report(Path(*parts)) == str(Path(*parts))


def test_no_report_of_a_comparison_has_the_home_folder(
    edgeoe: Edgeoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home of jane", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    target = replace(result().target, name="host-cpu")
    for name in ("base", "new"):
        write_result(home / f"{name}.json", replace(result(), target=target))
    code, out, err = edgeoe(
        "compare", home / "base.json", home / "new.json", "--stored", "--target", "host-cpu",
        "--json", "c.json", "--junit", "c.xml", "--markdown", "c.md", "--github",
    )  # fmt: skip
    assert code in (0, 1, 3), err
    (record,) = json.loads(Path("c.json").read_text())
    assert (record["base"], record["new"]) == ("base.json", "new.json")
    for text in (out, *(path.read_text() for path in here.iterdir())):
        assert "base.json" in text or "host-cpu" in text
        assert "home of jane" not in text
    code, _, err = edgeoe("baseline", "save", home / "base.json", "--target", "host-cpu", "--json", "b.json")
    assert code == 0, err
    assert "home of jane" not in Path("b.json").read_text()
