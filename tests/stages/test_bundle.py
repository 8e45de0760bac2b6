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
from hostile import hostile_folder, imported
from made_up import QUICK

from edgeoe.devices.bundle_runner import main, run_bundle
from edgeoe.errors import BackendError, ConfigError, RunError, TargetError
from edgeoe.files import file_sha256
from edgeoe.pipeline import build, bundle, collect, export, validate
from edgeoe.progress import silent
from edgeoe.records.bundle import BundleRecord
from edgeoe.report.json import validation_json
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.result_file import artifact_of, read_result
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Budget, DeviceFacts, Target


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

    def run(folder: Path, out: str = "result.json") -> subprocess.CompletedProcess[str]:
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
    result = read_result(folder.parent / "result.json")
    assert result.golden_agreement == 1.0
    assert result.speed is not None
    assert len(result.speed.calls_ms) == 2
    validation = collect(run, folder.parent / "result.json")
    measurement = validation.measurement
    assert (validation.target, validation.outcome) == (target, "passed")
    build(run, target)
    here = validate(run, target, test=pictures / "test").measurement
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
    validation = collect(run, folder.parent / "result.json")
    measurement, verdict = validation.measurement, validation.verdict
    assert measurement.accuracy is None
    assert verdict.outcome == "inconclusive"
    record = validation_json(validation)
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
    validation = collect(run, folder.parent / "result.json")
    measurement, verdict = validation.measurement, validation.verdict
    assert measurement.drop is not None
    assert (verdict.checks[-1].name, verdict.checks[-1].outcome) == ("max_drop", "passed")


@pytest.mark.parametrize("name", ["model.onnx", "golden-logits.npy", "lib/edgeoe/devices/bundle_runner.py"])
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
    assert "missing or changed since it was bundled. Unpack the bundle again." in ran.stderr
    assert not (folder.parent / "result.json").exists()


def test_it_overwrites_nothing_but_what_it_wrote_itself(
    made: tuple[Run, Path, BundleRecord], tmp_path: Path, device: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = unpacked(made[1], tmp_path / "unpacked")
    place = folder.parent
    (place / "model.onnx").write_text("a model of somebody's")
    assert device(folder, "v.json").returncode == 0
    assert (place / "model.onnx").read_text() == "a model of somebody's"
    before = read_result(place / "v.json")
    assert artifact_of(place / "v.json", before) == place / "v-artifact" / "model.onnx"
    assert file_sha256(place / "v-artifact" / "model.onnx") == before.artifact_sha256
    assert device(folder, "v.json").returncode == 0, "what it wrote itself, it replaces"
    assert sorted(path.name for path in place.iterdir()) == ["edgeoe-host-cpu", "model.onnx", "v-artifact", "v.json"]


@pytest.mark.parametrize(
    ("there", "out", "message"),
    [
        ("notes.json", "notes.json", "notes.json: exists and is not the result of a bundle. Choose another --out."),
        ("v.json/a", "v.json", "v.json: exists and is not the result of a bundle. Choose another --out."),
        ("v-artifact/a", "v.json", "v-artifact: exists and was not written by an earlier run. Choose another --out."),
        ("v-artifact", "v.json", "v-artifact: exists and was not written by an earlier run. Choose another --out."),
        ("a", "a/v.json", "a/v.json: can't be created: File exists. Choose another --out."),
    ],
)
def test_somebody_elses_files_are_refused_before_anything_is_built(
    made: tuple[Run, Path, BundleRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: str,
    out: str,
    message: str,
) -> None:
    folder = unpacked(made[1], tmp_path / "unpacked")
    place = tmp_path / "place"
    (place / there).parent.mkdir(parents=True)
    (place / there).write_text("mine")
    monkeypatch.chdir(place)
    with pytest.raises(RunError) as raised:
        run_bundle(folder, Path(out), progress=silent)
    assert str(raised.value) == message
    assert [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()] == [there]


def test_a_module_that_was_not_bundled_is_refused(
    made: tuple[Run, Path, BundleRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpacked(made[1], tmp_path / "unpacked")
    (folder / "lib" / "extra.py").touch()
    with pytest.raises(RunError, match=r"lib/extra\.py: not a file of this bundle, but might be imported"):
        run_bundle(folder, tmp_path / "v.json", progress=silent)


@pytest.mark.parametrize("where", ["elsewhere", "in the bundle"])
def test_what_lies_where_it_is_started_is_not_imported(
    made: tuple[Run, Path, BundleRecord], tmp_path: Path, where: str
) -> None:
    folder = unpacked(made[1], tmp_path / "unpacked")
    place = hostile_folder(tmp_path / "place" if where == "elsewhere" else folder)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, str(folder / "run.py")],
        cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert imported(place) == ""
    assert read_result(place / "result.json").speed is not None


def test_on_another_machine_than_the_device_no_latency_is_measured(
    exported: Path, target: Target, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, elsewhere = Run.open(exported), replace(target, device=DeviceFacts(cpu="No Such Processor"))
    bundle(run, elsewhere, out=tmp_path / "b.tar.zst", test=pictures / "test")
    folder = unpacked(tmp_path / "b.tar.zst", tmp_path / "unpacked")
    monkeypatch.setattr("edgeoe.measure.artifact.measure_speed", None)
    result = run_bundle(folder, tmp_path / "v.json", progress=silent)
    assert (result.speed, result.golden_agreement) == (None, 1.0)
    validation = collect(run, tmp_path / "v.json")
    measurement, verdict = validation.measurement, validation.verdict
    assert (measurement.speed, verdict.outcome) == (None, "inconclusive")
    assert "is for No Such Processor" in measurement.not_measured
    assert measurement.accuracy is not None


def test_a_plan_is_not_built_on_another_machine_than_the_device(exported: Path, tmp_path: Path) -> None:
    bundle(Run.open(exported), replace(load_target("t4"), precision="fp32"), out=tmp_path / "b.tar.zst")
    folder = unpacked(tmp_path / "b.tar.zst", tmp_path / "unpacked")
    with pytest.raises(BackendError, match=r"^not built here: .*t4.*\. A plan is built on the device that runs it\.$"):
        run_bundle(folder, tmp_path / "v.json", progress=silent)


def test_an_interruption_leaves_nothing(
    made: tuple[Run, Path, BundleRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpacked(made[1], tmp_path / "unpacked")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeoe.devices.bundle_runner.measure_artifact", interrupt)
    (tmp_path / "place").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_bundle(folder, tmp_path / "place" / "v.json", progress=silent)
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (
            OSError(28, "No space left on device", "r.json"),
            2,
            "error: r.json: no space left on device. Free some space there (df -h, df -i), or write elsewhere.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted: nothing half-written was left.\n"),
    ],
)
def test_what_ends_a_run_on_the_device_is_a_line_and_a_code(
    raised: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("edgeoe.devices.bundle_runner.run_bundle", run)
    assert main(["--out", "r.json"]) == code
    assert capsys.readouterr().err == told


def test_a_tensorrt_bundle_brings_its_backend_and_the_calibration(exported: Path, tmp_path: Path) -> None:
    run, target = Run.open(exported), replace(load_target("jetson-orin-nano"), precision="int8")
    export(run, precisions=["fp32", "int8"])
    record = bundle(run, target, out=tmp_path / "b.tar.zst")
    needed = ("tensorrt", "tensorrt_engine", "tensorrt_bindings", "cuda")
    assert {f"lib/edgeoe/backends/{name}.py" for name in needed} < set(record.files)
    assert "lib/edgeoe/backends/onnxruntime.py" not in record.files
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
    golden = run.read_tensors(layout.GOLDEN)
    for part in ("images", "logits"):
        np.testing.assert_array_equal(np.load(folder / f"golden-{part}.npy"), golden[part])
