"""compress writes a run that stands alone, whichever method made the student."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_model
from torch import nn

from edgeoe.data.images import Images
from edgeoe.data.pool import load_pool
from edgeoe.errors import DataError, PruningError, TargetError, TeacherError
from edgeoe.models import rebuild
from edgeoe.models.checkpoint import load_student
from edgeoe.pipeline import compress, export
from edgeoe.pruning.prune import count_macs
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.run.settings import run_settings
from edgeoe.settings import CompressSettings, PreprocessSettings
from edgeoe.stages import latency_probe
from edgeoe.stages.teacher import teacher_predictions
from edgeoe.stages.validate import read_test
from edgeoe.targets.load import load_target


@pytest.fixture
def asked(
    settings: CompressSettings,
    network: Callable[[str], nn.Module],
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> CompressSettings:
    """Settings with a teacher of residual blocks, and a quick latency probe."""
    monkeypatch.setattr(latency_probe, "_SECONDS", 0.0)
    save_model(network("stages"), str(tmp_path / "stages.safetensors"))
    weights = tmp_path / "stages.safetensors"
    return replace(settings, teacher=f"{teacher_file}:stages", weights=weights, keep_macs=0.6, steps=2)


@pytest.mark.parametrize("method", ["fskd", "mir", "practise"])
def test_a_run_holds_the_student_and_what_became_of_the_teacher(
    method: str, asked: CompressSettings, network: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    options = {"recovery_steps": 1} if method == "practise" else {}
    run = compress(replace(asked, method=method, options=options), out=tmp_path / "run")
    assert run is not None
    record = run.read(layout.COMPRESS)
    student, shape = load_student(run), (3, 16, 16)
    assert record.method == method
    assert record.macs == count_macs(student, shape)
    assert record.macs_kept == pytest.approx(count_macs(student, shape) / count_macs(network("stages"), shape))
    assert record.steps == (0 if method == "fskd" else 2)
    plan = run.read(layout.PLAN)
    assert bool(plan.dropped) == (method == "practise")
    assert bool(plan.removed) == (method != "practise")
    for name in plan.dropped:
        assert isinstance(student.get_submodule(name), nn.Identity)
    assert export(run).agreement == 1.0


def test_a_run_tells_how_fast_the_student_is_and_the_multiple_that_its_targets_like(
    asked: CompressSettings, tmp_path: Path
) -> None:
    targets = [
        replace(load_target("host-cpu"), name=name, channel_multiple=multiple)
        for name, multiple in (("a", 2), ("b", 4))
    ]
    few = replace(asked, keep_macs=0.61, channel_multiple=None)  # a share that multiples of 4 can meet
    run = compress(few, out=tmp_path / "run", targets=targets)
    assert run is not None
    record = run.read(layout.COMPRESS)
    assert record.channel_multiple == 4
    student, plan = load_student(run), run.read(layout.PLAN)
    assert all(len(student.get_submodule(name).weight) % 4 == 0 for name in plan.removed)  # type: ignore[arg-type]
    assert [speed.target for speed in record.speed] == ["a", "b"]
    assert all((speed.teacher_ms or 0) > 0 and (speed.student_ms or 0) > 0 for speed in record.speed)
    assert record.notes == ()


def test_a_share_that_is_missed_is_noted_in_the_run(asked: CompressSettings, tmp_path: Path) -> None:
    run = compress(replace(asked, keep_macs=0.01, channel_multiple=8), out=tmp_path / "run")
    assert run is not None
    record = run.read(layout.COMPRESS)
    (note,) = record.notes
    assert note.startswith(
        f"--keep-macs 0.01 can't be met within 2 %: the nearest student keeps {record.macs_kept:.3g}"
    )
    assert record.channel_multiple == 8


def test_a_target_that_is_unknown_is_known_before_anything_is_loaded(asked: CompressSettings, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"unknown target 'host-cp'\. Did you mean 'host-cpu'"):
        compress(replace(asked, target=("host-cp",), weights=tmp_path / "nowhere.pt"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were read."""
    paths: list[Path] = []
    decode = Images._decode

    def note(self: Images, path: Path) -> NDArray[np.uint8]:
        paths.append(path)
        return decode(self, path)

    monkeypatch.setattr(Images, "_decode", note)
    return paths


@pytest.mark.parametrize(
    ("teacher", "method", "said"),
    [
        ("rigid", "mir", r"no channel of this teacher can be pruned.* conv: the network fails without them"),
        ("rigid", "fskd", "no channel of this teacher can be pruned"),
        ("rigid", "cd", "no channel of this teacher can be pruned"),
        ("chain", "practise", "practise drops residual blocks, and this teacher has none"),
    ],
)
def test_a_teacher_that_can_not_be_cut_is_known_before_any_image_is_read(
    teacher: str, method: str, said: str, asked: CompressSettings, teacher_file: Path, tmp_path: Path, read: list[Path]
) -> None:
    wrong = replace(asked, teacher=f"{teacher_file}:{teacher}", weights="random", method=method)
    with pytest.raises(PruningError, match=said):
        compress(wrong, out=tmp_path / "run")
    assert read == []
    compress(replace(wrong, teacher=asked.teacher, method="none", keep_macs=None), out=tmp_path / "run")
    assert read != [], "reading is noted"


def test_a_pool_that_is_not_there_is_known_before_the_teacher_is_looked_at(
    asked: CompressSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeoe.methods.cuts.channels.read_structure", None)
    with pytest.raises(DataError, match=r"nowhere: no such folder\."):
        compress(replace(asked, ood=tmp_path / "nowhere"), out=tmp_path / "run")


@pytest.mark.parametrize("fresh", [True, False])
def test_a_run_says_whether_its_teacher_never_learned(fresh: bool, asked: CompressSettings, tmp_path: Path) -> None:
    given = replace(asked, weights="random") if fresh else asked
    run = compress(given, out=tmp_path / "run")
    assert run is not None
    record = run.read(layout.COMPRESS)
    assert run.read(layout.FACTS).random_weights == fresh
    assert (record.teacher_agreement is None) == fresh, "a teacher that never learned is not asked"
    if not fresh:
        assert record.teacher_agreement is not None
        assert record.teacher_agreement.of_per_class == (12, 5, 1)
    assert run_settings(run) == given.resolved()


def test_without_any_labelled_sample_the_classes_are_enough(asked: CompressSettings, tmp_path: Path) -> None:
    for name in ("circle", "cross", "square"):
        (tmp_path / "names" / name).mkdir(parents=True)
    run = compress(replace(asked, samples=tmp_path / "names"), out=tmp_path / "run")
    assert run is not None
    facts = Run.open(tmp_path / "run").read(layout.FACTS)
    assert facts.counts == (0, 0, 0)
    assert asked.ood is not None
    probe = run.read_tensors(layout.PROBE)["golden"]
    pool = load_pool(asked.ood, facts.preprocess)
    assert {image.tobytes() for image in probe} & {image.tobytes() for image in pool.images.rows(range(len(pool)))}
    with torch.no_grad():
        assert load_student(run)(torch.from_numpy(facts.preprocess.normalise(probe))).isfinite().all()


def test_without_samples_and_without_ood_images_there_is_nothing_to_go_by(
    asked: CompressSettings, tmp_path: Path
) -> None:
    for name in ("circle", "cross", "square"):
        (tmp_path / "names" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="names: no images"):
        compress(replace(asked, samples=tmp_path / "names", oe=False), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_classes_keep_the_order_they_are_given_in(
    asked: CompressSettings, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = shutil.copytree(pictures / "train", tmp_path / "few")
    (few / "loose.png").touch()
    shutil.copy(few / "cross/00.png", tmp_path / "few/circle/z.png")
    pool = shutil.copytree(pictures / "ood", tmp_path / "ood")
    shutil.copy(few / "cross/00.png", pool)
    order = ("square", "circle", "cross")
    run = compress(replace(asked, samples=few, ood=pool, classes=order), out=tmp_path / "run")
    assert run is not None
    facts = run.read(layout.FACTS)
    assert (facts.classes, facts.counts) == (order, (1, 13, 5))
    assert "skipped 1 image file(s) beside the class folders" in caplog.text
    assert "1 OOD image(s) are labelled samples, too" in caplog.text
    caplog.clear()
    test = read_test(run, few)
    assert [test.classes[label] for label in test.labels] == [path.parent.name for path in test.images.paths]
    assert "19 of 19 test images are labelled samples, too" in caplog.text


def test_a_teacher_of_probabilities_is_refused_before_any_image_is_read(
    asked: CompressSettings, tmp_path: Path, read: list[Path]
) -> None:
    file = tmp_path / "soft.py"
    file.write_text(
        "import torch\n\n\ndef soft():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), "
        "torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Softmax(1))\n"
    )
    with pytest.raises(TeacherError, match="the teacher's outputs are probabilities"):
        compress(replace(asked, teacher=f"{file}:soft", weights="random"), out=tmp_path / "run")
    assert read == []


def test_a_teacher_that_agrees_with_no_label_is_refused_before_the_pool_is_read(
    asked: CompressSettings, tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TeacherError("the teacher agrees with none")

    monkeypatch.setattr("edgeoe.stages.compress.check_agreement", refuse)
    with pytest.raises(TeacherError, match="agrees with none"):
        compress(asked, out=tmp_path / "run")
    assert len(read) == 18
    assert not (tmp_path / "run").exists()


# Teachers as people have them


@pytest.fixture
def project(teacher_file: Path, tmp_path: Path) -> Path:
    """A teacher in a package, whose parts and settings lie in other files."""
    folder = tmp_path / "project" / "nets"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "layers.py").write_text(teacher_file.read_text())
    (folder / "width.txt").write_text("8")
    (folder / "net.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nfrom .layers import conv\n\n\n"
        "def network(num_classes, in_chans=3):\n"
        "    width = int((Path(__file__).parent / 'width.txt').read_text())\n"
        "    return nn.Sequential(conv(in_chans, width), nn.ReLU(), conv(width, 16), nn.ReLU(), conv(16, 16), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))\n"
    )
    return folder.parent


def test_a_run_needs_nothing_of_the_project_it_came_from(
    project: Path, settings: CompressSettings, pictures: Path, tmp_path: Path, fresh_process: None
) -> None:
    teacher = f"{project}/nets/net.py:network"
    run = compress(
        replace(settings, teacher=teacher, weights="random", method="none", keep_macs=1.0), out=tmp_path / "run"
    )
    assert run is not None
    shutil.rmtree(project)
    moved = Run(Path(shutil.move(run.path, tmp_path / "moved")))
    assert load_student(moved)(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    assert len(teacher_predictions(moved, read_test(moved, pictures / "test")).labels) == 30


def test_a_teacher_that_can_not_be_rebuilt_is_told_before_images_are_read(
    project: Path, settings: CompressSettings, read: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(folder: Path) -> str:
        monkeypatch.delenv("NET_WIDTH")
        rebuild.main(folder)
        return ""

    monkeypatch.setenv("NET_WIDTH", "8")
    monkeypatch.setattr(rebuild, "_in_fresh_process", without)
    net = project / "nets" / "net.py"
    net.write_text("import os\nWIDTH = int(os.environ['NET_WIDTH'])\n" + net.read_text())
    with pytest.raises(TeacherError, match=r"can't be rebuilt in a fresh process.*KeyError: 'NET_WIDTH'"):
        compress(replace(settings, teacher=f"{net}:network", weights="random"), out=tmp_path / "run")
    assert not read
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("teacher", ["{project}/nets/net.py:network", "timm:test_resnet"])
def test_a_greyscale_teacher_is_compressed(
    teacher: str, project: Path, settings: CompressSettings, tmp_path: Path
) -> None:
    grey = PreprocessSettings(size=(32, 32), mean=(0.4,), std=(0.3,))
    asked = replace(
        settings,
        teacher=teacher.format(project=project),
        weights="random",
        preprocess=grey,
        method="none",
        keep_macs=1.0,
    )
    run = compress(asked, out=tmp_path / "run")
    assert run is not None
    assert load_student(run)(torch.zeros(1, 1, 32, 32)).shape == (1, 3)


def test_weights_are_picked_by_their_key_and_the_run_remembers(
    settings: CompressSettings, pictures: Path, teacher_file: Path, tmp_path: Path
) -> None:
    state = load_file(str(settings.weights))
    torch.save({"one": {key: value * 2 for key, value in state.items()}, "two": state}, tmp_path / "both.pt")
    with pytest.raises(TeacherError, match=r"It holds one, two\. Pick one: --weights-key one"):
        compress(replace(settings, weights=tmp_path / "both.pt"), out=tmp_path / "run")
    runs = [
        compress(replace(settings, weights=weights, weights_key=key), out=tmp_path / f"run-{key}")
        for weights, key in ((settings.weights, None), (tmp_path / "both.pt", "two"))
    ]
    made = [run for run in runs if run is not None]
    one, other = (teacher_predictions(run, read_test(run, pictures / "test")) for run in made)
    assert np.array_equal(one.chosen, other.chosen)
    assert 'weights_key = "two"' in (made[1].path / "config.toml").read_text()
