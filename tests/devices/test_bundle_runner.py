"""A bundle on a device: its files are checked, and one result says what its model did there."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made_up import QUICK, result
from onnx import helper

from edgeoe.codec import to_json
from edgeoe.devices.bundle_runner import main, run_bundle
from edgeoe.errors import RunError
from edgeoe.progress import Progress, silent
from edgeoe.records.bundle import FORMAT, BundleFacts, Normalisation, TestFacts
from edgeoe.records.result import Result
from edgeoe.run.result_file import artifact_of, read_result
from edgeoe.targets.load import load_target
from edgeoe.targets.profile import DeviceFacts

Bundle = Callable[..., Path]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def colours(*chosen: int) -> np.ndarray:
    """(N, 3, 4, 4) uint8, one colour each: the class that the model below takes an image for."""
    pixels = np.full((len(chosen), 3, 4, 4), 20, np.uint8)
    pixels[np.arange(len(chosen)), chosen] = 200
    return pixels


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """`bundle(**facts)`: one by hand, of a model whose logits are an image's mean colour, for another machine."""

    def make(*, test: bool = True, **changes: Any) -> Path:
        folder = tmp_path / "bundle"
        (folder / "lib" / "edgeoe").mkdir(parents=True)
        (folder / "lib" / "edgeoe" / "__init__.py").touch()
        nodes = [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ]
        x = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ("batch", 3, 4, 4))
        y = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("batch", 3))
        graph = helper.make_graph(nodes, "colour", [x], [y])
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
        )
        np.save(folder / "golden-images.npy", colours(0, 1, 2, 0).astype(np.float32))
        np.save(folder / "golden-logits.npy", np.eye(3, dtype=np.float32)[[0, 1, 2, 1]])
        if test:
            np.save(folder / "test-images.npy", colours(0, 1, 2, 1, 1))
            np.save(folder / "test-labels.npy", np.array([0, 1, 2, 2, 0]))
        target = replace(load_target("host-cpu"), measure=QUICK, device=DeviceFacts(cpu="No Such Processor"))
        files = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}
        facts = BundleFacts(
            edgeoe="0",
            target=target,
            classes=("red", "green", "blue"),
            rare=(2, 1),
            preprocess=Normalisation((0.1, 0.1, 0.1), (0.5, 0.5, 0.5)),
            graph={},
            size_bytes=(folder / "model.onnx").stat().st_size,
            test=TestFacts(5, "0" * 64, "1" * 64) if test else None,
            files=files,
        )
        (folder / "bundle.json").write_text(json.dumps({"format": FORMAT, **to_json(facts), **changes}))
        return folder

    return make


def test_a_result_says_what_the_model_did_and_names_what_it_is_of(bundle: Bundle, tmp_path: Path) -> None:
    folder, out = bundle(), tmp_path / "out" / "v.json"
    result = run_bundle(folder, out, progress=silent)
    assert result.golden_agreement == 0.75
    assert result.predictions is not None
    assert result.predictions.chosen == (0, 1, 2, 1, 1)
    assert result.predictions.labels == (0, 1, 2, 2, 0)
    assert (result.classes, result.rare) == (("red", "green", "blue"), (2, 1))
    assert result.bundle_sha256 == sha256(folder / "bundle.json")
    assert result.artifact_sha256 == sha256(artifact_of(out, result))
    assert read_result(out).bundle_sha256 == result.bundle_sha256
    assert sorted(path.name for path in out.parent.iterdir()) == ["v-artifact", "v.json"]
    assert result.speed is None, "this is another machine"


def test_images_are_normalised_as_the_bundle_says(bundle: Bundle, tmp_path: Path) -> None:
    """So bright a mean and so wide a red that no image is taken for red any more."""
    preprocess = {"mean": [0.9, 0.0, 0.0], "std": [0.01, 1.0, 1.0]}
    result = run_bundle(bundle(preprocess=preprocess), tmp_path / "v.json", progress=silent)
    assert result.predictions is not None
    assert result.predictions.chosen == (1, 1, 2, 1, 1)


def test_without_test_images_nothing_is_predicted(bundle: Bundle, tmp_path: Path) -> None:
    assert run_bundle(bundle(test=False), tmp_path / "v.json", progress=silent).predictions is None


@pytest.mark.parametrize("name", ["model.onnx", "golden-images.npy", "test-labels.npy", "lib/edgeoe/__init__.py"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_file_that_is_not_as_it_was_bundled_is_refused(how: str, name: str, bundle: Bundle, tmp_path: Path) -> None:
    folder = bundle()
    if how == "changed":
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    else:
        (folder / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: missing or changed since it was bundled\. Unpack the bundle"):
        run_bundle(folder, tmp_path / "v.json", progress=silent)
    assert not (tmp_path / "v.json").exists()


def test_a_module_that_is_not_of_the_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = bundle()
    (folder / "lib" / "edgeoe" / "extra.py").touch()
    with pytest.raises(RunError, match=r"lib/edgeoe/extra\.py: not a file of this bundle, but might be imported"):
        run_bundle(folder, tmp_path / "v.json", progress=silent)


@pytest.mark.parametrize("other", [FORMAT - 1, FORMAT + 1, None])
def test_a_bundle_of_another_format_is_refused(other: int | None, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=rf"a bundle of another version of edgeoe \(format {other}, here \d+\)\. Make it again\.$"
    ):
        run_bundle(bundle(format=other), tmp_path / "v.json", progress=silent)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"files": '])
def test_what_is_no_bundle_is_refused(text: str | None, bundle: Bundle, tmp_path: Path) -> None:
    folder = bundle()
    (folder / "bundle.json").unlink()
    if text is not None:
        (folder / "bundle.json").write_text(text)
    with pytest.raises(RunError, match=r"bundle: not a bundle of edgeoe: bundle\.json is missing or damaged"):
        run_bundle(folder, tmp_path / "v.json", progress=silent)


# Where the result goes


def test_what_an_earlier_run_wrote_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    folder, out = bundle(), tmp_path / "new" / "place" / "v.json"
    first, second = (run_bundle(folder, out, progress=silent) for _ in range(2))
    assert first.artifact_sha256 == second.artifact_sha256
    assert sorted(path.name for path in out.parent.iterdir()) == ["v-artifact", "v.json"]


@pytest.mark.parametrize("what", ["the artifact was changed", "it is a link", "it is gone", "the result is gone"])
def test_an_artifact_that_is_not_an_earlier_runs_is_not_replaced(what: str, bundle: Bundle, tmp_path: Path) -> None:
    folder, out = bundle(), tmp_path / "v.json"
    artifact = artifact_of(out, run_bundle(folder, out, progress=silent))
    if what == "the artifact was changed":
        artifact.write_bytes(b"mine")
    elif what == "it is a link":
        artifact.parent.rename(tmp_path / "mine")
        artifact.parent.symlink_to(tmp_path / "mine")
    elif what == "it is gone":
        artifact.rename(artifact.with_name("mine"))
    else:
        out.unlink()
    with pytest.raises(RunError, match=r"v-artifact: exists and was not written by an earlier run"):
        run_bundle(folder, out, progress=silent)


def test_a_place_that_cant_be_written_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match=r"v\.json: can't be created: (File exists|Not a directory)\. Choose another --out\.$"
    ):
        run_bundle(bundle(), tmp_path / "file" / "v.json", progress=silent)


# The command


def run_main(monkeypatch: pytest.MonkeyPatch, of: Result | None) -> int:
    """`main` on a bundle that takes 20 steps and ends in a result, or in an interruption."""

    def run(bundle: Path, out: Path, *, progress: Progress) -> Result:
        with progress("Building", 20) as advance:
            for _ in range(20):
                advance()
        if of is None:
            raise KeyboardInterrupt
        return of

    monkeypatch.setattr("edgeoe.devices.bundle_runner.run_bundle", run)
    return main(["--out", "v.json"])


def test_the_command_says_what_came_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, result(wrong=10, images=100)) == 0
    shown = capsys.readouterr()
    assert "same class as the student on 100.0 % of the golden images" in shown.out
    assert "top-1 90.0 % of 100" in shown.out
    assert "ms of 800 calls in 8 processes" in shown.out
    assert shown.err.splitlines() == [f"Building: {share} %" for share in range(10, 101, 10)]


def test_an_interruption_is_said_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, None) == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "interrupted" in shown.err


def test_a_signal_that_an_import_turns_into_an_import_error_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr("edgeoe.devices.bundle_runner.run_bundle", run_out)
    assert main(["--out", "v.json"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "code", "line"),
    [
        (
            OSError(28, "No space left on device", "r.json"),
            2,
            "error: r.json: no space left on device. Free some space",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "error: the disk written to ("),
        (MemoryError(), 2, "error: out of memory: MemoryError. Close other programs, or bundle a smaller batch."),
        (RunError("x: missing."), 2, "error: x: missing."),
        (KeyError("x"), 70, "Traceback (most recent call last):"),
    ],
)
def test_what_a_user_can_fix_on_the_device_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reason: Exception, code: int, line: str
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise reason

    monkeypatch.setattr("edgeoe.devices.bundle_runner.run_bundle", run_out)
    assert main([]) == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert code == 70 or err.count("\n") == 1


def test_what_a_killed_program_left_goes_with_the_next(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / ".v.json.partial"
    folder.mkdir()
    (folder / "model.onnx").write_text("half")
    (folder / ".lock").touch()
    run_bundle(bundle(), tmp_path / "v.json", progress=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "v-artifact", "v.json"]
