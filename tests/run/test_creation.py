"""A new run: there whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from small_runs import FINISHED, Note, everything, held_by_another, make_run

from edgeoe.errors import RunError
from edgeoe.run import layout
from edgeoe.run.creation import new_run
from edgeoe.run.directory import Run

HERE = Path(__file__).parents[1]


def test_a_new_run_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep/a"
    with new_run(out, overwrite=False) as run:
        run.save(FINISHED, Note(0))
        assert not out.exists()
    assert everything(tmp_path) == ["deep", "deep/a", "deep/a/compress.json", "deep/a/manifest.json"]


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0, 0o777, 0o666)])
def test_who_may_read_a_new_run_is_up_to_the_umask(tmp_path: Path, umask: int, folder: int, file: int) -> None:
    earlier = os.umask(umask)
    try:
        run = Run(make_run(tmp_path / "a"))
        run.save_tensors(layout.PROBE, pixels=np.zeros(3))  # safetensors writes a file of its own
    finally:
        os.umask(earlier)
    assert run.path.stat().st_mode & 0o777 == folder
    assert {path.stat().st_mode & 0o777 for path in run.path.iterdir()} == {file}


@pytest.mark.parametrize("reason", [RunError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [False, True])
def test_a_run_that_is_cut_short_leaves_nothing(tmp_path: Path, reason: type[BaseException], before: bool) -> None:
    if before:
        make_run(tmp_path / "a", seed=1)
    there = everything(tmp_path)
    with pytest.raises(reason):
        make_run(tmp_path / "a", overwrite=before, end=reason)
    assert everything(tmp_path) == there
    if before:
        assert Run(tmp_path / "a").read(FINISHED) == Note(1)


def test_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=1)
    with (
        pytest.raises(RunError, match=r"a: already holds a run\. Choose another --out, or pass --overwrite\.$"),
        new_run(tmp_path / "a", overwrite=False),
    ):
        pytest.fail("the block must not be entered")
    assert Run(tmp_path / "a").read(FINISHED) == Note(1)


def test_a_run_is_replaced_when_asked(tmp_path: Path) -> None:
    old = make_run(tmp_path / "a", seed=1) / "student.onnx"
    old.write_text("of the old run")
    make_run(tmp_path / "a", seed=2, overwrite=True)
    assert everything(tmp_path) == ["a", "a/compress.json", "a/manifest.json"]
    assert Run(tmp_path / "a").read(FINISHED) == Note(2)


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    make_run(tmp_path / "a")
    assert everything(tmp_path) == ["a", "a/compress.json", "a/manifest.json"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_run_is_never_replaced(tmp_path: Path, overwrite: bool, kind: str) -> None:
    precious = tmp_path / "a" / "precious" if kind == "folder" else tmp_path / "a"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("the user's own")
    with (
        pytest.raises(RunError, match=r"a: exists and is not a run of edgeoe\. Choose another --out\.$"),
        new_run(tmp_path / "a", overwrite=overwrite),
    ):
        pytest.fail("the block must not be entered")
    assert precious.read_text() == "the user's own"


def test_a_run_below_a_file_can_not_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/a: can't be created"), new_run(tmp_path / "file/a", overwrite=False):
        pytest.fail("the block must not be entered")


def test_a_link_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(make_run(tmp_path / "a", seed=1))
    with pytest.raises(RunError, match=r"latest: a link or the working folder can't be replaced by a run\."):
        make_run(tmp_path / "latest", seed=2, overwrite=True)
    assert Run(tmp_path / "latest").read(FINISHED) == Note(1)


@pytest.mark.parametrize("path", [".", "../here"])
def test_the_working_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RunError, match=r"a link or the working folder can't be replaced by a run\."):
        make_run(Path(path))
    assert everything(tmp_path) == ["here"]


@pytest.mark.parametrize("content", ['{"name": "web app"}', '{"format": 1}', '{"format": 1, "files": {}}', "no json"])
def test_a_folder_with_another_manifest_is_no_run(tmp_path: Path, content: str) -> None:
    """It was deleted."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/manifest.json").write_text(content)
    (tmp_path / "a/compress.json").write_text("{}")
    with pytest.raises(RunError, match=r"a: exists and is not a run of edgeoe\. Choose another --out\.$"):
        make_run(tmp_path / "a", overwrite=True)
    assert (tmp_path / "a/manifest.json").read_text() == content


def test_a_run_with_files_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=1)
    for name in ("notes.txt", "targets/host-cpu/notes.txt"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text("the user's own")
    with pytest.raises(RunError, match=r"would remove them: notes\.txt and 1 more\. Move them elsewhere"):
        make_run(tmp_path / "a", seed=2, overwrite=True)
    assert Run(tmp_path / "a").read(FINISHED) == Note(1)


def test_files_that_a_killed_stage_did_not_note_are_of_the_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=1)
    names = ("student.onnx", "student-int8-a.onnx", "targets/x/model.onnx", "targets/x/.model.onnx.0f.partial", ".lock")
    for name in (*names, "student/code/__pycache__/net.pyc"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text("x")
    make_run(tmp_path / "a", seed=2, overwrite=True)
    assert everything(tmp_path) == ["a", "a/compress.json", "a/manifest.json"]


@pytest.mark.parametrize("way", ["exchange", "rename", "new"])
def test_a_kill_at_any_line_leaves_a_whole_run(tmp_path: Path, way: str) -> None:
    """And nothing of it is left after the next command."""
    ended = subprocess.run(
        [sys.executable, HERE / "kill_points.py", tmp_path, way],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 40, "lines"


def test_a_disk_that_is_full_at_the_lock_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    make_run(tmp_path / "a")
    before = everything(tmp_path)
    monkeypatch.setattr("edgeoe.run.placement.locked", full)
    with pytest.raises(RunError, match="No space left"):
        make_run(tmp_path / "a", overwrite=True)
    assert everything(tmp_path) == before


def test_two_commands_do_not_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ended well, and one result was gone."""
    monkeypatch.setattr("edgeoe.run.creation.PATIENCE_S", 0.1)
    with held_by_another(tmp_path / "a", making=True) as holder:
        there = everything(tmp_path)
        with pytest.raises(RunError, match=rf"a: being made by process {holder} \(.*\), since .* choose another --out"):
            make_run(tmp_path / "a")
        assert everything(tmp_path) == there
        assert everything(make_run(tmp_path / "b")) == ["compress.json", "manifest.json"]


def test_a_run_that_another_command_finishes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def make_slowly() -> None:
        with new_run(tmp_path / "a", overwrite=False) as run:
            run.save(FINISHED, Note(2))
            (tmp_path / "b").mkdir()
            make_run(tmp_path / "b/a", seed=1).rename(tmp_path / "a")

    with pytest.raises(RunError, match="already holds a run"):
        make_slowly()
    assert Run(tmp_path / "a").read(FINISHED) == Note(1)
    assert everything(tmp_path) == ["a", "a/compress.json", "a/manifest.json", "b"]


def test_a_run_in_use_is_replaced_when_that_has_ended(tmp_path: Path) -> None:
    """`export` of a run that `compress --overwrite` replaced wrote a graph of neither student."""
    make_run(tmp_path / "a", seed=1)
    code = "import sys, small_runs as s; s.make_run(s.Path(sys.argv[1]), seed=2, overwrite=True)"
    with ExitStack() as use:
        use.enter_context(held_by_another(tmp_path / "a"))
        maker = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "a"],
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert maker.stderr is not None
        assert "is in use by process" in maker.stderr.readline()
        assert Run(tmp_path / "a").read(FINISHED) == Note(1)
    with maker:
        assert maker.wait(timeout=300) == 0
    assert Run(tmp_path / "a").read(FINISHED) == Note(2)
    assert everything(tmp_path) == ["a", "a/compress.json", "a/manifest.json"]


def test_an_interruption_ends_the_wait_for_another_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a", seed=1)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with held_by_another(tmp_path / "a"):
        monkeypatch.setattr("edgeoe.lock.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_run(tmp_path / "a", seed=2, overwrite=True)
        monkeypatch.undo()
    assert Run(tmp_path / "a").read(FINISHED) == Note(1)
    assert everything(tmp_path) == ["a", "a/compress.json", "a/manifest.json"]
