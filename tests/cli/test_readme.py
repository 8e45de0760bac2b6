"""The README's own workflow, typed as it stands there, in the folder that it describes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from made_up import QUICK_PROFILE, as_bundled

import edgeoe
from edgeoe.measure.interleaved import Round
from edgeoe.models.teacher import TeacherSource
from edgeoe.run.directory import Run
from edgeoe.run.result_file import write_result

Edgeoe = Callable[..., tuple[int, str, str]]
README = (Path(edgeoe.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
OWN_MODEL = README.partition("## Your own model\n")[2].partition("\n## ")[0]
COMMANDS = {
    "samples", "methods", "inspect", "compress", "export", "build", "validate", "bundle", "collect", "baseline",
    "deploy", "compare",
}  # fmt: skip


def block(language: str, text: str) -> str:
    """The first code block in that language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def command_lines() -> list[list[str]]:
    """The words of every command of the workflow; `#` begins a comment, a backslash joins two lines."""
    lines = block("bash", OWN_MODEL.partition("```toml")[2]).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def folder(tmp_path: Path, pictures: Path, teacher_file: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What README says that you need, small: and a profile host-cpu that measures quickly, as anybody may have."""
    monkeypatch.chdir(tmp_path)
    for ours, theirs in (("train", "few"), ("ood", "pictures"), ("test", "test")):
        shutil.copytree(pictures / ours, tmp_path / theirs)
    source = teacher_file.read_text(encoding="utf-8")
    Path("model.py").write_text(f"{source}\n\ndef resnet56():\n    return residual()\n", encoding="utf-8")
    shutil.copyfile(weights, "teacher.safetensors")
    Path("edgeoe.toml").write_text(block("toml", OWN_MODEL) + "steps = 2\nbatch = 8\n", encoding="utf-8")
    Path("targets").mkdir()
    Path("targets/host-cpu.toml").write_text(QUICK_PROFILE, encoding="utf-8")
    return tmp_path


def test_every_command_of_the_workflow_works_where_readme_says(
    edgeoe: Edgeoe, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(  # the comparison itself is tested elsewhere, and takes long
        "edgeoe.stages.compare.measure_round", lambda *_: Round(((1.0,) * 10,) * 4, ((1.0,) * 10,) * 4)
    )
    lines = command_lines()
    assert {words[1] for words in lines} == COMMANDS
    for program, *arguments in lines:
        assert program == "edgeoe"
        if arguments[0] == "collect":
            measured_on_the_device(Path(arguments[1]), Path(arguments[2]))
        code, out, err = edgeoe(*arguments)
        allowed = {0, 1, 3} if arguments[0] == "compare" else {0}  # two students of two steps each: any verdict
        assert code in allowed, f"{arguments}: {out}{err}"
    assert json.loads(Path("out.json").read_text(encoding="utf-8"))["verdict"] == "passed"
    assert Path("runs/a/report.html").is_file()
    assert edgeoe("baseline", "show", "main", "--target", "host-cpu")[0] == 0
    assert edgeoe("baseline", "list")[0] == 0


def measured_on_the_device(run: Path, path: Path) -> None:
    """Write what the bundle would on a device that nobody has here."""
    there = {"machine": "aarch64", "board": "Raspberry Pi 5 Model B Rev 1.0"}
    write_result(path, replace(as_bundled(Run(run), "raspberry-pi-5"), environment=there))


def test_commands_in_the_text_exist_with_their_options() -> None:
    from edgeoe.cli.app import app

    root: Any = typer.main.get_command(app)
    found = re.findall(r"`(edgeoe(?: [^`\n|]+)?)`", README.replace("\n", " "))
    found += [line for text in re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S) for line in text.splitlines()]
    checked = 0
    for words in (shlex.split(line, comments=True) for line in found):
        command, rest = root, words[1:]
        while rest and rest[0].islower() and hasattr(command, "commands") and not rest[0].startswith("-"):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
            checked += 1
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in rest if word.startswith("-")} if words[:1] == ["edgeoe"] else set()
        assert given <= options | {"-h", "--help", "--install-completion"}, words
    assert checked > 20


def test_a_profile_of_your_own_begins_as_readme_says(folder: Path) -> None:
    line = "edgeoe targets show host-cpu > targets/mine.toml"
    assert line in README
    script = f"{shlex.quote(sys.executable)} -m {line} && {shlex.quote(sys.executable)} -m edgeoe targets check mine"
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout) == (0, "ok mine\nnext: edgeoe build RUN --target NAME\n"), shown.stderr


def test_the_notebook_runs_as_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README.partition("## Python\n")[2].partition("\n## ")[0]
    monkeypatch.setattr("edgeoe.stages.compare.measure_round", lambda *_: Round(((1.0,) * 10,) * 4, ((1.0,) * 10,) * 4))
    quick = {'"ood": "pictures"': '"ood": "pictures", "steps": 2, "batch": 8', '"runs/b"': '"runs/c"'}
    code = block("python", section)
    for text, replacement in quick.items():
        assert text in code
        code = code.replace(text, replacement)
    torch.manual_seed(0)
    network = TeacherSource.parse("model.py:resnet56").build(3)
    notebook: dict[str, Any] = {"network": network}
    exec(compile(code, "README.md", "exec"), notebook)  # noqa: S102 - README is ours
    run, validation = notebook["run"], notebook["validation"]
    assert repr(run).endswith("; host-cpu passed)")
    assert validation.target.name == "host-cpu"
    assert "<iframe" in run._repr_html_()
    assert {line.name for line in Path("runs/c/targets").iterdir()} == {"host-cpu"}
