"""The run directory."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_runs import FINISHED, A, B, Note, everything, held_by_another, make_run

from edgeoe.errors import RunError
from edgeoe.files import file_sha256, write_atomic
from edgeoe.run import layout
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.layout import File, RecordFile
from edgeoe.versions import versions


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


WRITE = """
import sys
from pathlib import Path
from edgeoe.run.directory import Run
from edgeoe.run.layout import File

run = Run(sys.argv[1])
for number in range(50):
    run.write(File(f"{sys.argv[2]}-{number}", "test"), lambda path: path.write_text("x"))
"""


def test_entries_of_parallel_writers_are_all_in_the_manifest(tmp_path: Path) -> None:
    """35 of 300 were lost."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, tmp_path, str(number)]) for number in range(6)]
    assert [writer.wait(timeout=300) for writer in writers] == [0] * 6
    noted = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert len(noted) == 300
    assert everything(tmp_path) == sorted(["manifest.json", *noted])


def test_a_stage_is_refused_while_another_command_uses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.run.directory.PATIENCE_S", 0.1)
    run = Run(make_run(tmp_path / "a"))

    @writes_run
    def stage(run: Run) -> bool:
        return run.has(FINISHED)

    with held_by_another(run.path) as holder:
        with pytest.raises(RunError, match=rf"a: in use by process {holder} \(.*\), since .*\. Wait until that has"):
            stage(run)
        with pytest.raises(RunError, match="in use by"):
            run.save(A, Note(1))
        assert run.read(FINISHED) == Note(0)
    assert stage(run)


def test_a_stage_removes_what_a_killed_one_left_and_no_more(tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "a"))
    (run.path / "targets/host-cpu").mkdir(parents=True)
    (run.path / "targets/host-cpu/.result.json.0123456789ab.partial").write_text("half")
    (tmp_path / ".a.0123456789ab.old").mkdir()
    (tmp_path / ".a.0123456789ab.old/student.onnx").write_text("half")
    (tmp_path / ".b.0123456789ab.old").mkdir()
    writes_run(lambda _: None)(run)
    assert everything(tmp_path) == [
        ".b.0123456789ab.old",
        *("a", "a/compress.json", "a/manifest.json", "a/targets", "a/targets/host-cpu"),
    ]


def test_a_run_that_is_only_read_is_not_written_to(tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "a"))
    before = run.path.stat().st_mtime_ns
    assert Run.open(run.path).read(FINISHED) == Note(0)
    assert run.path.stat().st_mtime_ns == before
    with Run(tmp_path / "nowhere").locked(shared=True):
        assert not (tmp_path / "nowhere").exists()
