"""Each stage checks that everything before it is of the run's own student, and says what is not in one line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from made_up import QUICK
from safetensors.torch import load_file, save_file

from edgeoe.errors import RunError
from edgeoe.files import file_sha256
from edgeoe.pipeline import build, bundle, export, validate
from edgeoe.run import layout
from edgeoe.run.chain import require_artifact, require_links, require_student, require_verdict, student_sha256
from edgeoe.run.directory import Run
from edgeoe.run.layout import File, TargetFiles
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import Target

Edgeoe = Callable[..., tuple[int, str, str]]
GRAPH = layout.graph_file("fp32", precision="fp32")


@pytest.fixture(scope="module")
def target() -> Target:
    return replace(load_target("host-cpu"), measure=QUICK)


@pytest.fixture(scope="module")
def _judged(_exported: Path, target: Target, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(_exported, tmp_path_factory.mktemp("runs") / "judged")
    build(Run(path), target)
    validate(Run(path), target, test=pictures / "test")
    return path


@pytest.fixture
def run(_judged: Path, tmp_path: Path) -> Run:
    """A run with a verdict."""
    return Run(shutil.copytree(_judged, tmp_path / "run"))


def replaced(run: Run, file: File, change: Callable[[Path], object]) -> None:
    """Change `file` as another command of edgeoe would, which notes it in the manifest."""
    change(run.path / file.name)
    run.note(file)


def scale_weights(path: Path) -> None:
    tensors = load_file(path)
    save_file({name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}, path)


def rename_graph(path: Path) -> None:
    graph = onnx.load(path)
    graph.doc_string = "another"
    onnx.save(graph, path)


def zeros_in(key: str) -> Callable[[Path], object]:
    """A change of a record: its hash `key` becomes zeros."""
    return lambda path: path.write_text(re.sub(rf'("{key}": ")\w+', rf"\g<1>{'0' * 64}", path.read_text()))


def test_the_links_of_a_run_hold(run: Run, target: Target) -> None:
    validation, artifact = require_verdict(run, target.name), require_artifact(run, target.name)
    assert validation.measurement.artifact_sha256 == artifact.sha256
    assert artifact.graph_sha256 == run.read(layout.EXPORT).sha256
    assert run.read(layout.EXPORT).student_sha256 == require_student(run) == run.read(layout.COMPRESS).student_sha256


def test_another_student_breaks_the_first_link(run: Run, target: Target, pictures: Path) -> None:
    replaced(run, layout.WEIGHTS, scale_weights)
    for stage in (
        lambda: export(run),
        lambda: build(run, target),
        lambda: validate(run, target, test=pictures / "test"),
        lambda: bundle(run, target, out=run.path.parent / "b.tar"),
        lambda: require_verdict(run, target.name),
    ):
        with pytest.raises(RunError, match=r"student: not the student of compress\.json\. Make the run again\."):
            stage()


def test_a_graph_of_another_student_is_not_built(run: Run, target: Target, pictures: Path) -> None:
    """As where `compress --overwrite` ended while `export` ran."""
    replaced(run, layout.WEIGHTS, scale_weights)
    record = run.read(layout.COMPRESS)
    run.save(layout.COMPRESS, replace(record, student_sha256=student_sha256(run)))
    for stage in (lambda: build(run, target), lambda: validate(run, target, test=pictures / "test")):
        with pytest.raises(RunError, match=r"export\.json: of another student\. Export again: edgeoe export "):
            stage()


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (GRAPH, rename_graph, r"student\.onnx: not the graph of export\.json\. Export again: edgeoe export "),
        (layout.GOLDEN, scale_weights, r"golden\.safetensors: not those of export\.json\. Export again: edgeoe export"),
        (
            TargetFiles("host-cpu").artifact("model.onnx"),
            rename_graph,
            r"model\.onnx: not the artifact of targets/host-cpu/engine\.json\. Build again: edgeoe build ",
        ),
    ],
)
def test_what_is_not_of_the_link_before_is_refused(
    file: File, change: Callable[[Path], object], said: str, run: Run, target: Target, pictures: Path
) -> None:
    replaced(run, file, change)
    with pytest.raises(RunError, match=said):
        validate(run, target, test=pictures / "test")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (layout.WEIGHTS, scale_weights, "student: not the student of compress.json. Make the run again."),
        (
            TargetFiles("host-cpu").artifact("model.onnx"),
            rename_graph,
            "model.onnx: not the artifact of targets/host-cpu/engine.json. Build again: edgeoe build",
        ),
        (
            TargetFiles("host-cpu").engine,
            zeros_in("graph_sha256"),
            "model.onnx: built from another graph. Build again: edgeoe build",
        ),
        (
            TargetFiles("host-cpu").result,
            zeros_in("artifact_sha256"),
            "result.json: on another artifact than that of targets/host-cpu/engine.json. Validate again: edgeoe",
        ),
        (
            layout.EXPORT,
            zeros_in("student_sha256"),
            "export.json: of another student. Export again: edgeoe export",
        ),
    ],
)
def test_a_comparison_and_a_baseline_take_no_broken_chain(
    file: File, change: Callable[[Path], object], said: str, run: Run, edgeoe: Edgeoe, tmp_path: Path
) -> None:
    save = ("baseline", "save", run.path, "--target", "host-cpu", "--store", tmp_path / "baselines")
    assert edgeoe(*save)[0] == 0
    replaced(run, file, change)
    for command in (save, ("compare", run.path, run.path, "--target", "host-cpu", "--stored")):
        code, _, err = edgeoe(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


def test_of_a_run_that_travelled_in_part_the_links_that_are_there_count(run: Run, target: Target) -> None:
    """As where a job of CI hands on the artifact and its result alone."""
    run.forget(layout.PLAN, layout.WEIGHTS, layout.EXPORT, layout.GOLDEN, GRAPH)
    require_links(run, target.name)
    files = TargetFiles(target.name)
    replaced(run, files.artifact("model.onnx"), rename_graph)
    with pytest.raises(RunError, match="not the artifact of"):
        require_links(run, target.name)
    run.forget(files.engine)
    require_links(run, target.name)


def test_a_report_refuses_a_verdict_on_something_else(run: Run, target: Target, edgeoe: Edgeoe) -> None:
    code, _, _ = edgeoe("report", run.path)
    assert code == 0
    files = TargetFiles(target.name)
    result = run.read(files.result)
    run.save(files.result, replace(result, rare=()))
    code, _, err = edgeoe("report", run.path)
    assert code == 2
    (line,) = err.splitlines()
    assert "validation.json: on another result than targets/host-cpu/result.json. Validate again: edgeoe" in line
    validation = run.read(files.validation)
    other = replace(result, artifact_sha256="0" * 64)
    path = run.save(files.result, other)
    run.save(files.validation, replace(validation, result_sha256=file_sha256(path)))
    code, _, err = edgeoe("report", run.path)
    assert code == 2
    assert "on another artifact than that of targets/host-cpu/engine.json. Validate again" in err
