"""A run from elsewhere reaches nothing outside its folder: no link in it is read or written through."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from made_up import result, write_files

from edgeoe.codec import from_json, to_json
from edgeoe.errors import RunError
from edgeoe.files import file_sha256, way_out, write_atomic
from edgeoe.records.student import CodeFiles
from edgeoe.run import layout
from edgeoe.run.creation import new_run
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.layout import File
from edgeoe.stages.baseline import Store
from edgeoe.targets.profile import Target

NOTE = File("deep/note.txt", "test")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/note.txt").write_text("private")
    made = Run(tmp_path / "run")
    made.write(NOTE, lambda path: path.write_text("ours"))
    return made


def planted(path: Path, to: Path) -> None:
    """A link at `path`, in place of what is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def read(run: Run) -> object:
    return run.file(NOTE).read_text()


def write(run: Run) -> object:
    return run.write(NOTE, lambda path: path.write_text("theirs"))


@pytest.mark.parametrize("do", [read, write, lambda run: run.has(NOTE), lambda run: run.forget(NOTE)])
@pytest.mark.parametrize("link", ["deep", "deep/note.txt", "manifest.json"])
def test_no_link_is_read_or_written_through(tmp_path: Path, run: Run, link: str, do: Callable[[Run], object]) -> None:
    outside = tmp_path / "outside"
    if link == "manifest.json":
        if do(run) is True:  # whether a file is there is no question to the manifest
            return
        run = Run(tmp_path / "another")
        shutil.copytree(tmp_path / "run", run.path)
        write(run)
        shutil.copy(run.path / link, outside / "note.txt")
    before = (outside / "note.txt").read_bytes()
    planted(run.path / link, outside if link == "deep" else outside / "note.txt")
    with pytest.raises(RunError, match=f"{link}: a link, a pipe, or a path out of the run"):
        do(run)
    assert (outside / "note.txt").read_bytes() == before
    assert [path.name for path in outside.iterdir()] == ["note.txt"]


def test_a_name_out_of_the_run_is_refused(run: Run) -> None:
    for name in ("../outside/note.txt", str(run.path.parent / "outside/note.txt"), "deep/../../outside/note.txt"):
        with pytest.raises(RunError, match="out of the run"):
            run.file(File(name, "test"))


def test_a_pipe_is_not_waited_for(run: Run) -> None:
    (run.path / NOTE.name).unlink()
    os.mkfifo(run.path / NOTE.name)
    with pytest.raises(RunError, match="pipe"):
        write(run)


def test_a_run_may_itself_be_reached_through_a_link(tmp_path: Path, run: Run) -> None:
    (tmp_path / "link").symlink_to(run.path)
    assert read(Run(tmp_path / "link")) == "ours"
    assert way_out(tmp_path / "link", NOTE.name) is None


def test_temporary_names_can_not_be_foreseen(tmp_path: Path) -> None:
    names: set[str] = set()
    for _ in range(20):
        write_atomic(tmp_path / "file", lambda path: names.add(path.name) or path.write_text("x"))
    assert len(names) == 20


def test_the_report_of_a_foreign_run_writes_nothing_outside(
    tmp_path: Path, exported: Path, edgeoe: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    planted(exported / layout.REPORT.name, tmp_path / "mine.txt")
    code, _, err = edgeoe("report", exported)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "report.html: a link" in err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_baseline_takes_no_file_through_a_link(tmp_path: Path) -> None:
    built = write_files(tmp_path / "built", {"model.onnx": "graph"})
    write_files(tmp_path, {"id_rsa": "private key"})
    (built / "model.onnx.key").symlink_to(tmp_path / "id_rsa")
    measured = result(artifact_sha256=file_sha256(built / "model.onnx"))
    with pytest.raises(RunError, match=r"model\.onnx\.key: a link"):
        Store(tmp_path / "store").save("main", measured, built / "model.onnx")
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert all("private key" not in path.read_text() for path in kept)


@pytest.mark.parametrize("link", ["objects", "main"])
def test_a_store_writes_through_no_link(tmp_path: Path, link: str) -> None:
    built = write_files(tmp_path / "built", {"model.onnx": "graph"})
    (tmp_path / "outside").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / link).symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match=f"{link}: a link"):
        Store(tmp_path / "store").save("main", result(), built / "model.onnx")
    assert not any((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc"])
def test_the_name_of_a_target_is_that_of_a_folder(name: str) -> None:
    data = to_json(result().target) | {"name": name}
    with pytest.raises(ValueError, match=r"Target\.name: expected the name of a folder"):
        from_json(Target, data)


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py"])
def test_the_code_of_a_teacher_lies_in_its_run(name: str) -> None:
    with pytest.raises(ValueError, match="paths within the run"):
        CodeFiles(file="a.py", folders=(".",), files=("a.py", name))


@pytest.mark.parametrize("name", [".run.previous", ".run.partial", ".run.resume", ".run.0123456789ab.old"])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_beside_a_run_leads_nowhere(name: str, there: bool, tmp_path: Path, run: Run) -> None:
    """Beside its run a command keeps folders of its own, and a lock file in them, which it removes."""
    (tmp_path / "outside/.lock").write_text("private")
    (tmp_path / name).symlink_to(tmp_path / "outside")
    if there:
        writes_run(lambda run: run.has(NOTE))(run)
    else:
        shutil.rmtree(run.path)
        with suppress(RunError):
            Run.open(run.path)
        with suppress(RunError), new_run(run.path, overwrite=False) as made:
            made.write(NOTE, lambda path: path.write_text("ours"))
        assert not run.path.is_symlink()
    files = {path.name: path.read_text() for path in (tmp_path / "outside").iterdir()}
    assert files == {"note.txt": "private", ".lock": "private"}


def test_a_lock_file_that_is_another_file_too_is_not_written(tmp_path: Path, run: Run) -> None:
    os.link(tmp_path / "outside/note.txt", run.path / ".lock")
    with run.locked():
        assert (tmp_path / "outside/note.txt").read_text() == "private"
    assert (tmp_path / "outside/note.txt").read_text() == "private"
    assert not (run.path / ".lock").exists()


@pytest.mark.parametrize("plant", [lambda path: path.symlink_to("note.txt"), Path.mkdir])
def test_what_takes_the_place_of_a_lock_file_is_named(plant: Callable[[Path], None], run: Run) -> None:
    plant(run.path / ".lock")
    with pytest.raises(OSError, match=r"\.lock'$"), run.locked():
        pass
