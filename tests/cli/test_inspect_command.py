"""edgeoe inspect, and --weights random on every command that takes a teacher."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from edgeoe.settings import CompressSettings

Edgeoe = Callable[..., tuple[int, str, str]]
PREPROCESS = {"size": [16, 16], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, whose edgeoe.toml says how images are prepared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeoe.report.terminal.out.width", 100)
    Path("edgeoe.toml").write_text(tomli_w.dumps({"preprocess": PREPROCESS}), encoding="utf-8")
    return tmp_path


@pytest.fixture
def teacher(teacher_file: Path) -> Callable[[str], str]:
    return lambda name: f"{teacher_file}:{name}"


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_inspect_shows_what_can_go_and_what_stays(edgeoe: Edgeoe, teacher: Callable[[str], str]) -> None:
    code, out, err = edgeoe("inspect", "--teacher", teacher("stages"), "--weights", "random", "--json", "i.json")
    assert code == 0, err
    assert out.startswith(f"{teacher('stages')}, random weights: images of 3x16x16, 1.309 M MACs, 0.013 M parameters\n")
    assert re.search(r"│ early\.\*\.one\.0 \(2\) +│ +8 │ +8 │ 22\.5 % │ +8\.9 % │\n", out)
    assert re.search(r"│ down\.0 \+ 2 tied +│ +16 │ +16 │ 25\.4 % │ +39\.9 % │\n", out)
    assert re.search(r"│ late\.\* \(2\) +│ 45\.1 % │ +70\.9 % │\n", out)
    assert "head: head (--method mir also keeps its inputs: down.0)\nfeatures: outputs of late\n" in out
    assert "the first layer stays" not in out, "it writes into a residual stream"
    assert "units: " not in out, "nothing is made of several channels"
    assert "Verifying channel groups" in err
    record = read_json("i.json")
    assert (record["macs"], record["shape"], record["random_weights"]) == (1_308_720, [3, 16, 16], True)
    assert [group["name"] for group in record["groups"]][:2] == ["stem.0", "early.0.one.0"]


def test_equal_reasons_take_one_line(edgeoe: Edgeoe, teacher: Callable[[str], str]) -> None:
    _, out, _ = edgeoe("inspect", "--teacher", teacher("stages"), "--weights", "random", "--exclude", "*.one.*")
    assert "  left alone: early.*.one.0 (2), late.*.one.0 (2): --exclude names it\n" in out


def test_units_of_several_channels_are_explained(edgeoe: Edgeoe) -> None:
    Path("edgeoe.toml").unlink()
    code, out, err = edgeoe("inspect", "--teacher", "timm:test_vit", "--weights", "random", "--classes", "5")
    assert code == 0, err
    assert re.search(r"│ blocks\.\*\.attn\.qkv \(6\) +│ +192 │ +2 │", out)
    assert "\nunits: the smallest prunable units" in out


def test_latencies_beside_the_noise_are_shown(
    edgeoe: Edgeoe, teacher: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe_on(target: object, preprocess: object) -> Callable[[list[object]], list[float]]:
        return lambda models: [2.0, 2.0, 2.1, 1.9, *[1.5, 1.0, 1.9, 2.1, 1.5, 3.0][: len(models) - 4]]

    monkeypatch.setattr("edgeoe.stages.inspect.probe_on", probe_on)
    code, out, err = edgeoe(
        "inspect", "--teacher", teacher("stages"), "--weights", "random", "--target", "host-cpu", "--json", "i.json"
    )
    assert code == 0, err
    assert "host-cpu, here: 2.000 ms, repeated runs within 0.200 ms\n" in out
    shown = re.findall(r"^│ (\S+).*│ +(\S+)(?: %)? │$", out, re.M)
    assert shown == [
        ("stem.0", "25.0"),
        ("early.*.one.0", "50.0"), ("down.0", "-"), ("late.*.one.0", "-"), ("early.*", "25.0"), ("late.*", "-50.0"),
    ]  # fmt: skip
    assert read_json("i.json")["noise_ms"] == pytest.approx(0.2)


def test_a_teacher_that_nothing_can_be_taken_from_is_no_error(edgeoe: Edgeoe, teacher: Callable[[str], str]) -> None:
    code, out, _ = edgeoe("inspect", "--teacher", teacher("rigid"), "--weights", "random")
    assert code == 0
    assert "\nno channels can be pruned\nno residual block can be dropped\n" in out
    assert re.search(
        r"  left alone: conv: the network fails without them at \w+\.py:60 \(RuntimeError: shape '\[1, 4, 256\]' is",
        out,
    )
    assert out.endswith("next: edgeoe inspect with another --teacher: no method can make this one smaller\n")


@pytest.mark.parametrize(
    "given", ['samples = "few"', "classes = 4", 'classes = "a,b,c,d"', 'classes = ["a", "b", "c", "d"]']
)
def test_classes_are_as_many_as_samples_has_folders_or_as_is_said(given: str, edgeoe: Edgeoe, place: Path) -> None:
    for name in "abcd":
        (place / "few" / name).mkdir(parents=True)
    Path("edgeoe.toml").write_text(f'[inspect]\n{given}\nweights = "random"\n', encoding="utf-8")
    code, _, err = edgeoe("inspect", "--teacher", "timm:test_resnet", "--json", "i.json")
    assert code == 0, err
    assert read_json("i.json")["groups"][-1]["channels"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing option '--teacher'"),
        ("--teacher resnet18", "--teacher must be FILE.py:FACTORY, timm:NAME or torchvision:NAME. Got 'resnet18'."),
        ("--teacher timm:test_vit --classes 2 --samples few", "--classes and --samples: give one of them."),
        ("--teacher timm:test_vit --classes 0", "--classes must be at least 1. Got 0."),
        ("--teacher timm:test_vit --classes names.txt", "--classes names.txt: can't be read: No such file"),
        ("--teacher timm:test_vit --samples few", "few: no such folder."),
        ("--teacher timm:test_vit --weights random --target quik", "unknown target 'quik'."),
        ("--teacher timm:test_vit --weights ./random", "--weights random: no such file."),
        ("--teacher FILE:chain", "--weights is missing: "),
        ("--teacher FILE:chain --weights random --classes 5", "the teacher must answer 2 images with logits (2, 5)"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    edgeoe: Edgeoe, teacher_file: Path, arguments: str, message: str
) -> None:
    code, _, err = edgeoe("inspect", *arguments.replace("FILE", str(teacher_file)).split())
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith(f"error: {message}")


def test_random_weights_go_all_the_way_and_are_said(
    edgeoe: Edgeoe, settings: CompressSettings, pictures: Path, place: Path
) -> None:
    tables = settings.to_toml()
    tables["deploy"] = tables.pop("compress") | {"weights": "random"}
    Path("edgeoe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    quick = "[measure]\nwarmup_seconds = 0.01\nmin_seconds = 0.05\nmin_iterations = 20\n"
    Path("quick.toml").write_text(f'backend = "onnxruntime"\n{quick}', encoding="utf-8")
    code, out, err = edgeoe(
        "deploy", "--out", "a", "--target", "quick.toml", "--test", pictures / "test", "--json", "d.json"
    )
    assert code == 0, err
    assert "random weights: the teacher is untrained, so accuracy and recall are meaningless\n" in out
    record = read_json("d.json")
    assert record["compress"]["random_weights"] is True
    assert [one["random_weights"] for one in record["targets"].values()] == [True]
    (place / "edgeoe.toml").unlink()
    code, out, err = edgeoe("compress", "--config", "a/config.toml", "--out", "b")
    assert code == 0, err
    assert out.splitlines()[0].endswith(" s; random weights")
    assert Path("a/student/weights.safetensors").read_bytes() == Path("b/student/weights.safetensors").read_bytes()
