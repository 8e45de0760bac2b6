"""Profiles of devices."""

import re
from pathlib import Path

import pytest

from edgeoe.errors import TargetError
from edgeoe.records import Budget, MeasureSettings, RuntimeSettings
from edgeoe.targets import find_target, find_targets, load_target

FULL = """\
description = "all there is"
backend = "onnxruntime"
precision = "fp32"
channel_multiple = 8

[runtime]
threads = 2
spinning = true

[measure]
batch = 4
warmup_seconds = 0
min_seconds = 1
min_iterations = 10

[budget]
p99_ms = 8
top1 = 0.5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with an empty ./targets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    return tmp_path


def test_shipped_profiles_load() -> None:
    shipped = find_targets()
    assert "host-cpu" in shipped
    for name, path in shipped.items():
        assert load_target(name) == load_target(str(path))
        assert load_target(name).name == name


def test_the_limits_that_a_shipped_profile_suggests_load_too(folder: Path) -> None:
    text = find_target("host-cpu").read_text(encoding="utf-8")
    wished, count = re.subn(r"^# (\w+ = )", r"\1", text, flags=re.M)
    (folder / "targets/wished.toml").write_text(wished, encoding="utf-8")
    limits = load_target("wished").budget
    assert count == len(Budget.__dataclass_fields__)
    assert None not in [getattr(limits, name) for name in Budget.__dataclass_fields__]


def test_every_key_arrives(folder: Path) -> None:
    (folder / "targets/full.toml").write_text(FULL, encoding="utf-8")
    target = load_target("full")
    assert (target.name, target.backend, target.precision) == ("full", "onnxruntime", "fp32")
    assert (target.description, target.channel_multiple) == ("all there is", 8)
    assert target.runtime == RuntimeSettings(threads=2, spinning=True)
    assert target.measure == MeasureSettings(batch=4, warmup_seconds=0, min_seconds=1, min_iterations=10)
    assert target.budget == Budget(p99_ms=8, top1=0.5)


def test_a_profile_needs_its_backend_alone(folder: Path) -> None:
    (folder / "targets/small.toml").write_text('backend = "onnxruntime"\n', encoding="utf-8")
    target = load_target("small")
    assert (target.runtime, target.measure, target.budget) == (RuntimeSettings(), MeasureSettings(), Budget())


def test_a_users_profile_hides_the_shipped_one(folder: Path) -> None:
    shipped = find_target("host-cpu")
    own = Path("targets/host-cpu.toml")
    own.write_text(FULL, encoding="utf-8")
    assert find_target("host-cpu") == own != shipped
    assert find_targets()["host-cpu"] == own
    assert load_target("host-cpu").channel_multiple == 8


def test_profiles_are_listed_by_name(folder: Path) -> None:
    for name in ("zebra", "aardvark"):
        (folder / f"targets/{name}.toml").write_text(FULL, encoding="utf-8")
    assert list(find_targets()) == sorted(find_targets())
    assert {"zebra", "aardvark", "host-cpu"} <= set(find_targets())


def test_a_profile_may_lie_anywhere(folder: Path) -> None:
    path = folder / "elsewhere.toml"
    path.write_text(FULL, encoding="utf-8")
    assert load_target(str(path)).name == "elsewhere"


def test_an_unknown_profile_is_answered_with_its_neighbour() -> None:
    with pytest.raises(
        TargetError, match=r"^unknown target 'host-cup'\. Did you mean 'host-cpu'\? Your own go into \./targets"
    ):
        load_target("host-cup")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(TargetError, match=r"^away\.toml: no such file\.$"):
        load_target("away.toml")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("precision =", "precison =", "3: unknown key 'precison' in the top level. Did you mean 'precision'?"),
        ("precision =", "name =", "3: unknown key 'name' in the top level. Did you mean 'runtime'?"),
        ("threads = 2", "thread = 2", "7: unknown key 'thread' in [runtime]. Did you mean 'threads'?"),
        ("p99_ms = 8", "p999 = 8", "17: unknown key 'p999' in [budget]. Did you mean 'p99_ms'?"),
        ("[runtime]", "[runtme]", "6: unknown key 'runtme' in the top level. Did you mean 'runtime'?"),
        ("threads = 2", "threads = '2'", "7: threads: input should be a valid integer. Got '2'."),
        ("threads = 2", "threads = true", "7: threads: input should be a valid integer. Got True."),
        ("spinning = true", "spinning = 1", "8: spinning: input should be a valid boolean. Got 1."),
        ("top1 = 0.5", "top1 = [0.5]", "18: top1: input should be a valid number. Got [0.5]."),
        ('"all there is"', "7", "1: description: input should be a valid string. Got 7."),
        ("_multiple = 8", "_multiple = 0", "4: channel_multiple: input should be greater than or equal to 1. Got 0."),
        ("batch = 4", "batch = 0", "11: batch: input should be greater than or equal to 1. Got 0."),
        (
            "_iterations = 10",
            "_iterations = 9",
            "14: min_iterations: input should be greater than or equal to 10. Got 9.",
        ),
        ("min_seconds = 1", "min_seconds = 0", "13: min_seconds: input should be greater than 0. Got 0."),
        ("p99_ms = 8", "p99_ms = nan", "17: p99_ms: input should be less than inf. Got nan."),
        ("top1 = 0.5", "top1 = 50", "18: top1: input should be less than or equal to 1. Got 50."),
        ('"fp32"', '"fp8"', "3: precision: input should be 'fp32'. Got 'fp8'."),
        ('backend = "onnxruntime"', 'backend = "tensor"', "2: backend: input should be 'onnxruntime'. Got 'tensor'."),
        ('backend = "onnxruntime"', "", "1: backend: field required."),
        ("[budget]", "[[budget]]", "16: budget must be a table: write it as [budget]."),
    ],
)
def test_a_wrong_key_is_refused_by_file_and_line(old: str, new: str, complaint: str) -> None:
    path = Path("targets/wrong.toml")
    assert FULL.count(old) == 1
    path.write_text(FULL.replace(old, new), encoding="utf-8")
    with pytest.raises(TargetError) as raised:
        load_target("wrong")
    assert str(raised.value) == f"{path}:{complaint}"


def test_what_is_no_toml_is_refused_by_file_and_line() -> None:
    Path("targets/wrong.toml").write_text(FULL.replace("threads = 2", "threads 2"), encoding="utf-8")
    with pytest.raises(TargetError, match=r"^targets/wrong\.toml: not valid TOML: .*\(at line 7, column 9\)$"):
        load_target("wrong")
