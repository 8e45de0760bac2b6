"""A stripped run holds no pixel, source, file name or path, says what still works, and that works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made_up import QUICK
from PIL import Image
from safetensors.numpy import load_file

from edgeoe.data.likeness import alike
from edgeoe.data.pool import load_pool
from edgeoe.data.samples import find_samples, load_samples
from edgeoe.errors import EdgeoeError, RunError
from edgeoe.files import file_sha256
from edgeoe.measure.artifact import measure_artifact
from edgeoe.pipeline import build, bundle, compress, export, validate
from edgeoe.report.html import write_report
from edgeoe.run import layout
from edgeoe.run.chain import require_bundle, require_golden, require_student, require_verdict
from edgeoe.run.contents import CONTENTS, content_of
from edgeoe.run.directory import Run
from edgeoe.run.settings import run_settings
from edgeoe.settings import CompressSettings
from edgeoe.stages.strip import strip
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

TELLING = "Mrs Smith's left lung"  # a class, whose folder and files have telling names
Files = dict[str, Path]

FP32 = layout.graph_file("fp32", precision="fp32")


@pytest.fixture(scope="session")
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


@pytest.fixture(scope="session")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    settings: CompressSettings,
    pictures: Path,
    teacher_file: Path,
    target: Target,
) -> Path:
    """A folder with few/, model.py and a run of them that has been through every stage."""
    folder = tmp_path_factory.mktemp("telling home")
    shutil.copytree(pictures / "train", folder / "patients")
    (folder / "patients/circle").rename(folder / "patients" / TELLING)
    for path in (folder / "patients").rglob("*.png"):
        path.rename(path.with_name(f"patient-{path.stem}.png"))
    shutil.copytree(folder / "patients", folder / "test")
    shutil.copyfile(teacher_file, folder / "secret_model.py")
    run = compress(
        replace(settings, samples=folder / "patients", teacher=f"{folder}/secret_model.py:residual"), out=folder / "run"
    )
    assert run is not None
    export(run)
    build(run, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeoe.stages.validate.measure_artifact", without_speed)
        validate(run, target, test=folder / "test")
    bundle(run, target, out=run.path / layout.TargetFiles(target.name).archive.name, test=folder / "test")
    run.note(layout.TargetFiles(target.name).archive)
    write_report(run)
    return folder


def without_speed(artifact: Path, target: Target, *args: Any, **options: Any) -> Any:
    """As `measure_artifact`, without the seconds that timing takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeoe.measure.artifact.measure_speed", lambda *_, **__: None)
        return measure_artifact(artifact, target, *args, **options)


@pytest.fixture
def whole(home: Path, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(home / "run", tmp_path / "run"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.stages.validate.measure_artifact", without_speed)


def files_of(run: Run) -> Files:
    return {path.relative_to(run.path).as_posix(): path for path in sorted(run.path.rglob("*")) if path.is_file()}


def holding(run: Run, *texts: str) -> dict[str, str]:
    """The files of `run` that hold one of `texts`, as plain text or as JSON has it."""
    forms = {form.encode() for text in texts for form in (text, json.dumps(text)[1:-1], text.replace("'", "&#39;"))}
    found = {}
    for name, path in files_of(run).items():
        if hits := [form.decode() for form in forms if form in path.read_bytes() or form.decode() in name]:
            found[name] = hits[0]
    return found


def test_every_file_of_a_run_has_a_row(whole: Run) -> None:
    names = [*files_of(whole)]
    assert len(names) > 15
    assert [name for name in names if content_of(name) is None] == []


def test_the_rows_say_what_the_files_hold(whole: Run, home: Path) -> None:
    """As far as it can be found in them: pixels of samples, class names, file names, paths."""
    wanted = {
        "class names": {TELLING},
        "file names": {"patient-00", "secret_model"},
        "paths": {str(home)},
        "source": {"def residual("},
    }
    archive = layout.TargetFiles("host-cpu").archive.name
    for kind, texts in wanted.items():
        for name in holding(whole, *texts):
            content = content_of(name)
            assert content is not None
            assert kind in content.holds, f"{name} holds {kind}"
    preprocess = whole.read(layout.FACTS).preprocess
    samples = load_samples(find_samples(home / "patients"), preprocess).images.rows(range(18))
    pool = load_pool(run_settings(whole).ood or Path(), preprocess).images.rows(range(60))
    for name, path in files_of(whole).items():
        content = content_of(name)
        assert content is not None
        if "pixels" not in content.holds and name != archive:
            data = path.read_bytes()
            assert not any(image.tobytes() in data for image in (*samples, *pool)), f"{name} holds pixels"
    assert any(image.tobytes() in (whole.path / "calibration.safetensors").read_bytes() for image in samples)


def test_only_one_file_has_paths(whole: Run, home: Path, settings: CompressSettings) -> None:
    assert set(holding(whole, str(home), str(settings.ood), str(Path.home()) + "/")) == {layout.PATHS.name}
    assert run_settings(whole).samples == home / "patients"


def test_stripping_leaves_no_name_no_path_and_no_source(whole: Run, home: Path) -> None:
    before = {*files_of(whole)}
    record = strip(whole)
    secrets = (str(home), "patient-0", "secret_model", "telling home", "def residual(", "patients", "test-images")
    found = holding(whole, *secrets)
    found.pop(layout.TargetFiles("host-cpu").bundle.name, None)  # names the file of the images, and no more
    assert found == {}
    gone = before - {*files_of(whole)}
    assert set(record.removed) == {name for name in gone if "code" not in name} | {"student/code/*"}
    assert {"calibration.safetensors", "probe.safetensors", "report.html"} < set(record.removed)
    assert record.unknown == ()


def test_stripping_leaves_no_pixel(whole: Run, home: Path, settings: CompressSettings) -> None:
    preprocess = whole.read(layout.FACTS).preprocess
    assert settings.ood is not None
    images = [
        load_samples(find_samples(home / "patients"), preprocess).images.rows(range(18)),
        load_pool(settings.ood, preprocess).images.rows(range(60)),
    ]
    strip(whole)
    arrays = [array for name in files_of(whole) if name.endswith("safetensors")
              for array in load_file(whole.path / name).values() if array.shape[1:] == preprocess.shape]  # fmt: skip
    assert len(arrays) == 1, "the golden images"
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    pixels = np.round((arrays[0] * std + mean) * 255).astype(np.uint8)
    assert not alike(pixels, np.concatenate(images)).any()
    golden = whole.read(layout.COMPRESS).golden
    assert golden is not None
    assert golden.source == "synthetic images"


def test_every_file_is_still_as_the_manifest_says(whole: Run) -> None:
    strip(whole)
    manifest = json.loads((whole.path / layout.MANIFEST).read_text())["files"]
    files = {name: path for name, path in files_of(whole).items() if name != layout.MANIFEST}
    assert manifest == {name: file_sha256(path) for name, path in files.items()}


@pytest.mark.parametrize("class_names", [False, True])
def test_the_chain_of_hashes_holds(whole: Run, class_names: bool) -> None:
    before = whole.read(layout.COMPRESS).student_sha256
    require_verdict(whole, "host-cpu")
    strip(whole, class_names=class_names)
    assert require_student(whole) != before, "the plan no longer names the source"
    require_golden(whole)
    if not class_names:
        require_verdict(whole, "host-cpu")
        require_bundle(whole, "host-cpu")
    assert whole.read(layout.COMPRESS).contents is None


def test_what_is_said_to_work_works(
    whole: Run, home: Path, target: Target, quick: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = strip(whole)
    assert record.works == ("report", "build", "validate", "bundle", "collect", "compare", "baseline save")
    write_report(whole)
    build(whole, target)
    validation = validate(whole, target, test=home / "test")
    assert validation.measurement.golden_agreement == 1.0
    assert "this run was stripped: test images are not compared with its labelled samples" in caplog.text
    assert bundle(whole, target, out=tmp_path / "b.tar").test_images == 0


@pytest.mark.parametrize(
    ("use", "file"),
    [
        (lambda run, _: export(run), "code/teacher.py"),
        (lambda run, _: run_settings(run), "paths.toml"),
        (lambda run, _: run.read_tensors(layout.CALIBRATION), "calibration.safetensors"),
    ],
)
def test_what_is_missing_is_named(use: Callable[[Run, Target], object], file: str, whole: Run, target: Target) -> None:
    strip(whole)
    with pytest.raises(RunError, match=rf"({file}): removed by edgeoe run strip\. Use the run as it was before\."):
        use(whole, target)


def test_class_names_go_on_request(whole: Run, home: Path, target: Target, quick: None) -> None:
    record = strip(whole, class_names=True)
    assert holding(whole, TELLING) == {}
    assert whole.read(layout.FACTS).classes == ("class 0", "class 1", "class 2")
    exported = whole.read(layout.EXPORT)
    assert exported.sha256 == file_sha256(whole.path / exported.path)
    graph = onnx.load(whole.path / exported.path)
    assert {entry.key: entry.value for entry in graph.metadata_props}["edgeoe.classes"] == (
        '["class 0", "class 1", "class 2"]'
    )
    assert "compare and baseline save" in record.missing
    build(whole, target)
    test = shutil.copytree(home / "test", whole.path.parent / "numbered")
    for number, folder in enumerate(sorted(test.iterdir())):
        folder.rename(test / f"class {number}")
    assert validate(whole, target, test=test).measurement.golden_agreement == 1.0


def test_stripping_again_changes_nothing_and_names_what_went_before(whole: Run) -> None:
    first = strip(whole)
    before = {name: path.read_bytes() for name, path in files_of(whole).items()}
    assert replace(strip(whole), rewritten=()) == replace(first, rewritten=())
    assert {name: path.read_bytes() for name, path in files_of(whole).items()} == before
    assert strip(whole, class_names=True).class_names
    assert holding(whole, TELLING) == {}


def test_leftovers_go_and_files_of_somebody_else_stay_and_are_named(whole: Run, tmp_path: Path) -> None:
    (whole.path / ".calibration.safetensors.123.partial").write_bytes(b"pixels")
    Image.new("RGB", (4, 4)).save(whole.path / "holiday.png")
    (tmp_path / "empty").mkdir()
    (whole.path / "elsewhere").symlink_to(tmp_path / "empty")
    assert strip(whole).unknown == ("elsewhere", "holiday.png")
    assert (tmp_path / "empty").is_dir()
    assert {"holiday.png"} == {name for name in files_of(whole) if content_of(name) is None}


def test_an_interrupted_strip_goes_on(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "forget", interrupt)
        with pytest.raises(KeyboardInterrupt):
            strip(whole)
    assert whole.has(layout.STRIPPED)
    record = strip(whole)
    assert not [name for name in files_of(whole) if (row := content_of(name)) and row.fate == "removed"]
    assert layout.PATHS.name in record.removed


def test_a_run_without_a_graph_says_so(settings: CompressSettings, exported: Path) -> None:
    run = Run.open(exported)
    run.forget(layout.EXPORT, layout.GOLDEN, layout.graph_file("fp32", precision="fp32"))
    record = strip(run)
    assert record.works == ("report",)
    assert "build, validate, bundle" in record.missing


def test_a_graph_that_is_more_than_arithmetic_is_not_run(whole: Run, target: Target) -> None:
    """Synthetic golden images need the outputs of the graph; of such a one there are none."""
    model = onnx.load(whole.file(FP32))
    model.graph.node[0].domain = "com.somebody"
    model.opset_import.append(onnx.helper.make_opsetid("com.somebody", 1))
    whole.write(FP32, partial(onnx.save, model))
    strip(whole)
    assert not whole.has(layout.GOLDEN)
    with pytest.raises(EdgeoeError, match=r"vouch"):
        strip(whole, class_names=True)


def test_patterns_are_of_the_layout() -> None:
    """A file that layout.py names and the table lacks would stay, whatever it holds."""
    named = [value.name for value in vars(layout).values() if isinstance(value, layout.File)]
    target = layout.TargetFiles("t")
    named += [getattr(target, name).name for name in ("engine", "result", "validation", "bundle", "teacher", "archive")]
    named += [layout.MANIFEST, layout.code_file("a/b.py").name, layout.graph_file("int8-cpu", precision="int8").name]
    assert len(named) > 20
    assert [name for name in named if content_of(name) is None] == []
    assert len({content.pattern for content in CONTENTS}) == len(CONTENTS)


def test_to_compress_with_its_settings_says_what_is_missing(
    edgeoe: Callable[..., tuple[int, str, str]], whole: Run, tmp_path: Path
) -> None:
    options = ("compress", "--config", whole.path / "config.toml", "--out", tmp_path / "another")
    strip(whole)
    code, _, err = edgeoe(*options)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: Missing option '--teacher'. edgeoe run strip has removed the paths from ")
    (whole.path / layout.STRIPPED.name).unlink()
    assert "strip" not in edgeoe(*options)[2]


def test_the_command_says_what_works(edgeoe: Callable[..., tuple[int, str, str]], whole: Run, tmp_path: Path) -> None:
    code, out, err = edgeoe("run", "strip", whole.path, "--json", tmp_path / "out.json")
    assert code == 0, err
    assert "works: report, build, validate, bundle, collect, compare, baseline save" in out
    assert "  does not work: export: the images for it are removed: use the run as it was before\n" in out
    assert "  does not work: compress and deploy with its config.toml: it names no teacher and no images: " in out
    assert json.loads((tmp_path / "out.json").read_text())["class_names"] is False
