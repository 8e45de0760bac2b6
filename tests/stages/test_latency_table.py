"""A latency table is measured once, here or by a bundle on another device, and compress takes it from the cache."""

from __future__ import annotations

import gzip
import json
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hostile import hostile_folder, imported
from made_up import QUICK
from onnx import numpy_helper
from torch import nn

from edgeoe.codec import to_json
from edgeoe.data.preprocess import Preprocess
from edgeoe.devices.table_runner import run_table
from edgeoe.errors import BackendError, ConfigError, PruningError, RunError, TargetError
from edgeoe.files import file_sha256
from edgeoe.machine.environment import environment
from edgeoe.measure.latency_table import read_table
from edgeoe.pipeline import bundle_table, collect_table, compress, measure_parts
from edgeoe.progress import silent
from edgeoe.records.latency_table import FORMAT, FP32_TEACHER, TEACHER, LatencyTable, TableFacts
from edgeoe.run import layout
from edgeoe.settings import CompressSettings
from edgeoe.stages.budget import BudgetMeter
from edgeoe.stages.latency_table import cached_table, digest_of, keep_table
from edgeoe.stages.subject import load_subject, parts_for
from edgeoe.stages.table_bundle import _without_weights
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import DeviceFacts

HERE = replace(load_target("host-cpu"), measure=QUICK)
AWAY = replace(HERE, name="away", device=DeviceFacts(machine=platform.machine()))  # this one, as others pretend


def at_a_desk(**_: object) -> dict[str, Any]:
    """The environment of a machine that is no device of these tests."""
    return {**environment(), "machine": "riscv64", "cpu": "Desk"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; tables are measured in as few turns as say anything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edgeoe.measure.latency_table._SECONDS", 0.0)
    return tmp_path / "cache" / "edgeoe" / "latency"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes bundles and compresses is another machine than AWAY, whose device runs the bundles."""
    for stage in ("budget", "latency_table", "latency_probe", "table_bundle"):
        place = "edgeoe.targets.here" if stage == "latency_probe" else f"edgeoe.stages.{stage}"
        monkeypatch.setattr(f"{place}.environment", at_a_desk)


@pytest.fixture(scope="module")
def asked(settings: CompressSettings) -> CompressSettings:
    """Settings under which a table has few variants."""
    return replace(settings, method="kd", channel_multiple=4, seed=2)


@pytest.fixture(scope="module")
def archive(asked: CompressSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table") / "table.tar.gz"
    bundle_table(asked, AWAY, out=out)
    return out


@pytest.fixture
def folder(archive: Path, tmp_path: Path) -> Path:
    """The bundle, unpacked."""
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    assert folder.name == "edgeoe-away-latency"
    return folder


def run_py(folder: Path, out: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), "--out", out],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_what_a_bundle_measures_on_its_device_is_the_budget_of_compress_elsewhere(
    asked: CompressSettings, folder: Path, tmp_path: Path, desk: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TargetError) as raised:
        compress(replace(asked, latency_ms=1e-3), out=tmp_path / "run", targets=[AWAY])
    assert "away: not measured here: this is riscv64 (Desk), away is " in str(raised.value)
    assert str(raised.value).endswith(": edgeoe latency-table --target away -o away.tar.gz")
    with pytest.raises(TargetError, match=r"Bundle the table for the device: add --out away\.tar\.gz$"):
        measure_parts(asked, AWAY)

    place = hostile_folder(tmp_path / "place")
    ran = run_py(folder, "table.json", cwd=place)
    assert ran.returncode == 0, ran.stderr
    assert imported(place) == ""
    assert ran.stderr.splitlines()[-1] == "Measuring on away: 100 %"
    assert ran.stdout.endswith("table.json: copy it back, then: edgeoe collect table.json\n")
    assert not (place / "table.json.partial").exists()

    table = collect_table(place / "table.json")
    assert {TEACHER, FP32_TEACHER} < table.latencies_ms.keys()
    assert table.environment["machine"] == platform.machine()
    assert "onnxruntime" in table.environment["versions"]
    report = measure_parts(asked, AWAY)
    assert report.teacher_ms == table.latencies_ms[TEACHER]
    assert len(report.parts) == len(table.latencies_ms) - 2 > 4

    # A table as a slow device might have measured it, so that what is predicted does not depend on this machine.
    subject = load_subject(asked)
    variants = parts_for(subject, asked, AWAY).variants()
    macs = {name: float(sum(p.numel() for p in network().parameters())) for name, network in variants.items()}
    slow = {name: 100 * count / macs[TEACHER] for name, count in macs.items()}
    (tmp_path / "slow.json").write_text(
        json.dumps({"format": FORMAT, **to_json(replace(table, latencies_ms={**slow, FP32_TEACHER: 100.0}))})
    )
    collect_table(tmp_path / "slow.json")
    by_speedup = replace(asked, speedup=1.25)
    for name, given, limit in (("a", replace(asked, latency_ms=70.0), 70.0), ("b", by_speedup, 80.0)):
        caplog.clear()
        run = compress(given, out=tmp_path / name, targets=[AWAY])
        assert run is not None
        search = run.read(layout.COMPRESS).budget
        assert search is not None
        assert search.teacher == (100.0,)
        assert 0.6 * limit < search.student[0] <= limit
        assert {one.measured for one in search.rounds} == {(None,)}
        assert caplog.text.count("its latency table predicts the student's latency") == 1
    with pytest.raises(PruningError, match=r"no student of this teacher can meet p50_ms at most 0\.01 on away"):
        compress(replace(asked, latency_ms=0.01), out=tmp_path / "c", targets=[AWAY])


@pytest.mark.parametrize(
    ("multiple", "told"), [(None, "--target away --channel-multiple 16 -o"), (4, "--target away -o")]
)
def test_a_missing_table_is_asked_for_at_the_widths_that_compress_takes(
    multiple: int | None, told: str, asked: CompressSettings, desk: None
) -> None:
    """Those that suit all targets, unless the settings name them, which the user repeats anyway."""
    subject, given = load_subject(asked), replace(asked, channel_multiple=multiple, latency_ms=1.0)
    targets = [AWAY, replace(HERE, channel_multiple=16)]
    meter = BudgetMeter(subject.teacher, given, targets, subject.preprocess)
    with pytest.raises(TargetError, match=rf"edgeoe latency-table {told} away\.tar\.gz$"):
        meter.latencies({})


def test_another_network_and_other_widths_are_not_in_the_table(
    asked: CompressSettings, folder: Path, tmp_path: Path, desk: None
) -> None:
    measured = run_here(folder, tmp_path / "table.json")
    collect_table(tmp_path / "table.json")
    assert measure_parts(asked, AWAY).teacher_ms == measured.latencies_ms[TEACHER]
    assert measure_parts(replace(asked, seed=5, weights="random"), AWAY).parts, "weights are of no account"
    for changes in (
        {"teacher": asked.teacher.replace("residual", "chain"), "weights": "random"},
        {"channel_multiple": 1},
        {"preprocess": replace(asked.preprocess, size=(20, 20))},
    ):
        with pytest.raises(TargetError, match="Bundle the table for the device"):
            measure_parts(replace(asked, **changes), AWAY)
    with pytest.raises(TargetError, match="Bundle the table for the device"):
        measure_parts(asked, replace(AWAY, runtime=replace(AWAY.runtime, threads=2)))


def run_here(folder: Path, out: Path) -> LatencyTable:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeoe.targets.here.environment", environment)
        return run_table(folder, out, progress=silent)


def test_the_same_settings_give_the_same_bytes_and_names(
    asked: CompressSettings, archive: Path, tmp_path: Path
) -> None:
    record = bundle_table(asked, AWAY, out=tmp_path / "again.tar.gz")
    assert record.sha256 == file_sha256(archive) == file_sha256(tmp_path / "again.tar.gz")
    assert record.size_bytes == archive.stat().st_size
    names = [parts_for(load_subject(asked), asked, AWAY).variants().keys() for _ in range(2)]
    assert names[0] == names[1]
    assert names[0] == parts_for(load_subject(replace(asked, seed=9)), asked, AWAY).variants().keys()


def test_a_bundle_is_refused_where_it_can_say_nothing(asked: CompressSettings, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"host-cpu: its profile names no device.*\[device\]"):
        bundle_table(asked, HERE, out=tmp_path / "t.tar.gz")
    with pytest.raises(ConfigError, match=r"--out must end with \.tar\.zst"):
        bundle_table(asked, AWAY, out=tmp_path / "t.zip")
    with pytest.raises(ConfigError, match="--method none prunes nothing"):
        bundle_table(replace(asked, method="none"), AWAY, out=tmp_path / "t.tar.gz")
    assert list(tmp_path.glob("t.*")) == []


def test_no_weight_of_the_teacher_travels_whole() -> None:
    """Large weights repeat a few of their values; biases, shapes and dtypes stay."""
    values: dict[str, np.ndarray] = {
        "w": np.arange(10_000, dtype=np.float32).reshape(100, 100),
        "q": (np.arange(9_000) % 251).astype(np.uint8),
        "i": np.arange(9_000),
        "b": np.arange(64, dtype=np.float32),
    }
    graph = onnx.ModelProto()
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    light = {t.name: numpy_helper.to_array(t) for t in _without_weights(graph).graph.initializer}
    assert {name: (v.shape, v.dtype) for name, v in light.items()} == {n: (v.shape, v.dtype) for n, v in values.items()}
    assert len(np.unique(light["w"])) < 5_000
    assert not np.array_equal(light["w"][0], light["w"][41]), "channels differ"
    assert not np.array_equal(light["q"], values["q"])
    for name in ("i", "b"):
        np.testing.assert_array_equal(light[name], values[name])
    assert np.array_equal(numpy_helper.to_array(graph.graph.initializer[0]), values["w"]), "the graph itself stays"


def test_graphs_are_in_the_precision_of_the_target_but_one(asked: CompressSettings, tmp_path: Path) -> None:
    bundle_table(asked, replace(AWAY, precision="int8"), out=tmp_path / "t.tar")
    with tarfile.open(tmp_path / "t.tar") as opened:
        opened.extractall(tmp_path / "u", filter="data")
    folder = tmp_path / "u" / "edgeoe-away-latency"
    facts = json.loads((folder / "bundle.json").read_text())
    quantised = {
        name: any(
            "Quantize" in node.op_type
            for node in onnx.load_from_string(gzip.decompress((folder / file).read_bytes())).graph.node
        )
        for name, file in facts["graphs"].items()
    }
    assert quantised.pop(FP32_TEACHER) is False
    assert set(quantised.values()) == {True}


def test_a_tensorrt_bundle_brings_its_backend(asked: CompressSettings, tmp_path: Path) -> None:
    target = replace(load_target("jetson-orin-nano"), precision="fp16")
    record = bundle_table(asked, target, out=tmp_path / "t.tar.gz")
    assert {f"lib/edgeoe/{name}.py" for name in ("backends/tensorrt", "backends/cuda", "devices/table_runner")} < {
        *record.files
    }
    assert not {"lib/edgeoe/backends/onnxruntime.py", "lib/edgeoe/measure/worker.py"} & {*record.files}


# On the device


@pytest.mark.parametrize("name", ["graphs/000.onnx.gz", "lib/edgeoe/measure/turns.py", "run.py"])
def test_a_changed_file_is_refused_on_the_device(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    with pytest.raises(RunError, match="missing or changed since it was bundled"):
        run_here(folder, tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', '{"format": 1, "graphs": 3}'])
def test_damaged_facts_are_refused_on_the_device(text: str, folder: Path, tmp_path: Path) -> None:
    (folder / "bundle.json").write_text(text)
    with pytest.raises(RunError, match=r"not a bundle of edgeoe|a bundle of another version"):
        run_here(folder, tmp_path / "t.json")


def test_another_machine_than_the_device_measures_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeoe.devices.table_runner.environment", at_a_desk)
    with pytest.raises(BackendError, match=r"not measured here: this is riscv64 .*on the device itself\.$"):
        run_here(folder, tmp_path / "t.json")


def test_an_interrupted_table_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeoe.measure.latency_table._AT_ONCE", 2)
    out, builds = tmp_path / "t.json", list[Path]()
    from edgeoe.backends.onnxruntime import OnnxRuntime

    original = OnnxRuntime.build

    def build(self: OnnxRuntime, graph: Path, *rest: Any, **options: Any) -> dict[str, Any]:
        builds.append(graph)
        if len(builds) == 5:  # the second variant of the second part
            raise KeyboardInterrupt
        return original(self, graph, *rest, **options)

    monkeypatch.setattr(OnnxRuntime, "build", build)
    with pytest.raises(KeyboardInterrupt):
        run_here(folder, out)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["t.json.partial"]
    part = read_table(tmp_path / "t.json.partial").latencies_ms
    assert [*part][:2] == [TEACHER, FP32_TEACHER]
    assert len(part) == 3
    whole = run_here(folder, out)
    variants = len(json.loads((folder / "bundle.json").read_text())["graphs"])
    assert len(whole.latencies_ms) == variants
    assert {name: whole.latencies_ms[name] for name in part} == part
    left = variants - 3
    assert len(builds) - 5 == left + -(-left // 2), "each variant once, and the teacher with each part"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["t.json"]


@pytest.mark.parametrize("name", ["t.json", "t.json.partial"])
def test_somebody_elses_file_is_not_overwritten(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=rf"{name}: exists and is no latency table.*Choose another --out\.$"):
        run_here(folder, tmp_path / "t.json")
    assert (tmp_path / name).read_text() == "mine"


def test_what_another_network_left_is_not_taken(folder: Path, tmp_path: Path) -> None:
    first = run_here(folder, tmp_path / "t.json")
    other = replace(first, network="0" * 64, latencies_ms=dict.fromkeys(first.latencies_ms, 77.0))
    write(tmp_path / "t.json.partial", other)
    assert 77.0 not in run_here(folder, tmp_path / "t.json").latencies_ms.values()


# Here again


def table(**changes: Any) -> LatencyTable:
    made = LatencyTable(
        network="a" * 64,
        target=AWAY,
        environment={"machine": platform.machine(), "cpu": "Small", "versions": {"onnxruntime": "1"}},
        latencies_ms={TEACHER: 10.0, FP32_TEACHER: 20.0, "conv -8": 8.0},
    )
    return replace(made, **changes)


def write(path: Path, of: LatencyTable, **changes: Any) -> Path:
    path.write_text(json.dumps({"format": FORMAT, **to_json(of), **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 7}, r"not a latency table of this version of edgeoe \(format must be 1\)"),
        ({"network": "x"}, r"\(network: expected 64 hexadecimal digits"),
        ({"latencies_ms": {TEACHER: -1.0}}, r"\(latencies_ms.teacher: expected more than 0"),
        ({"latencies_ms": {TEACHER: "fast"}}, r"\(latencies_ms.teacher: expected a number"),
        ({"latencies_ms": {TEACHER: 1.0}}, r"the latency of the teacher in fp32 is missing"),
        ({"latencies_ms": {}}, r"the latency of the teacher is missing"),
        ({"environment": []}, r"\(environment: expected an object"),
        ({"environment": {"versions": 3}}, r"environment\.versions: expected an object"),
        ({"environment": {"machine": "riscv64"}}, r"not measured on the device: this is riscv64, away is"),
        ({"more": 1}, r"unknown key 'more'"),
        ({"target": to_json(HERE)}, r"the profile host-cpu names no device"),
    ],
)
def test_what_is_no_table_of_its_device_is_refused_by_its_field(
    changes: dict[str, Any], told: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(RunError, match=rf"t\.json: .*{told}"):
        collect_table(write(tmp_path / "t.json", table(), **changes))
    assert not cache.exists()


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe\x00", b"[" * 100_000, b'{"format": 1'])
def test_a_damaged_file_is_refused_and_in_the_cache_ignored(data: bytes, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(RunError, match="not a latency table"):
        collect_table(tmp_path / "t.json")
    cache.mkdir(parents=True)
    (cache / "x.json").write_bytes(data)
    assert cached_table("a" * 64, AWAY) is None
    with pytest.raises(RunError, match="no such file"):
        collect_table(tmp_path / "none.json")


def test_a_second_table_of_a_teacher_keeps_the_variants_of_the_first(tmp_path: Path, desk: None) -> None:
    """By their ratio to the teacher, since the device may be faster the second time."""
    collect_table(write(tmp_path / "t.json", table()))
    second = table(latencies_ms={TEACHER: 5.0, FP32_TEACHER: 11.0, "block dropped": 3.0})
    assert collect_table(write(tmp_path / "t.json", second)) == second
    known = cached_table("a" * 64, AWAY)
    assert known is not None
    assert known.latencies_ms == {TEACHER: 5.0, FP32_TEACHER: 11.0, "conv -8": 4.0, "block dropped": 3.0}


def test_the_newest_table_of_a_device_counts(tmp_path: Path, desk: None, cache: Path) -> None:
    for at, cpu in enumerate(("Small", "Smaller")):
        facts = {**table().environment, "cpu": cpu}
        collect_table(write(tmp_path / "t.json", table(environment=facts)))
        for path in cache.glob("*.json"):
            if read_table(path).environment["cpu"] == cpu:
                os.utime(path, (at, at))
    newest = cached_table("a" * 64, AWAY)
    assert newest is not None
    assert newest.environment["cpu"] == "Smaller"
    assert cached_table("b" * 64, AWAY) is None


def test_a_table_of_a_runtime_that_is_not_here_is_read(tmp_path: Path) -> None:
    """TensorRT tells its version only where there is a GPU."""
    jetson = load_target("jetson-orin-nano")
    board = {"machine": "aarch64", "board": "NVIDIA Jetson Orin Nano Developer Kit", "versions": {"tensorrt": "10.3.0"}}
    collect_table(write(tmp_path / "t.json", table(target=jetson, environment=board)))
    assert cached_table("a" * 64, jetson) is not None


def test_a_table_of_this_machine_is_measured_once(asked: CompressSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure_parts(asked, HERE)
    monkeypatch.setattr("edgeoe.stages.latency_table.opened", None)
    again = measure_parts(asked, HERE)
    assert again == replace(first, environment=again.environment)
    ms = {(part.names, part.remaining): part.saved_ms for part in first.parts}
    assert len(ms) == len(first.parts) > 4
    assert all(part.share == pytest.approx(part.saved_ms / first.teacher_ms) for part in first.parts)
    assert all(part.units is not None and 0 < (part.remaining or 0) < part.units for part in first.parts)


def test_a_table_of_this_machine_before_an_update_is_not_of_it_now(asked: CompressSettings) -> None:
    facts = {**environment(), "versions": {"onnxruntime": "0.1"}}
    keep_table(table(target=HERE, environment=facts))
    assert cached_table("a" * 64, HERE) is None
    assert cached_table("a" * 64, AWAY) is None


def test_the_digest_is_of_the_shapes_alone(network: Callable[[str], nn.Module]) -> None:
    preprocess = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    first = network("residual")
    digest = digest_of(first, preprocess)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert digest_of(first, preprocess) == digest
    assert digest_of(network("chain"), preprocess) != digest
    assert digest_of(first, replace(preprocess, size=(20, 20))) != digest


def test_facts_survive_their_file() -> None:
    from edgeoe.codec import from_json

    facts = TableFacts(
        edgeoe="0", target=AWAY, network="a" * 64, shape=(3, 8, 8), graphs={TEACHER: "graphs/000.onnx.gz"}, files={}
    )
    assert from_json(TableFacts, json.loads(json.dumps(to_json(facts)))) == facts
