"""The run directory."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeoe.errors import RunError
from edgeoe.files import file_sha256, write_atomic
from edgeoe.run import layout
from edgeoe.run.directory import Run, new_run
from edgeoe.run.layout import File, RecordFile
from edgeoe.versions import versions


@dataclass(frozen=True)
class Note:
    n: int
    text: str = ""


A, B = RecordFile("deep/a.json", "test", Note), RecordFile("b.json", "test", Note, format=2)
FINISHED = RecordFile(layout.COMPRESS.name, "compress", Note)  # a run is known by this file alone


def everything(folder: Path) -> list[str]:
    """All that is below `folder`, hidden things too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def make_run(path: Path, *, seed: int = 0, overwrite: bool = False, end: type[BaseException] | None = None) -> Path:
    """A run; with `end` it is cut short by that exception when all its files are written."""
    with new_run(path, overwrite=overwrite) as run:
        run.describe(seed=seed, versions={})
        run.save(FINISHED, Note(seed))
        if end is not None:
            raise end
    return path


@given(data=st.binary(max_size=1000))
def test_a_hash_is_that_of_the_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "hashed"
    path.write_bytes(data)
    assert file_sha256(path) == hashlib.sha256(data).hexdigest()


def test_a_hash_covers_more_than_one_block(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (2**20 + 1))
    assert file_sha256(path) == hashlib.sha256(b"x" * (2**20 + 1)).hexdigest()


def test_writing_makes_the_folders_it_needs_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a/b/file", lambda path: path.write_text("new"))
    assert everything(tmp_path) == ["a", "a/b", "a/b/file"]
    assert (tmp_path / "a/b/file").read_text() == "new"


@pytest.mark.parametrize("reason", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, reason: type[BaseException]) -> None:
    def write(path: Path) -> NoReturn:
        path.write_text("half of the n")
        raise reason

    (tmp_path / "file").write_text("old")
    with pytest.raises(reason):
        write_atomic(tmp_path / "file", write)
    assert everything(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_is_not_seen_before_it_is_whole(tmp_path: Path) -> None:
    seen = []

    def write(path: Path) -> None:
        path.write_text("half")
        seen.append((tmp_path / "file").exists())

    write_atomic(tmp_path / "file", write)
    assert seen == [False]


def test_versions_are_of_what_is_installed() -> None:
    found = versions("torch", "no-such-package")
    assert set(found) == {"python", "edgeoe", "torch"}
    assert found["torch"].startswith("2.")


def test_records_round_trip(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(A, Note(1, "one"))
    run.save(B, Note(2))
    assert (run.read(A), run.read(B)) == (Note(1, "one"), Note(2))


def test_a_record_of_another_format_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(B, Note(2))
    said = r"b\.json: not in the format of this version of edgeoe \(format must be 3\)\. Make it again"
    with pytest.raises(RunError, match=said):
        run.read(RecordFile(B.name, B.made_by, Note, format=3))


def test_a_record_that_does_not_fit_says_where(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write(A, lambda path: path.write_text('{"format": 1, "n": "two"}'))
    with pytest.raises(
        RunError, match=r'a\.json: not in the format of this version of edgeoe \(Note\.n: .*Got "two"\)\. Make it again'
    ):
        run.read(A)


@examples(deadline=None, max_examples=30)
@given(
    array=arrays.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32]), arrays.array_shapes(max_dims=4), elements=st.integers(0, 99)
    )
)
def test_tensors_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    run = Run(tmp_path_factory.getbasetemp() / "tensors")
    file = File("a.safetensors", "test")
    run.save_tensors(file, one=array, two=array.ravel())
    read = run.read_tensors(file)
    assert set(read) == {"one", "two"}
    assert read["one"].dtype == array.dtype
    np.testing.assert_array_equal(read["one"], array)
    np.testing.assert_array_equal(read["two"], array.ravel())


def test_every_file_is_noted_with_its_hash(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(A, Note(1))
    (tmp_path / "b").write_text("by a backend")
    assert run.note(File("b", "build")) == tmp_path / "b"
    noted = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert noted == {name: file_sha256(tmp_path / name) for name in (A.name, "b")}


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"golden\.safetensors: missing\. Make it: edgeoe export '.*/my run'$"):
        Run(tmp_path / "my run").file(layout.GOLDEN)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    path = run.save(A, Note(1))
    assert run.file(A) == path
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(RunError, match=r"a\.json: changed since edgeoe wrote it\. Make it again: edgeoe test$"):
        run.read(A)


def test_a_file_that_was_never_noted_is_refused(tmp_path: Path) -> None:
    (tmp_path / B.name).write_text("{}")
    with pytest.raises(RunError, match="changed since edgeoe wrote it"):
        Run(tmp_path).file(B)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "files": 1}', '{"format": 2, "files": {}}', "no json"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.save(A, Note(1))
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json: not a manifest of edgeoe\. Make the run again\.$"):
        run.file(A)


def test_facts_are_added_to_the_manifest(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(A, Note(1))
    run.describe(seed=1, versions={})
    run.describe(seed=2, versions={"python": "3"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["seed"], manifest["versions"], list(manifest["files"])) == (2, {"python": "3"}, [A.name])
    assert run.versions == {"python": "3"}


def test_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(A, Note(1))
    run.save(B, Note(2))
    run.forget(A, File("never-there.json", "test"))
    assert everything(tmp_path) == ["b.json", "deep", "manifest.json"]
    assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["b.json"]


def test_only_a_finished_run_can_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a: no finished run here\. Make one: edgeoe compress \.\.\. --out .*a$"):
        Run.open(tmp_path / "a")
    assert Run.open(make_run(tmp_path / "a")).path == tmp_path / "a"


def test_a_new_run_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep/a"
    with new_run(out, overwrite=False) as run:
        run.save(FINISHED, Note(0))
        assert not out.exists()
    assert everything(tmp_path) == ["deep", "deep/a", "deep/a/compress.json", "deep/a/manifest.json"]


def test_others_may_read_a_new_run(tmp_path: Path) -> None:
    assert make_run(tmp_path / "a").stat().st_mode & 0o777 == 0o755


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


def test_what_is_no_regular_file_is_written_to_and_stays(tmp_path: Path) -> None:
    """--json /dev/stdout, or a pipe: renaming a file onto it would replace it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        write_atomic(pipe, lambda path: path.write_text("all"))
        assert read.result(timeout=30) == "all"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
