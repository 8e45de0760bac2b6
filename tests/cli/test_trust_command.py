"""A run from elsewhere runs nothing of its own until a person has looked at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from made_up import QUICK_PROFILE

from edgeoe.files import file_sha256
from edgeoe.run import layout
from edgeoe.run.directory import Run

Edgeoe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def foreign(exported: Path, another_machine: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path) -> Path:
    """./run, from elsewhere: its source writes a file wherever it runs. ./targets/quick.toml limits the drop."""
    monkeypatch.chdir(exported.parent)
    run, file = Run(exported), layout.code_file("networks.py")
    trap = exported.parent / "it ran"
    text = f"open({str(trap)!r}, 'w').close()\n" + (exported / file.name).read_text().replace(
        "from __future__ import annotations\n", ""
    )
    run.write(file, lambda path: path.write_text(text))
    Path("targets").mkdir()
    Path("targets/quick.toml").write_text(QUICK_PROFILE + "max_drop = 0.9\n")
    return trap


def commands(pictures: Path) -> list[list[str]]:
    test = str(pictures / "test")
    return [
        ["export", "run", "--exporter", "dynamo"],
        ["validate", "run", "--target", "quick", "--test", test],
        ["bundle", "run", "--target", "quick", "-o", "b.tar", "--test", test],
    ]


def test_no_command_runs_it_before_trust_and_all_do_after(edgeoe: Edgeoe, foreign: Path, pictures: Path) -> None:
    assert edgeoe("build", "run", "--target", "quick")[0] == 0
    file = Path("run/student/code/networks.py")
    digest = sha256(file.read_bytes()).hexdigest()
    for command in commands(pictures):
        code, _, err = edgeoe(*command)
        assert code == 2, command
        assert f"error: {file}: a program (sha256 {digest}) that builds this run's teacher" in err
        assert err.rstrip().endswith("edgeoe trust run")
    for harmless in (["report", "run"], ["baseline", "list"]):
        assert edgeoe(*harmless)[0] == 0
    assert not foreign.exists()
    code, out, _ = edgeoe("trust", "run", "--yes", "--json", "t.json")
    assert code == 0
    assert f"sha256 {digest}" in out
    assert "read it: less run/student/code/networks.py" in out
    assert json.loads(Path("t.json").read_text())["vouched"]
    assert not foreign.exists()  # looking runs nothing either
    for command in commands(pictures):
        assert edgeoe(*command)[0] in (0, 1, 3), command
        assert foreign.exists()
        foreign.unlink()
        if "export" in command:
            assert edgeoe("build", "run", "--target", "quick")[0] == 0


def test_without_a_terminal_it_takes_yes_and_shows_first(edgeoe: Edgeoe, foreign: Path, another_machine: Path) -> None:
    code, out, err = edgeoe("trust", "run")
    assert code == 2
    assert "student/code/networks.py" in out
    assert "pass --yes" in err
    assert not another_machine.exists()


def test_a_person_is_asked(edgeoe: Edgeoe, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter([False, True])
    monkeypatch.setattr("typer.confirm", lambda question: next(answers))
    code, _, err = edgeoe("trust", "run")
    assert (code, "run: not vouched for, so that nothing of it runs." in err) == (2, True)
    code, out, _ = edgeoe("trust", "run")
    assert (code, "vouched for on this machine" in out) == (0, True)
    code, out, _ = edgeoe("trust", "run")  # asks no more
    assert (code, "vouched for on this machine" in out) == (0, True)


def test_the_graph_that_came_along_is_exported_further_without_source(edgeoe: Edgeoe, foreign: Path) -> None:
    before = Path("run/student.onnx").read_bytes()
    code, out, err = edgeoe("export", "run", "--precision", "fp32,fp16")
    assert code == 0, err
    assert "does not vouch for the source in it" in err
    assert Path("run/student.onnx").read_bytes() == before
    assert Path("run/student-fp16.onnx").is_file()
    assert "student-fp16.onnx" in out
    assert not foreign.exists()


def test_a_graph_that_contradicts_its_golden_outputs_is_not_kept(edgeoe: Edgeoe, foreign: Path) -> None:
    run = Run("run")
    golden = run.read_tensors(layout.GOLDEN)
    path = run.save_tensors(layout.GOLDEN, images=golden["images"], logits=golden["logits"] + 1)
    code, _, err = edgeoe("export", "run")
    assert (code, "golden.safetensors: not those of export.json" in err) == (2, True)
    run.save(layout.EXPORT, replace(run.read(layout.EXPORT), golden_sha256=file_sha256(path)))  # a careful stranger
    code, _, err = edgeoe("export", "run")
    assert code == 2
    assert "does not compute what the student does" in err
    assert not foreign.exists()
