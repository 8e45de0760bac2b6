"""A student is recognised by the hashes of what it is made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from edgeoe.data.samples import find_samples
from edgeoe.errors import RunError
from edgeoe.pipeline import compress, deploy
from edgeoe.run import layout
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings
from edgeoe.stages.contents import changed_contents, contents_now
from edgeoe.targets.load import load_target


@pytest.fixture
def asked(settings: CompressSettings, pictures: Path, teacher_file: Path, tmp_path: Path) -> CompressSettings:
    """Settings whose files are the test's own."""
    for name in ("train", "ood"):
        shutil.copytree(pictures / name, tmp_path / name)
    weights, code = tmp_path / "weights.safetensors", tmp_path / "code" / "networks.py"
    assert isinstance(settings.weights, Path)
    shutil.copy(settings.weights, weights)
    code.parent.mkdir()
    shutil.copy(teacher_file, code)
    return replace(
        settings,
        teacher=f"{code}:residual",
        weights=weights,
        samples=tmp_path / "train",
        ood=tmp_path / "ood",
        steps=1,
    )


def changed(run: Run, settings: CompressSettings) -> list[str]:
    files = find_samples(settings.samples, settings.list, classes=settings.classes)
    return changed_contents(run, settings, contents_now(settings, files))


def touch_everything(folder: Path) -> None:
    for path in folder.rglob("*"):
        path.touch()


def add_a_note(folder: Path) -> None:
    (folder / "ood" / "notes.txt").write_text("no image")


def halve_weights(folder: Path) -> None:
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    save_file({key: tensor / 2 if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}, path)


def empty_a_class(folder: Path) -> None:
    for path in (folder / "train" / "cross").iterdir():
        path.unlink()


def change_a_label(folder: Path) -> None:
    first = min((folder / "train" / "circle").iterdir())
    first.rename(folder / "train" / "cross" / "new.png")


def remove_a_picture(folder: Path) -> None:
    min((folder / "ood").glob("*.jpg")).unlink()


def add_a_line(folder: Path) -> None:
    path = folder / "code" / "networks.py"
    path.write_text(path.read_text() + "\n")


CHANGES: list[tuple[Callable[[Path], object], list[str]]] = [
    (touch_everything, []),
    (add_a_note, []),
    (halve_weights, ["teacher's weights"]),
    (empty_a_class, ["labelled samples"]),
    (change_a_label, ["labelled samples"]),
    (remove_a_picture, ["OOD images"]),
    (add_a_line, ["code of the teacher"]),
]


def test_what_has_changed_since_is_known_and_deploy_makes_no_stale_student(
    asked: CompressSettings, pictures: Path, tmp_path: Path
) -> None:
    run = compress(asked, out=tmp_path / "run")
    assert run is not None
    contents = run.read(layout.COMPRESS).contents
    assert contents is not None
    assert all(len(one) == 64 for one in (contents.teacher, contents.weights, contents.code, contents.samples))
    for number, (change, names) in enumerate(CHANGES):
        copy = tmp_path / str(number)
        copy.mkdir()
        for name in ("train", "ood", "code"):
            shutil.copytree(tmp_path / name, copy / name)
        shutil.copy(asked.weights, copy)  # type: ignore[arg-type]
        change(copy)
        settings = replace(
            asked,
            teacher=f"{copy}/code/networks.py:residual",
            weights=copy / "weights.safetensors",
            samples=copy / "train",
            ood=copy / "ood",
        )
        assert changed(run, settings) == names, number
    halve_weights(tmp_path)
    target = load_target("host-cpu")
    with pytest.raises(
        RunError, match=r"run: already holds a run, and the teacher's weights have changed since\. Choose another"
    ):
        deploy(asked, out=tmp_path / "run", targets=[target], test=pictures / "test")


def test_samples_and_weights_decide_their_hashes_and_their_place_does_not(
    asked: CompressSettings, tmp_path: Path
) -> None:
    files = find_samples(asked.samples)
    before = contents_now(asked, files)
    shutil.move(tmp_path / "train", tmp_path / "moved")
    moved = replace(asked, samples=tmp_path / "moved")
    assert contents_now(moved, find_samples(moved.samples)) == before
