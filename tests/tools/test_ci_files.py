"""The files for CI are well formed, and call edgeoe with options that it has."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from edgeoe.cli.app import app

FOLDER = Path(__file__).parents[2] / "tools" / "ci"
FILES = sorted(FOLDER.glob("*.yml"))
ROOT = FOLDER.parents[1]


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def scripts(tree: Any) -> Iterator[str]:
    """Every shell script in a file: `run` of GitHub, `script` and `before_script` of GitLab."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "run" and isinstance(value, str):
                yield value
            elif key in ("script", "before_script") and isinstance(value, list):
                yield "\n".join(value)
            else:
                yield from scripts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from scripts(value)


def commands(script: str) -> Iterator[list[str]]:
    """The words of every call of edgeoe."""
    for line in script.replace("\\\n", " ").splitlines():
        found = re.match(r"\s*(edgeoe .*?)(\|\||;|$)", line)
        if found:
            yield shlex.split(found[1])[1:]


def options_of(words: list[str]) -> set[str]:
    group: Any = typer.main.get_command(app)
    for word in words:
        if word not in getattr(group, "commands", {}):
            break
        group = group.commands[word]
    return {option for parameter in group.params for option in parameter.opts}


def test_there_are_files() -> None:
    assert [path.name for path in FILES] == [
        "action.yml", "github-tests.yml", "github-workflow.yml", "gitlab-ci.yml",
    ]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_script_is_shell(path: Path) -> None:
    found = list(scripts(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert found
    if shutil.which("bash") is None:
        pytest.skip("no bash here to check the scripts with")
    for script in found:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_every_option_is_one_that_edgeoe_has() -> None:
    seen = set()
    for path in FILES:
        for script in scripts(yaml.safe_load(path.read_text(encoding="utf-8"))):
            for words in commands(script):
                used = {word for word in words if word.startswith("--")} - {"--help"}
                assert used <= options_of(words), f"{path.name}: {words}"
                seen.add(words[0])
    assert seen == {"--version", "compare", "baseline", "targets", "doctor"}


def test_every_input_of_the_action_is_declared_and_used() -> None:
    text = (FOLDER / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(read("action.yml")["inputs"])
    given = {
        key for step in read("github-workflow.yml")["jobs"]["gate"]["steps"]
        if "edgeoe" in str(step.get("uses")) for key in step["with"]
    }  # fmt: skip
    assert given <= set(read("action.yml")["inputs"])
    assert {"new", "target"} <= given


def test_no_text_of_a_user_is_pasted_into_a_script() -> None:
    """Inputs go through the environment, or a branch name could run commands."""
    for path in FILES:
        for script in scripts(yaml.safe_load(path.read_text(encoding="utf-8"))):
            assert "${{" not in script, path.name


def uses(tree: Any) -> Iterator[str]:
    """Every action that a file uses."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "uses":
                yield value
            else:
                yield from uses(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from uses(value)


def test_actions_of_others_are_pinned_by_commit_and_one_version_each() -> None:
    pinned: dict[str, set[str]] = {}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for action in uses(yaml.safe_load(text)):
            if action == "./.github/actions/edgeoe":
                continue
            assert re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40}", action), f"{path.name}: {action}"
            assert re.search(rf"{re.escape(action)}  # v\d+\.\d+\.\d+", text), f"{path.name}: {action}"
            name, _, commit = action.partition("@")
            pinned.setdefault("/".join(name.split("/")[:2]), set()).add(commit)
    assert len(pinned) == 6
    assert all(len(commits) == 1 for commits in pinned.values())


def test_rights_are_the_least_and_the_job_that_writes_runs_nothing_of_the_change() -> None:
    workflow = read("github-workflow.yml")
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "gate": {"contents": "read"},
        "comment": {"pull-requests": "write"},
        "baseline": {"contents": "read"},
    }
    assert [*scripts(jobs["comment"])] == []
    assert [action.partition("@")[0] for action in uses(jobs["comment"])] == [
        "actions/download-artifact",
        "actions/github-script",
    ]
    assert read("github-tests.yml")["permissions"] == {"contents": "read"}


def test_the_gate_sees_only_the_base_branch_and_the_run() -> None:
    checkout, *others = read("github-workflow.yml")["jobs"]["gate"]["steps"]
    assert checkout["with"] == {"ref": "${{ github.event.pull_request.base.sha }}", "persist-credentials": False}
    assert not any("checkout" in str(step.get("uses")) for step in others)
    (call,) = (step["with"] for step in others if "edgeoe" in step["uses"])
    assert (call["base"], call["new"]) == ("baseline:main", "run:new")
    gitlab = read("gitlab-ci.yml")["edgeoe compare"]
    assert gitlab["variables"] == {"GIT_STRATEGY": "empty"}
    assert '--branch "$CI_MERGE_REQUEST_TARGET_BRANCH_NAME"' in gitlab["script"][0]


@pytest.mark.parametrize(
    ("code", "given", "ends"),
    [
        (0, "", 0),
        (1, "", 1),
        (1, "warn", 1),
        (2, "warn", 2),
        (3, "", 3),
        (3, "Warn", 3),
        (3, "warn", 0),
        (70, "warn", 70),
    ],
)
def test_what_is_inconclusive_fails_unless_asked_otherwise(code: int, given: str, ends: int, tmp_path: Path) -> None:
    """A gate that cannot tell has not passed; an input that is neither word counts as `fail`."""
    action = read("action.yml")
    (script,) = (step["run"] for step in action["runs"]["steps"] if step.get("id") == "compare")
    (tmp_path / "edgeoe").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "edgeoe").chmod(0o755)
    inputs = {name.upper().replace("-", "_"): str(one.get("default", "")) for name, one in action["inputs"].items()}
    inputs |= {"TARGETS": "host-cpu", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    inputs |= {"ON_INCONCLUSIVE": given} if given else {}
    ended = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], env=inputs, capture_output=True, text=True, check=False
    )
    assert ended.returncode == ends, ended.stderr
    assert ended.stdout.startswith("::warning") == (code == 3 and ends == 0)
    assert "allow_failure" not in read("gitlab-ci.yml")["edgeoe compare"]
    (call,) = (
        step["with"] for step in read("github-workflow.yml")["jobs"]["gate"]["steps"] if "edgeoe" in step["uses"]
    )
    assert call["on-inconclusive"] == "fail"


def test_the_tests_run_on_every_python_that_edgeoe_names() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)", pyproject)
    jobs = read("github-tests.yml")["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == named
    assert jobs["lean"]["strategy"]["matrix"]["python"] == [named[0], named[-1]]
    assert f'requires-python = ">={named[0]}"' in pyproject
    first, last = (f"({version.replace('.', ', ')})" for version in (named[0], named[-1]))
    assert f"{first} <= sys.version_info[:2] <= {last}" in (ROOT / "tools/venv.sh").read_text(encoding="utf-8")


def test_every_tool_that_a_job_runs_exists() -> None:
    scripts_of_tests = "\n".join(scripts(read("github-tests.yml")))
    tools = re.findall(r"\./(tools/\w+)", scripts_of_tests)
    assert tools == ["tools/test", "tools/coverage"]
    for tool in tools:
        assert (ROOT / tool).stat().st_mode & 0o111, f"{tool} can't be run"


def test_before_a_commit_the_same_is_checked_as_by_the_tool() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    before_commit = [hook["entry"].replace(" --force-exclude", "") for hook in hooks]
    check = (ROOT / "tools/check").read_text(encoding="utf-8")
    by_tool = re.findall(r"^(\.venv/bin/.*)$", check, re.MULTILINE)
    assert [line.replace(" --check", "").removesuffix(" .") for line in by_tool] == before_commit
