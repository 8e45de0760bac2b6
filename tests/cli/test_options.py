"""What every command has: -v, -q, --log-file, -h; ~ and shares in what it is given; hints to paste; completion."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tomli_w
import typer

from edgeoe.cli.app import app
from edgeoe.errors import RunError
from edgeoe.settings import CompressSettings

Edgeoe = Callable[..., tuple[int, str, str]]
ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of all commands and groups."""
    yield names, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)


ALL = dict(commands())


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[CompressSettings]:
    """The settings that compress or deploy was called with; it then stops."""
    settings: list[CompressSettings] = []

    def stop(given: CompressSettings, **_: object) -> NoReturn:
        settings.append(given)
        raise RunError("seen")

    monkeypatch.setattr("edgeoe.pipeline.compress", stop)
    monkeypatch.setattr("edgeoe.pipeline.deploy", stop)
    monkeypatch.setattr("edgeoe.data.samples.find_test", lambda *_: None)
    monkeypatch.setattr("edgeoe.data.samples.find_samples", lambda *_: type("Found", (), {"classes": ()}))
    return settings


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What inspect was called with; it then stops."""
    calls: list[dict[str, Any]] = []

    def stop(teacher: str, **options: object) -> NoReturn:
        calls.append({"teacher": teacher, **options})
        raise RunError("seen")

    monkeypatch.setattr("edgeoe.pipeline.inspect", stop)
    monkeypatch.setattr("edgeoe.data.samples.find_samples", lambda *_, **__: type("Found", (), {"classes": ("a",) * 7}))
    return calls


def write_toml(**tables: dict[str, Any]) -> None:
    Path("edgeoe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_what_all_have(words: tuple[str, ...]) -> None:
    names = {name for parameter in ALL[words].params for name in parameter.opts}
    assert {"--verbose", "-v", "--quiet", "-q", "--log-file"} <= names


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_h_is_help(edgeoe: Edgeoe, words: tuple[str, ...]) -> None:
    code, out, _ = edgeoe(*words, "-h")
    assert code == 0
    assert "Usage: " in out
    assert "--log-file" in out


def test_the_version_is_told_with_those_that_matter(edgeoe: Edgeoe) -> None:
    code, out, _ = edgeoe("--version")
    assert code == 0
    assert re.fullmatch(r"edgeoe \d+\.\d+\.\d+ \(python 3\.\d+\.\d+, torch 2\.\S+, onnxruntime \S+\)\n", out)


@pytest.mark.parametrize(
    "arguments", [["-q", "targets", "list"], ["targets", "-q", "list"], ["targets", "list", "-q"], ["targets", "list"]]
)
def test_quiet_leaves_results_alone_wherever_it_stands(edgeoe: Edgeoe, arguments: list[str]) -> None:
    code, out, _ = edgeoe(*arguments)
    assert code == 0
    assert "host-cpu" in out
    assert ("next: " in out) is ("-q" not in arguments)


def test_quiet_shows_no_progress_and_ends_with_its_command(edgeoe: Edgeoe, pictures: Path) -> None:
    assert edgeoe("samples", pictures / "train", "-q")[2] == ""
    assert "━" in edgeoe("samples", pictures / "train")[2]


@pytest.mark.parametrize("arguments", [["--log-file", "log.txt", "samples"], ["samples", "--log-file", "log.txt"]])
def test_a_log_file_keeps_what_is_said_and_is_added_to(edgeoe: Edgeoe, pictures: Path, arguments: list[str]) -> None:
    for _ in range(2):
        assert edgeoe(*arguments, pictures / "train")[0] == 0
    lines = Path("log.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ edgeoe", line) for line in lines)
    assert sum("imbalance ratio" in line for line in lines) == 2
    assert sum(" DEBUG edgeoe.cli.logs: edgeoe " in line for line in lines) == 2


def test_a_log_file_that_can_not_be_written_is_exit_code_2(edgeoe: Edgeoe, place: Path) -> None:
    code, _, err = edgeoe("targets", "list", "--log-file", place)
    assert (code, err) == (2, f"error: --log-file {place}: can't be written: Is a directory.\n")


def test_a_warning_is_seen_unless_only_results_are_asked_for(edgeoe: Edgeoe, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("edgeoe.test")

    def find_targets() -> dict[str, Path]:
        log.warning("a warning")
        log.info("news")
        return {}

    monkeypatch.setattr("edgeoe.targets.load.find_targets", find_targets)
    assert edgeoe("targets", "list")[2] == "edgeoe: a warning\n"
    assert edgeoe("targets", "list", "-q")[2] == ""
    assert edgeoe("-v", "targets", "list")[2] == "edgeoe: a warning\nedgeoe: news\n"


LEAST = {"teacher": "timm:resnet18", "samples": "few", "oe": False}


def test_a_home_folder_is_found_in_options_and_in_the_file(
    edgeoe: Edgeoe, seen: list[CompressSettings], place: Path
) -> None:
    home = place / "home"
    write_toml(compress=LEAST | {"samples": "~/few", "teacher": "~/m.py:net", "list": "~/few.txt"})
    edgeoe("compress", "--out=~/a", "--ood", "~/pictures", "--weights=~/w.pt")
    (got,) = seen
    assert got.samples == home / "few"
    assert (got.teacher, got.list) == (f"{home}/m.py:net", home / "few.txt")
    assert (got.ood, got.weights) == (home / "pictures", home / "w.pt")


def test_a_home_folder_is_found_by_a_short_option(edgeoe: Edgeoe, exported: Path, place: Path) -> None:
    (place / "home").mkdir()
    assert edgeoe("bundle", exported, "--target", "host-cpu", "-o~/b.tar")[0] == 0
    assert (place / "home/b.tar").is_file()


@pytest.mark.parametrize(("given", "kept"), [("50%", 0.5), ("0.5", 0.5), ("12.5%", 0.125)])
def test_a_share_is_given_in_both_ways(edgeoe: Edgeoe, seen: list[CompressSettings], given: str, kept: float) -> None:
    write_toml(compress=LEAST)
    edgeoe("compress", "--out", "a", "--keep-params", given)
    write_toml(compress=LEAST | {"keep_params": given if "%" in given else float(given)}, oe={"holdout": "10%"})
    edgeoe("compress", "--out", "a")
    assert [one.keep_params for one in seen] == [kept, kept]
    assert seen[1].oe_settings.holdout == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep-macs", "half"], "Invalid value for '--keep-macs': a share is written as 0.5 or 50%. Got 'half'. See"),
        (["--keep-macs", "50"], "--keep-macs: input should be less than or equal to 1. Got 50.0. Did you mean 50%?"),
        (["--keep-macs", "500%"], "--keep-macs: input should be less than or equal to 1. Got 5.0."),
    ],
)
def test_a_share_that_is_none_is_said_to_be(
    edgeoe: Edgeoe, seen: list[CompressSettings], arguments: list[str], message: str
) -> None:
    write_toml(compress=LEAST)
    code, _, err = edgeoe("compress", "--out", "a", *arguments)
    assert (code, seen) == (2, [])
    assert err.startswith(f"error: {message}")


def test_a_share_in_a_profile_may_be_in_percent(edgeoe: Edgeoe) -> None:
    Path("a.toml").write_text('backend = "onnxruntime"\n[budget]\ntop1 = "85%"\np50_ms = "5%"\n')
    code, _, err = edgeoe("targets", "check", "a.toml")
    assert (code, err) == (2, "error: a.toml:4: p50_ms: input should be a valid number. Got '5%'.\n")
    Path("a.toml").write_text('backend = "onnxruntime"\n[budget]\ntop1 = "x%"\n')
    _, _, err = edgeoe("targets", "check", "a.toml")
    assert err == "error: a.toml:3: top1: a share is written as 0.5 or 50%. Got 'x%'.\n"


def test_deploy_and_inspect_take_what_makes_a_student_from_compress(
    edgeoe: Edgeoe, seen: list[CompressSettings], inspected: list[dict[str, Any]]
) -> None:
    write_toml(
        compress=LEAST | {"weights": "random", "keep_macs": 0.4, "exclude": ["x*"], "out": "a", "seed": 5},
        deploy={"keep_params": 0.7, "seed": 6},
        inspect={"seed": 7},
    )
    edgeoe("deploy", "--out", "b", "--target", "host-cpu", "--test", "test")
    edgeoe("inspect")
    (got,) = seen
    assert (got.teacher, got.weights, got.seed) == ("timm:resnet18", "random", 6)
    assert (got.keep_macs, got.keep_params, got.exclude) == (None, 0.7, ("x*",))
    (call,) = inspected
    assert (call["teacher"], call["weights"], call["classes"], call["seed"]) == ("timm:resnet18", "random", 7, 7)
    assert call["exclude"] == ["x*"]
    code, _, err = edgeoe("deploy", "--target", "host-cpu", "--test", "test")
    assert (code, err) == (2, "error: Missing option '--out'. See --help.\n")


@pytest.mark.parametrize("target", ["raspberry-pi-5", ["raspberry-pi-5"], ["raspberry-pi-5", "host-cpu"]])
def test_the_targets_of_a_student_are_one_name_or_a_list_and_none_of_inspect(
    edgeoe: Edgeoe, seen: list[CompressSettings], inspected: list[dict[str, Any]], target: str | list[str]
) -> None:
    write_toml(compress=LEAST | {"target": target, "exclude": "x*"})
    edgeoe("compress", "--out", "a")
    (got,) = seen
    assert (got.target, got.exclude) == ((target,) if isinstance(target, str) else tuple(target), ("x*",))
    edgeoe("inspect")
    (call,) = inspected
    assert (call["target"], call["exclude"]) == (None, ["x*"])


def test_another_teacher_does_not_get_the_weights_of_the_files(
    edgeoe: Edgeoe, seen: list[CompressSettings], inspected: list[dict[str, Any]]
) -> None:
    write_toml(compress=LEAST | {"weights": "teacher.safetensors"})
    edgeoe("compress", "--out", "a")
    edgeoe("compress", "--out", "a", "--teacher", "timm:resnet34")
    edgeoe("compress", "--out", "a", "--teacher", "timm:resnet34", "--weights", "random")
    assert [one.weights for one in seen] == [Path("teacher.safetensors"), None, "random"]
    edgeoe("inspect", "--teacher", "timm:resnet34")
    edgeoe("inspect", "--classes", "3")
    assert [(one["weights"], one["classes"]) for one in inspected] == [(None, 7), (Path("teacher.safetensors"), 3)]


@pytest.mark.parametrize(
    "command", ["baseline list", "baseline show main --target host-cpu", "baseline save x --target host-cpu"]
)
def test_commands_of_a_group_read_the_groups_table(edgeoe: Edgeoe, command: str) -> None:
    write_toml(compress=LEAST, baseline={"store": "kept"})
    code, out, err = edgeoe(*command.split())
    assert code == (0 if command == "baseline list" else 2)
    assert "kept: " in out + err


READING = [words for words, one in ALL.items() if "config" in {parameter.name for parameter in one.params}]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_no_command_minds_the_table_of_another(words: tuple[str, ...]) -> None:
    """All may stand in one file. The line is parsed, and nothing runs."""
    assert len(READING) > 12
    tables = {names[0]: {"json": "x.json"} for names in READING if names != ("report",)}
    write_toml(**tables, preprocess={}, oe={})
    context = ROOT.make_context("edgeoe", list(words))
    try:
        for depth in range(len(words)):
            command = ALL[words[: depth + 1]]
            context = command.make_context(words[depth], list(words[depth + 1 :]), parent=context)
    except typer.BadParameter as missing:  # what the command needs, which is looked at after the file
        assert type(missing).__name__ == "MissingParameter"  # noqa: PT017 - it may also be none
    else:
        assert context.default_map == ({"json": "x.json"} if words != ("report",) else {})


def test_every_path_in_the_file_is_its_own(edgeoe: Edgeoe, seen: list[CompressSettings]) -> None:
    Path("deep").mkdir()
    Path("deep/e.toml").write_text(tomli_w.dumps({"compress": LEAST | {"ood": "o", "json": "j", "list": "l"}}))
    edgeoe("compress", "--out", "a", "--config", "deep/e.toml")
    (got,) = seen
    assert (got.samples, got.ood, got.list) == (Path("deep/few"), Path("deep/o"), Path("deep/l"))


def test_commands_in_messages_can_be_pasted(edgeoe: Edgeoe, exported: Path, place: Path) -> None:
    run = exported.rename(place / "it's my run")
    for arguments in (
        ("build", run, "--target", "host-cpu"),
        ("export", place / "no run here"),
        ("validate", run, "--target", "host-cpu", "--test", "x"),
        ("validate", run, "--target", "jetson-orin-nano", "--test", "x"),
        ("compare", run, run, "--target", "jetson-orin-nano"),
        ("baseline", "save", run, "--target", "host-cpu", "--store", "my store"),
        ("baseline", "show", "x", "--target", "host-cpu", "--store", "my store"),
    ):
        _, out, err = edgeoe(*arguments)
        told = re.findall(r"(?:next|Make one|Make it|Build|First|Save one|device): (edgeoe .*)", out + err)
        for line in told:
            words = shlex.split(line)
            assert {str(run), str(place / "no run here"), "my store"} & set(words), words
        assert told or "no such folder" in err, (out, err)


def completed(line: str) -> set[str]:
    """What a shell offers after that line."""
    words = line.split(" ")
    variables = {"_EDGEOE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    ended = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-c",
            "import sys; sys.argv[0] = 'edgeoe'; from edgeoe.cli import main; main()",
        ],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in re.findall(r"\| +([\w.]+)$", ended.stderr, re.M)}
    assert loaded & {"torch", "numpy", "onnx", "onnxruntime", "timm"} == set()
    return set(ended.stdout.split())


def test_a_shell_completes_names_of_targets_methods_and_runs(place: Path) -> None:
    for name in ("runs/july/a", "runs/july/b", "other"):
        (place / name).mkdir(parents=True)
        (place / name / "manifest.json").touch()
    (place / "edgeoe.toml").write_text("[compress")  # not yet whole
    assert completed("edgeoe build --target jetson-orin-n") == {"jetson-orin-nano", "jetson-orin-nx"}
    assert completed("edgeoe compress --method m") == {"mir"}
    assert completed("edgeoe export ") == {"runs/july/a", "runs/july/b", "other"}
    assert completed("edgeoe export runs/j") == {"runs/july/a", "runs/july/b"}
    assert {"compress", "compare", "collect"} <= completed("edgeoe co")


def test_options_that_need_the_extra_of_signatures_say_so() -> None:
    options = [one for command in ALL.values() for one in command.params if one.name in ("sign", "verify")]
    assert len(options) == 4
    assert all(one.help.endswith(r"Needs pip install 'edgeoe\[sign]'.") for one in options)
