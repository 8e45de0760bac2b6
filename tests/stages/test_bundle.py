"""A bundle has the same bytes each time, says nothing of this machine, and runs without edgeoe; collect reads it."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import zstandard
from made_up import QUICK

from edgeoe.errors import ConfigError, RunError, TargetError
from edgeoe.measure.result import read_result
from edgeoe.pipeline import build, bundle, collect, export, validate
from edgeoe.records import Budget, Target
from edgeoe.run import Run, file_sha256
from edgeoe.stages.bundle import BundleRecord
from edgeoe.targets import load_target


@pytest.fixture
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


def unpacked(archive: Path, where: Path) -> Path:
    data = archive.read_bytes()
    plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=10**8)
    with tarfile.open(fileobj=BytesIO(plain)) as opened:
        opened.extractall(where, filter="data")
    (folder,) = where.iterdir()
    return folder


@pytest.fixture
def device(tmp_path: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """`device(folder)` runs an unpacked bundle where no package but numpy and the runtime can be imported."""
    blocker = tmp_path / "lean" / "sitecustomize.py"
    blocker.parent.mkdir()
    blocker.write_text(
        "import sys\n"
        "REFUSED = {'torch', 'onnx', 'safetensors', 'pydantic', 'scipy', 'typer', 'rich', 'PIL', 'zstandard', 'timm'}\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in REFUSED:\n"
        "            raise ModuleNotFoundError(f'{name} is not on the device')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )

    def run(folder: Path, out: str = "validation.json") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(blocker.parent)}
        command = [sys.executable, str(folder / "run.py"), "--out", out]
        return subprocess.run(
            command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    return run


@pytest.fixture
def made(exported: Path, target: Target, pictures: Path, tmp_path: Path) -> tuple[Run, Path, BundleRecord]:
    """A run, its bundle with test images, and the record."""
    run, out = Run.open(exported), tmp_path / "bundle.tar.zst"
    return run, out, bundle(run, target, out=out, test=pictures / "test")


@pytest.fixture
def measured(
    made: tuple[Run, Path, BundleRecord], tmp_path: Path, device: Callable[..., subprocess.CompletedProcess[str]]
) -> tuple[Run, Path]:
    """A run, and the result that its bundle wrote on the device."""
    folder = unpacked(made[1], tmp_path / "unpacked")
    device(folder)
    return made[0], folder.parent / "validation.json"


def test_the_same_run_gives_the_same_bytes(
    made: tuple[Run, Path, BundleRecord], target: Target, pictures: Path, tmp_path: Path
) -> None:
    run, out, record = made
    again = bundle(run, target, out=tmp_path / "again.tar.zst", test=pictures / "test")
    assert again.sha256 == record.sha256 == file_sha256(out)
    assert record.test_images == 30


def test_it_says_nothing_of_the_machine_that_made_it(made: tuple[Run, Path, BundleRecord], tmp_path: Path) -> None:
    run, out, _ = made
    folder = unpacked(out, tmp_path / "unpacked")
    texts = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".npy"]
    assert len(texts) > 15
    secrets = {str(run.path), str(Path.home()), str(Path(__file__).parents[2]), str(Path(sys.prefix))} - {"/"}
    secrets |= {name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 5}
    for path in texts:
        found = [secret for secret in secrets if secret.encode() in path.read_bytes()]
        assert not found, f"{path.name} holds {found}"


def test_entries_have_no_owner_and_no_time(made: tuple[Run, Path, BundleRecord]) -> None:
    plain = zstandard.ZstdDecompressor().decompress(made[1].read_bytes(), max_output_size=10**8)
    with tarfile.open(fileobj=BytesIO(plain)) as opened:
        entries = opened.getmembers()
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) for entry in entries} == {(0, 0, 0, "", 0o644)}


def test_it_runs_without_edgeoe_and_is_collected(
    made: tuple[Run, Path, BundleRecord],
    target: Target,
    pictures: Path,
    tmp_path: Path,
    device: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    run, out, _ = made
    folder = unpacked(out, tmp_path / "unpacked")
    ran = device(folder)
    assert ran.returncode == 0, ran.stderr
    assert "same class as the student on 100.0 % of the golden images" in ran.stdout
    result = read_result(folder.parent / "validation.json")
    assert result.golden_agreement == 1.0
    assert len(result.speed.calls_ms) == 2
    judged_by, measurement, verdict = collect(run, folder.parent / "validation.json")
    assert (judged_by, verdict.outcome) == (target, "passed")
    build(run, target)
    here, _ = validate(run, target, test=pictures / "test")
    assert measurement.accuracy == here.accuracy, "the device's pixels are those of validate"


def test_without_test_images_accuracy_is_unknown(
    exported: Path,
    target: Target,
    tmp_path: Path,
    device: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    run = Run.open(exported)
    bundle(run, replace(target, budget=Budget(top1=0.1)), out=tmp_path / "b.tar.zst")
    folder = unpacked(tmp_path / "b.tar.zst", tmp_path / "unpacked")
    assert device(folder).returncode == 0
    _, measurement, verdict = collect(run, folder.parent / "validation.json")
    assert measurement.accuracy is None
    assert verdict.outcome == "inconclusive"
    record = json.loads((exported / "targets" / "host-cpu" / "validation.json").read_text())
    assert (record["top1"], record["verdict"]) == (None, "inconclusive")


def test_the_drop_against_the_teacher_is_judged_from_a_device(
    exported: Path,
    target: Target,
    pictures: Path,
    tmp_path: Path,
    device: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    run, strict = Run.open(exported), replace(target, budget=Budget(max_drop=1.0))
    bundle(run, strict, out=tmp_path / "b.tar.zst", test=pictures / "test")
    folder = unpacked(tmp_path / "b.tar.zst", tmp_path / "unpacked")
    assert device(folder).returncode == 0
    _, measurement, verdict = collect(run, folder.parent / "validation.json")
    assert measurement.drop is not None
    assert (verdict.checks[-1].name, verdict.checks[-1].outcome) == ("max_drop", "passed")


@pytest.mark.parametrize("name", ["model.onnx", "golden-logits.npy", "edgeoe/device.py"])
def test_a_changed_file_is_refused_on_the_device(
    name: str,
    made: tuple[Run, Path, BundleRecord],
    tmp_path: Path,
    device: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    folder = unpacked(made[1], tmp_path / "unpacked")
    path = folder / name
    path.write_bytes(path.read_bytes() + b"\n")
    ran = device(folder)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "not the file that was bundled. Unpack the bundle again." in ran.stderr
    assert not (folder.parent / "validation.json").exists()


def test_a_result_of_an_earlier_bundle_is_not_collected(
    measured: tuple[Run, Path], target: Target, tmp_path: Path
) -> None:
    run, result = measured
    bundle(run, target, out=tmp_path / "later.tar.zst")
    with pytest.raises(RunError, match=r"not from the bundle that .* made last for host-cpu"):
        collect(run, result)


def test_another_profiles_budget_may_judge(measured: tuple[Run, Path], target: Target) -> None:
    run, result = measured
    strict = replace(target, budget=Budget(size_mb=1e-6))
    assert collect(run, result, target=strict)[2].outcome == "failed"
    with pytest.raises(RunError, match="a result for host-cpu, not for t4"):
        collect(run, result, target=replace(target, name="t4"))


def test_a_tensorrt_bundle_brings_its_backend_and_the_calibration(exported: Path, tmp_path: Path) -> None:
    run, target = Run.open(exported), replace(load_target("jetson-orin-nano"), precision="int8")
    export(run, precisions=["fp32", "int8"])
    record = bundle(run, target, out=tmp_path / "b.tar.zst")
    needed = ("tensorrt", "tensorrt_engine", "tensorrt_bindings", "cuda")
    assert {f"edgeoe/backends/{name}.py" for name in needed} < set(record.files)
    assert "edgeoe/backends/onnxruntime.py" not in record.files
    facts = json.loads((unpacked(tmp_path / "b.tar.zst", tmp_path / "u") / "bundle.json").read_text())
    assert facts["graph"]["path"] == "student-int8-trt.onnx"
    assert facts["graph"]["calibration"] == "percentile"


def test_a_device_without_the_runtime_says_so(
    exported: Path, tmp_path: Path, device: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    bundle(Run.open(exported), replace(load_target("t4"), precision="fp32"), out=tmp_path / "b.tar.zst")
    ran = device(unpacked(tmp_path / "b.tar.zst", tmp_path / "unpacked"))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: ")
    assert len(ran.stderr.splitlines()) == 1


def test_suffixes_decide_how_it_is_packed(exported: Path, target: Target, tmp_path: Path) -> None:
    run = Run.open(exported)
    sizes = [bundle(run, target, out=tmp_path / f"b{suffix}").size_bytes for suffix in (".tar", ".tar.gz", ".tar.zst")]
    assert sizes[0] > sizes[1]
    assert sizes[0] > sizes[2]
    with tarfile.open(tmp_path / "b.tar.gz") as opened:
        assert "edgeoe-host-cpu/run.py" in opened.getnames()
    with pytest.raises(ConfigError, match=r"--out must end with \.tar\.zst, \.tar\.gz, \.tar\. Got 'b\.zip'"):
        bundle(run, target, out=tmp_path / "b.zip")


def test_what_cannot_be_built_is_not_bundled(exported: Path, target: Target, tmp_path: Path) -> None:
    run = Run.open(exported)
    with pytest.raises(RunError, match=r"Make it: edgeoe export .* --precision int8"):
        bundle(run, replace(target, precision="int8"), out=tmp_path / "b.tar")
    with pytest.raises(TargetError):
        bundle(run, replace(target, precision="fp16"), out=tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


def test_golden_images_travel_as_the_network_takes_them(made: tuple[Run, Path, BundleRecord], tmp_path: Path) -> None:
    run, out, _ = made
    folder = unpacked(out, tmp_path / "unpacked")
    golden = run.read_tensors("golden.safetensors", made_by="export")
    for part in ("images", "logits"):
        np.testing.assert_array_equal(np.load(folder / f"golden-{part}.npy"), golden[part])
