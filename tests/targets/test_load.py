"""Profiles of devices."""

import re
from pathlib import Path

import pytest

from edgeoe.errors import TargetError
from edgeoe.registry import QUANTITIES
from edgeoe.targets.boards import BOARDS
from edgeoe.targets.load import check_target, find_target, find_targets, load_target
from edgeoe.targets.profile import Budget, DeviceFacts, EngineSettings, MeasureSettings, RuntimeSettings, Target

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

[device]
board = "jetson-orin-nx"
compute_capability = 8.7
memory_gb = 16
dla_cores = 2
tensorrt = "10.3"
power_mode = "25W"
machine = "arm64"
board_model = "Orin NX"
cpu = "ARMv8*"
gpu = "Orin"

[engine]
batch_min = 2
batch_opt = 4
batch_max = 8
workspace_mb = 1024
optimization_level = 5
tf32 = false
hardware_compatibility = "ampere_plus"
dla_core = 1
gpu_fallback = true
timing_cache = false
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
    text = (
        'backend = "onnxruntime"\n[budget]' + find_target("host-cpu").read_text(encoding="utf-8").split("[budget]")[1]
    )
    wished, count = re.subn(r"^# (\w+ = )", r"\1", text, flags=re.M)
    (folder / "targets/wished.toml").write_text(wished, encoding="utf-8")
    limits = load_target("wished").budget
    assert count == len(limits)
    assert set(limits) == set(QUANTITIES)


def test_every_key_arrives(folder: Path) -> None:
    (folder / "targets/full.toml").write_text(FULL, encoding="utf-8")
    target = load_target("full")
    assert (target.name, target.backend, target.precision) == ("full", "onnxruntime", "fp32")
    assert (target.description, target.channel_multiple) == ("all there is", 8)
    assert target.runtime == RuntimeSettings(threads=2, spinning=True)
    assert target.measure == MeasureSettings(batch=4, warmup_seconds=0, min_seconds=1, min_iterations=10)
    assert target.budget == Budget(p99_ms=8, top1=0.5)
    assert target.device == DeviceFacts(
        board="jetson-orin-nx", compute_capability=8.7, memory_gb=16, dla_cores=2, tensorrt="10.3", power_mode="25W",
        machine="arm64", board_model="Orin NX", cpu="ARMv8*", gpu="Orin",
    )  # fmt: skip
    assert target.engine == EngineSettings(2, 4, 8, 1024, 5, False, "ampere_plus", 1, True, False)


def test_a_profile_needs_its_backend_alone(folder: Path) -> None:
    (folder / "targets/small.toml").write_text('backend = "onnxruntime"\n', encoding="utf-8")
    target = load_target("small")
    assert (target.runtime, target.measure, target.budget) == (RuntimeSettings(), MeasureSettings(), Budget())


def test_a_users_profile_hides_the_shipped_one_and_that_is_logged_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can put a file there decides by which budget is judged."""
    shipped = find_target("host-cpu")
    assert caplog.messages == []
    own = Path("targets/host-cpu.toml")
    own.write_text(FULL, encoding="utf-8")
    assert find_target("host-cpu") == own != shipped
    assert find_targets()["host-cpu"] == own
    assert load_target("host-cpu").channel_multiple == 8
    assert caplog.messages == [f"{own.resolve()} is the profile that counts, and hides host-cpu of edgeoe"]


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
        ('"fp32"', '"fp8"', "3: precision must be one of fp32, fp16, int8. Got 'fp8'."),
        (
            'backend = "onnxruntime"',
            'backend = "tensor"',
            "2: unknown backend 'tensor'. Did you mean 'tensorrt'?",
        ),
        ("power_mode", "powermode", "26: unknown key 'powermode' in [device]. Did you mean 'power_mode'?"),
        ('"Orin NX"', '""', "28: board_model: string should have at least 1 character. Got ''."),
        ("= 8.7", '= "8.7"', "22: compute_capability: input should be a valid number. Got '8.7'."),
        ("dla_core = 1", "dla_core = -1", "40: dla_core: input should be greater than or equal to 0. Got -1."),
        ("level = 5", "level = 6", "37: optimization_level: input should be less than or equal to 5. Got 6."),
        (
            '"ampere_plus"',
            '"all"',
            "39: hardware_compatibility: input should be 'none', 'ampere_plus' or 'same_compute_capability'. "
            "Got 'all'.",
        ),
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


def test_shipped_profiles_ask_for_nothing_impossible() -> None:
    shipped = find_targets()
    assert len(shipped) >= 12
    assert {name: check_target(name) for name in shipped} == {name: [] for name in shipped}


def test_shipped_profiles_name_boards_and_what_is_known_of_them() -> None:
    devices = {name: load_target(name).device for name in find_targets()}
    assert {device.board for device in devices.values()} - {None} == set(BOARDS)
    assert all(device.board == name for name, device in devices.items() if device.board)
    assert [name for name in devices if name.startswith("jetson-") and not devices[name].board] == []


def test_a_shipped_profile_may_be_taken_to_the_dla_once_graphs_are_fp16(folder: Path) -> None:
    text = find_target("jetson-orin-nx").read_text(encoding="utf-8").replace('"fp32"', '"fp16"')
    text = re.sub(r"^# (dla_core|gpu_fallback)", r"\1", text, flags=re.M).replace("batch_max = 8", "batch_max = 1")
    (folder / "targets/dla.toml").write_text(text, encoding="utf-8")
    assert load_target("dla").engine.dla_core == 0
    assert check_target("dla") == []


def test_the_budgets_that_shipped_profiles_suggest_load_too(folder: Path) -> None:
    for name, path in find_targets().items():
        wished = re.sub(
            r"^# (\w+ = [\d.]+)", r"\1", path.read_text(encoding="utf-8").partition("[budget]")[2], flags=re.M
        )
        (folder / f"targets/{name}.toml").write_text(f'backend = "onnxruntime"\n[budget]{wished}', encoding="utf-8")
        assert load_target(name).budget["p99_ms"]
        assert load_target(name).budget["rare_recall"] == 0.7


def test_every_finding_has_file_and_line_in_order() -> None:
    path = Path("targets/wrong.toml")
    path.write_text(FULL, encoding="utf-8")
    assert check_target("wrong") == [
        f"{path}:32: backend onnxruntime reads no [engine]: that is for tensorrt. Remove it."
    ]
    path.write_text(FULL.replace('"onnxruntime"', '"tensorrt"').replace('"10.3"', '"10.16"'), encoding="utf-8")
    assert [finding.partition(": ")[0] for finding in check_target("wrong")] == [
        f"{path}:{line}" for line in (6, 39, 40, 40, 40)
    ]


def test_a_finding_about_keys_and_types_is_told_alone() -> None:
    Path("targets/wrong.toml").write_text(FULL.replace("batch = 4", "batch = 0"), encoding="utf-8")
    (finding,) = check_target("wrong")
    assert finding.startswith("targets/wrong.toml:11: batch: input should be greater than or equal to 1")


@pytest.mark.parametrize(
    ("capability", "told"),
    [(8.7, "precision: fp8 needs compute capability 8.9 or higher, and this device has 8.7."),
     (8.9, "precision must be one of fp32, fp16, int8. Got 'fp8'.")],
)  # fmt: skip
def test_fp8_is_refused_for_the_device_if_that_has_none(capability: float, told: str) -> None:
    text = f'backend = "tensorrt"\nprecision = "fp8"\n[device]\ncompute_capability = {capability}\n'
    Path("targets/wrong.toml").write_text(text, encoding="utf-8")
    assert check_target("wrong") == [f"targets/wrong.toml:2: {told}"]


def test_what_is_no_toml_is_refused_by_file_and_line() -> None:
    Path("targets/wrong.toml").write_text(FULL.replace("threads = 2", "threads 2"), encoding="utf-8")
    with pytest.raises(TargetError, match=r"^targets/wrong\.toml: not valid TOML: .*\(at line 7, column 9\)$"):
        load_target("wrong")


def test_every_profile_names_a_multiple_that_its_runtime_computes_fast() -> None:
    multiples = {name: load_target(name).channel_multiple for name in find_targets()}
    assert set(multiples.values()) <= {4, 8, 16}
    assert multiples["host-cpu"] == 8
    assert Target(name="left out", backend="onnxruntime").channel_multiple == 8
