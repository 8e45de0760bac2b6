"""edgeoe latency-table, and collect of what it bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up import result

from edgeoe.errors import TargetError
from edgeoe.measure.latency_table import write_table
from edgeoe.records.bundle import BundleRecord
from edgeoe.records.latency_table import FP32_TEACHER, TEACHER, LatencyTable, PartSaving, TableReport
from edgeoe.run.result_file import write_result
from edgeoe.settings import CompressSettings
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

Edgeoe = Callable[..., tuple[int, str, str]]
ASKED = ("--teacher", "timm:resnet18", "--samples", "few", "--no-oe", "--weights", "random")
REPORT = TableReport(
    target="host-cpu",
    precision="int8",
    batch=4,
    teacher_ms=2.0,
    parts=(
        PartSaving(names=("layer1.0.conv1", "layer1.1.conv1"), units=64, remaining=48, saved_ms=0.125, share=0.0625),
        PartSaving(names=("layer2.0", "layer2.1"), units=None, remaining=None, saved_ms=0.25, share=0.125),
        PartSaving(names=("layer3.0", "layer2.9"), units=None, remaining=None, saved_ms=0.75, share=0.375),
        PartSaving(names=("layer4.1",), units=None, remaining=None, saved_ms=0.5, share=0.25),
    ),
    environment={},
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CompressSettings, Target, Path | None]]:
    """What the command asks the stages for."""
    asked: list[tuple[CompressSettings, Target, Path | None]] = []

    def measure(settings: CompressSettings, target: Target, **_: Any) -> TableReport:
        asked.append((settings, target, None))
        return REPORT

    def bundle(settings: CompressSettings, target: Target, *, out: Path, **_: Any) -> BundleRecord:
        asked.append((settings, target, out))
        return BundleRecord(
            path=str(out), sha256="f" * 64, size_bytes=1_500_000, target=target.name, precision="fp16", test_images=0,
            files=("bundle.json", "run.py"),
        )  # fmt: skip

    monkeypatch.setattr("edgeoe.pipeline.measure_parts", measure)
    monkeypatch.setattr("edgeoe.pipeline.bundle_table", bundle)
    return asked


def test_the_table_of_this_machine_is_shown_part_by_part(
    edgeoe: Edgeoe, calls: list[tuple[CompressSettings, Target, Path | None]]
) -> None:
    code, out, err = edgeoe("latency-table", *ASKED, "--json", "t.json", "--include", "x*", "--channel-multiple", "16")
    assert code == 0, err
    ((settings, target, bundled),) = calls
    assert (settings.include, settings.channel_multiple, target.name, bundled) == (("x*",), 16, "host-cpu", None)
    assert out.startswith("host-cpu: the teacher takes 2.000 ms in int8, batch 4\n")
    lines = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    assert "layer1.*.conv1 (2) 64 -> 48 0.1250 6.2 %" in lines
    assert "layer2.* (2) dropped 0.2500 12.5 %" in lines
    assert "layer*.* (2) dropped 0.7500 37.5 %" in lines
    assert "layer4.1 dropped 0.5000 25.0 %" in lines
    assert out.endswith("next: edgeoe compress with the same options, --target host-cpu --latency-ms MS --out RUN\n")
    data = json.loads(Path("t.json").read_text())
    assert data["parts"][-1] == {
        "names": ["layer4.1"], "units": None, "remaining": None, "saved_ms": 0.5, "share": 0.25
    }  # fmt: skip


def test_the_bundle_for_a_device_elsewhere_says_what_to_type_there(
    edgeoe: Edgeoe, calls: list[tuple[CompressSettings, Target, Path | None]]
) -> None:
    Path("edgeoe.toml").write_text(
        '[compress]\nteacher = "timm:resnet18"\nsamples = "few"\noe = false\nweights = "random"\nmethod = "kd"\n'
        'keep_macs = 0.4\nout = "runs/a"\ntarget = "jetson-orin-nano"\n\n[latency-table]\nexclude = ["a*"]\n'
    )
    code, out, err = edgeoe("latency-table", "-o", "t.tar.gz", "--json", "t.json")
    assert code == 0, err
    ((settings, target, bundled),) = calls
    assert (settings.method, settings.exclude, target.name, bundled) == (
        "kd", ("a*",), "jetson-orin-nano", Path("t.tar.gz"),
    )  # fmt: skip
    assert out == (
        "t.tar.gz: 1.500 MB, 2 files, sha256 ffffffffffff\n"
        "to measure on the device, DEVICE being what ssh calls it:\n"
        "  scp t.tar.gz DEVICE:\n"
        "  ssh DEVICE tar -xf t.tar.gz\n"
        "  ssh DEVICE python3 edgeoe-jetson-orin-nano-latency/run.py --out table.json\n"
        "  scp DEVICE:table.json .\n"
        "next: edgeoe collect table.json\n"
    )
    assert json.loads(Path("t.json").read_text())["path"] == "t.tar.gz"


def test_a_table_is_of_one_device(edgeoe: Edgeoe, calls: list[object]) -> None:
    code, _, err = edgeoe("latency-table", *ASKED, "--target", "host-cpu", "--target", "t4")
    assert (code, err) == (2, "error: --target: a latency table is of one device. Got host-cpu and t4.\n")
    assert calls == []


@pytest.fixture
def table() -> LatencyTable:
    return LatencyTable(
        network="a" * 64,
        target=load_target("raspberry-pi-5"),
        environment={"machine": "aarch64", "board": "Raspberry Pi 5 Model B Rev 1.0", "versions": {"onnxruntime": "1"}},
        latencies_ms={TEACHER: 10.0, FP32_TEACHER: 20.0, "conv -8": 8.0},
    )


def test_collect_keeps_a_table_that_stands_alone(edgeoe: Edgeoe, table: LatencyTable, place: Path) -> None:
    write_table(place / "table.json", table)
    code, out, err = edgeoe("collect", "table.json")
    assert code == 0, err
    assert out == (
        f"raspberry-pi-5: latencies of 3 networks; the teacher takes 10.000 ms in {table.target.precision}, "
        "20.000 ms in fp32\n"
        "next: edgeoe compress with the same options, --target raspberry-pi-5 --latency-ms MS\n"
    )
    assert len([*(place / "cache" / "edgeoe" / "latency").glob("*.json")]) == 1


def test_collect_of_anything_else_alone_is_one_clear_line(edgeoe: Edgeoe, place: Path) -> None:
    Path("run").mkdir()
    code, _, err = edgeoe("collect", "run")
    assert (code, err) == (
        2, "error: RESULT is missing: the result.json that run.py wrote for run on the device.\n"
    )  # fmt: skip
    write_result(place / "result.json", result())
    code, _, err = edgeoe("collect", "result.json")
    assert code == 2
    assert err.startswith("error: result.json: not a latency table of this version of edgeoe (LatencyTable: unknown")
    assert len(err.splitlines()) == 1


def test_a_table_that_cant_be_kept_says_so(edgeoe: Edgeoe, table: LatencyTable, place: Path) -> None:
    write_table(place / "table.json", table)
    (place / "cache").write_text("a file")
    code, out, err = edgeoe("collect", "table.json")
    assert (code, out) == (2, "")
    assert "can't be written: " in err
    assert len(err.splitlines()) == 1


def test_a_call_of_the_function_speaks_of_the_command_whole() -> None:
    """With each option as the argument that it is."""
    from edgeoe.errors import on_command_line

    with on_command_line(False):
        text = str(TargetError("make one: edgeoe latency-table --target pi -o pi.tar.gz"))
    assert text == "make one: edgeoe.latency_table(target='pi', out='pi.tar.gz')"
