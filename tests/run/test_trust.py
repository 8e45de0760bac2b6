"""What of a run's source is hashed, and what is refused before any of it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edgeoe.codec import from_json
from edgeoe.errors import RunError
from edgeoe.records.student import CodeFiles
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.trust import Source, require_vouched, source_in, vouch_for

SOURCE = Source(
    factory="net",
    code=CodeFiles("net.py", (".",), ("net.py", "parts.py")),
    hashes={"net.py": "1" * 64, "parts.py": "2" * 64},
)


@pytest.mark.parametrize(
    "other",
    [
        replace(SOURCE, factory="other"),
        replace(SOURCE, code=CodeFiles("parts.py", (".",), ("net.py", "parts.py"))),
        replace(SOURCE, code=CodeFiles("net.py", ("src",), ("net.py", "parts.py"))),
        replace(SOURCE, hashes={**SOURCE.hashes, "parts.py": "3" * 64}),
        replace(SOURCE, hashes={**SOURCE.hashes, "more.py": "3" * 64}),
        replace(SOURCE, hashes={"net.py": "2" * 64, "parts.py": "1" * 64}),
    ],
)
def test_the_hash_changes_with_all_that_decides_what_runs(other: Source) -> None:
    assert other.sha256 != SOURCE.sha256


def test_the_order_of_files_does_not_matter() -> None:
    assert replace(SOURCE, hashes=dict(reversed(SOURCE.hashes.items()))).sha256 == SOURCE.sha256


def test_a_run_that_was_made_here_is_vouched_for_and_elsewhere_is_not(
    exported: Path, request: pytest.FixtureRequest
) -> None:
    run = Run.open(exported)
    require_vouched(run)
    request.getfixturevalue("another_machine")
    digest = source_in(run)
    assert digest is not None
    with pytest.raises(RunError) as raised:
        require_vouched(run)
    assert str(raised.value) == (
        f"{exported}/student/code/networks.py: a program (sha256 {digest.hashes['networks.py']}) that builds this "
        "run's teacher, and this machine does not vouch for it. See what would run, read it, and vouch: "
        f"edgeoe trust {exported}"
    )
    vouch_for(run, digest)
    require_vouched(run)


def change_code(run: Run, change: Callable[[str], str]) -> None:
    file = layout.code_file("networks.py")
    text = change((run.path / file.name).read_text())
    run.write(file, lambda path: path.write_text(text))  # as a stranger would: with the right hash in the manifest


def test_after_any_change_nobody_vouches(exported: Path) -> None:
    run = Run.open(exported)
    change_code(run, lambda text: text + "\n")
    with pytest.raises(RunError, match="does not vouch for it"):
        require_vouched(run)


@pytest.mark.parametrize("name", ["../../../evil.py", "/etc/evil.py", "a/../../b.py"])
@pytest.mark.parametrize("field", ["file", "folders", "files"])
def test_files_outside_of_the_run_are_refused(name: str, field: str) -> None:
    code = {"file": "net.py", "folders": ["."], "files": ["net.py"]}
    code = {**code, field: name if field == "file" else [*code[field], name]}
    with pytest.raises(ValueError, match="files: expected paths within the run"):
        from_json(CodeFiles, code)


def test_a_factory_in_a_file_that_is_not_hashed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"files: .net\.py. is none of them"):
        CodeFiles("net.py", (".",), ("other.py",))


def test_a_link_is_refused_though_its_content_is_vouched_for(exported: Path, tmp_path: Path) -> None:
    run, file = Run.open(exported), exported / "student/code/networks.py"
    elsewhere = file.rename(tmp_path / "networks.py")
    file.symlink_to(elsewhere)
    with pytest.raises(RunError, match=r"networks\.py: a link, a pipe, or a path out of the run"):
        require_vouched(run)


def test_a_published_architecture_is_no_source(exported: Path, another_machine: Path) -> None:
    run = Run.open(exported)
    plan = json.loads((exported / layout.PLAN.name).read_text())
    plan |= {"teacher": "timm:resnet18", "code": None}
    run.write(layout.PLAN, lambda path: path.write_text(json.dumps(plan)))
    assert source_in(run) is None
    require_vouched(run)


@pytest.mark.parametrize("teacher", ["run/evil.py:net", "/elsewhere/evil.py:net", "evil.py:net", "timm:a.py:net"])
def test_a_plan_can_not_name_a_file_that_is_none_of_its_source(exported: Path, teacher: str) -> None:
    run = Run.open(exported)
    plan = json.loads((exported / layout.PLAN.name).read_text())
    for code in (None, plan["code"]):
        text = json.dumps({**plan, "teacher": teacher, "code": code})
        run.write(layout.PLAN, partial(Path.write_text, data=text))
        with pytest.raises(RunError, match="teacher: expected one whose files are in `code`"):
            require_vouched(run)


@pytest.mark.parametrize("name", ["json.py", "more/__init__.py", "sched.pyc", "_c.so"])
def test_nothing_else_may_lie_beside_what_is_vouched_for(exported: Path, name: str) -> None:
    run = Run.open(exported)
    added = exported / layout.CODE / name
    added.parent.mkdir(exist_ok=True)
    added.touch()
    with pytest.raises(RunError, match="not of the source that this machine vouches for"):
        require_vouched(run)


def test_neither_may_a_link_to_a_folder(exported: Path, tmp_path: Path) -> None:
    (exported / layout.CODE / "more").symlink_to(tmp_path)
    with pytest.raises(RunError, match="not of the source that this machine vouches for"):
        require_vouched(Run.open(exported))


def test_what_python_compiled_there_is_of_no_account(exported: Path) -> None:
    (exported / layout.CODE / "__pycache__").mkdir()
    (exported / layout.CODE / "__pycache__" / "networks.cpython-312.pyc").touch()
    require_vouched(Run.open(exported))
